package registry

import (
	"os"
	"path/filepath"
	"testing"

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
