package publish_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// sparse is a workspace with an image of one layer on a base, whose layers are not in the layout.
func sparse(t testing.TB, base v1.Image) (workspace.Workspace, v1.Image) {
	t.Helper()
	image, _ := appended(t, base)
	w := built(t, image)
	layers, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(w.Image(), "blobs", d.Algorithm, d.Hex)); err != nil {
			t.Fatal(err)
		}
	}
	return w, image
}

// joinFiles is one file of several.
func joinFiles(t testing.TB, paths ...string) string {
	t.Helper()
	var all []byte
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, raw...), '\n')
	}
	joined := filepath.Join(t.TempDir(), "joined")
	if err := os.WriteFile(joined, all, 0o644); err != nil {
		t.Fatal(err)
	}
	return joined
}

// whole checks that all of an image is in the registry.
func whole(t testing.TB, r *registrytest.Registry, want v1.Image) {
	t.Helper()
	pulled, err := r.Get(t, reference).Image()
	if err != nil {
		t.Fatal(err)
	}
	if digest(t, pulled) != digest(t, want) {
		t.Errorf("the registry has %s, want %s", digest(t, pulled), digest(t, want))
	}
	if err := validate.Image(pulled); err != nil {
		t.Error(err)
	}
}

func TestLayersThatAreInTheBaseImage(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{true, false} {
		t.Run(map[bool]string{true: "from its registry", false: "from a mirror"}[direct], func(t *testing.T) {
			t.Parallel()
			bases, r := registrytest.New(t), registrytest.New(t)
			base := registrytest.RandomImage(t, 3, 50_000)
			reference := bases.Host + "/base/run@" + digest(t, base)
			if direct {
				bases.Push(t, "base/run:1", base)
			} else {
				bases.Push(t, "cache/base/run:1", base)
				reference = "images.example.com/base/run@" + digest(t, base)
			}
			w, image := sparse(t, base)
			in := to(r, w)
			in.BaseImages = []string{reference}
			in.CABundle, in.RegistryPullSecret = joinFiles(t, r.CAFile, bases.CAFile), bases.DockerConfig
			if !direct {
				in.RegistryMirrors = []registry.Mirror{{Registry: "images.example.com", Mirror: bases.Host + "/cache"}}
			}
			_, logged := mustRun(t, in)
			whole(t, r, image)
			if !strings.Contains(logged, `"in base images"=3`) {
				t.Error(logged)
			}
			// Now the registry has all of it, and the base's is not asked.
			bases.Forget()
			mustRun(t, in)
			if requests := bases.Requests("", ""); len(requests) > 0 {
				t.Errorf("asked for %v", requests)
			}
		})
	}
}

func TestLayersOfABaseImageInTheSameRegistryAreMounted(t *testing.T) {
	t.Parallel()
	for _, direct := range []bool{true, false} {
		t.Run(map[bool]string{true: "by its name", false: "by a mirror of it"}[direct], func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			base := registrytest.RandomImage(t, 3, 50_000)
			r.Push(t, "base/run:1", base)
			w, image := sparse(t, base)
			r.Forget()
			in := to(r, w)
			in.BaseImages = []string{r.Host + "/base/run@" + digest(t, base)}
			if !direct {
				in.BaseImages = []string{"images.example.com/run@" + digest(t, base)}
				in.RegistryMirrors = []registry.Mirror{{Registry: "images.example.com", Mirror: r.Host + "/base/"}}
			}
			in.RegistryPullSecret = r.DockerConfig
			mustRun(t, in)
			if n := len(uploads(r)); n != 2 { // layer and configuration
				t.Errorf("%d uploads", n)
			}
			whole(t, r, image)
		})
	}
}

func TestBaseImageThatCannotBeHad(t *testing.T) {
	t.Parallel()
	base := registrytest.RandomImage(t, 2, 50_000)
	tests := []struct {
		name    string
		prepare func(t *testing.T, bases *registrytest.Registry) (host string)
		reason  outcome.Reason
	}{
		{"the image is gone", func(t *testing.T, bases *registrytest.Registry) string { return bases.Host },
			outcome.BaseImageUnavailable},
		{"the registry is gone", func(*testing.T, *registrytest.Registry) string { return "127.0.0.1:1" },
			outcome.RegistryUnavailable},
		{"the registry is busy for long", func(t *testing.T, bases *registrytest.Registry) string {
			busy := faulttest.Before(t, bases.URL, faulttest.First(100, func(*http.Request) bool {
				return true
			}, faulttest.Fault{Status: http.StatusServiceUnavailable}))
			return strings.TrimPrefix(busy.URL, "http://")
		}, outcome.RegistryUnavailable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bases := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			r := registrytest.New(t)
			host := test.prepare(t, bases)
			w, _ := sparse(t, base)
			in := to(r, w)
			in.BaseImages = []string{host + "/base/run@" + digest(t, base)}
			in.InsecureRegistries = []string{host}
			before := files(t, w)
			_, _, err := run(t, in)
			wantFailure(t, err, test.reason, host, "base/run")
			if r.Has(t, reference) || len(files(t, w)) != len(before) {
				t.Error("something was published, or changed")
			}
		})
	}
}

// What a layout lacks is only taken from a base image that lists it.
func TestWhatIsMissingFromALayout(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	base, other := registrytest.RandomImage(t, 1, 1000), registrytest.RandomImage(t, 1, 1000)
	r.Push(t, "base/run:1", base)
	r.Push(t, "base/other:1", other)
	run1 := r.Host + "/base/run:1@" + digest(t, base)
	tests := []struct {
		name   string
		bases  []string
		spoil  func(t *testing.T, w workspace.Workspace, image v1.Image)
		reason outcome.Reason
		want   string
	}{
		{"a layer of no base image", nil, nil, outcome.ImageInvalid, "base-images"},
		{"a layer of another base image", []string{r.Host + "/base/other@" + digest(t, other)}, nil,
			outcome.ImageInvalid, "none of its 1 base images"},
		{"a layer of the second base image", []string{r.Host + "/base/other@" + digest(t, other), run1}, nil,
			outcome.Succeeded, ""},
		{"a layer of another size", []string{run1}, func(t *testing.T, w workspace.Workspace, image v1.Image) {
			manifest, err := image.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			manifest = manifest.DeepCopy()
			manifest.Layers[0].Size++
			dir := imagelayout.Dir(w.Image())
			root := v1.Descriptor{MediaType: manifest.MediaType}
			if root.Digest, root.Size, err = dir.WriteJSON(manifest); err == nil {
				err = dir.WriteIndex(root)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, outcome.ImageInvalid, "bytes in the base image"},
		{"the configuration", []string{run1}, func(t *testing.T, w workspace.Workspace, image v1.Image) {
			name, err := image.ConfigName()
			if err == nil {
				err = os.Remove(imagelayout.Dir(w.Image()).Blob(name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, outcome.ImageInvalid, "is missing"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w, image := sparse(t, base)
			if test.spoil != nil {
				test.spoil(t, w, image)
			}
			in := to(r, w)
			in.ImageName = "shop-" + strings.ReplaceAll(test.name, " ", "-")
			in.BaseImages, in.RegistryPullSecret = test.bases, r.DockerConfig
			_, _, err := run(t, in)
			if test.reason == outcome.Succeeded {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFailure(t, err, test.reason, test.want)
			if r.Has(t, "team/"+in.ImageName+":v1-1a2b3c4d") {
				t.Error("it was published")
			}
		})
	}
}

// withCache adds a cache to a workspace.
func withCache(t testing.TB, w workspace.Workspace, cache v1.Image) workspace.Workspace {
	t.Helper()
	path, err := layout.Write(w.Cache(), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(cache); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestCacheIsPushedAfterTheImage(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	cache := registrytest.RandomImage(t, 2, 1000)
	image := registrytest.RandomImage(t, 1, 1000)
	in := to(r, withCache(t, built(t, image), cache))
	results, _ := mustRun(t, in)
	if results["image-digest"] != digest(t, image) ||
		r.Get(t, "team/shop-cart:cache").Digest.String() != digest(t, cache) {
		t.Errorf("%v; the cache is %s, want %s", results, r.Get(t, "team/shop-cart:cache").Digest, digest(t, cache))
	}
	manifests := r.Requests(http.MethodPut, "/manifests/")
	if len(manifests) != 2 || !strings.HasSuffix(manifests[1].Path, "/cache") {
		t.Errorf("manifests were stored as %v", manifests)
	}
}

// An empty folder is no cache, and says nothing.
func TestNoCache(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	w := built(t, registrytest.RandomImage(t, 1, 1000))
	if err := os.Mkdir(w.Cache(), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, logged := mustRun(t, to(r, w)); strings.Contains(logged, "cache") {
		t.Error(logged)
	}
}

func TestACacheThatCannotBePushedIsNoFailure(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(
		t *testing.T, w workspace.Workspace, in *registrytest.Registry,
	) *registrytest.Registry{
		"damaged": func(t *testing.T, w workspace.Workspace, r *registrytest.Registry) *registrytest.Registry {
			if err := os.WriteFile(filepath.Join(w.Cache(), "index.json"), []byte("{"), 0o644); err != nil {
				t.Fatal(err)
			}
			return r
		},
		"of another component": func(
			t *testing.T, w workspace.Workspace, r *registrytest.Registry,
		) *registrytest.Registry {
			if err := os.RemoveAll(w.Cache()); err != nil {
				t.Fatal(err)
			}
			other, err := mutate.Config(registrytest.RandomImage(t, 1, 1000), v1.Config{
				Labels: map[string]string{step.OwnerLabel: "acme/shop/till"},
			})
			if err != nil {
				t.Fatal(err)
			}
			withCache(t, w, other)
			return r
		},
		"a link": func(t *testing.T, w workspace.Workspace, r *registrytest.Registry) *registrytest.Registry {
			if err := os.RemoveAll(w.Cache()); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/etc", w.Cache()); err != nil {
				t.Fatal(err)
			}
			return r
		},
		"refused": func(t *testing.T, w workspace.Workspace, r *registrytest.Registry) *registrytest.Registry {
			return registrytest.New(t, registrytest.Behind(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, "/manifests/cache") {
						http.Error(
							w, `{"errors":[{"code":"DENIED","message":"tags are immutable"}]}`, http.StatusForbidden,
						)
						return
					}
					next.ServeHTTP(w, req)
				})
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 1, 1000)
			w := withCache(t, built(t, image), registrytest.RandomImage(t, 1, 1000))
			r := spoil(t, w, registrytest.New(t))
			in := to(r, w)
			in.Owner = step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}
			results, logged := mustRun(t, in)
			if results["image-digest"] != digest(t, image) || !strings.Contains(logged, "The cache is not pushed") ||
				!strings.Contains(logged, "level=WARN") {
				t.Errorf("%v\n%s", results, logged)
			}
			if r.Has(t, "team/shop-cart:cache") {
				t.Error("there is a cache")
			}
		})
	}
}
