package openchoreo

import (
	"cmp"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
)

// against returns a client of a handler, which also answers as token endpoint unless it does so itself.
func against(t *testing.T, handler http.HandlerFunc) (*Client, *redact.Secrets) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"access_token":"canary-token","token_type":"Bearer","expires_in":3600}`)
			return
		}
		handler(w, r)
	}))
	t.Cleanup(server.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("canary-secret\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secrets := &redact.Secrets{}
	c, err := New(Settings{
		APIServerURL:     server.URL + "/base/",
		TokenURL:         server.URL + "/token",
		ClientID:         "me",
		ClientSecretFile: secret,
	}, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return c, secrets
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		status  int
		kind    string
		body    string
		header  http.Header
		reason  outcome.Reason
		message string
		hint    string
		after   time.Duration
	}{
		{name: "API error", status: 422, kind: "application/json",
			body:   `{"code":"UNPROCESSABLE_CONTENT","error":"spec.x: bad; spec.y: worse"}`,
			reason: outcome.WorkloadRejected, message: "422 Unprocessable Entity: spec.x: bad; spec.y: worse"},
		{name: "undecodable", status: 400, kind: "text/plain; charset=utf-8", body: "can't decode JSON body: EOF\n",
			reason: outcome.WorkloadRejected, message: "400 Bad Request: can't decode JSON body: EOF"},
		{name: "unauthorized", status: 401, kind: "application/json",
			body: `{"error":"INVALID_CLAIMS","message":"token claims validation failed"}`, reason: outcome.Unauthorized,
			message: "401 Unauthorized: token claims validation failed"},
		{name: "forbidden", status: 403, kind: "application/json", body: `{"code":"FORBIDDEN","error":"no"}`,
			reason: outcome.Forbidden, message: "403 Forbidden: no"},
		{name: "not found", status: 404, kind: "text/html", body: "<html>", reason: outcome.NotFound,
			message: "GET http://"},
		{name: "a body that is too large", status: 413, kind: "text/html", body: "<html>",
			hint: "takes no body of that size", reason: outcome.WorkloadRejected,
			message: "413 Request Entity Too Large"},
		{name: "what no API says", status: 451, kind: "text/html", body: "<html>", hint: "stands in front of it",
			reason: outcome.WorkloadRejected, message: "451"},
		{name: "a proxy that wants credentials", status: 407, hint: "HTTPS_PROXY", reason: outcome.InvalidParameters},
		{name: "too slow for it", status: 408, reason: outcome.ApiUnavailable},
		{name: "too early", status: 425, reason: outcome.ApiUnavailable},
		{name: "wrong method", status: 405, reason: outcome.NotFound},
		{name: "too many, in seconds", status: 429, header: http.Header{"Retry-After": {"7"}},
			reason: outcome.ApiUnavailable, after: 7 * time.Second},
		{name: "unavailable, until a date long past", status: 503,
			header: http.Header{"Retry-After": {"Mon, 02 Jan 2006 15:04:05 GMT"}}, reason: outcome.ApiUnavailable},
		{name: "unavailable, nonsense", status: 503, header: http.Header{"Retry-After": {"-5"}},
			reason: outcome.ApiUnavailable},
		{name: "redirect", status: 308,
			header: http.Header{"Location": {"https://user:pw@evil.example.com/x?token=y"}},
			reason: outcome.InvalidParameters, message: `redirect to "https://evil.example.com/x"`},
		{name: "a page instead of JSON", status: 200, kind: "text/html", body: "<html>portal</html>",
			reason: outcome.NotFound, message: "that is not the OpenChoreo API"},
		{name: "damaged JSON", status: 200, kind: "application/json", body: `{"metadata":{`,
			reason: outcome.ApiUnavailable, message: "damaged"},
		{name: "long error", status: 422, kind: "text/plain", body: strings.Repeat("ä", 100_000),
			reason: outcome.WorkloadRejected, message: "…"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
				for k, v := range tc.header {
					w.Header()[k] = v
				}
				w.Header().Set("Content-Type", tc.kind)
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			_, err := c.Get(t.Context(), "acme", Workloads, "w")
			if err == nil {
				t.Fatal("no error")
			}
			failure := outcome.Of(err)
			if failure.Reason != tc.reason || !strings.Contains(err.Error(), tc.message) ||
				failure.RetryAfter != tc.after {
				t.Errorf("%s after %s: %.300s", failure.Reason, failure.RetryAfter, err)
			}
			if !strings.Contains(failure.Hint, tc.hint) {
				t.Errorf("hint %q", failure.Hint)
			}
			if len(err.Error()) > messageLimit+300 || strings.Contains(err.Error(), "canary") {
				t.Errorf("%d bytes: %.300s", len(err.Error()), err)
			}
		})
	}
}

// What stands before the API may answer for it, with a page and a status of success. Nothing is written then. Once the
// API has answered itself, another try is worth it.
func TestPagesInPlaceOfAnswers(t *testing.T) {
	t.Parallel()
	page := true
	c, _ := against(t, func(w http.ResponseWriter, _ *http.Request) {
		if page {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>sign in</html>")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"metadata":{"name":"w"}}`)
	})
	for name, call := range map[string]func() error{
		"create": func() error { return c.Create(t.Context(), "acme", Workloads, Object{}) },
		"update": func() error { return c.Update(t.Context(), "acme", Workloads, "w", Object{}) },
		"get":    func() error { _, err := c.Get(t.Context(), "acme", Workloads, "w"); return err },
	} {
		for _, reason := range []outcome.Reason{outcome.NotFound, outcome.ApiUnavailable} {
			c.known.Store(reason == outcome.ApiUnavailable)
			page = true
			if err := call(); err == nil || outcome.Of(err).Reason != reason {
				t.Errorf("%s of a page: %v", name, err)
			}
		}
		c.known.Store(false)
		page = false
		if err := call(); err != nil || !c.known.Load() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnswerIsBounded(t *testing.T) {
	t.Parallel()
	c, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range answerLimit>>20 + 1 {
			w.Write(chunk)
		}
	})
	if _, err := c.Get(t.Context(), "acme", Workloads, "w"); err == nil ||
		!strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
}

func TestPathsAreEscaped(t *testing.T) {
	t.Parallel()
	var got string
	c, secrets := against(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.URL.EscapedPath()
		if r.Header.Get("Authorization") != "Bearer canary-token" {
			t.Errorf("Authorization %q", r.Header.Get("Authorization"))
		}
		fmt.Fprint(w, "{}")
	})
	for name, want := range map[string]string{
		"cart":         "cart",
		"v1.cart":      "v1.cart",
		"../../admin":  "..%2F..%2Fadmin",
		"..":           "%2E%2E",
		"a?b=c#d e%2F": "a%3Fb=c%23d%20e%252F",
	} {
		if _, err := c.Get(t.Context(), "acme", Workloads, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got != "/base/api/v1/namespaces/acme/workloads/"+want {
			t.Errorf("%q became %s", name, got)
		}
	}
	if masked := secrets.String("canary-token and canary-secret"); masked != "*** and ***" {
		t.Errorf("not secret: %s", masked)
	}
}

// Pipelines join the URL of the provider and the path, and the URL may end with a slash.
func TestTokenURLThatWasJoined(t *testing.T) {
	t.Parallel()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"))
	for _, path := range []string{"/oauth2/token", "//oauth2/token", "///oauth2/token"} {
		c, err := New(Settings{APIServerURL: s.URL + "/", TokenURL: s.URL + path, ClientID: openchoreotest.ClientID,
			ClientSecretFile: s.ClientSecretFile, CABundle: s.CABundle}, &redact.Secrets{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.List(t.Context(), "acme", Workloads, nil); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestListReadsAllPages(t *testing.T) {
	t.Parallel()
	var objects strings.Builder
	objects.WriteString(openchoreotest.Component("acme", "store", "cart"))
	for i := range 230 {
		objects.WriteString(openchoreotest.WorkflowRun("acme", "store", "cart", fmt.Sprintf("run-%03d", i)))
	}
	s := openchoreotest.Start(t, objects.String())
	c, err := New(Settings{APIServerURL: s.URL, TokenURL: s.URL + "/oauth2/token", ClientID: openchoreotest.ClientID,
		ClientSecretFile: s.ClientSecretFile, CABundle: s.CABundle, Scope: "a b"}, &redact.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	runs, err := c.List(t.Context(), "acme", WorkflowRuns, url.Values{
		"labelSelector": {"openchoreo.dev/component=cart"},
	})
	if err != nil || len(runs) != 230 {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
	if none, err := c.List(t.Context(), "acme", Workloads, url.Values{
		"component": {"cart"},
	}); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

func TestListEnds(t *testing.T) {
	t.Parallel()
	c, _ := against(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"items":[{}],"pagination":{"nextCursor":"same"}}`)
	})
	if all, err := c.List(t.Context(), "acme", Workloads, nil); err != nil || len(all) != 2 {
		t.Errorf("%d, %v", len(all), err)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	good := "https://x.example.com"
	cases := []struct {
		name     string
		settings Settings
		fault    string
	}{
		{"https", Settings{APIServerURL: good, TokenURL: good}, ""},
		{"loopback by name and address",
			Settings{APIServerURL: "http://localhost:1", TokenURL: "http://[::1]:2/token"}, ""},
		{"plain http asked for", Settings{APIServerURL: "http://api", TokenURL: "http://idp", InsecurePlainHTTP: true},
			""},
		{"plain http", Settings{APIServerURL: "http://api", TokenURL: good},
			"api-server-url: http://api would send secrets unprotected"},
		{"a host that only looks like loopback",
			Settings{APIServerURL: "http://127.0.0.1.example.com", TokenURL: good}, "would send secrets unprotected"},
		{"no URL", Settings{APIServerURL: "api", TokenURL: good}, `"api" is not an https URL`},
		{"another scheme", Settings{APIServerURL: good, TokenURL: "ftp://x"}, "oauth-token-url"},
		{"credentials", Settings{APIServerURL: "https://u:canary@x", TokenURL: good}, "must not carry credentials"},
		{"both", Settings{APIServerURL: "http://api", TokenURL: "http://idp"}, "2 faults"},
	}
	for _, tc := range cases {
		_, err := New(tc.settings, &redact.Secrets{})
		if tc.fault == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err == nil || outcome.Of(err).Reason != outcome.InvalidParameters ||
			!strings.Contains(err.Error(), tc.fault) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// TestTokenEndpointErrors: an identity provider that echoes the request must not get it into a message.
func TestTokenEndpointErrors(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status int
		kind   string // empty: JSON
		body   string
		reason outcome.Reason
		part   string
		hint   string
	}{
		{400, "", `{"error":"invalid_scope","error_description":"scope x"}`, outcome.Unauthorized,
			"invalid_scope: scope x", "oauth-scope"},
		{400, "text/plain", `{"error":"invalid_scope","error_description":"scope x"}`, outcome.Unauthorized,
			"invalid_scope: scope x", "oauth-scope"},
		{400, "text/plain", "invalid_scope\n", outcome.Unauthorized, "400 Bad Request: invalid_scope", "oauth-scope"},
		{400, "application/x-www-form-urlencoded", "error=invalid_scope&error_description=scope+x",
			outcome.Unauthorized, "invalid_scope: scope x", "oauth-scope"},
		{400, "", `{"error":"invalid_request","error_description":"AADSTS900144: the parameter: 'scope'"}`,
			outcome.Unauthorized, "AADSTS900144", "oauth-scope, which Microsoft Entra ID wants as api://"},
		{403, "", `{"error":"access_denied","error_description":"No audience parameter was provided"}`,
			outcome.Unauthorized, "No audience", "oauth-audience, which Auth0 wants"},
		{401, "", `nonsense with canary-secret`, outcome.Unauthorized, "401 Unauthorized", "client ID and secret"},
		{200, "", `{"error":"invalid_client"}`, outcome.Unauthorized, "invalid_client", "client ID and secret"},
		{200, "", `{}`, outcome.NotFound, "200 OK, with application/json, which holds no token", "oauth-token-url"},
		{200, "", `{"access_token":"two\nlines"}`, outcome.NotFound, "holds no token", "oauth-token-url"},
		{200, "text/html; charset=utf-8", `<html>log in</html>`, outcome.NotFound, "with text/html", "oauth-token-url"},
		{200, "text/html", ``, outcome.NotFound, "with text/html", "oauth-token-url"},
		{404, "text/html", `<html>`, outcome.NotFound, "with text/html", "oauth-token-url"},
		{302, "", ``, outcome.InvalidParameters, "oauth-token-url", ""},
		{429, "", `{}`, outcome.ApiUnavailable, "429", ""},
		{408, "", ``, outcome.ApiUnavailable, "408", ""},
		{503, "", `{}`, outcome.ApiUnavailable, "503", ""},
		{400, "", `{"error":"temporarily_unavailable"}`, outcome.ApiUnavailable, "temporarily", ""},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", cmp.Or(tc.kind, "application/json"))
			w.WriteHeader(tc.status)
			fmt.Fprint(w, tc.body)
		}))
		defer server.Close()
		c, _ := against(t, func(http.ResponseWriter, *http.Request) { t.Error("called the API without a token") })
		c.at = &tokenEndpoint{url: server.URL + "/token"}
		_, err := c.Get(t.Context(), "acme", Workloads, "w")
		if err == nil || outcome.Of(err).Reason != tc.reason || !strings.Contains(err.Error(), tc.part) ||
			strings.Contains(err.Error(), "canary") || !strings.Contains(outcome.Of(err).Hint, tc.hint) {
			t.Errorf("%d %s: %s: %v. %s", tc.status, tc.body, outcome.Of(err).Reason, err, outcome.Of(err).Hint)
		}
	}
}

// TestTokenAnswers: what a token endpoint means counts, not how it is labelled.
func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind, body string
		lifetime   time.Duration
	}{
		{"application/json", `{"access_token":"canary-token","expires_in":3600}`, time.Hour},
		{"application/json", `{"access_token":"canary-token","expires_in":3600.0}`, time.Hour},
		{"application/json", `{"access_token":"canary-token","expires_in":"3600"}`, time.Hour},
		{"application/json", `{"access_token":"canary-token","expires_in":1e300}`, longestLifetime},
		{"application/json", `{"access_token":"canary-token","expires_in":null}`, 0},
		{"application/json", `{"access_token":"canary-token","expires_in":-1,"token_type":"bearer"}`, 0},
		{"text/plain; charset=utf-8", `{"access_token":"canary-token","expires_in":60}`, time.Minute},
		{"", "\ufeff" + `{"access_token":"canary-token"}`, 0},
		{"application/x-www-form-urlencoded", "access_token=canary-token&expires_in=60", time.Minute},
	} {
		answer := readTokenAnswer([]byte(tc.body))
		if answer.lifetime() != tc.lifetime {
			t.Errorf("%s: valid for %s, want %s", tc.body, answer.lifetime(), tc.lifetime)
		}
		issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", tc.kind)
			fmt.Fprint(w, tc.body)
		}))
		defer issuer.Close()
		c, secrets := against(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Authorization"); got != "Bearer canary-token" {
				t.Errorf("%s: sent %q", tc.body, got)
			}
			fmt.Fprint(w, `{}`)
		})
		c.at = &tokenEndpoint{url: issuer.URL}
		if _, err := c.Get(t.Context(), "acme", Workloads, "w"); err != nil {
			t.Errorf("%s: %v", tc.body, err)
		}
		if got := secrets.String("canary-token"); got != "***" {
			t.Errorf("%s: not secret", tc.body)
		}
	}
}

func TestObject(t *testing.T) {
	t.Parallel()
	o, err := Decode([]byte(`{"metadata":{"name":"a","big":9007199254740993},"spec":{"text":"<&>"}}`))
	if err != nil {
		t.Fatal(err)
	}
	changed := o.With("b", "metadata", "name").With("new", "status", "deep", "field")
	for object, want := range map[*Object]string{
		&o: `{"metadata":{"big":9007199254740993,"name":"a"},"spec":{"text":"<&>"}}`,
		&changed: `{"metadata":{"big":9007199254740993,"name":"b"},"spec":{"text":"<&>"},` +
			`"status":{"deep":{"field":"new"}}}`,
	} {
		if raw, err := object.Encode(); err != nil || string(raw) != want {
			t.Errorf("%s, %v", raw, err)
		}
	}
	if o.Name() != "a" || o.Text("status", "deep", "field") != "" || o.At("spec", "text") != nil {
		t.Error("wrong reading")
	}
}

// TestClientAuthentication looks at what the token endpoint is sent.
func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		settings Settings
		basic    bool
		form     url.Values
	}{
		{"in the body", Settings{ClientAuth: "client_secret_post"}, false,
			url.Values{"client_id": {"me"}, "client_secret": {"canary-s+c:ret"}}},
		{"Basic", Settings{ClientAuth: "client_secret_basic"}, true, url.Values{}},
		{"scope and audience", Settings{Scope: "a  b", Audience: "https://api"}, false,
			url.Values{
				"client_id":     {"me"},
				"client_secret": {"canary-s+c:ret"},
				"scope":         {"a b"},
				"audience":      {"https://api"},
			}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan *http.Request, 1)
			c, _ := against(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{}`) })
			issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.ParseForm()
				asked <- r
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprint(w, `{"access_token":"canary-token","token_type":"Bearer"}`)
			}))
			defer issuer.Close()
			tc.settings.APIServerURL, tc.settings.TokenURL = c.settings.APIServerURL, issuer.URL
			// Both as somebody copied them, with the line's end.
			tc.settings.ClientID, tc.settings.ClientSecret = "me\n", "canary-s+c:ret\r\n"
			secrets := &redact.Secrets{}
			c, err := New(tc.settings, secrets)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Get(t.Context(), "acme", Workloads, "w"); err != nil {
				t.Fatal(err)
			}
			r := <-asked
			tc.form.Set("grant_type", "client_credentials")
			if got := r.PostForm.Encode(); got != tc.form.Encode() {
				t.Errorf("form %s, want %s", got, tc.form.Encode())
			}
			// RFC 6749 section 2.3.1: both are encoded as in a form before they are joined.
			id, secret, basic := r.BasicAuth()
			if basic != tc.basic || basic && (id != "me" || secret != url.QueryEscape("canary-s+c:ret")) {
				t.Errorf("Basic %v", basic)
			}
			if got := secrets.String("canary-s+c:ret"); got != "***" {
				t.Errorf("not secret: %s", got)
			}
		})
	}
}
