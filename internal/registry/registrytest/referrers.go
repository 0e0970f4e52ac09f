package registrytest

import (
	"encoding/json"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Attach stores content of a media type as an artifact that refers to an image or index of a repository.
func (r *Registry) Attach(
	t testing.TB, repository string, subject partial.Describable, mediaType types.MediaType, content []byte,
) {
	t.Helper()
	held, err := mutate.AppendLayers(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mediaType),
		static.NewLayer(content, mediaType),
	)
	if err != nil {
		t.Fatal(err)
	}
	described, err := partial.Descriptor(subject)
	if err != nil {
		t.Fatal(err)
	}
	held = mutate.Subject(held, *described).(v1.Image)
	digest, err := held.Digest()
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, repository+"@"+digest.String(), held)
}

// Attached is the content of what refers to an image or index of a repository, by what the list under a tag says. The
// registry has no other list.
func (r *Registry) Attached(t testing.TB, repository string, subject v1.Hash) (all [][]byte) {
	t.Helper()
	var list v1.IndexManifest
	raw := r.Get(t, repository+":"+subject.Algorithm+"-"+subject.Hex).Manifest
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	for _, d := range list.Manifests {
		held, err := r.Get(t, repository+"@"+d.Digest.String()).Image()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := held.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, layer := range layers {
			content, err := layer.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			read, err := io.ReadAll(content)
			content.Close()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, read)
		}
	}
	return all
}
