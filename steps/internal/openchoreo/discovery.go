package openchoreo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// tokenEndpoint is where tokens are asked for.
type tokenEndpoint struct {
	url    string
	issuer string // of the authorization server that the API named; empty: oauth-token-url is given
}

// name is what messages call the endpoint's URL.
func (e tokenEndpoint) name() string {
	if e.issuer != "" {
		return "the token endpoint that the API names"
	}
	return "oauth-token-url"
}

// The documents of RFC 9728, of OpenID Connect Discovery and of RFC 8414.
const (
	resourceDocument = "/.well-known/oauth-protected-resource"
	openIDDocument   = "/.well-known/openid-configuration"
	serverDocument   = "/.well-known/oauth-authorization-server"
)

// discover asks the API for its authorization server, and that for its token endpoint, as occ login does
// (docs/contract.md section 4). The API decides here who gets the client's secret, so what it says is checked as what
// a person says, and more (Client.named).
func (c *Client) discover(ctx context.Context) (*tokenEndpoint, error) {
	var resource struct {
		Servers []string `json:"authorization_servers"`
	}
	at := c.base.JoinPath(resourceDocument)
	if err := c.document(ctx, "api-server-url", at, &resource); err != nil {
		return nil, err
	}
	if len(resource.Servers) == 0 {
		return nil, undiscovered(outcome.NotFound, "%s names no authorization server", redact.URL(at.String()))
	}
	issuer, err := c.named("authorization server", resource.Servers[0])
	if err != nil {
		return nil, err
	}
	var server struct {
		Issuer        string `json:"issuer"`
		TokenEndpoint string `json:"token_endpoint"`
	}
	const name = "the authorization server that the API names"
	at = issuer.JoinPath(openIDDocument)
	err = c.document(ctx, name, at, &server)
	if statusOf(err) == http.StatusNotFound {
		at = &url.URL{Scheme: issuer.Scheme, Host: issuer.Host}
		at = at.JoinPath(serverDocument, issuer.Path)
		err = c.document(ctx, name, at, &server)
	}
	if err != nil {
		return nil, err
	}
	if !sameURL(server.Issuer, resource.Servers[0]) { // RFC 8414 section 3.3
		return nil, undiscovered(outcome.InvalidParameters, "%s is of the issuer %q, and the API names %q",
			redact.URL(at.String()), redact.URL(server.Issuer), redact.URL(resource.Servers[0]))
	}
	if server.TokenEndpoint == "" {
		return nil, undiscovered(outcome.NotFound, "%s names no token endpoint", redact.URL(at.String()))
	}
	if _, err := c.named("token endpoint", server.TokenEndpoint); err != nil {
		return nil, err
	}
	return &tokenEndpoint{url: server.TokenEndpoint, issuer: resource.Servers[0]}, nil
}

// named checks a URL that the API has led to, by the rules for those that a person gives, and two more: it keeps to
// TLS where the API has it, and it is on this machine only if the API is.
func (c *Client) named(what, raw string) (*url.URL, error) {
	u, fault := endpoint("the "+what+" that the API names", raw, c.settings.InsecurePlainHTTP)
	switch {
	case fault != "":
	case u.Scheme == "http" && c.base.Scheme == "https":
		fault = fmt.Sprintf("the %s that the API names: %s would send secrets unprotected, and the API itself has TLS",
			what, redact.URL(raw))
	case loopback(u.Hostname()) && !loopback(c.base.Hostname()):
		fault = fmt.Sprintf("the %s that the API names: %s is this machine, and the API is not on it", what,
			redact.URL(raw))
	case u.RawQuery != "" && what != "token endpoint", u.Fragment != "":
		fault = fmt.Sprintf("the %s that the API names: %s has a query or a fragment", what, redact.URL(raw))
	}
	if fault != "" {
		return nil, undiscovered(outcome.InvalidParameters, "%s", fault)
	}
	return u, nil
}

// document reads a document of metadata. It is asked for without any credentials.
func (c *Client) document(ctx context.Context, name string, at *url.URL, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	what := "GET " + redact.URL(at.String())
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(ctx, name, what, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, tokenLimit))
	if err != nil {
		return unreachable(ctx, name, what, err)
	}
	status := &StatusError{Status: resp.StatusCode}
	switch {
	case isTransient(resp.StatusCode):
		return outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, status).After(
			outcome.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return redirected(name, what, resp)
	case resp.StatusCode != http.StatusOK:
		return undiscovered(outcome.NotFound, "%s: %w", what, status)
	case json.Unmarshal(body, into) != nil:
		return undiscovered(outcome.NotFound, "%s: answered with %s, which is no metadata", what, contentType(resp))
	}
	return nil
}

// undiscovered is an error of a discovery. What it says of the way to do without is true of all of them.
func undiscovered(reason outcome.Reason, format string, args ...any) error {
	return outcome.Errorf(reason, "oauth-token-url is not given, and cannot be discovered: "+format, args...).
		WithHint("Give oauth-token-url, whole. An OpenChoreo API names its identity provider under its base URL, " +
			"api-server-url, at " + resourceDocument + ", and that its token endpoint at " + openIDDocument + ".")
}

// sameURL compares URLs but for a slash at the end.
func sameURL(a, b string) bool {
	return strings.TrimSuffix(a, "/") == strings.TrimSuffix(b, "/")
}
