package imagelayout

import (
	"encoding/json"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// BuildKit's annotations of a manifest with attestations, in an index, and the value of the first.
const (
	ReferenceType       = "vnd.docker.reference.type"
	ReferenceDigest     = "vnd.docker.reference.digest" // of the image
	AttestationManifest = "attestation-manifest"
)

const (
	// StatementType is the media type of in-toto statements, which are layers of such a manifest.
	StatementType types.MediaType = "application/vnd.in-toto+json"
	// PredicateType is the annotation of such a layer with the type of what is said.
	PredicateType = "in-toto.io/predicate-type"
	// InToto is the type of statements, of version 1.
	InToto = "https://in-toto.io/Statement/v1"
	// EmptyType is the media type of a configuration that there is none of (OCI image specification 1.1).
	EmptyType types.MediaType = "application/vnd.oci.empty.v1+json"
)

// Attestation is a statement about an image, which an index has beside it.
type Attestation struct {
	Subject   Manifest      // the image
	Statement v1.Descriptor // a blob of the layout
}

// Attestations lists the in-toto statements that indexes have about their images in BuildKit's form: as layers of
// manifests whose annotations name the image. An image that is not in the same index has none.
func (i *Image) Attestations() ([]Attestation, error) {
	known := map[v1.Hash]Manifest{}
	for _, m := range i.Manifests {
		known[m.Digest] = m
	}
	var found []Attestation
	for _, index := range i.Manifests {
		var doc struct {
			Manifests []struct {
				Digest      v1.Hash           `json:"digest"`
				Annotations map[string]string `json:"annotations"`
			} `json:"manifests"`
		}
		if !index.MediaType.IsIndex() {
			continue
		}
		if err := json.Unmarshal(index.Raw, &doc); err != nil {
			return nil, invalid(i.Path, "index %s: %w", index.Digest, err)
		}
		listed := map[string]Manifest{}
		for _, m := range doc.Manifests {
			if image, ok := known[m.Digest]; ok && image.MediaType.IsImage() && m.Annotations[ReferenceType] == "" {
				listed[m.Digest.String()] = image
			}
		}
		for _, m := range doc.Manifests {
			subject, ok := listed[m.Annotations[ReferenceDigest]]
			if !ok || m.Annotations[ReferenceType] != AttestationManifest {
				continue
			}
			var attestation document
			if err := json.Unmarshal(known[m.Digest].Raw, &attestation); err != nil {
				return nil, invalid(i.Path, "manifest %s: %w", m.Digest, err)
			}
			for _, layer := range attestation.Layers {
				if layer.MediaType == StatementType {
					found = append(found, Attestation{subject, layer.descriptor()})
				}
			}
		}
	}
	return found, nil
}

// ReadStatement reads a statement whole. One that is larger than a limit in bytes is an ImageInvalid, and so is a
// damaged one.
func (i *Image) ReadStatement(a Attestation, limit int64) ([]byte, error) {
	if a.Statement.Size > limit {
		return nil, invalid(
			i.Path, "the attestation %s has %d bytes, more than %d", a.Statement.Digest, a.Statement.Size, limit,
		)
	}
	content, err := i.Open(a.Statement)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}
