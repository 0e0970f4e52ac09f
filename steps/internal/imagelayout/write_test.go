package imagelayout_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// What one step writes, the next one reads.
func TestDir(t *testing.T) {
	t.Parallel()
	dir := imagelayout.Dir(t.TempDir())
	config := v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON},
		Layers:        []v1.Descriptor{},
	}
	image := v1.Descriptor{MediaType: manifest.MediaType}
	var err error
	if manifest.Config.Digest, manifest.Config.Size, err = dir.WriteJSON(config); err != nil {
		t.Fatal(err)
	}
	if image.Digest, image.Size, err = dir.WriteJSON(manifest); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteIndex(image); err != nil {
		t.Fatal(err)
	}
	read, err := imagelayout.Open(t.Context(), string(dir), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if read.Root().Digest != image.Digest || len(read.Blobs) != 1 || read.Blobs[0].Digest != manifest.Config.Digest {
		t.Errorf("read %s with blobs %v, want %s with %s", read.Root().Digest, read.Blobs, image.Digest,
			manifest.Config.Digest)
	}
	var index v1.IndexManifest
	var again v1.Manifest
	if err := dir.ReadIndex(&index); err != nil || len(index.Manifests) != 1 ||
		index.MediaType != types.OCIImageIndex || index.SchemaVersion != 2 {
		t.Errorf("read %+v, %v", index, err)
	}
	if err := dir.ReadJSON(image.Digest, &again); err != nil || again.Config.Digest != manifest.Config.Digest {
		t.Errorf("read %+v, %v", again, err)
	}
}

// A digest is the same of whatever library it is.
func TestReplaceBlob(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		content string
		left    string
	}{
		"another": {"new", digest.FromString("new").Encoded()},
		"equal":   {"old", digest.FromString("old").Encoded()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := imagelayout.Dir(t.TempDir())
			old, _, err := v1.SHA256(strings.NewReader("old"))
			if err != nil {
				t.Fatal(err)
			}
			if err := dir.WriteBlob(old, []byte("old")); err != nil {
				t.Fatal(err)
			}
			if err := dir.ReplaceBlob(old, digest.FromString(test.content), []byte(test.content)); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(string(dir), "blobs", "sha256", "*"))
			if err != nil || len(files) != 1 || filepath.Base(files[0]) != test.left {
				t.Fatalf("left %v, %v, want %v", files, err, test.left)
			}
			if raw, err := os.ReadFile(dir.Blob(digest.FromString(test.content))); string(raw) != test.content {
				t.Errorf("got %q, %v", raw, err)
			}
		})
	}
}

func TestDirNamesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	dir := imagelayout.Dir(t.TempDir())
	broken := digest.FromString("{")
	if err := dir.WriteBlob(broken, []byte("{")); err != nil {
		t.Fatal(err)
	}
	var manifest v1.Manifest
	if err := dir.ReadJSON(broken, &manifest); err == nil || !strings.Contains(err.Error(), broken.Encoded()) {
		t.Errorf("got %v", err)
	}
	if err := dir.ReadIndex(&manifest); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}
