package imagelayout_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// file is an entry of an archive.
type file struct {
	name, content string
	link          string // symbolic
}

func archive(t testing.TB, files ...file) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Size: int64(len(f.content)), Mode: 0o644, Typeflag: tar.TypeReg}
		if f.link != "" {
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "app-image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func sha(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// configFor is a configuration that names these layers by their content.
func configFor(layers ...string) string {
	ids := []string{}
	for _, l := range layers {
		ids = append(ids, "sha256:"+sha(l))
	}
	raw, _ := json.Marshal(map[string]any{
		"os":           "linux",
		"architecture": "amd64",
		"rootfs":       map[string]any{"type": "layers", "diff_ids": ids},
	})
	return string(raw)
}

// As written by ggcr, with compressed layers.
func TestArchiveOfCompressedLayers(t *testing.T) {
	t.Parallel()
	want, err := random.Image(1000, 3)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "app-image.tar")
	tag, err := name.NewTag("localhost/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(path, tag, want); err != nil {
		t.Fatal(err)
	}
	image := mustOpen(t, path)
	if len(image.Blobs) != 4 || len(image.Manifests) != 1 {
		t.Errorf("%d blobs and %d manifests, want 4 and 1", len(image.Blobs), len(image.Manifests))
	}
	config, err := want.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, image, image.Blobs[0]); !bytes.Equal(got, config) {
		t.Errorf("configuration is %s, want %s", got, config)
	}
}

// As podman save writes it: uncompressed layers, one of them twice, and as older Dockers do: a link in place of a
// layer.
func TestArchiveOfPlainLayers(t *testing.T) {
	t.Parallel()
	path := archive(t,
		file{name: "aaaa.tar", content: "layer one"},
		file{name: "bbbb/layer.tar", content: "layer two"},
		file{name: "cccc/layer.tar", link: "../aaaa.tar"},
		file{name: "config.json", content: configFor("layer one", "layer two", "layer one")},
		file{name: "manifest.json",
			content: `[{"Config":"config.json","RepoTags":["localhost/app:v1"],"Layers":["aaaa.tar","bbbb/layer.tar",` +
				`"cccc/layer.tar"]}]`},
	)
	image := mustOpen(t, path)
	root := image.Root()
	if root.MediaType != types.DockerManifestSchema2 {
		t.Errorf("type %s", root.MediaType)
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(root.Raw))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"layer one", "layer two", "layer one"}
	if len(manifest.Layers) != len(want) || len(image.Blobs) != 3 {
		t.Fatalf("%d layers in %d blobs, want 3 in 3", len(manifest.Layers), len(image.Blobs))
	}
	for i, layer := range manifest.Layers {
		unzipped, err := gzip.NewReader(bytes.NewReader(readAll(t, image, layer)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(unzipped); err != nil || string(got) != want[i] {
			t.Errorf("layer %d is %q (%v), want %q", i, got, err, want[i])
		}
	}
	// The same archive is the same image each time, or else a second push would upload it again.
	if again := mustOpen(t, path); again.Root().Digest != root.Digest {
		t.Errorf("read again it is %s, and not %s", again.Root().Digest, root.Digest)
	}
}

func readAll(t testing.TB, image *imagelayout.Image, blob v1.Descriptor) []byte {
	t.Helper()
	content, err := image.Open(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	raw, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestArchiveInvalid(t *testing.T) {
	t.Parallel()
	manifest := func(content string) file { return file{name: "manifest.json", content: content} }
	one := manifest(`[{"Config":"c","Layers":["l"]}]`)
	tests := map[string]struct {
		files []file
		want  string
	}{
		"no manifest.json":     {[]file{{name: "index.json", content: "{}"}}, "manifest.json"},
		"no image":             {[]file{manifest(`[]`)}, "0 images"},
		"two images":           {[]file{manifest(`[{},{}]`)}, "2 images"},
		"no configuration":     {[]file{one}, `configuration "c"`},
		"broken configuration": {[]file{one, {name: "c", content: "{"}}, `configuration "c"`},
		"layer missing":        {[]file{one, {name: "c", content: configFor("x")}}, `layer "l"`},
		"layer damaged": {
			[]file{one, {name: "c", content: configFor("x")}, {name: "l", content: "y"}},
			"is damaged",
		},
		"compressed and cut": {
			[]file{one, {name: "c", content: configFor("x")}, {name: "l", content: "\x1f\x8b\x08"}},
			`layer "l"`,
		},
		"many layers": {
			[]file{
				manifest(`[{"Config":"c","Layers":["l"` + strings.Repeat(`,"l"`, 1000) + `]}]`),
				{name: "c", content: configFor(slices.Repeat([]string{"x"}, 1001)...)}, {name: "l", content: "x"},
			},
			"1001 layers",
		},
		"another number": {
			[]file{one, {name: "c", content: configFor("x", "y")}, {name: "l", content: "x"}},
			"1 layers",
		},
		"links in a circle": {
			[]file{one, {name: "c", content: configFor("x")}, {name: "l", link: "m"}, {name: "m", link: "l"}},
			`layer "l"`,
		},
		"link to the outside":    {[]file{one, {name: "c", link: "../../../../etc/passwd"}}, `configuration "c"`},
		"config of another path": {[]file{manifest(`[{"Config":"/etc/passwd","Layers":[]}]`)}, `"/etc/passwd"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := open(t, archive(t, test.files...))
			wantInvalid(t, err, test.want)
		})
	}
	t.Run("not an archive", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "app-image.tar")
		if err := os.WriteFile(path, []byte(strings.Repeat("no tar ", 100)), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, path)
		wantInvalid(t, err, "not a docker-archive")
	})
	t.Run("cut off", func(t *testing.T) {
		t.Parallel()
		path := archive(t, one, file{name: "c", content: configFor("x")}, file{
			name:    "l",
			content: strings.Repeat("x", 5000),
		})
		truncate(t, path, 3000)
		_, err := open(t, path)
		wantInvalid(t, err, path)
	})
}

func TestArchiveLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	path := archive(t, file{name: "l", content: "x"}, file{name: "c", content: configFor("x")}, file{
		name:    "manifest.json",
		content: `[{"Config":"c","Layers":["l"]}]`,
	})
	scratch := t.TempDir()
	image, err := imagelayout.Open(t.Context(), path, scratch)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if entries, err := os.ReadDir(scratch); err != nil || len(entries) > 0 {
		t.Errorf("in the scratch folder: %v (%v)", entries, err)
	}
	if _, err := imagelayout.Open(
		t.Context(), path, filepath.Join(scratch, "absent"),
	); outcome.Of(err).Reason != outcome.Failed {
		t.Errorf("without a scratch folder: %v", err)
	}
}

func TestArchiveIsCancelled(t *testing.T) {
	t.Parallel()
	path := archive(t, file{name: "l", content: "x"}, file{name: "c", content: configFor("x")}, file{
		name:    "manifest.json",
		content: `[{"Config":"c","Layers":["l"]}]`,
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := imagelayout.Open(ctx, path, t.TempDir()); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// FuzzIndex reads an index of an attacker's choice: whatever it is, it ends in an image all of whose blobs are in the
// layout or known to be absent, or in an ImageInvalid.
func FuzzIndex(f *testing.F) {
	b := newBuilder(f)
	image := b.image("app")
	index := b.index(image, b.blob("application/x-thing", "a thing"))
	f.Add(b.roots(image))
	f.Add(b.roots(index))
	f.Add(b.roots(image, index))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../x"}]}`))
	f.Add([]byte(fmt.Sprintf(`{"schemaVersion":2,"config":{"digest":%q,"size":-1},"manifests":[{"digest":%q,`+
		`"size":%d,"platform":{}},{"platform":{}}]}`,
		image.Digest, image.Digest, image.Size)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b.t = t
		b.write("index.json", string(raw))
		var image *imagelayout.Image
		var err error
		fuzztest.Of(16, 16).Bound(t, len(raw), func() { image, err = imagelayout.Open(t.Context(), b.dir, b.dir) })
		if err != nil {
			if outcome.Of(err).Reason != outcome.ImageInvalid {
				t.Errorf("got %v", err)
			}
			return
		}
		defer image.Close()
		for _, blob := range image.Blobs {
			if !image.Absent[blob.Digest] {
				readAll(t, image, blob)
			}
		}
	})
}

// FuzzArchive does the same with the manifest of a docker-archive.
func FuzzArchive(f *testing.F) {
	f.Add(`[{"Config":"c","Layers":["l"]}]`, configFor("x"), "x", "l")
	f.Add(`[{"Config":"c","Layers":["m","l"]}]`, configFor("x", "x"), "x", "c/../m")
	f.Fuzz(func(t *testing.T, manifest, config, layer, link string) {
		if strings.ContainsRune(link, 0) || link == "" {
			return
		}
		path := archive(t, file{name: "l", content: layer}, file{name: "m", link: link}, file{
			name:    "c",
			content: config,
		}, file{
			name:    "manifest.json",
			content: manifest,
		})
		image, err := imagelayout.Open(t.Context(), path, t.TempDir())
		if err != nil {
			if outcome.Of(err).Reason != outcome.ImageInvalid {
				t.Errorf("got %v", err)
			}
			return
		}
		defer image.Close()
		for _, blob := range image.Blobs {
			readAll(t, image, blob)
		}
	})
}
