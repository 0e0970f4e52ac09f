package openchoreo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// authorization returns a token that has not expired, and whether it was fetched just now.
func (c *Client) authorization(ctx context.Context) (token *oauth2.Token, fresh bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token.Valid() {
		return c.token, false, nil
	}
	c.token, err = c.fetch(ctx)
	return c.token, true, err
}

// forget drops a token that the API did not accept, unless another call has replaced it.
func (c *Client) forget(token *oauth2.Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = nil
	}
}

func (c *Client) fetch(ctx context.Context) (*oauth2.Token, error) {
	switch {
	case c.settings.TokenFile != "":
		return c.given()
	case c.settings.Assertion.GitHub == GitHubToken:
		token, err := c.gitHubToken(ctx, c.settings.Assertion.Audience)
		if err != nil {
			return nil, err
		}
		return &oauth2.Token{AccessToken: token}, nil
	}
	if c.at == nil {
		at, err := c.discover(ctx)
		if err != nil {
			return nil, err
		}
		c.at = at
	}
	proof, err := c.prove(ctx, *c.at)
	if err != nil {
		return nil, err
	}
	what := "token of client " + c.settings.ClientID + " from " + redact.URL(c.at.url)
	resp, err := c.http.Do(c.tokenRequest(ctx, *c.at, proof))
	if err != nil {
		return nil, unreachable(ctx, c.at.name(), what, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, tokenLimit))
	if err != nil {
		return nil, unreachable(ctx, c.at.name(), what, err)
	}
	answer := readTokenAnswer(body)
	c.secrets.Add(answer.AccessToken, answer.RefreshToken)
	if resp.StatusCode < 200 || resp.StatusCode > 299 || answer.AccessToken == "" || !isToken(answer.AccessToken) {
		return nil, c.denial(what, resp, answer, proof)
	}
	token := &oauth2.Token{AccessToken: answer.AccessToken}
	if lifetime := answer.lifetime(); lifetime > 0 {
		token.Expiry = time.Now().Add(lifetime)
	}
	return token, nil
}

// tokenLimit bounds what is read of a token endpoint's answer, in bytes.
const tokenLimit = 1 << 20

// proof is what a client shows a token endpoint: one of these.
type proof struct {
	secret    string
	assertion *assertion
}

// prove returns what the client shows a token endpoint, read or asked for anew.
func (c *Client) prove(ctx context.Context, at tokenEndpoint) (proof, error) {
	if c.settings.Assertion.used() {
		a, err := c.assertion(ctx, at)
		return proof{assertion: a}, err
	}
	secret, err := c.clientSecret()
	return proof{secret: secret}, err
}

// tokenRequest asks for a token as RFC 6749 section 4.4.2 has it. All that is secret is in the body or in a header.
func (c *Client) tokenRequest(ctx context.Context, at tokenEndpoint, proof proof) *http.Request {
	form := url.Values{"grant_type": {"client_credentials"}}
	basic := proof.assertion == nil && c.settings.ClientAuth == "client_secret_basic"
	switch {
	case proof.assertion != nil: // RFC 7523 section 2.2
		form.Set("client_id", c.settings.ClientID)
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", proof.assertion.text)
	case !basic: // the default provider takes no other (docs/contract.md section 4)
		form.Set("client_id", c.settings.ClientID)
		form.Set("client_secret", proof.secret)
	}
	if scopes := strings.Fields(c.settings.Scope); len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	if c.settings.Audience != "" {
		form.Set("audience", c.settings.Audience)
	}
	// New or discover has parsed the URL.
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, at.url, strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic { // section 2.3.1: both are encoded as in a form before they are joined
		req.SetBasicAuth(url.QueryEscape(c.settings.ClientID), url.QueryEscape(proof.secret))
	}
	return req
}

// tokenAnswer is what a token endpoint answers, well or not.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    any    `json:"expires_in"` // a number; some write it as a text, or with a fraction
	Error        string `json:"error"`
	Description  string `json:"error_description"`
}

// errorCode is an error of RFC 6749 that stands alone.
var errorCode = regexp.MustCompile(`^[a-z]+(_[a-z]+)+$`)

// readTokenAnswer reads an answer by what is in it: some endpoints, or what stands before them, say another content
// type than they send.
func readTokenAnswer(body []byte) tokenAnswer {
	var answer tokenAnswer
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\ufeff")))
	if json.Unmarshal(body, &answer) == nil {
		return answer
	}
	if form, err := url.ParseQuery(string(body)); err == nil && (form.Has("access_token") || form.Has("error")) {
		return tokenAnswer{
			AccessToken: form.Get("access_token"), RefreshToken: form.Get("refresh_token"),
			ExpiresIn: form.Get("expires_in"), Error: form.Get("error"), Description: form.Get("error_description"),
		}
	}
	if errorCode.Match(body) {
		return tokenAnswer{Error: string(body)}
	}
	return tokenAnswer{}
}

// lifetime is how long the token is valid; 0 when the endpoint does not say.
func (a tokenAnswer) lifetime() time.Duration {
	seconds, err := strconv.ParseFloat(fmt.Sprint(a.ExpiresIn), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, float64(longestLifetime/time.Second)) * float64(time.Second))
}

// longestLifetime bounds a token's, which a Duration could not hold otherwise.
const longestLifetime = 10 * 365 * 24 * time.Hour

// isToken tells whether a text can be sent as a token.
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// given returns the token that somebody else has fetched.
func (c *Client) given() (*oauth2.Token, error) {
	raw, err := readSecret(c.settings.TokenFile)
	if err != nil {
		return nil, outcome.Errorf(outcome.Unauthorized, "token-file: %w", err).WithHint(
			"Name the file that holds a token for the API, or give an OAuth client instead.",
		)
	}
	token := strings.TrimSpace(raw)
	c.secrets.Add(token)
	if !isToken(token) {
		return nil, outcome.Errorf(
			outcome.Unauthorized, "token-file: %s holds no token", c.settings.TokenFile,
		).WithHint(
			"The file is to hold the token and nothing else.",
		)
	}
	return &oauth2.Token{AccessToken: token}, nil
}

// secretLimit bounds a file with a secret, an assertion or a token, in bytes. Servers take no larger header or form.
const secretLimit = 64 << 10

// readSecret reads a file whose content is secret.
func readSecret(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, secretLimit+1))
	if err == nil && len(raw) > secretLimit {
		err = fmt.Errorf("%s is larger than %d bytes", path, secretLimit)
	}
	return string(raw), err
}

func (c *Client) clientSecret() (string, error) {
	// A line's end is no part of a secret, neither of one from a file nor of one that a form or a shell has copied.
	if secret := strings.TrimRight(c.settings.ClientSecret, "\r\n"); secret != "" {
		c.secrets.Add(secret)
		return secret, nil
	}
	path := c.settings.ClientSecretFile
	raw, err := readSecret(path)
	if err != nil {
		return "", outcome.Errorf(outcome.Unauthorized, "oauth-client-secret-file: %w", err).
			WithHint("Put the client's secret into that file, name the file that holds it, or give it as the " +
				"variable OAUTH_CLIENT_SECRET.")
	}
	secret := strings.TrimRight(raw, "\r\n")
	c.secrets.Add(secret)
	if secret == "" {
		return "", outcome.Errorf(outcome.Unauthorized, "oauth-client-secret-file: %s is empty", path).WithHint(
			"Put the client's secret into that file.",
		)
	}
	return secret, nil
}

// denial is the error for a token that was not given. The server's body is never quoted whole: it may echo what was
// sent.
func (c *Client) denial(what string, resp *http.Response, answer tokenAnswer, proof proof) error {
	e := &StatusError{Status: resp.StatusCode, Code: answer.Error, Message: short(answer.Error)}
	if answer.Description != "" {
		e.Message = short(strings.TrimPrefix(answer.Error+": "+answer.Description, ": "))
	}
	switch s := e.Status; {
	case isTransient(s) || e.Code == "temporarily_unavailable" || e.Code == "server_error":
		return outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, e).After(
			outcome.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		)
	case s >= 300 && s < 400:
		return redirected(c.at.name(), what, resp)
	case e.Code == "" && s != http.StatusUnauthorized && s != http.StatusForbidden:
		return outcome.Errorf(
			outcome.NotFound, "%s: %w, with %s, which holds no token and no error of a token endpoint", what, e,
			contentType(resp),
		).WithHint("Check oauth-token-url: it is the whole URL of the token endpoint, with its path, which is " +
			"/oauth2/token at the default identity provider and token_endpoint in the " +
			".well-known/openid-configuration of others. A page of a portal, a login or a proxy is not one.")
	}
	return outcome.Errorf(outcome.Unauthorized, "%s: %w", what, e).WithHint(c.clientRefused(e.Code, proof))
}

// contentType says of what type an answer claims to be.
func contentType(resp *http.Response) string {
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil {
		return kind
	}
	return "no content type"
}
