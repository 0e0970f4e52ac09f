package openchoreo

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

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
	if c.settings.TokenFile != "" {
		return c.given()
	}
	secret, err := c.clientSecret()
	if err != nil {
		return nil, err
	}
	config := clientcredentials.Config{
		ClientID:     c.settings.ClientID,
		ClientSecret: secret,
		TokenURL:     c.settings.TokenURL,
		Scopes:       strings.Fields(c.settings.Scope),
		AuthStyle:    oauth2.AuthStyleInParams, // the default provider refuses Basic (docs/contract.md section 4)
	}
	if c.settings.ClientAuth == "client_secret_basic" {
		config.AuthStyle = oauth2.AuthStyleInHeader
	}
	if c.settings.Audience != "" {
		config.EndpointParams = url.Values{"audience": {c.settings.Audience}}
	}
	token, err := config.Token(context.WithValue(ctx, oauth2.HTTPClient, c.http))
	if err != nil {
		return nil, c.denial(ctx, err)
	}
	c.secrets.Add(token.AccessToken, token.RefreshToken)
	return token, nil
}

// given returns the token that somebody else has fetched.
func (c *Client) given() (*oauth2.Token, error) {
	raw, err := os.ReadFile(c.settings.TokenFile)
	if err != nil {
		return nil, outcome.Errorf(outcome.Unauthorized, "token-file: %w", err).WithHint(
			"Name the file that holds a token for the API, or give an OAuth client instead.",
		)
	}
	token := strings.TrimSpace(string(raw))
	c.secrets.Add(token)
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, outcome.Errorf(
			outcome.Unauthorized, "token-file: %s holds no token", c.settings.TokenFile,
		).WithHint(
			"The file is to hold the token and nothing else.",
		)
	}
	return &oauth2.Token{AccessToken: token}, nil
}

func (c *Client) clientSecret() (string, error) {
	if c.settings.ClientSecret != "" {
		c.secrets.Add(c.settings.ClientSecret)
		return c.settings.ClientSecret, nil
	}
	path := c.settings.ClientSecretFile
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", outcome.Errorf(outcome.Unauthorized, "oauth-client-secret-file: %w", err).
			WithHint("Put the client's secret into that file, name the file that holds it, or give it as the " +
				"variable OAUTH_CLIENT_SECRET.")
	}
	secret := strings.TrimRight(string(raw), "\r\n")
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
func (c *Client) denial(ctx context.Context, err error) error {
	what := "token of client " + c.settings.ClientID + " from " + redact.URL(c.settings.TokenURL)
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return unreachable(ctx, "oauth-token-url", what, err)
	}
	e := &StatusError{Status: refused.Response.StatusCode, Code: refused.ErrorCode, Message: refused.ErrorCode}
	if refused.ErrorDescription != "" {
		e.Message = short(refused.ErrorCode + ": " + refused.ErrorDescription)
	}
	switch s := e.Status; {
	case s == http.StatusTooManyRequests || s >= 500:
		return outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, e).After(
			outcome.RetryAfter(refused.Response.Header.Get("Retry-After"), time.Now()),
		)
	case s >= 300 && s < 400:
		return redirected("oauth-token-url", what, refused.Response)
	case e.Code == "" && s != http.StatusUnauthorized && s != http.StatusForbidden:
		return outcome.Errorf(outcome.NotFound, "%s: %w, and not as a token endpoint answers", what, e).
			WithHint("Check oauth-token-url: it is the whole URL of the token endpoint, with its path, which is " +
				"/oauth2/token at the default identity provider and token_endpoint in the " +
				".well-known/openid-configuration of others.")
	}
	return outcome.Errorf(outcome.Unauthorized, "%s: %w", what, e).WithHint(c.clientRefused(e.Code))
}
