package openchoreo

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
)

// FuzzTokenAnswer: Answers of a token endpoint: a token is good for a bounded time.
func FuzzTokenAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"a","expires_in":3600}`, `{"expires_in":"1e400"}`, "access_token=a&expires_in=5.5",
		"invalid_client",
		"\ufeff{\"error\":\"invalid_scope\"}", `{"expires_in":[1,{"a":null}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		fuzztest.Small.Bound(t, len(body), func() {
			answer := readTokenAnswer(body)
			if life := answer.lifetime(); life < 0 || life > longestLifetime {
				t.Errorf("a token for %v", life)
			}
			isToken(answer.AccessToken)
		})
	})
}

// FuzzAssertion: what is read of a token is within its bounds, and an error quotes nothing of it.
func FuzzAssertion(f *testing.F) {
	claims := func(text string) string { return "e30." + base64.RawURLEncoding.EncodeToString([]byte(text)) + ".c2ln" }
	for _, seed := range []string{
		claims(`{"iss":"https://a","sub":"b","aud":["c",1],"exp":1e300,"kubernetes.io":{}}`),
		claims(`{"aud":"c","exp":-1}`), claims(`[`), "a.b", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.Small.Bound(t, len(text), func() {
			a, err := readAssertion(text)
			if err != nil && len(text) > 20 && strings.Contains(err.Error(), text) {
				t.Errorf("%v", err)
			}
			if err == nil && a.until.Year() > 1<<16 {
				t.Errorf("it is valid until %v", a.until)
			}
		})
	})
}

// FuzzRefusal: an answer that is no success becomes one short line.
func FuzzRefusal(f *testing.F) {
	for _, seed := range []string{
		`{"code":"NOT_FOUND","error":"no such component"}`, `{"error":"unauthorized","message":"a\u001b[2J"}`, "<html>",
	} {
		f.Add([]byte(seed), http.StatusNotFound, "text/plain")
	}
	c, err := New(Settings{
		APIServerURL: "https://api.example.com", TokenURL: "https://idp.example.com", ClientID: "a", ClientSecret: "b",
	}, &redact.Secrets{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, answer []byte, status int, kind string) {
		fuzztest.Small.Bound(t, len(answer), func() {
			err := c.refusal("GET /", &http.Response{
				StatusCode: status, Header: http.Header{"Content-Type": {kind}},
			}, answer)
			if said := err.Error(); len(said) > messageLimit+1<<10 || quote.Line(said, 0) != said {
				t.Errorf("%q", said)
			}
		})
	})
}
