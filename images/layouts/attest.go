package layouts

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A Statement is an in-toto statement about an image.
type Statement struct {
	Predicate string // the type of what it says
	Content   []byte // the statement, as JSON
}

// Attest puts statements beside the images of a layout's index, by the digests of the images, and returns the digest of
// the index that has both. They have the form of what the steps attest (docs/platform/provenance.md). An index has no
// attestations before.
func Attest(dir string, statements map[v1.Hash][]Statement) (v1.Hash, error) {
	root, described, err := only(dir)
	if err != nil {
		return v1.Hash{}, err
	}
	index, err := root.ImageIndex(described.Digest)
	if err != nil {
		return v1.Hash{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	blobs := layout.Path(dir)
	attested := manifest.DeepCopy()
	for _, image := range manifest.Manifests {
		if len(statements[image.Digest]) == 0 {
			continue
		}
		beside, err := attach(blobs, image, statements[image.Digest])
		if err != nil {
			return v1.Hash{}, err
		}
		attested.Manifests = append(attested.Manifests, beside)
	}
	digest, size, err := writeJSON(blobs, attested)
	if err != nil || digest == described.Digest {
		return digest, err
	}
	old := described.Digest
	described.Digest, described.Size = digest, size
	top, err := root.IndexManifest()
	if err != nil {
		return v1.Hash{}, err
	}
	top = top.DeepCopy()
	top.Manifests = []v1.Descriptor{described}
	raw, err := json.MarshalIndent(top, "", "   ")
	if err != nil {
		return v1.Hash{}, err
	}
	if err := blobs.WriteFile("index.json", raw, 0o644); err != nil {
		return v1.Hash{}, err
	}
	return digest, blobs.RemoveBlob(old)
}

// attach writes the manifest of an image's statements, and describes it for the index.
func attach(blobs layout.Path, image v1.Descriptor, statements []Statement) (v1.Descriptor, error) {
	const (
		attestationType                 = "application/vnd.docker.attestation.manifest.v1+json"
		statementType   types.MediaType = "application/vnd.in-toto+json"
		emptyType       types.MediaType = "application/vnd.oci.empty.v1+json"
	)
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: attestationType,
		Subject: &v1.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size},
		Config:  v1.Descriptor{MediaType: emptyType, Data: []byte("{}")},
	}
	var err error
	if manifest.Config.Digest, manifest.Config.Size, err = writeJSON(blobs, struct{}{}); err != nil {
		return v1.Descriptor{}, err
	}
	for _, s := range statements {
		layer := v1.Descriptor{
			MediaType: statementType, Annotations: map[string]string{"in-toto.io/predicate-type": s.Predicate},
		}
		if layer.Digest, layer.Size, err = writeBlob(blobs, s.Content); err != nil {
			return v1.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	beside := v1.Descriptor{
		MediaType: manifest.MediaType, Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			referenceType:                 "attestation-manifest",
			"vnd.docker.reference.digest": image.Digest.String(),
		},
	}
	beside.Digest, beside.Size, err = writeJSON(blobs, manifest)
	return beside, err
}

// referenceType is the annotation of what lies beside the images of an index.
const referenceType = "vnd.docker.reference.type"

// Images are the images of an index, without what lies beside them.
func Images(index v1.ImageIndex) ([]v1.Descriptor, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(manifest.Manifests), func(d v1.Descriptor) bool {
		return d.Annotations[referenceType] != ""
	}), nil
}

func writeJSON(blobs layout.Path, value any) (v1.Hash, int64, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return v1.Hash{}, 0, err
	}
	return writeBlob(blobs, raw)
}

func writeBlob(blobs layout.Path, content []byte) (v1.Hash, int64, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return digest, size, err
	}
	return digest, size, blobs.WriteBlob(digest, io.NopCloser(bytes.NewReader(content)))
}
