// Package commitstatus is the step commit-status: it tells the host of a Git repository how the build of a commit goes.
package commitstatus

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/commit-status.schema.json.
type Parameters struct {
	step.Common
	Status             string `json:"status"`
	Description        string `json:"status-description"`
	Context            string `json:"status-context"`
	Link               string `json:"status-link"`
	Failures           string `json:"failures"`
	Revision           string `json:"revision"`
	Repository         string `json:"git-repo"`
	Branch             string `json:"branch"`
	Commit             string `json:"commit"`
	Namespace          string `json:"namespace-name"`
	Project            string `json:"project-name"`
	Component          string `json:"component-name"`
	Run                string `json:"run-name"`
	Hosts              []Host `json:"status-hosts"`
	InsecurePlainHTTP  bool   `json:"insecure-plain-http"`
	Credentials        string `json:"status-credentials"`
	CredentialsTimeout int    `json:"status-credentials-timeout"` // in seconds
	Timeout            int    `json:"status-timeout"`             // in seconds
	TolerateFailure    bool   `json:"tolerate-failure"`
}

// Host is a Git host whose repositories get a status.
type Host struct {
	Host     string `json:"host"`
	Provider string `json:"provider"` // empty for a host that is known
	APIURL   string `json:"api-url"`  // empty: where the provider has it on that host
}

// The values of the parameter status.
const (
	pending   = "pending"
	success   = "success"
	failure   = "failure"
	cancelled = "cancelled"
)

// Run runs the step. It has no results. A repository of another host than those that are named, and a run that has
// checked nothing out, are no failures.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	err := in.report(ctx, env)
	if err == nil || !in.TolerateFailure || ctx.Err() != nil {
		return nil, err
	}
	why := outcome.NewReport("commit-status", time.Now(), outcome.Of(err), nil, env.Secrets.String).Line()
	env.Log.Error("The commit has no such status", "because", why)
	env.Say("the commit has no such status: " + strings.TrimRight(why, ".\n"))
	return nil, nil
}

// fullSHA is the name of a commit that no other can have.
var fullSHA = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// report writes the status.
func (in Parameters) report(ctx context.Context, env step.Environment) error {
	revision, err := in.revision()
	if err != nil {
		return err
	}
	if revision.URL == "" || revision.Commit == "" {
		env.Say("nothing was checked out, so no commit has a status")
		return nil
	}
	if !fullSHA.MatchString(revision.Commit) {
		return outcome.Invalid(fmt.Sprintf("commit: %q is no full SHA", revision.Commit))
	}
	from, err := parseRemote(revision.URL)
	if err != nil {
		return err
	}
	host, named := in.named(from.host)
	if !named {
		env.Say("no commit status for the host " + from.host + ": status-hosts does not name it")
		return nil
	}
	at, err := newTarget(host, from, in.InsecurePlainHTTP)
	if err != nil {
		return err
	}
	what, err := in.status(at, revision, env)
	if err != nil {
		return err
	}
	who, err := in.awaitCredentials(ctx, at, env)
	if err != nil {
		return err
	}
	c, err := newClient(at, in.CABundle, env.Secrets)
	if err != nil {
		return err
	}
	started := time.Now()
	if err := in.write(ctx, c, who, what, env.Retry); err != nil {
		return err
	}
	env.Log.Info("The commit has a status", "status", in.Status, "commit", revision.Commit, "repository",
		redact.URL(revision.URL), "context", what.context, "took", time.Since(started))
	return nil
}

// write tries until the time is up.
func (in Parameters) write(
	ctx context.Context, c *client, who credentials, what status, retry outcome.Retry,
) error {
	limit := time.Duration(in.Timeout) * time.Second
	late := outcome.Errorf(outcome.GitServerUnavailable, "%s has not answered within %s", c.at.api.Host, limit)
	bounded, cancel := context.WithTimeoutCause(ctx, limit, late)
	defer cancel()
	var last error // what went wrong before the time was up
	err := retry.Do(bounded, func(ctx context.Context) error {
		err := c.write(ctx, who, what)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err
	})
	if err != nil && bounded.Err() != nil && ctx.Err() == nil && last != nil {
		return fmt.Errorf("%w, after %s", last, limit)
	}
	return err
}

// revision is what was checked out; without a commit when nothing was.
func (in Parameters) revision() (workspace.Revision, error) {
	if in.Revision != "" {
		return workspace.DecodeRevision(in.Revision)
	}
	return workspace.Revision{URL: in.Repository, Branch: in.Branch, Commit: strings.ToLower(in.Commit)}, nil
}

// named is the entry of status-hosts for a host, or what is known of it where status-hosts is empty. Who gives a
// revision is a workflow, in which a stranger says which repository it is: that does not decide where credentials go.
func (in Parameters) named(host string) (Host, bool) {
	for _, h := range in.Hosts {
		if strings.EqualFold(h.Host, host) {
			return h, true
		}
	}
	if len(in.Hosts) == 0 && in.Revision == "" && known[host] != "" {
		return Host{Host: host}, true
	}
	return Host{}, false
}
