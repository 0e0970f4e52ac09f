package openchoreo

import (
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

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
