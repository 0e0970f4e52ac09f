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
