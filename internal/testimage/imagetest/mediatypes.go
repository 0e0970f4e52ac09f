package imagetest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A Kind is an image in one of the forms in which registries have images.
type Kind struct {
	Name  string
	Image remote.Taggable
}

// Kinds are an image in all forms that base images come in: by Docker's media types and those of OCI, alone and in an
// index, and both mixed. The content is the same: they differ in their manifests only.
func Kinds(t testing.TB, image v1.Image) []Kind {
	t.Helper()
	of := func(manifest, config, layer types.MediaType) v1.Image {
		return retyped(t, image, manifest, config, layer)
	}
	docker := of(types.DockerManifestSchema2, types.DockerConfigJSON, types.DockerLayer)
	oci := of(types.OCIManifestSchema1, types.OCIConfigJSON, types.OCILayer)
	list := mutate.IndexMediaType(in(t, docker), types.DockerManifestList)
	return []Kind{
		{"OCI", oci},
		{"Docker", docker},
		{"Docker's list", list},
		{"OCI index", in(t, oci)},
		{"OCI index of Docker's", in(t, docker)},
		{"OCI manifest of Docker's layers", of(types.OCIManifestSchema1, types.OCIConfigJSON, types.DockerLayer)},
		{"OCI manifest of Docker's config", of(types.OCIManifestSchema1, types.DockerConfigJSON, types.OCILayer)},
		{"Docker manifest of OCI layers", of(types.DockerManifestSchema2, types.DockerConfigJSON, types.OCILayer)},
	}
}

// in is an index with that image for this machine's platform.
func in(t testing.TB, image v1.Image) v1.ImageIndex {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add:        image,
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}},
	})
}

// typed is a layer that is said to be of a media type.
type typed struct {
	v1.Layer
	mediaType types.MediaType
}

// MediaType implements v1.Layer.
func (l typed) MediaType() (types.MediaType, error) { return l.mediaType, nil }

// retyped is an image with other media types.
func retyped(t testing.TB, image v1.Image, manifest, config, layer types.MediaType) v1.Image {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	made := mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), config)
	for _, l := range layers {
		if made, err = mutate.Append(made, mutate.Addendum{Layer: typed{l, layer}, MediaType: layer}); err != nil {
			t.Fatal(err)
		}
	}
	if made, err = mutate.ConfigFile(made, file); err != nil {
		t.Fatal(err)
	}
	return mutate.ConfigMediaType(mutate.MediaType(made, manifest), config)
}

// What each media type of Docker's and of OCI's manifests may hold (Docker's Image Manifest V2, Schema 2; OCI image
// specification). A manifest of one has no descriptors of the other, and Docker's have no annotations.
var (
	dockerLayers = []types.MediaType{types.DockerLayer, types.DockerForeignLayer}
	ociLayers    = []types.MediaType{
		types.OCILayer, types.OCIUncompressedLayer, types.OCILayerZStd, types.OCIRestrictedLayer,
		types.OCIUncompressedRestrictedLayer, "application/vnd.in-toto+json",
	}
	documents = map[types.MediaType]struct {
		fields, descriptor        []string
		config, layers, manifests []types.MediaType
	}{
		types.DockerManifestSchema2: {
			[]string{"schemaVersion", "mediaType", "config", "layers"}, []string{"mediaType", "digest", "size", "urls"},
			[]types.MediaType{types.DockerConfigJSON}, dockerLayers, nil,
		},
		types.DockerManifestList: {
			[]string{"schemaVersion", "mediaType", "manifests"}, []string{"mediaType", "digest", "size", "platform"},
			nil, nil, []types.MediaType{types.DockerManifestSchema2},
		},
		types.OCIManifestSchema1: {
			[]string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"},
			ociDescriptor, []types.MediaType{types.OCIConfigJSON, "application/vnd.oci.empty.v1+json"}, ociLayers, nil,
		},
		types.OCIImageIndex: {
			[]string{"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"},
			ociDescriptor, nil, nil, []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex},
		},
	}
	ociDescriptor = []string{
		"mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform",
	}
)

// descriptor has what a strict registry looks at.
type descriptor struct {
	MediaType types.MediaType `json:"mediaType"`
	Digest    v1.Hash         `json:"digest"`
	Size      int64           `json:"size"`
}

// Strict returns what a strict registry refuses in the manifests of a layout: a media type or a field that does not
// belong where it is, a descriptor that says something else than the blob, a size or a digest that is not right.
func Strict(layout string) (faults []string) {
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return []string{err.Error()}
	}
	return document(layout, "index.json", types.OCIImageIndex, raw)
}

// document returns the faults of a manifest or an index, and of those that it names.
func document(layout, name string, said types.MediaType, raw []byte) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, name+": "+fmt.Sprintf(format, args...))
	}
	var fields map[string]json.RawMessage
	var content struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        json.RawMessage
		Layers        []json.RawMessage
		Manifests     []json.RawMessage
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return []string{name + ": " + err.Error()}
	}
	if err := json.Unmarshal(raw, &content); err != nil {
		return []string{name + ": " + err.Error()}
	}
	rules, ok := documents[said]
	if !ok || content.MediaType != said || content.SchemaVersion != 2 {
		fault("version %d of %q, which is said to be %q", content.SchemaVersion, content.MediaType, said)
		return faults
	}
	for field := range fields {
		if !slices.Contains(rules.fields, field) {
			fault("%s has no field %s", said, field)
		}
	}
	describe := func(where string, raw json.RawMessage, may []types.MediaType) {
		var fields map[string]json.RawMessage
		var d descriptor
		if err := json.Unmarshal(raw, &fields); err != nil {
			fault("%s: %v", where, err)
			return
		}
		if err := json.Unmarshal(raw, &d); err != nil {
			fault("%s: %v", where, err)
			return
		}
		for field := range fields {
			if !slices.Contains(rules.descriptor, field) {
				fault("%s: a descriptor in %s has no field %s", where, said, field)
			}
		}
		if !slices.Contains(may, d.MediaType) {
			fault("%s: %s names a %s", where, said, d.MediaType)
		}
		blob, err := os.ReadFile(filepath.Join(layout, "blobs", d.Digest.Algorithm, d.Digest.Hex))
		if err != nil {
			if where != "layers" { // of a base image, which need not be here
				fault("%s: %v", where, err)
			}
			return
		}
		if digest, size, err := v1.SHA256(strings.NewReader(string(blob))); err != nil || digest != d.Digest ||
			size != d.Size {
			fault("%s: %s of %d bytes is %s of %d", where, d.Digest, d.Size, digest, size)
		}
		if where == "manifests" {
			faults = append(faults, document(layout, d.Digest.String(), d.MediaType, blob)...)
		}
	}
	if content.Config != nil {
		describe("config", content.Config, rules.config)
	}
	for _, raw := range content.Layers {
		describe("layers", raw, rules.layers)
	}
	for _, raw := range content.Manifests {
		describe("manifests", raw, rules.manifests)
	}
	return faults
}
