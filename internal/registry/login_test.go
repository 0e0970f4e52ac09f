package registry_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

// A registry of a company's own has its token server, and the storage of its blobs, at a private address.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	img := image(t, linux.Architecture)
	storage := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	storage.Push(t, "run:1", img)
	elsewhere := registrytest.Behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, storage.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	for name, options := range map[string][]registrytest.Option{
		"token server": {registrytest.PlainHTTP, registrytest.ByToken()},
		"storage":      {registrytest.PlainHTTP, registrytest.ByToken(), elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, options...)
			r.Push(t, "run:1", img)
			s := from(t, r)
			found, err := s.Image(t.Context(), r.Host+"/run:1", linux)
			if err != nil {
				t.Fatal(err)
			}
			if found.Descriptor.Digest != digest(t, img) {
				t.Errorf("got %s", found.Descriptor.Digest)
			}
			files, err := s.Files(t.Context(), r.Host+"/run:1", linux)
			if err != nil {
				t.Fatal(err)
			}
			defer files.Close()
			if _, err := io.Copy(io.Discard, files); err != nil {
				t.Fatal(err)
			}
			if got := r.Scopes(); len(got) == 0 || got[0][0] != "repository:run:pull" {
				t.Errorf("asked for %v", got)
			}
		})
	}
}

// What a token server says no to is told as its own, and not in its words.
func TestTokenServerRefuses(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.ByToken("repository:run:pull"))
	r.Push(t, "run:1", image(t, linux.Architecture))
	_, err := from(t, r).Image(t.Context(), r.Host+"/run:1", linux)
	failure := outcome.Of(err)
	if failure == nil || failure.Reason != outcome.BaseImageUnavailable ||
		!strings.Contains(failure.Message, "the token server of "+r.Host+", does not let us pull it: 401") ||
		strings.Contains(failure.Message, "canary") {
		t.Errorf("got %v", failure)
	}
}

// A token server is not where only this machine can look.
func TestNoTokenServerOfTheLink(t *testing.T) {
	t.Parallel()
	for _, realm := range []string{
		"http://169.254.169.254/latest", "http://[fe80::1]/", "http://[fd00:ec2::254]/",
		"http://[::ffff:169.254.169.254]/",
	} {
		r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous, registrytest.Behind(
			func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`"`)
					w.WriteHeader(http.StatusUnauthorized)
				})
			}))
		_, err := from(t, r).Image(t.Context(), r.Host+"/run:1", linux)
		if err == nil || !strings.Contains(err.Error(), "link-local") {
			t.Errorf("%s: got %v", realm, err)
		}
	}
}

// One entry that cannot be read is the fault of those who need it only, and is named.
func TestBrokenEntry(t *testing.T) {
	t.Parallel()
	credentials, err := registry.LoadCredentials(write(t, `{"auths": {
		"good.example.com": {"auth": "dTpw"}, "bad.example.com": {"auth": "canary!"},
		"worse.example.com": {"username": 7}, "none.example.com": {"auth": "Y2FuYXJ5"}}}`), &redact.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := credentials.Authenticator("good.example.com/app"); err != nil {
		t.Error(err)
	}
	for _, host := range []string{"bad.example.com", "worse.example.com", "none.example.com"} {
		_, err := credentials.Authenticator(host + "/app")
		failure := outcome.Of(err)
		if failure == nil || failure.Reason != outcome.AuthenticationFailed ||
			!strings.Contains(failure.Message, "entry of "+host) || strings.Contains(failure.Message, "canary") {
			t.Errorf("%s: got %v", host, failure)
		}
	}
}

func TestWarningOfHelpers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ config, want, helper string }{
		"none": {`{"auths": {"r.example.com": {"auth": "dTpw"}}}`, "", ""},
		"docker desktop": {`{"auths": {"r.example.com": {}}, "credsStore": "desktop"}`, "for r.example.com to",
			"desktop"},
		"all are there": {`{"auths": {"r.example.com": {"auth": "dTpw"}}, "credsStore": "desktop"}`, "", "desktop"},
		"of a host":     {`{"credHelpers": {"r.example.com": "ecr-login"}}`, "for r.example.com to", "ecr-login"},
		"of a URL":      {`{"credHelpers": {"https://r.example.com": "gcr"}}`, "for https://r.example.com to", "gcr"},
		"store alone":   {`{"credsStore": "pass"}`, "all other registries", "pass"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := registry.LoadCredentials(write(t, test.config), &redact.Secrets{})
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Warning(); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got := c.Helper("r.example.com"); got != test.helper {
				t.Errorf("got helper %q, want %q", got, test.helper)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(`{"credsStore": "pass"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if own, err := registry.LoadOwnCredentials(path, &redact.Secrets{}); err != nil || own.Warning() != "" {
		t.Errorf("one's own: %q, %v", own.Warning(), err)
	}
}
