package commitstatus

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// credentials are good for one host.
type credentials struct {
	token string

	username, password string // of Bitbucket and Gitea

	appID, installationID string // of a GitHub App
	privateKey            string // PEM
}

// usable tells whether a provider takes them.
func (c credentials) usable(provider string) bool {
	switch provider {
	case github:
		return c.token != "" || c.appID != "" && c.privateKey != ""
	case gitlab:
		return c.token != ""
	}
	return c.token != "" || c.username != "" && c.password != ""
}

// awaitCredentials reads the credentials, and waits for some.
func (in Parameters) awaitCredentials(ctx context.Context, at target, env step.Environment) (credentials, error) {
	var who credentials
	limit := time.Duration(in.CredentialsTimeout) * time.Second
	there, err := secret.Await(ctx, env.Log, "Secret of commit-status", in.Credentials, limit, func() (bool, error) {
		values, err := secret.ReadDir(in.Credentials)
		if err != nil {
			return false, err
		}
		who = read(values, at.host, len(in.Hosts) > 1, env.Secrets)
		return who.usable(at.provider.name), nil
	})
	if err == nil && strings.ContainsFunc(who.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return who, outcome.Errorf(
			outcome.AuthenticationFailed, "the token for %s in %s has characters that no token has", at.host,
			in.Credentials,
		).WithHint("The file is to hold the token and nothing else.")
	}
	if err != nil || there {
		return who, err
	}
	return who, outcome.Errorf(
		outcome.AuthenticationFailed, "there are no credentials for %s in %s", at.host, in.Credentials,
	).WithHint(in.wanted(at))
}

// wanted says which credentials a target takes.
func (in Parameters) wanted(at target) string {
	prefix := ""
	if len(in.Hosts) > 1 {
		prefix = at.host + "."
	}
	keys := map[string]string{
		github: "%[1]stoken, or %[1]sapp-id and %[1]sprivate-key", gitlab: "%[1]stoken",
	}
	wanted, ok := keys[at.provider.name]
	if !ok {
		wanted = "%[1]stoken, or %[1]susername and %[1]spassword"
	}
	return fmt.Sprintf("The Secret is to have "+wanted+".", prefix)
}

// read takes the credentials for a host from a Secret's values: those that name the host and, unless there are several
// hosts, those that name none.
func read(values map[string][]byte, host string, several bool, secrets *redact.Secrets) credentials {
	value := func(name string) string {
		raw, ok := values[host+"."+name]
		if !ok && !several {
			raw = values[name]
		}
		return strings.TrimSpace(string(raw))
	}
	c := credentials{
		token: value("token"), username: value("username"), password: value("password"), appID: value("app-id"),
		installationID: value("installation-id"), privateKey: value("private-key"),
	}
	secrets.Add(c.token, c.password, c.privateKey)
	return c
}
