package publish_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// leave writes a cache into the workspace that lacks layers.
func leave(t testing.TB, in publish.Parameters, cache v1.Image, without ...v1.Layer) {
	t.Helper()
	leaveIn(t, in.Workspace.Cache(), cache, without...)
}

// leaveIn writes a layout that lacks layers into a folder.
func leaveIn(t testing.TB, dir string, cache v1.Image, without ...v1.Layer) {
	t.Helper()
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(cache)
	}
	for _, layer := range without {
		if err == nil {
			hex := strings.TrimPrefix(digest(t, layer), "sha256:")
			err = os.Remove(filepath.Join(dir, "blobs", "sha256", hex))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func layersOf(t testing.TB, image v1.Image) []v1.Layer {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// A cache need not bring what the registry has: layers of the image, and of the last cache.
func TestCacheThatLacksLayers(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image, last := registrytest.RandomImage(t, 1, 50_000), registrytest.RandomImage(t, 2, 50_000)
	foreign := registrytest.RandomImage(t, 1, 50_000)
	r.Push(t, "team/shop-cart:cache", last)
	r.Push(t, "team/till:v1", foreign)
	shared := append(layersOf(t, image), layersOf(t, last)[0])
	cache, added := appended(t, last)
	cache, err := mutate.AppendLayers(cache, layersOf(t, image)...)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := mutate.AppendLayers(cache, layersOf(t, foreign)...)
	if err != nil {
		t.Fatal(err)
	}

	in := to(r, built(t, image))
	in.RegistryPullSecret = r.DockerConfig
	t.Run("of another component", func(t *testing.T) {
		leave(t, in, stolen, append(shared, layersOf(t, foreign)...)...)
		_, logged := mustRun(t, in)
		if !strings.Contains(logged, "cache is not pushed") {
			t.Error(logged)
		}
		if digest(t, last) != r.Get(t, "team/shop-cart:cache").Digest.String() {
			t.Error("there is another cache")
		}
		if err := os.RemoveAll(in.Workspace.Cache()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("of its own", func(t *testing.T) {
		leave(t, in, cache, shared...)
		r.Forget()
		_, logged := mustRun(t, in)
		pushed, err := r.Get(t, "team/shop-cart:cache").Image()
		if err != nil {
			t.Fatal(err)
		}
		if digest(t, pushed) != digest(t, cache) {
			t.Fatalf("the cache is %s, want %s\n%s", digest(t, pushed), digest(t, cache), logged)
		}
		if err := validate.Image(pushed); err != nil {
			t.Error(err)
		}
		if sent := uploads(r); sent[digest(t, added)] != 1 || len(sent) != 2 { // and its configuration
			t.Errorf("sent %v", sent)
		}
	})
}

// An image may lack layers that the cache lists with which it was built.
func TestImageThatLacksLayersOfItsCache(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	cache := registrytest.RandomImage(t, 2, 50_000)
	r.Push(t, "team/shop-cart:cache", cache)
	w, image := sparse(t, cache)
	in := to(r, w)
	in.RegistryPullSecret = r.DockerConfig
	in.BaseImages = []string{r.Host + "/team/shop-cart@" + digest(t, cache)}
	r.Forget()
	mustRun(t, in)
	whole(t, r, image)
	if n := len(uploads(r)); n != 2 { // a layer and the configuration
		t.Errorf("%d uploads", n)
	}
}

// What cache mounts held is pushed beside the cache, or alone, by the same rules.
func TestCacheMounts(t *testing.T) {
	t.Parallel()
	last := registrytest.RandomImage(t, 2, 50_000)
	mounts, added := appended(t, last)
	other, err := mutate.Config(registrytest.RandomImage(t, 1, 1000), v1.Config{
		Labels: map[string]string{step.OwnerLabel: "acme/shop/till"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		leave  func(t *testing.T, in *publish.Parameters)
		pushed v1.Image // under the mounts' tag, at the end
		cache  bool     // whether a cache is pushed, too
	}{
		"alone": {func(t *testing.T, in *publish.Parameters) {
			leaveIn(t, in.Workspace.CacheMounts(), mounts, layersOf(t, last)...)
		}, mounts, false},
		"beside the cache": {func(t *testing.T, in *publish.Parameters) {
			leave(t, *in, registrytest.RandomImage(t, 1, 1000))
			leaveIn(t, in.Workspace.CacheMounts(), mounts, layersOf(t, last)...)
		}, mounts, true},
		"of a cache elsewhere": {func(t *testing.T, in *publish.Parameters) {
			in.CacheSource = t.TempDir()
			leaveIn(t, in.CacheSource, registrytest.RandomImage(t, 1, 1000))
			leaveIn(t, filepath.Join(in.CacheSource, "mounts"), mounts, layersOf(t, last)...)
		}, mounts, true},
		"without a chunk that nobody has": {func(t *testing.T, in *publish.Parameters) {
			leaveIn(t, in.Workspace.CacheMounts(), mounts, added)
		}, last, false},
		"of another component": {func(t *testing.T, in *publish.Parameters) {
			leaveIn(t, in.Workspace.CacheMounts(), other)
		}, last, false},
		"a link": {func(t *testing.T, in *publish.Parameters) {
			away := t.TempDir()
			leaveIn(t, away, mounts)
			if err := os.Mkdir(in.Workspace.Cache(), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(away, in.Workspace.CacheMounts()); err != nil {
				t.Fatal(err)
			}
		}, last, false},
		"in a folder that is a link": {func(t *testing.T, in *publish.Parameters) {
			away := t.TempDir()
			leaveIn(t, filepath.Join(away, "mounts"), mounts)
			if err := os.Symlink(away, in.Workspace.Cache()); err != nil {
				t.Fatal(err)
			}
		}, last, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			r.Push(t, "team/shop-cart:cache-mounts", last)
			image := registrytest.RandomImage(t, 1, 1000)
			in := to(r, built(t, image))
			in.RegistryPullSecret = r.DockerConfig
			in.Owner = step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}
			test.leave(t, &in)
			results, logged := mustRun(t, in)
			if results["image-digest"] != digest(t, image) {
				t.Errorf("the image is %s", results["image-digest"])
			}
			if got := r.Get(t, "team/shop-cart:cache-mounts").Digest.String(); got != digest(t, test.pushed) {
				t.Errorf("mounts are %s, want %s\n%s", got, digest(t, test.pushed), logged)
			}
			if told := strings.Contains(logged, "is not pushed"); told != (test.pushed == last) {
				t.Errorf("a warning: %t\n%s", told, logged)
			}
			if got := r.Has(t, "team/shop-cart:cache"); got != test.cache {
				t.Errorf("there is a cache: %t\n%s", got, logged)
			}
		})
	}
}
