package publish_test

import (
	"encoding/json"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// The result tells the statements that are bills of materials, and no others; where there are none, there is none.
func TestDigestsOfSBOMs(t *testing.T) {
	t.Parallel()
	spdx := attestation.Predicate{Type: attestation.SPDX, Content: map[string]any{"spdxVersion": "SPDX-2.3"}}
	provenance := attestation.Predicate{Type: attestation.Provenance, Content: map[string]any{}}
	for name, test := range map[string]struct {
		said []attestation.Predicate
		want int
	}{
		"a provenance alone":     {[]attestation.Predicate{provenance}, 0},
		"an SBOM":                {[]attestation.Predicate{spdx, provenance}, 1},
		"an SBOM of stages, too": {[]attestation.Predicate{spdx, {Type: attestation.SPDX, Content: "other"}}, 2},
		"one of CycloneDX":       {[]attestation.Predicate{{Type: "https://cyclonedx.org/bom", Content: "x"}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 1, 100)
			w := built(t, image)
			raw := must[[]byte](t)(image.RawManifest())
			dir := imagelayout.Dir(w.Image())
			root := must[v1.Descriptor](t)(attestation.Attach(dir, v1.Descriptor{
				MediaType: "application/vnd.docker.distribution.manifest.v2+json", Size: int64(len(raw)),
				Digest: must[v1.Hash](t)(image.Digest()),
			}, test.said...))
			if err := dir.WriteIndex(root); err != nil {
				t.Fatal(err)
			}
			r := registrytest.New(t)
			results, _ := mustRun(t, to(r, w))
			var digests []string
			if text, there := results["sbom-digests"]; there != (test.want > 0) {
				t.Fatalf("the results are %v", results)
			} else if there {
				if err := json.Unmarshal([]byte(text), &digests); err != nil {
					t.Fatal(err)
				}
			}
			if len(digests) != test.want {
				t.Errorf("got %q, want %d", digests, test.want)
			}
		})
	}
}
