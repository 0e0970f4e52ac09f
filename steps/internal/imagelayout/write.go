package imagelayout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Dir is the folder of an OCI image layout that a build step makes. Unlike what Open reads, its content is believed.
type Dir string

func (d Dir) index() string { return filepath.Join(string(d), "index.json") }

// Blob is the path of a blob. The digest is of any library, and its text algorithm:hex.
func (d Dir) Blob(digest fmt.Stringer) string {
	algorithm, hex, _ := strings.Cut(digest.String(), ":")
	return filepath.Join(string(d), "blobs", algorithm, hex)
}

// ReadIndex reads index.json.
func (d Dir) ReadIndex(into any) error { return readJSON(d.index(), into) }

// ReadJSON reads a blob that is JSON: a manifest or a configuration.
func (d Dir) ReadJSON(digest fmt.Stringer, into any) error { return readJSON(d.Blob(digest), into) }

func readJSON(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// WriteIndex turns a folder with blobs into a layout of images, mostly of one. An image is a descriptor of any library:
// its JSON must be a descriptor of the OCI image specification.
func (d Dir) WriteIndex(images ...any) error {
	raw, err := json.Marshal(struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     []any           `json:"manifests"`
	}{2, types.OCIImageIndex, images})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(string(d), "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644),
		os.WriteFile(d.index(), raw, 0o644),
	)
}

// WriteBlob writes a blob, whose digest it is given.
func (d Dir) WriteBlob(digest fmt.Stringer, content []byte) error {
	path := d.Blob(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}

// WriteJSON writes a value as a blob, and returns its digest and its size in bytes.
func (d Dir) WriteJSON(value any) (v1.Hash, int64, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return v1.Hash{}, 0, err
	}
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return digest, size, err
	}
	return digest, size, d.WriteBlob(digest, raw)
}

// ReplaceBlob writes a blob in the place of another, unless it is the same.
func (d Dir) ReplaceBlob(old, digest fmt.Stringer, content []byte) error {
	if digest.String() == old.String() {
		return nil
	}
	return errors.Join(d.WriteBlob(digest, content), os.Remove(d.Blob(old)))
}
