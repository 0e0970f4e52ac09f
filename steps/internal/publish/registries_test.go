package publish_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
)

const pushScope = "repository:team/shop-cart:push,pull"

// behind is a registry with faults in front, and the parameters to push an image to it.
func behind(t *testing.T, rule faulttest.Rule, layers int, size int64) (
	*registrytest.Registry, publish.Parameters, *faulttest.Server,
) {
	t.Helper()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	proxy := faulttest.Before(t, r.URL, rule)
	in := to(r, built(t, registrytest.RandomImage(t, layers, size)))
	in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
	return r, in, proxy
}

func manifestRequest(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method && strings.Contains(r.URL.Path, "/manifests/") }
}

func always(match func(*http.Request) bool, fault faulttest.Fault) faulttest.Rule {
	return faulttest.First(1<<30, match, fault)
}

// A registry of a company's own has its token server at a private address.
func TestTokenServerAtAPrivateAddress(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.ByToken())
	image := registrytest.RandomImage(t, 2, 1000)
	mustRun(t, to(r, built(t, image)))
	if !r.Has(t, reference) {
		t.Error("it is not there")
	}
	if got := r.Scopes(); len(got) != 1 || !slices.Equal(got[0], []string{pushScope}) {
		t.Errorf("asked for %q", got)
	}
}

// What only saves work is given up where the token server does not give it.
func TestRefusedScopes(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.ByToken("repository:base/golang:pull"))
	base := registrytest.RandomImage(t, 2, 1000)
	r.Push(t, "base/golang:1", base)
	image, _ := appended(t, base)
	in := to(r, built(t, image))
	in.BaseImages = []string{r.Host + "/base/golang:1@" + digest(t, base)}
	_, logged := mustRun(t, in)
	if !strings.Contains(logged, `uploaded="4 (`) {
		t.Errorf("got %s", logged)
	}
	t.Run("but not the scope to push", func(t *testing.T) {
		r := registrytest.New(t, registrytest.PlainHTTP, registrytest.ByToken(pushScope))
		_, _, err := run(t, to(r, built(t, image)))
		wantFailure(t, err, outcome.PushDenied, "the token server of "+r.Host, "401", "were used")
	})
}

// slowToCommit is a registry that has a blob only some time after its last byte came.
func slowToCommit(t *testing.T, patience, commit time.Duration) (*registrytest.Registry, *atomic.Int64) {
	t.Helper()
	var sent atomic.Int64
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous, registrytest.Behind(
		func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if !blobPut(req) || req.ContentLength < 10_000 {
					next.ServeHTTP(w, req)
					return
				}
				sent.Add(1)
				body, err := io.ReadAll(req.Body)
				if err != nil {
					return
				}
				late := req.Clone(t.Context()) // the proxy's end does not end the registry's work
				late.Body = io.NopCloser(bytes.NewReader(body))
				done := make(chan struct{})
				answer := &kept{header: http.Header{}}
				go func() {
					defer close(done)
					time.Sleep(commit)
					next.ServeHTTP(answer, late)
				}()
				select {
				case <-done:
					w.WriteHeader(answer.status)
				case <-time.After(patience):
					w.WriteHeader(http.StatusGatewayTimeout)
				}
				t.Cleanup(func() { <-done })
			})
		}))
	return r, &sent
}

type kept struct {
	header http.Header
	status int
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) Write(b []byte) (int, error) { return len(b), nil }
func (k *kept) WriteHeader(status int)      { k.status = status }

// A proxy has less patience than its registry needs: what arrives all the same is not sent again.
func TestSlowCommit(t *testing.T) {
	t.Parallel()
	r, sent := slowToCommit(t, 50*time.Millisecond, time.Second)
	_, logged := mustRun(t, to(r, built(t, registrytest.RandomImage(t, 1, 100_000))))
	if n := sent.Load(); n != 1 {
		t.Errorf("sent %d times\n%s", n, logged)
	}
}

// Registries count what is read: a limit on that ends no push.
func TestLimitOnReading(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault  faulttest.Fault
		match  func(*http.Request) bool
		warned bool
	}{
		"GET counts":       {faulttest.Fault{Status: 429, RetryAfter: "1"}, manifestRequest("GET"), false},
		"GET is forbidden": {faulttest.Fault{Status: 403}, manifestRequest("GET"), false},
		"both count": {faulttest.Fault{Status: 429}, func(r *http.Request) bool {
			return manifestRequest("GET")(r) || manifestRequest("HEAD")(r)
		}, true},
		"push only": {faulttest.Fault{Status: 403}, func(r *http.Request) bool {
			return manifestRequest("GET")(r) || manifestRequest("HEAD")(r)
		}, true},
		"push only, 401": {faulttest.Fault{Status: 401}, func(r *http.Request) bool {
			return manifestRequest("GET")(r) || manifestRequest("HEAD")(r)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, in, _ := behind(t, always(test.match, test.fault), 1, 1000)
			results, logged := mustRun(t, in)
			if got := r.Get(t, reference).Digest.String(); got != results["image-digest"] {
				t.Errorf("the tag is %s, want %s", got, results["image-digest"])
			}
			if strings.Contains(logged, "cannot be read back") != test.warned {
				t.Errorf("warned: %t, want %t\n%s", !test.warned, test.warned, logged)
			}
		})
	}
}

// What is gone after a push is not there, rather than something else.
func TestGoneAfterPush(t *testing.T) {
	t.Parallel()
	var pushed atomic.Bool
	_, in, _ := behind(t, func(r *http.Request) *faulttest.Fault {
		if manifestRequest("PUT")(r) {
			pushed.Store(true)
		} else if pushed.Load() && strings.Contains(r.URL.Path, "/manifests/") {
			return &faulttest.Fault{Status: 404}
		}
		return nil
	}, 1, 1000)
	_, _, err := run(t, in)
	wantFailure(t, err, outcome.RegistryUnavailable, "not found")
}

// Docker's desktop leaves an entry empty, and the credentials to a program that is not in a pod.
func TestCredentialsOfAHelper(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	in := to(r, built(t, registrytest.RandomImage(t, 1, 100)))
	for name, config := range map[string]string{
		"store":  `{"auths":{"` + r.Host + `":{}},"credsStore":"desktop"}`,
		"helper": `{"credHelpers":{"` + r.Host + `":"desktop"}}`,
	} {
		in.RegistryPushSecret = filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(in.RegistryPushSecret, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		_, logged, err := run(t, in)
		wantFailure(t, err, outcome.PushDenied, "docker-credential-desktop")
		if !strings.Contains(logged, "credential helpers") {
			t.Errorf("%s: the log does not tell: %s", name, logged)
		}
	}
}

// Registries say in many ways that a tag is immutable. What is new, and what is the same, is no matter of that.
func TestImmutableTag(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]faulttest.Fault{
		"ECR":         {Status: 400, Body: `{"errors":[{"code":"TAG_INVALID","message":"the tag is immutable"}]}`},
		"Harbor":      {Status: 412, Body: `{"errors":[{"code":"PRECONDITION","message":"immutable"}]}`},
		"Quay":        {Status: 409},
		"Artifactory": {Status: 405},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exists := func(r *http.Request) bool {
				return manifestRequest("PUT")(r) && strings.HasSuffix(r.URL.Path, "/v1-1a2b3c4d")
			}
			r, in, _ := behind(t, always(exists, fault), 1, 1000)
			_, _, err := run(t, in)
			if outcome.Of(err).Reason != outcome.Failed {
				t.Errorf("a tag that is not there: %v", err)
			}
			r.Push(t, reference, registrytest.RandomImage(t, 1, 10))
			_, _, err = run(t, in)
			wantFailure(t, err, outcome.TagImmutable, "is another image already")
		})
	}
}

// A cache that cannot be pushed anew is sent once in vain, and not at each build.
func TestImmutableCache(t *testing.T) {
	t.Parallel()
	exists := func(r *http.Request) bool {
		return manifestRequest("PUT")(r) && strings.HasSuffix(r.URL.Path, "/cache")
	}
	r, in, _ := behind(t, always(exists, faulttest.Fault{Status: 412}), 1, 1000)
	r.Push(t, "team/shop-cart:cache", registrytest.RandomImage(t, 1, 10))
	for _, first := range []bool{true, false} {
		cache, err := layout.Write(in.Workspace.Cache(), empty.Index)
		if err == nil {
			err = cache.AppendImage(registrytest.RandomImage(t, 2, 5000))
		}
		if err != nil {
			t.Fatal(err)
		}
		r.Forget()
		_, logged := mustRun(t, in)
		if n := len(uploads(r)); (n > 2) != first {
			t.Errorf("first: %t, sent %d blobs\n%s", first, n, logged)
		}
		if !first && !strings.Contains(logged, "immutable") {
			t.Errorf("the log does not tell: %s", logged)
		}
		if err := os.RemoveAll(in.Workspace.Cache()); err != nil {
			t.Fatal(err)
		}
	}
}

// A registry may remove a blob that it has just shown.
func TestBlobThatIsRemovedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, detail := range map[string]func(lost string) string{
		"named":       func(lost string) string { return `,"detail":"` + lost + `"` },
		"named below": func(lost string) string { return `,"detail":{"digest":"` + lost + `"}` },
		"unnamed":     func(string) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 2, 1000)
			layers, err := image.Layers()
			if err != nil {
				t.Fatal(err)
			}
			lost := digest(t, layers[0])
			var back atomic.Bool
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			proxy := faulttest.Before(t, r.URL, func(req *http.Request) *faulttest.Fault {
				if blobPut(req) && req.URL.Query().Get("digest") == lost {
					back.Store(true)
				}
				if manifestRequest("PUT")(req) && !back.Load() {
					return &faulttest.Fault{
						Status: 400, Body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"` + detail(lost) + `}]}`,
					}
				}
				return nil
			})
			r.Push(t, "team/shop-cart:other", image)
			in := to(r, built(t, image))
			in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
			r.Forget()
			_, logged := mustRun(t, in)
			sent := uploads(r)
			if sent[lost] != 1 || name != "unnamed" && len(sent) != 1 {
				t.Errorf("sent %v, want %s\n%s", sent, lost, logged)
			}
		})
	}
}

// Old registries take no indexes, which the provenance of a build needs.
func TestIndexIsRefused(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	tagged := func(r *http.Request) bool {
		return manifestRequest("PUT")(r) && strings.HasSuffix(r.URL.Path, "/v1-1a2b3c4d")
	}
	for kind, image := range map[string]mutate.Appendable{
		"index": mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
			Add: registrytest.RandomImage(t, 1, 100),
		}),
		"image": registrytest.RandomImage(t, 1, 100),
	} {
		proxy := faulttest.Before(t, r.URL, always(tagged, faulttest.Fault{
			Status: 400, Body: `{"errors":[{"code":"MANIFEST_INVALID"}]}`,
		}))
		in := to(r, built(t, image))
		in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.Failed, "MANIFEST_INVALID")
		if hints := strings.Contains(outcome.Of(err).Hint, "provenance"); hints != (kind == "index") {
			t.Errorf("%s: hint %q", kind, outcome.Of(err).Hint)
		}
	}
}

// nginx answers so who has no client certificate.
func TestClientCertificateIsWanted(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Anonymous, registrytest.Behind(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, "<html>400 No required SSL certificate was sent</html>")
		})
	}))
	_, _, err := run(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))))
	wantFailure(t, err, outcome.InvalidParameters, "client certificate")
}
