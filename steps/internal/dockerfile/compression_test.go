package dockerfile

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// plainLayer reads a layer of a layout.
func plainLayer(t testing.TB, layout imagelayout.Dir, layer v1.Descriptor) []byte {
	t.Helper()
	f, err := os.Open(layout.Blob(layer.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := decompress(f, string(layer.MediaType))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	return must(io.ReadAll(plain))
}

// Layers are compressed as the parameters say, by the step's own builder and by a daemon, with a cache and without. A
// layer of both image and cache is compressed once. Layers of base images stay as they are.
func TestCompression(t *testing.T) {
	t.Parallel()
	base := must(must(must(busybox()).Layers())[0].Digest())
	tests := []struct {
		buildkit.Compression
		mediaType string
	}{
		{buildkit.Compression{}, ocispec.MediaTypeImageLayerGzip},
		{buildkit.Compression{Type: "gzip", Level: 9}, ocispec.MediaTypeImageLayerGzip},
		{buildkit.Compression{Type: "zstd"}, ocispec.MediaTypeImageLayerZstd},
	}
	for _, test := range tests {
		t.Run(test.String(), func(t *testing.T) {
			t.Parallel()
			c := newComponent(t)
			by := func(address string) {
				c.change = func(in *Parameters) {
					in.Compression, in.CompressionLevel = test.Type, test.Level
					if address != "" {
						in.BuildKitAddress = address
					}
				}
			}
			by("")
			cold := c.run(t, stages("one"))
			contents := map[string]string{} // digests of layers by those of their content
			check := func(layout string, layers []v1.Descriptor) {
				for _, layer := range layers {
					if layer.Digest == base {
						if layer.MediaType != ocispec.MediaTypeImageLayerGzip {
							t.Errorf("the base image's layer is %s", layer.MediaType)
						}
						continue
					}
					if string(layer.MediaType) != test.mediaType {
						t.Errorf("a layer is %s", layer.MediaType)
					}
					if _, err := os.Stat(imagelayout.Dir(layout).Blob(layer.Digest)); err != nil {
						continue // of the cache, in the image
					}
					content := plainLayer(t, imagelayout.Dir(layout), layer)
					of := digest.FromBytes(content).String()
					if other, ok := contents[of]; ok && other != layer.Digest.String() {
						t.Errorf("one content is in %s and %s", other, layer.Digest)
					}
					contents[of] = layer.Digest.String()
					var want bytes.Buffer
					w := must(test.Writer(&want))
					w.Write(content)
					w.Close()
					if got := digest.FromBytes(want.Bytes()).String(); got != layer.Digest.String() {
						t.Errorf("layer %s has other bytes than %s gives", layer.Digest, test)
					}
				}
			}
			check(cold.in.Workspace.Image(), must(must(c.Get(t, "team/cart:v1").Image()).Manifest()).Layers)
			var index ocispec.Index
			cache := imagelayout.Dir(cold.in.Workspace.Cache())
			var kept v1.Manifest
			if err := cache.ReadIndex(&index); err != nil {
				t.Fatal(err)
			}
			if err := cache.ReadJSON(index.Manifests[0].Digest, &kept); err != nil {
				t.Fatal(err)
			}
			check(string(cache), kept.Layers[1:])
			if len(contents) < 4 {
				t.Errorf("only %d layers were seen", len(contents))
			}
			c.run(t, stages("one")).wants(t, cold.digest)

			address := "unix://" + filepath.Join(t.TempDir(), "sock")
			newDaemon(t, c.Registry, "", "--addr", address)
			by(address)
			c.run(t, stages("one")).wants(t, cold.digest, "dependencies", "made", "static")
		})
	}
}

// A cache and a state with layers of another compression are not used.
func TestLayersOfAnotherCompression(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	root := filepath.Join(t.TempDir(), "kept")
	digests := map[string]string{}
	for _, compression := range []string{"zstd", "gzip", "zstd", "gzip"} {
		c.change = func(in *Parameters) { in.Compression, in.BuildKitRoot = compression, root }
		did := c.run(t, stages("one"))
		if before := digests[compression]; before != "" && before != did.digest {
			t.Errorf("with %s the image is %s, and was %s", compression, did.digest, before)
		}
		if len(digests) > 0 {
			did.tells(t, "another version")
		}
		digests[compression] = did.digest
	}
	if digests["zstd"] == digests["gzip"] {
		t.Error("the compression makes no difference")
	}
}

func TestLevelOfGzip(t *testing.T) {
	t.Parallel()
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}), nil)
	in.CompressionLevel = 10
	fail(t, in, outcome.InvalidParameters, "compression-level", "1 to 9")
	in.Compression = "zstd"
	if b := succeed(t, in); !strings.HasSuffix(string(must(b.image.Manifest()).Layers[0].MediaType), "zstd") {
		t.Errorf("layer %v", must(b.image.Manifest()).Layers[0])
	}
}
