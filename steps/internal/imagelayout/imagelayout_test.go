package imagelayout_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// builder writes an OCI image layout blob by blob, so that tests can write what no builder would.
type builder struct {
	t   testing.TB
	dir string
}

func newBuilder(t testing.TB) builder {
	t.Helper()
	b := builder{t, filepath.Join(t.TempDir(), "image")}
	if err := os.MkdirAll(filepath.Join(b.dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.write("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	return b
}

func (b builder) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b builder) path(d v1.Descriptor) string {
	return filepath.Join(b.dir, "blobs", d.Digest.Algorithm, d.Digest.Hex)
}

func (b builder) blob(mediaType types.MediaType, content string) v1.Descriptor {
	b.t.Helper()
	digest, size, err := v1.SHA256(strings.NewReader(content))
	if err != nil {
		b.t.Fatal(err)
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}
	if err := os.WriteFile(b.path(d), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b builder) json(mediaType types.MediaType, v any) v1.Descriptor {
	b.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.blob(mediaType, string(raw))
}

func (b builder) image(content string) v1.Descriptor {
	b.t.Helper()
	return b.json(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
		Config: b.blob(types.OCIConfigJSON, `{"config of":"`+content+`"}`),
		Layers: []v1.Descriptor{b.blob(types.OCILayer, "layer of "+content), b.blob(types.OCILayer, "shared layer")},
	})
}

func (b builder) index(children ...v1.Descriptor) v1.Descriptor {
	b.t.Helper()
	return b.json(types.OCIImageIndex, v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests:     children,
	})
}

// roots writes index.json and returns its bytes.
func (b builder) roots(roots ...v1.Descriptor) []byte {
	b.t.Helper()
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: roots})
	if err != nil {
		b.t.Fatal(err)
	}
	b.write("index.json", string(raw))
	return raw
}

func open(t testing.TB, path string) (*imagelayout.Image, error) {
	t.Helper()
	image, err := imagelayout.Open(t.Context(), path, t.TempDir())
	if err == nil {
		t.Cleanup(func() {
			if err := image.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return image, err
}

func mustOpen(t testing.TB, path string) *imagelayout.Image {
	t.Helper()
	image, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func digests(manifests []imagelayout.Manifest) []v1.Hash {
	var all []v1.Hash
	for _, m := range manifests {
		all = append(all, m.Digest)
	}
	return all
}

func TestImage(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	root := b.image("app")
	b.roots(root)
	image := mustOpen(t, b.dir)
	if got := image.Root(); got.Digest != root.Digest || got.MediaType != types.OCIManifestSchema1 {
		t.Errorf("root is %s %s, want %s", got.Digest, got.MediaType, root.Digest)
	}
	want := []string{`{"config of":"app"}`, "layer of app", "shared layer"}
	if len(image.Blobs) != len(want) {
		t.Fatalf("%d blobs, want %d", len(image.Blobs), len(want))
	}
	for i, blob := range image.Blobs {
		content, err := image.Open(blob)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		content.Close()
		if err != nil || string(got) != want[i] {
			t.Errorf("blob %d is %q (%v), want %q", i, got, err, want[i])
		}
	}
}

// BuildKit's form: the root is an index of the image and its attestation, which is a manifest of something else than an
// image. Here there are two, so that they nest once more.
func TestNestedIndexWithAttestations(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	platform := func(content string) v1.Descriptor {
		image := b.image(content)
		image.Platform = &v1.Platform{OS: "linux", Architecture: content}
		attestation := b.json(types.OCIManifestSchema1, v1.Manifest{
			SchemaVersion: 2, MediaType: types.OCIManifestSchema1,
			Config: b.blob(types.OCIConfigJSON, `{"attestation of":"`+content+`"}`),
			Layers: []v1.Descriptor{b.blob("application/vnd.in-toto+json", `{"subject":"`+content+`"}`)},
		})
		attestation.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
		attestation.Annotations = map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": image.Digest.String(),
		}
		return b.index(image, attestation)
	}
	amd64, arm64 := platform("amd64"), platform("arm64")
	root := b.index(amd64, arm64)
	b.roots(root)

	image := mustOpen(t, b.dir)
	if image.Root().Digest != root.Digest {
		t.Errorf("root is %s, want %s", image.Root().Digest, root.Digest)
	}
	if len(image.Manifests) != 7 || len(image.Blobs) != 4+4+1 {
		t.Errorf(
			"%d manifests and %d blobs, want 7 and 9 (one layer is shared)", len(image.Manifests), len(image.Blobs),
		)
	}
	order := digests(image.Manifests)
	for i, m := range image.Manifests {
		if digest, _, err := v1.SHA256(bytes.NewReader(m.Raw)); err != nil || digest != m.Digest {
			t.Errorf("manifest %s has other bytes", m.Digest)
		}
		var index v1.IndexManifest
		if err := json.Unmarshal(m.Raw, &index); err != nil {
			t.Fatal(err)
		}
		for _, child := range index.Manifests {
			if !slices.Contains(order[:i], child.Digest) {
				t.Errorf("index %s comes before %s, which it names", m.Digest, child.Digest)
			}
		}
	}
}

func TestUnknownTypesTravelAlong(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	layer := b.blob("application/x-thing", "a thing")
	unknown := b.blob("application/vnd.example.manifest.v9+json", fmt.Sprintf(
		`{ "schemaVersion" : 2, "blobs":[{"mediaType":"application/x-thing","digest":%q,"size":%d}], "more":1 }`,
		layer.Digest, layer.Size))
	cache := b.blob("application/vnd.buildkit.cacheconfig.v0", `{"layers":[]}`)
	app := b.image("app")
	b.roots(b.index(app, unknown, cache))
	image := mustOpen(t, b.dir)
	if got, want := digests(image.Manifests)[:2], []v1.Hash{app.Digest, unknown.Digest}; !slices.Equal(got, want) {
		t.Errorf("manifests %s, want %s", got, want)
	}
	for _, want := range []v1.Descriptor{layer, cache} {
		if !slices.ContainsFunc(image.Blobs, func(d v1.Descriptor) bool { return d.Digest == want.Digest }) {
			t.Errorf("%s is not among the blobs", want.MediaType)
		}
	}
}

func TestSeveralRoots(t *testing.T) {
	t.Parallel()
	on := func(d v1.Descriptor, architecture string) v1.Descriptor {
		d.Platform = &v1.Platform{OS: "linux", Architecture: architecture}
		return d
	}
	t.Run("of several platforms are one image", func(t *testing.T) {
		t.Parallel()
		b := newBuilder(t)
		raw := b.roots(on(b.image("one"), "amd64"), on(b.image("two"), "arm64"))
		if got := mustOpen(t, b.dir).Root(); !bytes.Equal(got.Raw, raw) || got.MediaType != types.OCIImageIndex {
			t.Errorf("root is %s of type %s, want index.json itself", got.Raw, got.MediaType)
		}
	})
	t.Run("of one image under two names", func(t *testing.T) {
		t.Parallel()
		b := newBuilder(t)
		app := b.image("app")
		b.roots(app, app)
		if got := mustOpen(t, b.dir).Root(); got.Digest != app.Digest {
			t.Errorf("root is %s, want %s", got.Digest, app.Digest)
		}
	})
	t.Run("of unknown platforms are ambiguous", func(t *testing.T) {
		t.Parallel()
		b := newBuilder(t)
		b.roots(b.image("one"), b.image("two"))
		_, err := open(t, b.dir)
		wantInvalid(t, err, "names 2 images")
	})
}

func TestNonDistributableLayerStaysAway(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	foreign := b.blob(types.DockerForeignLayer, "licensed")
	if err := os.Remove(b.path(foreign)); err != nil {
		t.Fatal(err)
	}
	foreign.URLs = []string{"https://example.com/layer"}
	b.roots(b.json(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2,
		Config:        b.blob(types.OCIConfigJSON, "{}"),
		Layers:        []v1.Descriptor{foreign},
	}))
	if image := mustOpen(t, b.dir); len(image.Blobs) != 1 {
		t.Errorf("%d blobs, want the configuration only", len(image.Blobs))
	}
}

func wantInvalid(t *testing.T, err error, message string) {
	t.Helper()
	failure := outcome.Of(err)
	if failure == nil {
		t.Fatal("no error")
	}
	if failure.Reason != outcome.ImageInvalid || !strings.Contains(failure.Message, message) {
		t.Errorf("got %s: %s; want ImageInvalid with %q", failure.Reason, failure.Message, message)
	}
}

func TestInvalid(t *testing.T) {
	t.Parallel()
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		change func(t *testing.T, b builder, layer v1.Descriptor) // after which the image has this fault
		want   string
	}{
		"no index.json": {func(t *testing.T, b builder, _ v1.Descriptor) {
			remove(t, filepath.Join(b.dir, "index.json"))
		},
			"index.json"},
		"no oci-layout": {func(t *testing.T, b builder, _ v1.Descriptor) {
			remove(t, filepath.Join(b.dir, "oci-layout"))
		},
			"not an OCI image layout"},
		"a future layout": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			b.write("oci-layout", `{"imageLayoutVersion":"2.0.0"}`)
		}, `"2.0.0"`},
		"broken index": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			b.write("index.json", `{"manifests":[`)
		}, "index.json"},
		"empty index": {func(_ *testing.T, b builder, _ v1.Descriptor) { b.roots() }, "names no image"},
		"configuration missing": {func(t *testing.T, b builder, _ v1.Descriptor) {
			remove(t, b.path(b.blob(types.OCIConfigJSON, "{}")))
		}, "is missing"},
		"a layer that is missing is a configuration, too": {func(t *testing.T, b builder, d v1.Descriptor) {
			remove(t, b.path(d))
			b.roots(b.index(b.json(types.OCIManifestSchema1, v1.Manifest{
				SchemaVersion: 2,
				Config:        b.blob(types.OCIConfigJSON, "{}"),
				Layers:        []v1.Descriptor{d},
			}), b.json(types.OCIManifestSchema1, v1.Manifest{SchemaVersion: 2, Config: d})))
		}, "is missing"},
		"more layers than an image may have": {func(_ *testing.T, b builder, d v1.Descriptor) {
			b.roots(b.json(types.OCIManifestSchema1, v1.Manifest{
				SchemaVersion: 2,
				Config:        b.blob(types.OCIConfigJSON, "{}"),
				Layers:        slices.Repeat([]v1.Descriptor{d}, 10_001),
			}))
		}, "a list of more than 10000"},
		"more manifests than an image may have": {func(_ *testing.T, b builder, d v1.Descriptor) {
			var children []v1.Descriptor
			for i := range 1_001 {
				children = append(children, b.json(types.OCIManifestSchema1, v1.Manifest{
					SchemaVersion: 2,
					Config:        d,
					Annotations:   map[string]string{"number": fmt.Sprint(i)},
				}))
			}
			b.roots(b.index(children...))
		}, "more than 1000 manifests"},
		"more blobs than an image may have": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			var children []v1.Descriptor
			for i := range 2 {
				m := v1.Manifest{SchemaVersion: 2, Config: b.blob(types.OCIConfigJSON, "{}")}
				for j := range 5_001 {
					digest, size, err := v1.SHA256(strings.NewReader(fmt.Sprint(i, j)))
					if err != nil {
						b.t.Fatal(err)
					}
					m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.OCILayer, Digest: digest, Size: size})
				}
				children = append(children, b.json(types.OCIManifestSchema1, m))
			}
			b.roots(b.index(children...))
		}, "more than 10000 blobs"},
		"layer incomplete": {func(t *testing.T, b builder, d v1.Descriptor) {
			truncate(t, b.path(d), 3)
		}, "it has 3 of 5 bytes"},
		"layer is a folder": {func(t *testing.T, b builder, d v1.Descriptor) {
			remove(t, b.path(d))
			if err := os.Mkdir(b.path(d), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		"layer is a pipe": {func(t *testing.T, b builder, d v1.Descriptor) {
			remove(t, b.path(d))
			if err := syscall.Mkfifo(b.path(d), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		"manifest damaged": {func(t *testing.T, b builder, _ v1.Descriptor) {
			d := b.image("other")
			raw, err := os.ReadFile(b.path(d))
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)-1] = ' '
			if err := os.WriteFile(b.path(d), raw, 0o644); err != nil {
				t.Fatal(err)
			}
			b.roots(d)
		}, "is damaged"},
		"manifest of another type": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			d := b.image("other")
			d.MediaType = types.DockerManifestSchema2
			b.roots(d)
		}, "is of type"},
		"manifest without a type": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			b.roots(b.blob("", "{}"))
		}, "of which type"},
		"manifest too large": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			b.roots(b.blob(types.OCIManifestSchema1, strings.Repeat(" ", 4<<20)+"{}"))
		}, "more than a registry takes"},
		"descriptor without a digest": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			b.write("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2}]}`)
		}, "without a digest"},
		"two sizes of one blob": {func(_ *testing.T, b builder, d v1.Descriptor) {
			other := d
			other.Size++
			b.roots(b.json(types.OCIManifestSchema1, v1.Manifest{
				SchemaVersion: 2,
				Config:        d,
				Layers:        []v1.Descriptor{other},
			}))
		}, "and not 6"},
		"nested without end": {func(_ *testing.T, b builder, _ v1.Descriptor) {
			d := b.image("deep")
			for range 20 {
				d = b.index(d)
			}
			b.roots(d)
		}, "nested"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuilder(t)
			layer := b.blob(types.OCILayer, "layer")
			b.roots(b.index(b.json(types.OCIManifestSchema1, v1.Manifest{
				SchemaVersion: 2,
				Config:        b.blob(types.OCIConfigJSON, "{}"),
				Layers:        []v1.Descriptor{layer},
			})))
			mustOpen(t, b.dir)
			test.change(t, b, layer)
			_, err := open(t, b.dir)
			wantInvalid(t, err, test.want)
		})
	}
}

// A sparse layout lacks layers of the image that it is built on.
func TestAbsentLayers(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	root := b.image("app")
	b.roots(root)
	absent := b.blob(types.OCILayer, "layer of app")
	if err := os.Remove(b.path(absent)); err != nil {
		t.Fatal(err)
	}
	image := mustOpen(t, b.dir)
	if len(image.Blobs) != 3 || len(image.Absent) != 1 || !image.Absent[absent.Digest] {
		t.Errorf("%d blobs, absent are %v, want %s", len(image.Blobs), image.Absent, absent.Digest)
	}
	if _, err := image.Open(absent); outcome.Of(err).Reason != outcome.ImageInvalid {
		t.Errorf("got %v", err)
	}
	if err := image.Check(t.Context(), absent); outcome.Of(err).Reason != outcome.ImageInvalid {
		t.Errorf("got %v", err)
	}
}

// A blob of the right length may still be another.
func TestCheck(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	b.roots(b.image("app"))
	layer := b.blob(types.OCILayer, "layer of app")
	image := mustOpen(t, b.dir)
	if err := image.Check(t.Context(), layer); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(b.path(layer), []byte("layer of opp"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantInvalid(t, image.Check(t.Context(), layer), "is damaged")
}

func TestLabels(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	image := func(config string) v1.Descriptor {
		return b.json(types.OCIManifestSchema1, v1.Manifest{
			SchemaVersion: 2,
			Config:        b.blob(types.OCIConfigJSON, config),
		})
	}
	acme := image(`{"config":{"Labels":{"owner":"acme"}}}`)
	tests := []struct {
		name   string
		images []v1.Descriptor
		want   []string
	}{
		{"none", []v1.Descriptor{image(`{}`), image(`{"config":null}`)}, nil},
		{"one of two platforms", []v1.Descriptor{acme, image(`{"config":{}}`)}, []string{"acme"}},
		{"the same twice", []v1.Descriptor{acme, image(`{"os":"linux","config":{"Labels":{"owner":"acme"}}}`)},
			[]string{"acme"}},
		{"two", []v1.Descriptor{acme, image(`{"config":{"Labels":{"owner":""}}}`)}, []string{"acme", ""}},
	}
	for _, test := range tests { // one after another: they share the layout
		t.Run(test.name, func(t *testing.T) {
			b.roots(b.index(test.images...))
			if got, err := mustOpen(t, b.dir).Labels("owner"); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	t.Run("no configuration at all", func(t *testing.T) {
		b.roots(image("[]"))
		_, err := mustOpen(t, b.dir).Labels("owner")
		wantInvalid(t, err, "configuration")
	})
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// A layer of the right length and with wrong content is found when it is read, and never read to its end.
func TestDamagedLayer(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	root := b.image("app")
	b.roots(root)
	image := mustOpen(t, b.dir)
	blob := image.Blobs[1]
	content := bytes.Repeat([]byte("x"), int(blob.Size))
	if err := os.WriteFile(b.path(blob), content, 0o644); err != nil {
		t.Fatal(err)
	}
	reader, err := image.Open(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	got, err := io.ReadAll(reader)
	wantInvalid(t, err, blob.Digest.String()+" is damaged")
	if len(got) == len(content) {
		t.Error("the whole content was read")
	}
}

func TestNothingLeadsOut(t *testing.T) {
	t.Parallel()
	outside := func(t *testing.T) (dir string) {
		dir = t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("canary"), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	link := func(t *testing.T, to, at string) {
		t.Helper()
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	canary, _, err := v1.SHA256(strings.NewReader("canary"))
	if err != nil {
		t.Fatal(err)
	}
	layer := v1.Descriptor{MediaType: types.OCILayer, Digest: canary, Size: 6}
	withLayer := func(b builder) {
		b.roots(b.json(types.OCIManifestSchema1, v1.Manifest{
			SchemaVersion: 2,
			Config:        b.blob(types.OCIConfigJSON, "{}"),
			Layers:        []v1.Descriptor{layer},
		}))
	}
	tests := map[string]func(t *testing.T, b builder){
		"digest with a path": func(_ *testing.T, b builder) {
			b.write(
				"index.json",
				`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
					`"digest":"sha256:../../../../secret","size":6}]}`,
			)
		},
		"algorithm with a path": func(_ *testing.T, b builder) {
			b.write(
				"index.json",
				`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"../../..:`+
					canary.Hex+`","size":6}]}`,
			)
		},
		"blob is a link to the outside": func(t *testing.T, b builder) {
			withLayer(b)
			link(t, filepath.Join(outside(t), "secret"), b.path(layer))
		},
		"blobs is a link to the outside": func(t *testing.T, b builder) {
			withLayer(b)
			dir := outside(t)
			if err := os.Rename(filepath.Join(b.dir, "blobs"), filepath.Join(dir, "blobs")); err != nil {
				t.Fatal(err)
			}
			link(t, filepath.Join(dir, "blobs"), filepath.Join(b.dir, "blobs"))
		},
		"index.json is a link to the outside": func(t *testing.T, b builder) {
			link(t, filepath.Join(outside(t), "secret"), filepath.Join(b.dir, "index.json"))
		},
		"the layout is a link to the outside": func(t *testing.T, b builder) {
			other := newBuilder(t)
			other.roots(other.image("other"))
			link(t, other.dir, b.dir)
		},
		"the archive is a link to the outside": func(t *testing.T, b builder) {
			link(t, filepath.Join(outside(t), "secret"), b.dir)
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBuilder(t)
			change(t, b)
			_, err := open(t, b.dir)
			wantInvalid(t, err, b.dir)
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("the error quotes what is outside: %v", err)
			}
		})
	}
}

// Some tools keep a blob once, and link to it.
func TestBlobIsALinkWithin(t *testing.T) {
	t.Parallel()
	b := newBuilder(t)
	image := b.image("linked")
	b.roots(image)
	if err := os.Rename(b.path(image), filepath.Join(b.dir, "stash")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../stash", b.path(image)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, b.dir); err != nil {
		t.Error(err)
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	make := func(t *testing.T, paths ...string) workspace.Workspace {
		dir := t.TempDir()
		for _, path := range paths {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, "image"), 0o755); err != nil {
			t.Fatal(err)
		}
		return workspace.Workspace(dir)
	}
	tests := map[string]struct {
		paths []string
		want  string
	}{
		"a layout that is being written": {[]string{"image/.new/index.json", "app-image.tar"}, "app-image.tar"},
		"layout":                         {[]string{"image/index.json"}, "image"},
		"layout rather than archive":     {[]string{"image/index.json", "app-image.tar"}, "image"},
		"archive beside empty folder":    {[]string{"app-image.tar"}, "app-image.tar"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := make(t, test.paths...)
			if got, err := imagelayout.Locate(w); err != nil || got != filepath.Join(string(w), test.want) {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		if _, err := imagelayout.Locate(make(t)); outcome.Of(err).Reason != outcome.ImageNotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestOpenWhatIsNotThere(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"image", "no/such/image"} {
		if _, err := open(t, filepath.Join(t.TempDir(), path)); outcome.Of(err).Reason != outcome.ImageNotFound {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
