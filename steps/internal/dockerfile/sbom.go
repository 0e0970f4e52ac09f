package dockerfile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/attestation"
)

// checkScanner makes sure that there is a scanner where one is needed.
func (in Parameters) checkScanner() error {
	if in.scans() && in.SBOMScanner == "" {
		return outcome.Errorf(
			outcome.InvalidParameters, "sbom-scanner: sbom=%s needs an image that scans, and none is named", in.SBOM,
		).WithHint("Push images/sbom-scanner to a registry and name it by its digest (docs/platform/provenance.md), " +
			"or build with sbom=none.")
	}
	return nil
}

// scanStageArg is the build argument that has the scanner look at stages.
const scanStageArg = "BUILDKIT_SBOM_SCAN_STAGE"

// scans tells whether an SBOM is wanted.
func (in Parameters) scans() bool {
	return in.SBOM == attestation.SBOMFinal || in.SBOM == attestation.SBOMAll
}

// scan asks for a list of what the image holds: BuildKit runs the scanner on its file system.
func (in Parameters) scan(attrs map[string]string) {
	if !in.scans() {
		return
	}
	attrs["attest:sbom"] = "generator=" + in.SBOMScanner
	if in.SBOM == attestation.SBOMAll {
		attrs["build-arg:"+scanStageArg] = "true" // whatever the build says; see addScan
	}
}

// creatorOfBuildKit begins what BuildKit adds to the creators of a list: its version, which a daemon has another of.
const creatorOfBuildKit = "Tool: buildkit-"

// sealSBOM makes a list of packages speak of the image. Scanners put a clock and random texts into it, which go: one
// commit gives one digest.
func (l *layout) sealSBOM(statement []byte, image digest.Digest) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(statement))
	dec.UseNumber()
	var s map[string]any
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("SBOM: %w", err)
	}
	s["subject"] = attestation.About(v1.Hash{Algorithm: image.Algorithm().String(), Hex: image.Encoded()})
	document := child(s, "predicate")
	if document == nil {
		return nil, fmt.Errorf("SBOM: the scanner left no document of SPDX")
	}
	name, _ := document["name"].(string)
	if name == coreName {
		document["name"] = cmp.Or(l.known.image, name)
	}
	if creation := child(document, "creationInfo"); creation != nil {
		if l.dates.files != nil {
			creation["created"] = l.dates.image.UTC().Format(time.RFC3339)
		}
		creators, _ := creation["creators"].([]any)
		creation["creators"] = slices.DeleteFunc(creators, func(creator any) bool {
			text, _ := creator.(string)
			return strings.HasPrefix(text, creatorOfBuildKit)
		})
	}
	if l.dates.late {
		forgetLayers(document)
	}
	delete(document, "documentNamespace")
	raw, err := encode(document)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(raw, image...))
	document["documentNamespace"] = "https://stepwright.dev/spdx/" + hex.EncodeToString(sum[:])
	return encode(s)
}

// coreName is what BuildKit calls the file system of the image itself.
const coreName = "sbom"

// forgetLayers takes out what BuildKit says of the layers that files are in: the step has compressed them anew since.
func forgetLayers(document map[string]any) {
	files, _ := document["files"].([]any)
	for _, f := range files {
		if file, ok := f.(map[string]any); ok {
			if comment, _ := file["comment"].(string); strings.HasPrefix(comment, "layerID: ") {
				delete(file, "comment")
			}
		}
	}
}
