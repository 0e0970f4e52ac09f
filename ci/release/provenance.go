package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/stepwright/stepwright/images/layouts"
)

// statement is a statement of in-toto, version 1, about files and images.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     any       `json:"predicate"`
}

// predicate is SLSA's provenance, version 1 (https://slsa.dev/spec/v1.0/provenance), as far as it is used here. The
// types of in-toto's library are deprecated, and what replaces them writes other bytes each time.
type predicate struct {
	BuildDefinition buildDefinition `json:"buildDefinition"`
	RunDetails      runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	BuildType            string         `json:"buildType"`
	ExternalParameters   map[string]any `json:"externalParameters"`
	InternalParameters   map[string]any `json:"internalParameters"`
	ResolvedDependencies []resource     `json:"resolvedDependencies"`
}

type resource struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

type runDetails struct {
	Builder builder `json:"builder"`
}

type builder struct {
	ID string `json:"id"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Types of statements, and of what they say.
const (
	inToto         = "https://in-toto.io/Statement/v1"
	slsaProvenance = "https://slsa.dev/provenance/v1"
	spdxDocument   = "https://spdx.dev/Document"
)

// origin is SLSA's provenance of the files that SHA256SUMS has, of that file and of the images: of which commit they
// were made, and how to make them again.
func (r *release) origin(revision string) ([]byte, error) {
	raw, err := os.ReadFile(filepath.Join(r.out, sums))
	if err != nil {
		return nil, err
	}
	subjects := []subject{{sums, map[string]string{"sha256": sumOf(raw)}}}
	for line := range strings.Lines(string(raw)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		subjects = append(subjects, subject{name, map[string]string{"sha256": sum}})
	}
	digests, err := r.digests()
	if err != nil {
		return nil, err
	}
	for _, name := range imageNames() {
		sum := strings.TrimPrefix(digests[name], "sha256:")
		subjects = append(subjects, subject{home + "/" + name, map[string]string{"sha256": sum}})
	}
	raw, err = json.MarshalIndent(statement{
		Type: inToto, Subject: subjects, PredicateType: slsaProvenance, Predicate: r.definition(revision),
	}, "", "  ")
	return append(raw, '\n'), err
}

// definition says of which commit something of the release was made, and how. The revision is a commit's hash, and
// ends with -dirty where files differ from it.
func (r *release) definition(revision string) predicate {
	commit, _, _ := strings.Cut(revision, "-")
	return predicate{
		BuildDefinition: buildDefinition{
			BuildType: project + "/blob/main/CONTRIBUTING.md#a-release",
			ExternalParameters: map[string]any{
				"version": r.version, "revision": revision, "architectures": r.architectures, "systems": r.systems,
			},
			InternalParameters: map[string]any{"go": runtime.Version()},
			ResolvedDependencies: []resource{{
				URI: "git+" + project, Digest: map[string]string{"gitCommit": commit},
			}},
		},
		RunDetails: runDetails{Builder: builder{ID: builderID}},
	}
}

// builderID names who made a release, in its provenance.
const builderID = project + "/tree/main/ci/release"

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
	if len(manifest.Manifests) == 0 {
		return "", fmt.Errorf("the image of %s is for no platform", steps()[0])
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return "", err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	return config.Config.Labels["org.opencontainers.image.revision"], nil
}
