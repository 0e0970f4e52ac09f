// Package openchoreo speaks to the OpenChoreo API (docs/contract.md section 4) as an OAuth client.
package openchoreo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/trust"
)

// Settings say where the API is and who asks.
type Settings struct {
	APIServerURL      string // base of the API
	TokenURL          string // OAuth 2.0 token endpoint; empty: the one that the API's metadata leads to
	ClientID          string
	ClientSecret      string // empty: the content of ClientSecretFile
	ClientSecretFile  string // read whenever a token is fetched
	ClientAuth        string // client_secret_basic, or else client_secret_post
	Scope             string // separated by spaces; empty: the provider's default
	Audience          string // empty: the provider's default
	TokenFile         string // holds a token; then there is no client, and all of the above is not used
	Assertion         Assertion
	CABundle          string // see trust.Pool
	InsecurePlainHTTP bool   // allows http to hosts other than loopback
}

// DefaultSecretFile is the ClientSecretFile of those who name none.
const DefaultSecretFile = "/etc/secrets/oauth-client-secret/client-secret"

// Resource is a kind of object, as its URL names it.
type Resource string

// The resources that a step needs.
const (
	Workloads    Resource = "workloads"
	WorkflowRuns Resource = "workflowruns"
)

// Bounds of a server's answer, in bytes, and of the time of one request.
const (
	answerLimit  = 32 << 20
	messageLimit = 2 << 10
	patience     = 2 * time.Minute
)

// pageSize is how many objects are asked for at once: the most that the API gives.
const pageSize = 100

// Client is a client of one API server. It is safe for concurrent use. It tries nothing again but for a token that has
// expired: errors of class transient are for outcome.Retry.
type Client struct {
	settings Settings
	base     *url.URL
	http     *http.Client
	secrets  *redact.Secrets
	known    atomic.Bool // the API has answered once, so what answers otherwise stands before it for a while

	mu    sync.Mutex // guards what follows, and is held while a token is fetched
	token *oauth2.Token
	at    *tokenEndpoint // nil until it is discovered
}

// New returns a client. Secret and tokens become secrets the moment they are known. The error lists every fault of the
// settings.
func New(settings Settings, secrets *redact.Secrets) (*Client, error) {
	base, fault := endpoint("api-server-url", settings.APIServerURL, settings.InsecurePlainHTTP)
	faults := []string{fault}
	var at *tokenEndpoint
	if settings.usesClient() && settings.TokenURL != "" {
		u, fault := endpoint("oauth-token-url", settings.TokenURL, settings.InsecurePlainHTTP)
		faults = append(faults, fault)
		if u != nil && strings.HasPrefix(u.EscapedPath(), "//") {
			// A pipeline has joined the provider's URL, with a slash at its end, and the path.
			settings.TokenURL = strings.Replace(
				settings.TokenURL, u.EscapedPath(), "/"+strings.TrimLeft(u.EscapedPath(), "/"), 1,
			)
		}
		at = &tokenEndpoint{url: settings.TokenURL}
	}
	transport, err := trust.Transport(settings.CABundle)
	if err != nil {
		faults = append(faults, err.Error())
	}
	faults = append(faults, settings.conflicts()...)
	faults = slices.DeleteFunc(faults, func(f string) bool { return f == "" })
	if len(faults) > 0 {
		return nil, outcome.Invalid(faults...)
	}
	settings.ClientID = strings.TrimSpace(settings.ClientID)
	return &Client{
		settings: settings,
		base:     base,
		secrets:  secrets,
		at:       at,
		http: &http.Client{
			Transport: transport,
			Timeout:   patience,
			// A redirect would carry secret or token to wherever the server says.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// endpoint checks a URL; the fault is empty when it is good.
func endpoint(name, raw string, insecure bool) (*url.URL, string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Sprintf("%s: %q is not an https URL", name, redact.URL(raw))
	case u.User != nil:
		return nil, name + ": must not carry credentials"
	case u.Scheme == "http" && !insecure && !loopback(u.Hostname()):
		return nil, fmt.Sprintf(
			"%s: %s would send secrets unprotected; use https, or set insecure-plain-http", name, redact.URL(raw),
		)
	}
	return u, ""
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Authorize gets a token. The requests after it use it as long as it is good.
func (c *Client) Authorize(ctx context.Context) error {
	_, _, err := c.authorization(ctx)
	return err
}

// Get reads one object.
func (c *Client) Get(ctx context.Context, namespace string, kind Resource, name string) (Object, error) {
	var object Object
	return object, c.call(ctx, http.MethodGet, c.url(namespace, kind, name), nil, &object)
}

// Create makes an object. It is made when the API answers with it: a page of what stands before the API is no success,
// whatever its status. That there is one of its name already, IsConflict tells.
func (c *Client) Create(ctx context.Context, namespace string, kind Resource, object Object) error {
	var made Object
	return c.call(ctx, http.MethodPost, c.url(namespace, kind), object, &made)
}

// Update replaces an object's spec, labels and annotations whole. As for Create, only the API's own answer counts.
func (c *Client) Update(ctx context.Context, namespace string, kind Resource, name string, object Object) error {
	var made Object
	return c.call(ctx, http.MethodPut, c.url(namespace, kind, name), object, &made)
}

// List reads all objects that the query selects, such as component=cart.
func (c *Client) List(ctx context.Context, namespace string, kind Resource, query url.Values) ([]Object, error) {
	var all []Object
	cursor := ""
	for {
		u := c.url(namespace, kind)
		q := url.Values{"limit": {strconv.Itoa(pageSize)}}
		for k, v := range query {
			q[k] = v
		}
		if cursor != "" {
			q.Set("cursor", cursor)
		}
		u.RawQuery = q.Encode()
		var page struct {
			Items      []Object `json:"items"`
			Pagination struct {
				NextCursor string `json:"nextCursor"`
			} `json:"pagination"`
		}
		if err := c.call(ctx, http.MethodGet, u, nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Pagination.NextCursor == "" || page.Pagination.NextCursor == cursor {
			return all, nil
		}
		cursor = page.Pagination.NextCursor
	}
}

func (c *Client) url(namespace string, kind Resource, name ...string) *url.URL {
	segments := append([]string{"api", "v1", "namespaces", namespace, string(kind)}, name...)
	for i, s := range segments {
		if segments[i] = url.PathEscape(s); s == "." || s == ".." {
			segments[i] = strings.ReplaceAll(s, ".", "%2E") // as they are, they would be folded into the path
		}
	}
	return c.base.JoinPath(segments...)
}

// call sends a request as JSON and decodes the answer into result. A token that the API no longer
// accepts is fetched anew, once.
func (c *Client) call(ctx context.Context, method string, u *url.URL, object Object, result any) error {
	var content []byte
	if object != nil {
		var err error
		if content, err = object.Encode(); err != nil {
			return err
		}
	}
	token, fresh, err := c.authorization(ctx)
	if err != nil {
		return err
	}
	err = c.send(ctx, method, u, token, content, result)
	if refused := statusOf(err) == http.StatusUnauthorized; !refused || fresh {
		return err
	}
	c.forget(token)
	if token, _, err = c.authorization(ctx); err != nil {
		return err
	}
	return c.send(ctx, method, u, token, content, result)
}

func (c *Client) send(
	ctx context.Context, method string, u *url.URL, token *oauth2.Token, content []byte, result any,
) error {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(content))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	token.SetAuthHeader(req)
	what := method + " " + redact.URL(u.String())
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(ctx, "api-server-url", what, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	switch {
	case err != nil:
		return unreachable(ctx, "api-server-url", what, err)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return c.refusal(what, resp, answer)
	case len(answer) > answerLimit:
		return outcome.Errorf(outcome.Failed, "%s: the answer is larger than %d bytes", what, answerLimit)
	}
	dec := json.NewDecoder(bytes.NewReader(answer))
	dec.UseNumber()
	if err := dec.Decode(result); err != nil {
		kind := resp.Header.Get("Content-Type")
		switch isJSON := strings.HasPrefix(kind, "application/json"); {
		case !isJSON && c.known.Load():
			return outcome.Errorf(outcome.ApiUnavailable, "%s: answered with %q instead of JSON", what, kind)
		case !isJSON:
			return outcome.Errorf(
				outcome.NotFound, "%s: answered with %q instead of JSON: that is not the OpenChoreo API", what, kind,
			).WithHint(
				notTheAPI,
			)
		}
		return outcome.Errorf(outcome.ApiUnavailable, "%s: the answer is damaged: %w", what, err)
	}
	c.known.Store(true)
	return nil
}

// StatusError is a server's refusal of a request.
type StatusError struct {
	Status  int    // HTTP status
	Code    string // the API's own code, such as BAD_REQUEST or INVALID_TOKEN; empty when it gave none
	Message string // its words
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// IsConflict tells that there is such an object already.
func IsConflict(err error) bool { return statusOf(err) == http.StatusConflict }

// IsNotFound tells that there is no such object, by the word of the API itself.
func IsNotFound(err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	return ok && e.Status == http.StatusNotFound && e.Code != ""
}

// IsBadRequest tells that what an object refers to is not there, such as a Workload's component: for all that is wrong
// with the object itself the API has another status.
func IsBadRequest(err error) bool {
	e, ok := errors.AsType[*StatusError](err)
	return ok && e.Status == http.StatusBadRequest && e.Code != ""
}

func statusOf(err error) int {
	if e, ok := errors.AsType[*StatusError](err); ok {
		return e.Status
	}
	return 0
}

// refusal is the error for an answer that is not a success. The API has two shapes of errors, and what stands before it
// has others.
func (c *Client) refusal(what string, resp *http.Response, answer []byte) error {
	e := &StatusError{Status: resp.StatusCode}
	var said struct {
		Code    string `json:"code"`    // {code, error} of the API
		Error   string `json:"error"`   // {error, message} of its authentication, where error is the code
		Message string `json:"message"` //
	}
	if json.Unmarshal(answer, &said) == nil && said.Error != "" {
		e.Code, e.Message = said.Code, said.Error
		if said.Message != "" {
			e.Code, e.Message = said.Error, said.Message
		}
	} else if kind := resp.Header.Get("Content-Type"); strings.HasPrefix(kind, "text/plain") {
		e.Message = string(answer)
	}
	e.Message = short(e.Message)

	reason, hint := outcome.WorkloadRejected, ""
	switch s := e.Status; {
	case s == http.StatusUnauthorized:
		reason, hint = outcome.Unauthorized, c.tokenRefused()
	case s == http.StatusForbidden:
		reason, hint = outcome.Forbidden, c.notPermitted()
	case s == http.StatusNotFound || s == http.StatusMethodNotAllowed:
		reason, hint = outcome.NotFound, notFound
		if e.Code == "" {
			hint = notTheAPI
		}
	case s == http.StatusRequestEntityTooLarge:
		hint = tooLarge
	case s == http.StatusProxyAuthRequired:
		reason, hint = outcome.InvalidParameters, proxyRefused
	case isTransient(s):
		return outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, e).After(
			outcome.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		)
	case s < 400:
		return redirected("api-server-url", what, resp)
	case e.Code == "" && s != http.StatusBadRequest && s != http.StatusUnprocessableEntity:
		hint = refusedUnnamed
	}
	return outcome.Errorf(reason, "%s: %w", what, e).WithHint(hint)
}

// isTransient tells the statuses by which a server asks for another try.
func isTransient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500
}

func redirected(parameter, what string, resp *http.Response) error {
	to := redact.URL(resp.Header.Get("Location"))
	return outcome.Errorf(
		outcome.InvalidParameters, "%s: %s: answered %d with a redirect to %q, which is not followed", parameter,
		what, resp.StatusCode, to,
	).
		WithHint("Give the URL that it redirects to, if that is to be trusted with the client's credentials.")
}

func short(text string) string { return quote.Line(strings.TrimSpace(text), messageLimit) }
