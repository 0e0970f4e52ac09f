package openchoreo

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
)

func TestDiscovery(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	in := settings(s)
	in.TokenURL, in.ClientSecretFile = "", s.ClientSecretFile
	c, _, err := list(t, in)
	if err != nil || c.at.url != s.URL+"/oauth2/token" {
		t.Errorf("%v", err)
	}
	// An assertion for the issuer that the API names goes there; one for another audience goes nowhere.
	in.ClientSecretFile, in.Assertion.Text = DefaultSecretFile, s.Assertion(t, s.URL)
	if _, _, err := list(t, in); err != nil {
		t.Error(err)
	}
	in.Assertion.Text = s.Assertion(t, openchoreotest.Audience)
	in.Assertion.Audience = openchoreotest.Audience
	_, _, err = list(t, in)
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.InvalidParameters ||
		!strings.Contains(failure.Message, "neither of which that is") {
		t.Errorf("%v", err)
	}
}

// An API that lies, or is not one, gets nothing: of a client's secret nothing is sent where it must not go.
func TestDiscoveryOfWhatIsNotTrusted(t *testing.T) {
	t.Parallel()
	type answers map[string]any // by path; a text is a redirect's target
	server := func(t *testing.T, all answers) *httptest.Server {
		t.Helper()
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost || r.Header.Get("Authorization") != "" {
				t.Errorf("%s %s got credentials", r.Method, r.URL)
			}
			switch answer := all[r.URL.Path].(type) {
			case nil:
				http.NotFound(w, r)
			case int:
				w.WriteHeader(answer)
			case string:
				http.Redirect(w, r, answer, http.StatusFound)
			default:
				json.NewEncoder(w).Encode(answer)
			}
		}))
		t.Cleanup(s.Close)
		return s
	}
	names := func(server string) answers {
		return answers{resourceDocument: map[string]any{"authorization_servers": []string{server}}}
	}
	issues := func(document string, change func(own string, metadata map[string]any)) string {
		metadata := map[string]any{}
		s := server(t, answers{document: metadata})
		metadata["issuer"], metadata["token_endpoint"] = s.URL, s.URL+"/token"
		change(s.URL, metadata)
		return s.URL
	}
	for _, tc := range []struct {
		name   string
		api    answers
		reason outcome.Reason
		say    string
	}{
		{name: "no metadata", reason: outcome.NotFound, say: "404 Not Found"},
		{name: "a list", api: answers{resourceDocument: []string{}}, reason: outcome.NotFound, say: "is no metadata"},
		{name: "down", api: answers{resourceDocument: 503}, reason: outcome.ApiUnavailable, say: "503"},
		{name: "a login", api: answers{resourceDocument: "/login"}, reason: outcome.InvalidParameters, say: "redirect"},
		{name: "no server", api: answers{resourceDocument: map[string]any{}}, reason: outcome.NotFound,
			say: "names no authorization server"},
		{name: "plain HTTP", api: names("http://idp.example.com"), reason: outcome.InvalidParameters,
			say: "would send secrets unprotected"},
		{name: "credentials", api: names("https://u:canary@idp.example.com"), reason: outcome.InvalidParameters,
			say: "must not carry credentials"},
		{name: "no URL", api: names("idp"), reason: outcome.InvalidParameters, say: "is not an https URL"},
		{name: "a query", api: names("https://idp.example.com/?x="), reason: outcome.InvalidParameters, say: "a query"},
		{name: "an issuer without metadata", api: names(server(t, nil).URL), reason: outcome.NotFound, say: "404"},
		{name: "an issuer that names another", api: names(issues(openIDDocument, func(_ string, m map[string]any) {
			m["issuer"] = "https://idp.example.com"
		})), reason: outcome.InvalidParameters, say: `is of the issuer "https://idp.example.com"`},
		{name: "no endpoint", api: names(issues(openIDDocument, func(_ string, m map[string]any) {
			delete(m, "token_endpoint")
		})), reason: outcome.NotFound, say: "names no token endpoint"},
		{name: "an endpoint on plain HTTP", api: names(issues(serverDocument, func(_ string, m map[string]any) {
			m["token_endpoint"] = "http://evil.example.com/token"
		})), reason: outcome.InvalidParameters, say: "http://evil.example.com/token would send secrets unprotected"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := list(t, Settings{
				APIServerURL: server(t, tc.api).URL, ClientID: "me", ClientSecret: "canary-s3cret",
			})
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != tc.reason || !strings.Contains(failure.Message, tc.say) {
				t.Errorf("%v, want %s: %s", err, tc.reason, tc.say)
			}
			if failure != nil && strings.Contains(failure.Message+failure.Hint, "canary") {
				t.Errorf("%+v", failure)
			}
		})
	}
}

// What an API names is checked as what a person gives, and more.
func TestNamed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		api, named string
		insecure   bool
		fault      string
	}{
		{"https://api.example.com", "https://idp.example.com/a", false, ""},
		{"https://api.example.com", "https://idp.elsewhere.example", false, ""},
		{"http://api.example.com", "http://idp.example.com", true, ""},
		{"http://127.0.0.1:1", "http://localhost:2", false, ""},
		{"https://127.0.0.1:1", "https://localhost:2", false, ""},
		{"http://127.0.0.1:1", "http://idp.example.com", false, "unprotected"},
		{"https://api.example.com", "http://idp.example.com", true, "the API itself has TLS"},
		{"https://127.0.0.1:1", "http://127.0.0.1:2", false, "the API itself has TLS"},
		{"https://api.example.com", "https://127.0.0.1:2/", false, "is this machine"},
		{"http://api.example.com", "http://localhost/", true, "is this machine"},
	} {
		c, err := New(Settings{APIServerURL: tc.api, InsecurePlainHTTP: tc.insecure}, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.named("token endpoint", tc.named)
		if (err == nil) != (tc.fault == "") || err != nil && !strings.Contains(err.Error(), tc.fault) {
			t.Errorf("%s names %s: %v, want %q", tc.api, tc.named, err, tc.fault)
		}
	}
}
