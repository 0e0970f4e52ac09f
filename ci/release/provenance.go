package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	slsa "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"

	"github.com/stepwright/stepwright/images/layouts"
)

// statement is a statement of in-toto, version 1, about files and images.
type statement struct {
	Type          string                   `json:"_type"`
	Subject       []subject                `json:"subject"`
	PredicateType string                   `json:"predicateType"`
	Predicate     slsa.ProvenancePredicate `json:"predicate"`
}

type subject struct {
	Name   string           `json:"name"`
	Digest common.DigestSet `json:"digest"`
}

// origin is SLSA's provenance of the files that SHA256SUMS has, of that file and of the images: of which commit they
// were made, and how to make them again. It is not signed.
func (r *release) origin(revision string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(r.out, sums))
	if err != nil {
		return nil, err
	}
	subjects := []subject{{sums, common.DigestSet{"sha256": sumOf(raw)}}}
	for line := range strings.Lines(string(raw)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		subjects = append(subjects, subject{name, common.DigestSet{"sha256": sum}})
	}
	digests, err := r.digests()
	if err != nil {
		return nil, err
	}
	for _, step := range steps() {
		sum := strings.TrimPrefix(digests[step], "sha256:")
		subjects = append(subjects, subject{home + "/" + step, common.DigestSet{"sha256": sum}})
	}
	commit, _, _ := strings.Cut(revision, "-") // -dirty, where files differ from it
	raw, err = json.MarshalIndent(statement{
		Type: "https://in-toto.io/Statement/v1", Subject: subjects, PredicateType: slsa.PredicateSLSAProvenance,
		Predicate: slsa.ProvenancePredicate{
			BuildDefinition: slsa.ProvenanceBuildDefinition{
				BuildType: project + "/blob/main/CONTRIBUTING.md#a-release",
				ExternalParameters: map[string]any{
					"version": r.version, "revision": revision, "architectures": r.architectures, "systems": r.systems,
				},
				InternalParameters: map[string]any{"go": runtime.Version()},
				ResolvedDependencies: []slsa.ResourceDescriptor{{
					URI: "git+" + project, Digest: common.DigestSet{"gitCommit": commit},
				}},
			},
			RunDetails: slsa.ProvenanceRunDetails{Builder: slsa.Builder{ID: project + "/tree/main/ci/release"}},
		},
	}, "", "  ")
	return append(raw, '\n'), err
}

// project is where the source is published.
const project = "https://github.com/stepwright/stepwright"

// revision is the commit that the images are of, as they tell it themselves.
func (r *release) revision() (string, error) {
	index, _, err := layouts.Index(filepath.Join(r.out, imagesDir, steps()[0]))
	if err != nil {
		return "", err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", err
	}
	for _, platform := range manifest.Manifests {
		img, err := index.Image(platform.Digest)
		if err != nil {
			return "", err
		}
		config, err := img.ConfigFile()
		if err != nil {
			return "", err
		}
		return config.Config.Labels["org.opencontainers.image.revision"], nil
	}
	return "", fmt.Errorf("the image of %s is for no platform", steps()[0])
}
