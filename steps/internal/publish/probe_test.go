package publish_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
)

// What the registry lets the step do is found by doing it, and nothing is left that may be deleted.
func TestCheckOnly(t *testing.T) {
	t.Parallel()
	refuses := func(method, in string, status int) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == method && strings.Contains(r.URL.Path, in) {
					w.WriteHeader(status)
					return
				}
				next.ServeHTTP(w, r)
			})
		}
	}
	const push, pull, referrers, remove = "registry-push", "registry-pull", "registry-referrers", "registry-delete"
	ok := outcome.Succeeded
	// The registry, which is of many people's, lists no referrers.
	well := map[string]outcome.Reason{push: ok, pull: ok, referrers: outcome.RegistryUnavailable, remove: ok}
	lists := func(next http.Handler) http.Handler {
		var mu sync.Mutex
		var stored []string
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if _, digest, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && r.Method == http.MethodPut {
				stored = append(stored, fmt.Sprintf(`{"digest":%q}`, digest))
			}
			if strings.Contains(r.URL.Path, "/referrers/") {
				const index = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",` +
					`"manifests":[%s]}`
				fmt.Fprintf(w, index, stored[len(stored)-1])
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	but := func(check string, reason outcome.Reason) map[string]outcome.Reason {
		all := maps.Clone(well)
		all[check] = reason
		return all
	}
	for name, test := range map[string]struct {
		in     func(next http.Handler) http.Handler
		change func(*testing.T, *registrytest.Registry, *publish.Parameters)
		want   map[string]outcome.Reason
		ends   outcome.Reason
		says   string
	}{
		"all is well":          {want: well, says: "does not list"},
		"referrers are listed": {in: lists, want: but(referrers, ok)},
		"a list that is refused": {in: refuses(http.MethodGet, "/referrers/", http.StatusForbidden),
			want: but(referrers, outcome.PushDenied), says: "does not let us push to"},
		"wrong password": {
			change: func(t *testing.T, r *registrytest.Registry, in *publish.Parameters) {
				in.RegistryPushSecret = filepath.Join(t.TempDir(), "config.json")
				config := registrytest.DockerConfig(t, r.Host, r.User, "canary-password")
				if err := os.WriteFile(in.RegistryPushSecret, config, 0o600); err != nil {
					t.Fatal(err)
				}
			}, want: map[string]outcome.Reason{push: outcome.PushDenied}, ends: outcome.PushDenied, says: "401",
		},
		"no credentials to pull": {
			change: func(_ *testing.T, _ *registrytest.Registry, in *publish.Parameters) {
				in.RegistryPullSecret = "/no/such/file"
			}, want: but(pull, outcome.AuthenticationFailed), ends: outcome.AuthenticationFailed,
			says: "does not let us pull from",
		},
		"no deletion": {
			in:   refuses(http.MethodDelete, "/manifests/", http.StatusMethodNotAllowed),
			want: but(remove, outcome.Failed),
			says: ":stepwright-check stays",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var options []registrytest.Option
			if test.in != nil {
				options = append(options, registrytest.Behind(test.in))
			}
			r := registrytest.New(t, options...)
			in := to(r, "/no/such/workspace")
			in.CheckOnly, in.RegistryPullSecret = true, r.DockerConfig
			if test.change != nil {
				test.change(t, r, &in)
			}
			var l log
			var printed bytes.Buffer
			env := environment(&l)
			env.Stdout = &printed
			_, err := publish.Run(t.Context(), in, env)
			if failure := outcome.Of(err); (test.ends == "") != (failure == nil) ||
				failure != nil && failure.Reason != test.ends {
				t.Errorf("ended with %v", err)
			}
			found := map[string]outcome.Reason{}
			for line := range strings.Lines(printed.String()) {
				var p outcome.Probe
				if err := json.Unmarshal([]byte(line), &p); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				found[p.Check] = p.Reason
				if p.Minor != slices.Contains([]string{referrers, remove}, p.Check) ||
					p.Where != r.Host+"/team/shop-cart" || p.Message == "" || p.Reason != ok && p.Hint == "" {
					t.Errorf("%+v", p)
				}
			}
			if !maps.Equal(found, test.want) || !strings.Contains(printed.String(), test.says) ||
				strings.Contains(printed.String(), "canary") {
				t.Errorf("got %v, want %v:\n%s", found, test.want, printed.String())
			}
			if r.Has(t, "team/shop-cart:stepwright-check") != (test.want[remove] == outcome.Failed) {
				t.Errorf("it has left something, or says so: %s", printed.String())
			}
		})
	}
}
