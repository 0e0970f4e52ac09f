package openchoreo

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// Assertion says which JWT of somebody else's proves who the client is, in the place of its secret: at most one of
// Text, File and GitHub is given.
type Assertion struct {
	Text     string // the JWT itself
	File     string // holds it, and is read whenever a token is fetched, since such tokens rotate
	Audience string // that the assertion must name; empty: any, or of GitHub the token endpoint's URL

	GitHub        string // GitHubAssertion or GitHubToken; or else the job's id token is not used
	RequestURL    string // where a job of GitHub Actions gets its id token
	RequestSecret string // what the job gets it by
}

// What an id token of GitHub Actions is used for.
const (
	GitHubAssertion = "client-assertion"
	GitHubToken     = "token" // for an API that trusts GitHub's issuer; then there is no client
)

// assertionType says that an assertion is a JWT (RFC 7523 section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// used tells that the client has an assertion.
func (a Assertion) used() bool { return a.Text != "" || a.File != "" || a.GitHub == GitHubAssertion }

// usesClient tells that an OAuth client gets the token.
func (s Settings) usesClient() bool { return s.TokenFile == "" && s.Assertion.GitHub != GitHubToken }

// SecretFile is the file that the client reads its secret from; empty where it does without one.
func (s Settings) SecretFile() string {
	if !s.usesClient() || s.Assertion.used() || strings.TrimRight(s.ClientSecret, "\r\n") != "" {
		return ""
	}
	return s.ClientSecretFile
}

// conflicts lists what does not go together, and what is missing for what is asked for.
func (s Settings) conflicts() []string {
	var ways []string // to get a token
	way := func(given bool, name string) {
		if given {
			ways = append(ways, name)
		}
	}
	a := s.Assertion
	gitHub := a.GitHub == GitHubAssertion || a.GitHub == GitHubToken
	way(a.Text != "", "oauth-client-assertion")
	way(a.File != "", "oauth-client-assertion-file")
	way(gitHub, "github-id-token")
	if len(ways) == 0 {
		return nil // as a secret is chosen among the others, it has always been
	}
	way(s.ClientSecret != "", "oauth-client-secret")
	way(s.hasSecretFile(), "oauth-client-secret-file")
	way(s.TokenFile != "", "token-file")
	var faults []string
	if len(ways) > 1 {
		faults = append(faults, fmt.Sprintf("%s: all of them are given; a client proves who it is in one way, so give "+
			"one of them", strings.Join(ways, ", ")))
	}
	if s.ClientAuth == "client_secret_basic" {
		faults = append(faults, "oauth-client-auth: client_secret_basic is for a secret, and "+ways[0]+" is given")
	}
	if gitHub {
		if a.RequestURL == "" || a.RequestSecret == "" {
			faults = append(faults, "github-id-token: ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN "+
				"are not there: outside GitHub Actions there is no id token, and in it the job needs the permission "+
				"id-token: write, which pull requests from forks never have")
		} else if _, fault := endpoint("actions-id-token-request-url", a.RequestURL, false); fault != "" {
			faults = append(faults, fault)
		}
	}
	return faults
}

// hasSecretFile tells that somebody has given a file with a secret. The default's is mounted whether it is used or not,
// and stepwright run gives its own path for it, where nothing may be.
func (s Settings) hasSecretFile() bool {
	if s.ClientSecretFile == "" || s.ClientSecretFile == DefaultSecretFile {
		return false
	}
	_, err := os.Stat(s.ClientSecretFile)
	return err == nil
}

// assertion is a JWT with the claims that matter here. Nobody has verified it: that is for the identity provider.
type assertion struct {
	text            string
	issuer, subject string
	audience        []string
	until           time.Time // zero: it does not say
	account         bool      // a service account of Kubernetes has it
}

// assertion reads the client's assertion, or asks GitHub for it, and makes sure that it is for the endpoint.
func (c *Client) assertion(ctx context.Context, at tokenEndpoint) (*assertion, error) {
	given := c.settings.Assertion
	name, text := "oauth-client-assertion", given.Text
	var err error
	switch {
	case given.File != "":
		name = "oauth-client-assertion-file"
		if text, err = readSecret(given.File); err != nil {
			return nil, outcome.Errorf(outcome.Unauthorized, "%s: %w", name, err).WithHint("Name the file that holds " +
				"the assertion, such as the token of a projected volume, or give a client secret instead.")
		}
	case given.GitHub == GitHubAssertion:
		name = "github-id-token"
		audience := given.Audience
		if audience == "" {
			audience = at.url
		}
		if text, err = c.gitHubToken(ctx, audience); err != nil {
			return nil, err
		}
	}
	text = strings.TrimSpace(text)
	c.addAssertion(text)
	a, err := readAssertion(text)
	if err != nil {
		return nil, outcome.Errorf(outcome.Unauthorized, "%s: %w", name, err).WithHint(
			"An assertion is a signed JWT and nothing else: three parts with dots between them.",
		)
	}
	return a, c.fits(name, a, at)
}

// addAssertion makes an assertion secret, and its signature alone, without which the rest is of no use.
func (c *Client) addAssertion(text string) {
	c.secrets.Add(text, text[strings.LastIndexByte(text, '.')+1:])
}

var jwt = regexp.MustCompile(`^[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+$`)

// readAssertion reads the claims of a JWT. The error quotes nothing of it.
func readAssertion(text string) (*assertion, error) {
	var claims struct {
		Issuer     string          `json:"iss"`
		Subject    string          `json:"sub"`
		Audience   any             `json:"aud"` // a text or a list of them
		Expires    float64         `json:"exp"`
		Kubernetes json.RawMessage `json:"kubernetes.io"`
	}
	parts := jwt.FindStringSubmatch(text)
	switch {
	case text == "":
		return nil, fmt.Errorf("it is empty")
	case len(text) > secretLimit:
		return nil, fmt.Errorf("it is larger than %d bytes", secretLimit)
	case parts == nil:
		return nil, fmt.Errorf("it is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return nil, fmt.Errorf("it is no JWT: its claims cannot be read")
	}
	a := &assertion{text: text, issuer: claims.Issuer, subject: claims.Subject, account: claims.Kubernetes != nil}
	switch audience := claims.Audience.(type) {
	case string:
		a.audience = []string{audience}
	case []any:
		for _, one := range audience {
			if one, ok := one.(string); ok {
				a.audience = append(a.audience, one)
			}
		}
	}
	if claims.Expires > 0 && claims.Expires < 1<<40 {
		a.until = time.Unix(int64(claims.Expires), 0).UTC()
	}
	return a, nil
}

// fits fails if an assertion is for others than the endpoint that it would be sent to.
func (c *Client) fits(name string, a *assertion, at tokenEndpoint) error {
	fault := func(format string, args ...any) *outcome.Error {
		return outcome.Errorf(outcome.InvalidParameters, "%s: the assertion is for the audience %s: %s", name,
			short(strings.Join(a.audience, ", ")), fmt.Sprintf(format, args...))
	}
	// Most API servers are their issuer's audience; some have an issuer elsewhere and keep the cluster's own name.
	if a.account && slices.ContainsFunc(a.audience, func(audience string) bool {
		return audience == a.issuer || strings.HasPrefix(audience, "https://kubernetes.default.svc")
	}) {
		return fault("that is a token for the Kubernetes API, which nobody else may have").WithHint(
			"Project a token with an audience of its own, such as the issuer of the identity provider: the setting " +
				"oauth-client-assertion-audience of the WorkflowPlane.",
		)
	}
	if wanted := c.settings.Assertion.Audience; wanted != "" && !slices.Contains(a.audience, wanted) {
		return fault("oauth-client-assertion-audience is %s", short(wanted)).WithHint(
			"Have the token made for that audience, or correct oauth-client-assertion-audience.",
		)
	}
	// Each server that gets an assertion can show it wherever its audience is known.
	if at.issuer != "" && !slices.ContainsFunc(a.audience, func(audience string) bool {
		return sameURL(audience, at.issuer) || audience == at.url
	}) {
		return fault("the API names the issuer %s with the token endpoint %s, neither of which that is",
			redact.URL(at.issuer), redact.URL(at.url)).WithHint(
			"Have the token made for that issuer, if it is the right one, or give oauth-token-url: an assertion for " +
				"another audience goes to no endpoint that only the API names.",
		)
	}
	return nil
}

// facts are what an assertion says of itself, for people. None of it is secret.
func (a *assertion) facts() string {
	text := fmt.Sprintf("the assertion is of the issuer %s, of the subject %s, for the audience %s", short(a.issuer),
		short(a.subject), short(strings.Join(a.audience, ", ")))
	if !a.until.IsZero() {
		text += ", good until " + a.until.Format(time.RFC3339)
	}
	return text
}

// gitHubToken asks GitHub for the job's id token. An empty audience is GitHub's default, the URL of the owner.
func (c *Client) gitHubToken(ctx context.Context, audience string) (string, error) {
	const name = "actions-id-token-request-url"
	at, err := url.Parse(c.settings.Assertion.RequestURL) // New has done so before
	if err != nil {
		return "", err
	}
	query := at.Query()
	if audience != "" {
		query.Set("audience", audience)
	}
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return "", err
	}
	c.secrets.Add(c.settings.Assertion.RequestSecret)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.settings.Assertion.RequestSecret)
	what := "id token of the job from " + redact.URL(c.settings.Assertion.RequestURL)
	resp, err := c.http.Do(req)
	if err != nil {
		return "", unreachable(ctx, name, what, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, tokenLimit))
	if err != nil {
		return "", unreachable(ctx, name, what, err)
	}
	var answer struct {
		Value string `json:"value"`
	}
	json.Unmarshal(body, &answer) // what it does not have is empty
	c.addAssertion(answer.Value)
	status := &StatusError{Status: resp.StatusCode}
	switch {
	case isTransient(resp.StatusCode):
		return "", outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, status).After(
			outcome.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
		)
	case resp.StatusCode != http.StatusOK || !isToken(answer.Value):
		return "", outcome.Errorf(outcome.Unauthorized, "%s: %w, without a token", what, status).WithHint(
			"Check that the job has the permission id-token: write, and that its variables " +
				"ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN are GitHub's own.",
		)
	}
	return answer.Value, nil
}
