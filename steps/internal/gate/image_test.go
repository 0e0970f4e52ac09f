package gate_test

import (
	"context"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

type ctx = context.Context

var emptyIndex = empty.Index

// appended is an image of one layer on a base.
func appended(t *testing.T, base v1.Image) v1.Image {
	t.Helper()
	own, err := registrytest.RandomImage(t, 1, 300).Layers()
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, own...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func digest(t *testing.T, image v1.Image) v1.Hash {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func layers(t *testing.T, image v1.Image) (all []v1.Hash) {
	t.Helper()
	list, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return all
}
