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
)

// leave writes a cache into the workspace that lacks layers.
func leave(t testing.TB, in publish.Parameters, cache v1.Image, without ...v1.Layer) {
	t.Helper()
	path, err := layout.Write(in.Workspace.Cache(), empty.Index)
	if err == nil {
		err = path.AppendImage(cache)
	}
	for _, layer := range without {
		if err == nil {
			hex := strings.TrimPrefix(digest(t, layer), "sha256:")
			err = os.Remove(filepath.Join(in.Workspace.Cache(), "blobs", "sha256", hex))
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
