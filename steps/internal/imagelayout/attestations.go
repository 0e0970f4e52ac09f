package imagelayout

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

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
		if !index.MediaType.IsIndex() {
			continue
		}
		entries, err := i.listed(index)
		if err != nil {
			return nil, err
		}
		listed := map[string]Manifest{}
		for _, m := range entries {
			if image, ok := known[m.Digest]; ok && image.MediaType.IsImage() && m.Annotations[ReferenceType] == "" {
				listed[m.Digest.String()] = image
			}
		}
		for _, m := range entries {
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

// Images are the images of all platforms, without what is said about them: the manifests that indexes list as such, or
// the one manifest that there is.
func (i *Image) Images() ([]Manifest, error) {
	if !i.Root().MediaType.IsIndex() {
		return []Manifest{i.Root()}, nil
	}
	var images []Manifest
	known := map[string]Manifest{}
	for _, m := range i.Manifests {
		known[m.Digest.String()] = m
	}
	for _, index := range i.Manifests {
		if !index.MediaType.IsIndex() {
			continue
		}
		listed, err := i.listed(index)
		if err != nil {
			return nil, err
		}
		for _, m := range listed {
			image, ok := known[m.Digest.String()]
			if ok && image.MediaType.IsImage() && m.Annotations[ReferenceType] == "" &&
				!slices.ContainsFunc(images, func(other Manifest) bool { return other.Digest == image.Digest }) {
				images = append(images, image)
			}
		}
	}
	return images, nil
}

// listing is one of what an index lists.
type listing struct {
	Digest      v1.Hash           `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

func (i *Image) listed(index Manifest) ([]listing, error) {
	var doc struct {
		Manifests []listing `json:"manifests"`
	}
	if err := json.Unmarshal(index.Raw, &doc); err != nil {
		return nil, invalid(i.Path, "index %s: %w", index.Digest, err)
	}
	return doc.Manifests, nil
}

// bills are the types of what a bill of materials says, by their beginnings, and endings of files with it.
var bills = []struct{ predicate, ending string }{
	{"https://spdx.dev/Document", ".spdx.json"},
	{"https://cyclonedx.org/bom", ".cdx.json"},
}

// BillOfMaterials tells whether a statement is a bill of materials by the type of what it says, and how the name of a
// file with that ends.
func BillOfMaterials(predicateType string) (ending string, is bool) {
	for _, b := range bills {
		if strings.HasPrefix(predicateType, b.predicate) {
			return b.ending, true
		}
	}
	return "", false
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
