package commitstatus

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// known are the public hosts, and what runs there.
var known = map[string]string{
	"github.com": github, "gitlab.com": gitlab, "bitbucket.org": bitbucket, "codeberg.org": gitea,
}

// aliases are names by which public hosts take SSH on port 443.
var aliases = map[string]string{
	"ssh.github.com": "github.com", "altssh.gitlab.com": "gitlab.com", "altssh.bitbucket.org": "bitbucket.org",
}

// remote is a repository's URL in its parts.
type remote struct {
	host      string   // in small letters, without a port
	authority string   // with the port of https; the host alone where the URL is another's
	path      []string // without the final .git
}

// scpLike is user@host:path, with or without the user.
var scpLike = regexp.MustCompile(`^(?:[^@/\s]+@)?([^@/:\s]+):(.+)$`)

// parseRemote reads the URL of a repository as Git has it. The error is an InvalidParameters.
func parseRemote(raw string) (remote, error) {
	var r remote
	var path string
	if strings.Contains(raw, "://") {
		u, err := url.Parse(raw)
		if err != nil || u.Hostname() == "" {
			return r, outcome.Invalid(fmt.Sprintf("git-repo: %q is no URL of a repository", redact.URL(raw)))
		}
		r.host, r.authority, path = strings.ToLower(u.Hostname()), strings.ToLower(u.Hostname()), u.Path
		if u.Scheme == "https" {
			r.authority = u.Host
		}
	} else if parts := scpLike.FindStringSubmatch(raw); parts != nil {
		r.host, path = strings.ToLower(parts[1]), parts[2]
		r.authority = r.host
	} else {
		return r, outcome.Invalid(fmt.Sprintf("git-repo: %q is no URL of a repository", redact.URL(raw)))
	}
	if public, ok := aliases[r.host]; ok {
		r.host, r.authority = public, public
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	r.path = slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" })
	for _, segment := range r.path {
		if segment == "." || segment == ".." {
			return r, outcome.Invalid(fmt.Sprintf("git-repo: %q has the segment %q", redact.URL(raw), segment))
		}
	}
	return r, nil
}

// target is a repository at the API of its host.
type target struct {
	host       string // in the repository's URL
	provider   *provider
	api        *url.URL // base of the API
	repository []string // owner and name; of GitLab all groups and the name
}

// newTarget finds the API of a repository's host. The error is an InvalidParameters.
func newTarget(host Host, from remote, insecure bool) (target, error) {
	name := cmp.Or(host.Provider, known[from.host])
	p := providers[name]
	if p == nil {
		return target{}, outcome.Invalid(fmt.Sprintf("status-hosts: %s: provider is absent", host.Host)).WithHint(
			"Say what runs on that host: github, gitlab, bitbucket, bitbucket-data-center or gitea.",
		)
	}
	base := cmp.Or(host.APIURL, p.public[from.host])
	if base == "" {
		base = "https://" + from.authority + p.api
	}
	api, err := url.Parse(strings.TrimRight(base, "/"))
	if err != nil || api.Host == "" || api.Scheme != "https" && api.Scheme != "http" {
		return target{}, outcome.Invalid(fmt.Sprintf("status-hosts: api-url %q is not an https URL", redact.URL(base)))
	}
	if api.Scheme == "http" && !insecure {
		return target{}, outcome.Invalid(fmt.Sprintf(
			"status-hosts: api-url %s would send credentials unprotected; use https, or set insecure-plain-http",
			redact.URL(base),
		))
	}
	path := from.path
	// A host in a folder of another server: https://example.com/gitlab/team/cart.git.
	if folder, ok := strings.CutSuffix(api.Path, p.api); ok && strings.Trim(folder, "/") != "" {
		inside := strings.Split(strings.Trim(folder, "/"), "/")
		if len(path) >= len(inside)+2 && slices.Equal(path[:len(inside)], inside) {
			path = path[len(inside):]
		}
	}
	if name == dataCenter && len(path) > 2 && path[0] == "scm" { // as its https URLs have it
		path = path[1:]
	}
	if len(path) < 2 || len(path) > 2 && name != gitlab {
		return target{}, outcome.Invalid(fmt.Sprintf(
			"git-repo: %q is no repository of %s", strings.Join(from.path, "/"), name,
		))
	}
	return target{host: from.host, provider: p, api: api, repository: path}, nil
}
