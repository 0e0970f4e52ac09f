package devidp

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

func start(t *testing.T) string {
	t.Helper()
	provider, err := New(Options{
		Issuer:   "http://idp.test",
		Clients:  map[string]string{"ci": "s3cret"},
		Lifetime: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(provider)
	t.Cleanup(server.Close)
	return server.URL
}

// A token is verified by the published keys alone.
func TestToken(t *testing.T) {
	server := start(t)
	response, err := http.PostForm(server+"/oauth2/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"ci"}, "client_secret": {"s3cret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	published, err := http.Get(server + "/jwks")
	if err != nil {
		t.Fatal(err)
	}
	defer published.Body.Close()
	var keys jose.JSONWebKeySet
	if err := json.NewDecoder(published.Body).Decode(&keys); err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(answer.AccessToken, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := token.Claims(keys, &claims); err != nil {
		t.Fatal(err)
	}
	if err := claims.Validate(jwt.Expected{Issuer: "http://idp.test", Subject: "ci", Time: time.Now()}); err != nil {
		t.Error(err)
	}
	if err := claims.Validate(jwt.Expected{Time: time.Now().Add(3 * time.Minute)}); err == nil {
		t.Error("the token does not expire")
	}
	if answer.ExpiresIn != 60 {
		t.Errorf("expires_in is %d", answer.ExpiresIn)
	}
}

func TestRefusals(t *testing.T) {
	server := start(t)
	for name, test := range map[string]struct {
		form  url.Values
		basic bool
		code  int
		error string
	}{
		"wrong secret": {
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"ci"}, "client_secret": {"x"}},
			false,
			401,
			"invalid_client",
		},
		"unknown client": {
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"x"}},
			false,
			401,
			"invalid_client",
		},
		"other grant": {
			url.Values{"grant_type": {"password"}, "client_id": {"ci"}, "client_secret": {"s3cret"}},
			false,
			400,
			"unsupported_grant_type",
		},
		"secret in Basic": {url.Values{"grant_type": {"client_credentials"}}, true, 401, "unauthorized_client"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+
				"/oauth2/token", strings.NewReader(test.form.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if test.basic {
				request.SetBasicAuth("ci", "s3cret")
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var answer struct{ Error string }
			if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != test.code || answer.Error != test.error {
				t.Errorf("got %d %s, want %d %s", response.StatusCode, answer.Error, test.code, test.error)
			}
		})
	}
}

// An assertion of a trusted issuer is as good as the client's secret, and nothing else is.
func TestAssertion(t *testing.T) {
	cluster, err := New(Options{Issuer: "https://cluster.test"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := New(Options{Issuer: "https://cluster.test"})
	if err != nil {
		t.Fatal(err)
	}
	provider, err := New(Options{
		Issuer: "http://idp.test", Clients: map[string]string{"ci": "s3cret", "admin": "s3cret"},
		Trusted: []Trusted{cluster.Trusted("idp", map[string]string{"account": "ci"})},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(provider)
	t.Cleanup(server.Close)
	soon := time.Now().Add(time.Minute).Unix()
	good := map[string]any{"sub": "account", "aud": "idp", "exp": soon}
	forURL := map[string]any{"sub": "account", "aud": server.URL, "exp": soon}
	for name, test := range map[string]struct {
		by     *Provider
		claims map[string]any
		client string
		more   url.Values
		status int
	}{
		"good":              {cluster, good, "ci", nil, 200},
		"for the URL":       {cluster, forURL, "ci", nil, 200},
		"another client":    {cluster, good, "admin", nil, 401},
		"another key":       {other, good, "ci", nil, 401},
		"another audience":  {cluster, map[string]any{"sub": "account", "aud": "x", "exp": soon}, "ci", nil, 401},
		"another subject":   {cluster, map[string]any{"sub": "x", "aud": "idp", "exp": soon}, "ci", nil, 401},
		"of the past":       {cluster, map[string]any{"sub": "account", "aud": "idp", "exp": 1}, "ci", nil, 401},
		"without an end":    {cluster, map[string]any{"sub": "account", "aud": "idp"}, "ci", nil, 401},
		"of an untrusted":   {provider, good, "ci", nil, 401},
		"and a secret":      {cluster, good, "ci", url.Values{"client_secret": {"s3cret"}}, 401},
		"of another type":   {cluster, good, "ci", url.Values{"client_assertion_type": {"saml"}}, 401},
		"of another grant":  {cluster, good, "ci", url.Values{"grant_type": {"password"}}, 400},
		"and empty secrets": {cluster, good, "", nil, 401},
	} {
		assertion, err := test.by.Sign(test.claims)
		if err != nil {
			t.Fatal(err)
		}
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {test.client}, "client_assertion": {assertion},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		}
		for key, value := range test.more {
			form[key] = value
		}
		response, err := http.PostForm(server.URL+"/oauth2/token", form)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.status {
			t.Errorf("%s: %s, want %d", name, response.Status, test.status)
		}
	}
}

func TestMetadata(t *testing.T) {
	server := start(t)
	for _, path := range MetadataPaths {
		response, err := http.Get(server + path)
		if err != nil {
			t.Fatal(err)
		}
		var metadata map[string]any
		err = json.NewDecoder(response.Body).Decode(&metadata)
		response.Body.Close()
		if err != nil || metadata["issuer"] != "http://idp.test" ||
			metadata["token_endpoint"] != "http://idp.test/oauth2/token" ||
			metadata["jwks_uri"] != "http://idp.test/jwks" {
			t.Errorf("%s: %v, %v", path, metadata, err)
		}
	}
}
