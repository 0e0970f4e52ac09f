package commitstatus

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/trust"
)

// Bounds of one request and its answer.
const (
	patience     = 20 * time.Second
	answerLimit  = 1 << 20 // bytes
	messageLimit = 512     // bytes
	redirects    = 3
)

// client speaks to the API of one target, for one run of the step. It tries nothing again: errors of class transient
// are for outcome.Retry.
type client struct {
	at      target
	http    *http.Client
	secrets *redact.Secrets
	token   string // of a GitHub App's installation, once there is one
}

func newClient(at target, caBundle string, secrets *redact.Secrets) (*client, error) {
	transport, err := trust.Transport(caBundle)
	if err != nil {
		return nil, err
	}
	return &client{at: at, secrets: secrets, http: &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// write writes a status.
func (c *client) write(ctx context.Context, who credentials, what status) error {
	if who.token == "" && who.appID != "" {
		var err error
		if who.token, err = c.installationToken(ctx, who); err != nil {
			return err
		}
	}
	path, body := c.at.provider.request(c.at, what)
	maps.DeleteFunc(body, func(_, value string) bool { return value == "" })
	err := c.call(ctx, http.MethodPost, path, body, func(h http.Header) { c.at.provider.authorize(h, who) }, nil)
	if refused, ok := errors.AsType[*refusal](err); ok && c.at.provider.already != nil &&
		c.at.provider.already(what.state, refused.message) {
		return nil
	}
	return err
}

// call sends a request as JSON, and decodes the answer into result, if that is not nil.
func (c *client) call(
	ctx context.Context, method string, path []string, body any, authorize func(http.Header), result any,
) error {
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			return err
		}
	}
	at := c.at.api.JoinPath(escaped(path)...)
	for range redirects + 1 {
		answer, next, err := c.send(ctx, method, at, content, authorize)
		switch {
		case err != nil:
			return err
		case next != nil:
			at = next
			continue
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(answer, result); err != nil {
			return outcome.Errorf(
				outcome.GitServerUnavailable, "%s: the answer is damaged: %w", describe(method, at), err,
			)
		}
		return nil
	}
	return outcome.Errorf(outcome.GitServerUnavailable, "%s: redirects without end", describe(method, at))
}

func describe(method string, at *url.URL) string { return method + " " + redact.URL(at.String()) }

// send sends one request. It returns the answer, or where the host has moved it to: another path of its own.
func (c *client) send(
	ctx context.Context, method string, at *url.URL, content []byte, authorize func(http.Header),
) (answer []byte, next *url.URL, err error) {
	request, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(content))
	if err != nil {
		return nil, nil, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "stepwright")
	if content != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	authorize(request.Header)
	response, err := c.http.Do(request)
	if err != nil {
		return nil, nil, c.unreachable(ctx, describe(method, at), err)
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(response.Body, answerLimit)); err != nil {
		return nil, nil, c.unreachable(ctx, describe(method, at), err)
	}
	switch s := response.StatusCode; {
	case s >= 200 && s < 300:
		return answer, nil, nil
	case s == http.StatusMovedPermanently || s == http.StatusFound || s == http.StatusTemporaryRedirect ||
		s == http.StatusPermanentRedirect: // a repository with another name; the request is to be sent again as it is
		to, err := response.Location()
		if err == nil && to.Scheme == at.Scheme && to.Host == at.Host {
			return nil, to, nil
		}
		return nil, nil, outcome.Errorf(
			outcome.Failed, "%s: answered %d with a redirect to %q, which is not followed with credentials",
			describe(method, at), s, redact.URL(response.Header.Get("Location")),
		).WithHint("Check api-url in status-hosts, and the repository's URL.")
	}
	return nil, nil, c.refused(describe(method, at), response, answer)
}

func (c *client) unreachable(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok { // the URL is in what already
		err = wrapped.Err
	}
	return outcome.Errorf(outcome.GitServerUnavailable, "%s: %w", what, err)
}

// refusal is what a host answered in place of success.
type refusal struct {
	status  int    // of HTTP
	message string // the host's words
}

func (e *refusal) Error() string {
	text := strings.TrimSpace(fmt.Sprintf("%d %s", e.status, http.StatusText(e.status)))
	if e.message != "" {
		text += ": " + e.message
	}
	return text
}

// refused is the error for an answer that is not a success.
func (c *client) refused(what string, response *http.Response, answer []byte) error {
	e := &refusal{status: response.StatusCode, message: words(answer)}
	wait := outcome.RetryAfter(response.Header.Get("Retry-After"), time.Now())
	limited := wait > 0
	// GitHub's limits: https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api.
	if response.Header.Get("X-Ratelimit-Remaining") == "0" {
		limited = true
		if reset, err := strconv.ParseInt(response.Header.Get("X-Ratelimit-Reset"), 10, 64); err == nil && wait == 0 {
			wait = max(time.Until(time.Unix(reset, 0)), 0)
		}
	}
	switch s := e.status; {
	case s == http.StatusRequestTimeout || s == http.StatusConflict || s == http.StatusTooEarly ||
		s == http.StatusTooManyRequests || s >= 500 || s == http.StatusForbidden && limited:
		return outcome.Errorf(outcome.GitServerUnavailable, "%s: %w", what, e).After(wait)
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return outcome.Errorf(outcome.AuthenticationFailed, "%s: %w", what, e).WithHint(
			"Check that the credentials have not expired, and that they may write commit statuses of the repository.",
		)
	case s == http.StatusNotFound:
		return outcome.Errorf(outcome.RepositoryNotFound, "%s: %w", what, e).WithHint(
			"Check that the credentials may write commit statuses of the repository: hosts hide what they may not see.",
		)
	}
	return outcome.Errorf(outcome.Failed, "%s: %w", what, e).WithHint("The host's own words say what it refuses.")
}

// words are the words of an error, wherever a host has them.
func words(answer []byte) string {
	type message struct {
		Message string `json:"message"`
	}
	var said struct {
		Message json.RawMessage `json:"message"` // of GitHub, Gitea and GitLab, where it may be an object
		Error   json.RawMessage `json:"error"`   // of GitLab a text, of Bitbucket an object
		Errors  []message       `json:"errors"`  // of GitHub, besides, and of Bitbucket Data Center
	}
	if json.Unmarshal(answer, &said) != nil && said.Message == nil && said.Error == nil {
		return ""
	}
	text := func(raw json.RawMessage) string {
		var plain string
		var object message
		switch {
		case raw == nil || json.Unmarshal(raw, &plain) == nil:
			return plain
		case json.Unmarshal(raw, &object) == nil && object.Message != "":
			return object.Message
		}
		return string(raw)
	}
	all := cmp.Or(text(said.Message), text(said.Error))
	for _, one := range said.Errors {
		if len(all) > messageLimit { // of a long list nobody sees the end
			break
		}
		all = strings.TrimPrefix(all+": "+one.Message, ": ")
	}
	return quote.Line(strings.TrimRight(all, ": "), messageLimit)
}
