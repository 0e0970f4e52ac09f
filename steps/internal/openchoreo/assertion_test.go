package openchoreo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devidp"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
)

// settings describe a client of the server that has neither secret nor assertion yet.
func settings(s *openchoreotest.Server) Settings {
	return Settings{
		APIServerURL: s.URL, TokenURL: s.URL + "/oauth2/token", ClientID: openchoreotest.ClientID, CABundle: s.CABundle,
		ClientSecretFile: DefaultSecretFile,
	}
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// list makes a client and one request of it.
func list(t *testing.T, s Settings) (*Client, *redact.Secrets, error) {
	t.Helper()
	secrets := &redact.Secrets{}
	c, err := New(s, secrets)
	if err == nil {
		_, err = c.List(t.Context(), "acme", Workloads, nil)
	}
	return c, secrets, err
}

func TestAssertion(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	text := s.Assertion(t, openchoreotest.Audience)
	for name, a := range map[string]Assertion{
		"a text":         {Text: text},
		"a file":         {File: file(t, text)},
		"a line's end":   {File: file(t, text+"\r\n")},
		"its audience":   {Text: text, Audience: openchoreotest.Audience},
		"the issuer's":   {Text: s.Assertion(t, s.URL)},
		"the endpoint's": {Text: s.Assertion(t, s.URL+"/oauth2/token")},
	} {
		in := settings(s)
		in.Assertion = a
		_, secrets, err := list(t, in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		signature := text[strings.LastIndexByte(text, '.')+1:]
		if said := secrets.String("sent " + text + " or " + signature); a.Text == text && said != "sent *** or ***" {
			t.Errorf("%s: not secret: %s", name, said)
		}
	}
}

// ofAJob is the assertion of a CI's job.
func ofAJob(t *testing.T) string {
	t.Helper()
	issuer, err := devidp.New(devidp.Options{Issuer: "https://ci.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := issuer.Sign(map[string]any{"sub": "job", "aud": "x"})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What an assertion is sent with, and where it is not.
func TestAssertionIsInTheBodyAlone(t *testing.T) {
	t.Parallel()
	text := ofAJob(t)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			fmt.Fprint(w, `{}`)
			return
		}
		asked++
		r.ParseForm()
		want := map[string]string{
			"grant_type": "client_credentials", "client_id": "me", "client_assertion": text, "scope": "a b",
			"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
		}
		for name, value := range want {
			if got := r.PostForm[name]; len(got) != 1 || got[0] != value {
				t.Errorf("%s is %q", name, got)
			}
		}
		if len(r.PostForm) != len(want) || r.URL.RawQuery != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("sent %v to %s with %v", r.PostForm, r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"t-1234"}`)
	}))
	t.Cleanup(server.Close)
	_, _, err := list(t, Settings{
		APIServerURL: server.URL, TokenURL: server.URL + "/token", ClientID: "me", Scope: "a b",
		Assertion: Assertion{Text: text},
	})
	if err != nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}

// Tokens of service accounts rotate: the file is read at each request.
func TestAssertionFileIsReadAnew(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	path := file(t, s.Assertion(t, openchoreotest.Audience))
	in := settings(s)
	in.Assertion.File = path
	c, _, err := list(t, in)
	if err != nil {
		t.Fatal(err)
	}
	s.ExpireTokens()
	if err := os.WriteFile(path, []byte("rotated"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = c.List(t.Context(), "acme", Workloads, nil)
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.Unauthorized ||
		!strings.Contains(failure.Message, "it is no JWT") {
		t.Errorf("the old assertion was used: %v", err)
	}
	if err := os.WriteFile(path, []byte(s.Assertion(t, s.URL)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context(), "acme", Workloads, nil); err != nil {
		t.Error(err)
	}
}

func TestUnusableAssertion(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	sign := func(claims map[string]any) string {
		t.Helper()
		text, err := s.Issuer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	other, err := devidp.New(devidp.Options{Issuer: "https://kubernetes.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{
		"sub": openchoreotest.Subject, "aud": openchoreotest.Audience, "exp": time.Now().Add(time.Hour).Unix(),
	}
	forged, err := other.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, value any) map[string]any {
		changed := map[string]any{name: value}
		for n, v := range claims {
			if n != name {
				changed[n] = v
			}
		}
		return changed
	}
	good := sign(claims)
	for _, tc := range []struct {
		name   string
		given  Assertion
		reason outcome.Reason
		say    string // in message and hint
	}{
		{"no file", Assertion{File: "/does/not/exist"}, outcome.Unauthorized, "no such file"},
		{"an empty file", Assertion{File: file(t, "\n")}, outcome.Unauthorized, "it is empty"},
		{"a file without end", Assertion{File: "/dev/zero"}, outcome.Unauthorized, "is larger than 65536 bytes"},
		{"a large text", Assertion{Text: good + strings.Repeat("a", 64<<10)}, outcome.Unauthorized, "is larger than"},
		{"a secret", Assertion{Text: "canary-s3cret"}, outcome.Unauthorized, "it is no JWT"},
		{"two lines", Assertion{Text: good + "\n" + good}, outcome.Unauthorized, "it is no JWT"},
		{"an encrypted one", Assertion{Text: "e30.e30.e30.e30.e30"}, outcome.Unauthorized, "it is no JWT"},
		{"claims that are none", Assertion{Text: "e30.bm90IEpTT04.e30"}, outcome.Unauthorized, "cannot be read"},
		{"of another key", Assertion{Text: forged}, outcome.Unauthorized, "signature is not of its issuer"},
		{"of another subject", Assertion{Text: sign(with("sub", "system:serviceaccount:workflows-evil:workflow-sa"))},
			outcome.Unauthorized, "the subject system:serviceaccount:workflows-evil:workflow-sa"},
		{"of the past", Assertion{Text: sign(with("exp", 1000000000))}, outcome.Unauthorized,
			"good until 2001-09-09T01:46:40Z"},
		{"for another provider", Assertion{Text: sign(with("aud", "https://other.example.com"))}, outcome.Unauthorized,
			"for the audience https://other.example.com"},
		{"for another than wanted", Assertion{Text: good, Audience: "https://other.example.com"},
			outcome.InvalidParameters, "oauth-client-assertion-audience is https://other.example.com"},
		{"for the Kubernetes API", Assertion{Text: sign(map[string]any{
			"sub": openchoreotest.Subject, "exp": claims["exp"], "kubernetes.io": map[string]any{},
			"aud": []string{"k3s", "https://kubernetes.example.com"}})},
			outcome.InvalidParameters, "a token for the Kubernetes API"},
		{"for the Kubernetes API of another issuer", Assertion{Text: sign(map[string]any{
			"sub": openchoreotest.Subject, "exp": claims["exp"], "kubernetes.io": map[string]any{},
			"aud": []string{"https://kubernetes.default.svc"}})},
			outcome.InvalidParameters, "a token for the Kubernetes API"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			in := settings(s)
			in.Assertion = tc.given
			_, secrets, err := list(t, in)
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != tc.reason {
				t.Fatalf("%v, want %s", err, tc.reason)
			}
			if said := secrets.String(failure.Message + " " + failure.Hint); !strings.Contains(said, tc.say) ||
				tc.given.Text != "" && strings.Contains(said, tc.given.Text) {
				t.Errorf("said %s", said)
			}
		})
	}
}

// What an endpoint says of an assertion is shown without it.
func TestEndpointEchoesTheAssertion(t *testing.T) {
	t.Parallel()
	text := ofAJob(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]string{
			"error": "invalid_client", "error_description": "no such thing as " + r.PostFormValue("client_assertion"),
		})
	}))
	t.Cleanup(server.Close)
	_, secrets, err := list(t, Settings{
		APIServerURL: server.URL, TokenURL: server.URL + "/token", ClientID: "me", Assertion: Assertion{Text: text},
	})
	failure := outcome.Of(err)
	if failure == nil || failure.Reason != outcome.Unauthorized {
		t.Fatal(err)
	}
	said := secrets.String(failure.Message + failure.Hint)
	if strings.Contains(said, text[strings.LastIndex(text, "."):]) ||
		!strings.Contains(said, "no such thing as ***") || !strings.Contains(said, "of the subject job") {
		t.Error(said)
	}
}

func TestWaysThatConflict(t *testing.T) {
	t.Parallel()
	base := Settings{APIServerURL: "https://api", TokenURL: "https://idp", ClientSecretFile: DefaultSecretFile}
	for _, tc := range []struct {
		name   string
		change func(*Settings)
		faults []string // parts; none: it is good
	}{
		{"an assertion", func(s *Settings) { s.Assertion.File = "a" }, nil},
		{"a token of GitHub", func(s *Settings) {
			s.Assertion = Assertion{GitHub: GitHubToken, RequestURL: "https://x", RequestSecret: "y"}
			s.TokenURL = ""
		}, nil},
		{"a secret and its file, as ever", func(s *Settings) { s.ClientSecret, s.ClientSecretFile = "a", "b" }, nil},
		{"a secret's variable", func(s *Settings) { s.Assertion.File, s.ClientSecret = "a", "canary" },
			[]string{"oauth-client-assertion-file, oauth-client-secret: all of them"}},
		{"no secret's file", func(s *Settings) { s.Assertion.File, s.ClientSecretFile = "a", "/no/such" }, nil},
		{"a secret's file", func(s *Settings) { s.Assertion.File, s.ClientSecretFile = "a", file(t, "canary") },
			[]string{"oauth-client-assertion-file, oauth-client-secret-file: all of them"}},
		{"all, and more", func(s *Settings) {
			s.APIServerURL, s.ClientAuth = "http://api", "client_secret_basic"
			s.ClientSecret, s.TokenFile = "canary", "t"
			s.Assertion = Assertion{Text: "canary", File: "a", GitHub: GitHubAssertion}
		}, []string{
			"4 faults", "api-server-url", "oauth-client-assertion, oauth-client-assertion-file, github-id-token, " +
				"oauth-client-secret, token-file: all", "oauth-client-auth: client_secret_basic is for a secret",
			"the permission id-token: write",
		}},
		{"GitHub's URL is no secure one", func(s *Settings) {
			s.Assertion = Assertion{GitHub: GitHubAssertion, RequestURL: "http://x", RequestSecret: "canary"}
			s.InsecurePlainHTTP = true
		}, []string{"actions-id-token-request-url: http://x would send secrets unprotected"}},
	} {
		in := base
		tc.change(&in)
		_, err := New(in, &redact.Secrets{})
		if tc.faults == nil {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		for _, fault := range tc.faults {
			if err == nil || outcome.Of(err).Reason != outcome.InvalidParameters ||
				!strings.Contains(err.Error(), fault) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v, want %s", tc.name, err, fault)
			}
		}
	}
}

// gitHub is a job's server of id tokens.
func gitHub(t *testing.T, s *openchoreotest.Server) Assertion {
	t.Helper()
	server := httptest.NewServer(devidp.JobTokens{
		Provider: s.Issuer, Subject: openchoreotest.Subject, Secret: "canary-job",
	})
	t.Cleanup(server.Close)
	return Assertion{
		GitHub: GitHubAssertion, RequestURL: server.URL + "/idtoken?api-version=2.0", RequestSecret: "canary-job",
	}
}

func TestGitHubIDToken(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	given := gitHub(t, s)
	for name, change := range map[string]func(*Settings){
		"for the endpoint":              func(*Settings) {},
		"for the audience":              func(in *Settings) { in.Assertion.Audience = openchoreotest.Audience },
		"for an endpoint that is found": func(in *Settings) { in.TokenURL = "" },
	} {
		in := settings(s)
		in.Assertion = given
		change(&in)
		if _, secrets, err := list(t, in); err != nil || secrets.String("canary-job") != "***" {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused := settings(s)
	refused.Assertion = given
	refused.Assertion.RequestSecret = "of another job"
	_, _, err := list(t, refused)
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.Unauthorized ||
		!strings.Contains(failure.Hint, "id-token: write") {
		t.Errorf("%v", err)
	}
}

// The token itself goes to an API that trusts GitHub's issuer, and to nobody else.
func TestGitHubTokenItself(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, "")
	given := gitHub(t, s)
	given.GitHub, given.Audience = GitHubToken, "openchoreo"
	asked := 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		a, err := readAssertion(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		if err != nil || len(a.audience) != 1 || a.audience[0] != "openchoreo" {
			t.Errorf("%+v, %v", a, err)
		}
		if asked == 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(api.Close)
	c, _, err := list(t, Settings{APIServerURL: api.URL, Assertion: given})
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.Forbidden ||
		!strings.Contains(failure.Hint, "the token's client is bound") {
		t.Errorf("%v", err)
	}
	if _, err := c.List(t.Context(), "acme", Workloads, nil); err != nil {
		t.Error(err)
	}
}
