// Package baselayer gets the layers that an image's layout lacks from the base images that it was built on.
package baselayer

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// Bases are the images that an image was built on, as the build step tells. Only they may have layers that its layout
// lacks: what the layout itself says of its base was written by strangers.
type Bases struct {
	Images []string // references with digests
	Source registry.Source

	of map[v1.Hash]string // the base image of each absent layer
}

// Find looks for the base image of each layer that the layout at a path lacks. It is an ImageInvalid when one is in no
// base image, or has another size there.
func (b *Bases) Find(ctx context.Context, path string, absent []v1.Descriptor, retry outcome.Retry) error {
	b.of = map[v1.Hash]string{}
	for _, base := range b.Images {
		if len(b.of) == len(absent) {
			return nil
		}
		var layers map[v1.Hash]int64
		if err := retry.Do(ctx, func(ctx context.Context) (err error) {
			layers, err = b.Source.Layers(ctx, base)
			return err
		}); err != nil {
			return err
		}
		for _, blob := range absent {
			size, listed := layers[blob.Digest]
			if !listed {
				continue
			}
			if size != blob.Size {
				return outcome.Errorf(
					outcome.ImageInvalid, "the image in %s: layer %s has %d bytes in the base image %s, and not %d",
					path, blob.Digest, size, base, blob.Size,
				)
			}
			b.of[blob.Digest] = base
		}
	}
	for _, blob := range absent {
		if b.of[blob.Digest] != "" {
			continue
		}
		if len(b.Images) == 0 {
			return outcome.Errorf(
				outcome.ImageInvalid,
				"the image in %s: layer %s is missing, and no base image is given that may have it", path, blob.Digest,
			).WithHint("Give base-images what the build step returned as its result of that name.")
		}
		return outcome.Errorf(
			outcome.ImageInvalid, "the image in %s: layer %s is missing, and none of its %d base images has it", path,
			blob.Digest, len(b.Images),
		)
	}
	return nil
}

// Open opens a layer that Find has found. Content that has another digest does not read to its end.
func (b *Bases) Open(ctx context.Context, layer v1.Hash) (io.ReadCloser, error) {
	base, found := b.of[layer]
	if !found {
		return nil, fmt.Errorf("no base image has %s", layer)
	}
	return b.Source.Open(ctx, base, layer)
}
