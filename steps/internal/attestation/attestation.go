// Package attestation makes what an image says of its own making: SLSA provenance, and lists of what is in it. Both are
// statements of in-toto in a manifest beside the image, in the form in which BuildKit attaches them, so that what reads
// the one reads the other. One build gives the same bytes each time: docs/platform/provenance.md says what they hold,
// and what they leave out for that.
package attestation

import (
	"bytes"
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// Types of what statements say.
const (
	Provenance = "https://slsa.dev/provenance/v1"
	SPDX       = "https://spdx.dev/Document"
)

// What the parameter sbom may be, besides none.
const (
	SBOMFinal = "final" // of what the image holds
	SBOMAll   = "all"   // of what the build used, too
)

// manifestType is the type of BuildKit's artifacts with attestations.
const manifestType = "application/vnd.docker.attestation.manifest.v1+json"

// Statement is a statement of in-toto about an image.
type Statement struct {
	Type          string    `json:"_type"`
	PredicateType string    `json:"predicateType"`
	Subject       []Subject `json:"subject"`
	Predicate     any       `json:"predicate"`
}

// Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // algorithm to hexadecimal
}

// About is the subject of statements about an image. It gets its name when it is published; in-toto has "_" for a name
// that says nothing.
func About(image v1.Hash) []Subject {
	return []Subject{{Name: "_", Digest: map[string]string{image.Algorithm: image.Hex}}}
}

// Attach puts statements beside the image of a layout, and returns the index of both, which is to be the layout's root.
// Each statement is a predicate and its type.
func Attach(layout imagelayout.Dir, image v1.Descriptor, predicates ...Predicate) (v1.Descriptor, error) {
	subject := v1.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: manifestType, Subject: &subject,
		Config: v1.Descriptor{MediaType: imagelayout.EmptyType, Data: []byte("{}")},
	}
	var err error
	if manifest.Config.Digest, manifest.Config.Size, err = layout.WriteJSON(struct{}{}); err != nil {
		return v1.Descriptor{}, err
	}
	for _, predicate := range predicates {
		layer := v1.Descriptor{
			MediaType:   imagelayout.StatementType,
			Annotations: map[string]string{imagelayout.PredicateType: predicate.Type},
		}
		if layer.Digest, layer.Size, err = write(layout, Statement{
			Type: imagelayout.InToto, PredicateType: predicate.Type,
			Subject: About(image.Digest), Predicate: predicate.Content,
		}); err != nil {
			return v1.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, layer)
	}
	attestations := v1.Descriptor{
		MediaType: manifest.MediaType, Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			imagelayout.ReferenceType:   imagelayout.AttestationManifest,
			imagelayout.ReferenceDigest: image.Digest.String(),
		},
	}
	if attestations.Digest, attestations.Size, err = layout.WriteJSON(manifest); err != nil {
		return v1.Descriptor{}, err
	}
	root := v1.Descriptor{MediaType: types.OCIImageIndex}
	image.Annotations = nil
	root.Digest, root.Size, err = layout.WriteJSON(v1.IndexManifest{
		SchemaVersion: 2, MediaType: root.MediaType, Manifests: []v1.Descriptor{image, attestations},
	})
	return root, err
}

// Predicate is what a statement says, with the URI of its type.
type Predicate struct {
	Type    string
	Content any
}

// write writes a statement as a blob. Characters such as < stay as they are: a list of packages has many.
func write(layout imagelayout.Dir, statement Statement) (v1.Hash, int64, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(statement); err != nil {
		return v1.Hash{}, 0, err
	}
	raw := bytes.TrimSpace(text.Bytes())
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return digest, size, err
	}
	return digest, size, layout.WriteBlob(digest, raw)
}
