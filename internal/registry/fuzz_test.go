package registry

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/redact"
)

// A docker configuration file is written by people, and by what they have.
func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}},"credsStore":"x","credHelpers":{"h":"y"}}`),
		"docker.io")
	f.Add([]byte(`{"auths":{"r:5000":{"auth":"%%%"},"":{"username":"u","password":"p"}}}`), "r:5000")
	f.Fuzz(func(t *testing.T, raw []byte, host string) {
		file := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzztest.Of(1, 4).Bound(t, len(raw)+len(host), func() {
			c, err := LoadCredentials(file, &redact.Secrets{})
			if err == nil {
				c.Helper(host)
				c.Warning()
			}
		})
	})
}

// FuzzChallenge: whatever a registry asks for, a challenge has a scheme, and a text in quotes is read as it was.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		`Negotiate abc==, Basic realm="x, y"`, `Bearer realm="https://h/t",service="a \"quoted\" one",scope="a:b:c d"`,
		`Basic`, `=a, =, "`, `Bearer realm = x , basic`,
		fuzztest.Long("a "), fuzztest.Long(`a="\`), fuzztest.Long(`a="b",`),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		fuzztest.Small.Bound(t, len(line), func() {
			for _, c := range challenges(line) {
				if c.scheme == "" || strings.ContainsAny(c.scheme, " \t,=") {
					t.Errorf("%q has the scheme %q", line, c.scheme)
				}
			}
			demanded(http.Header{"Www-Authenticate": {line}})
		})
		quoted := `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(line) + `"`
		if got, rest := value(quoted + "x"); got != line || rest != "x" {
			t.Errorf("%q becomes %q and %q", quoted, got, rest)
		}
	})
}

// FuzzToken: a token server's answer has a token that is good for a while, or none.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{
		`{"token":"a","expires_in":300}`, `{"access_token":"a","expires_in":1e300}`, `{"token":"a","expires_in":-1}`,
		`{"expires_in":1}`, "a",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			now := time.Now()
			got, ok := readToken(raw, now)
			if ok != (got.value != "") || !got.until.IsZero() && got.until.Before(now) {
				t.Errorf("%+v, %t", got, ok)
			}
			diagnostics(bytes.NewReader(raw))
		})
	})
}
