package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"

	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/pkg/labels"
	cacheimporttypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// A daemon's layers are given their times and their compression in the layout (see dateLayers). The cache has the
// layers of the image only as the image has them, and tells which layers of the daemon they were: where the daemon has
// a layer again, the layer is neither sent nor dated again, and the registry has it already.

// datedLayer is a layer of an image that a daemon has made.
type datedLayer struct {
	ocispec.Descriptor               // type, digest and size
	DiffID             digest.Digest `json:"diffID"`
	Was                digest.Digest `json:"was"` // as the daemon has it; a base image's layer stays as it is
}

// isKnown tells whether a daemon has all layers that earlier builds made, and so knows itself what the cache knows. It
// is not to take the cache then: BuildKit would fetch the layers that became others.
func (t *takenCache) isKnown(ctx context.Context, daemon *buildkit.BuildKit) bool {
	store := proxy.NewContentStore(daemon.ContentClient())
	for _, layer := range t.metadata.Layers {
		blobs := []digest.Digest{layer.Digest}
		if dated, ok := t.dated[layer.Digest]; ok {
			if blobs = append(blobs, dated.Was); dated.Was == layer.Digest {
				continue // a base image's
			}
		}
		if layer.From == "" && !slices.ContainsFunc(blobs, func(blob digest.Digest) bool {
			_, err := store.Info(ctx, blob)
			return err == nil
		}) {
			return false
		}
	}
	return true
}

// isOf tells whether the image has a layer.
func isOf(layers []datedLayer, blob digest.Digest) bool {
	return slices.ContainsFunc(layers, func(l datedLayer) bool { return l.Digest == blob })
}

// useDated puts the layers of an image in the place of those that they were for the daemon, in a cache that the daemon
// has exported into a layout. manifest is the manifest of the cache.
func useDated(layout imagelayout.Dir, manifest *ocispec.Manifest, dated []datedLayer) error {
	now := map[digest.Digest]datedLayer{}
	for _, layer := range dated {
		if layer.Was != layer.Digest {
			now[layer.Was] = layer
		}
	}
	if len(now) == 0 {
		return nil
	}
	for i, desc := range manifest.Layers {
		if layer, ok := now[desc.Digest]; ok {
			manifest.Layers[i].MediaType, manifest.Layers[i].Digest = layer.MediaType, layer.Digest
			manifest.Layers[i].Size = layer.Size
			if _, told := desc.Annotations[labels.LabelUncompressed]; told {
				manifest.Layers[i].Annotations[labels.LabelUncompressed] = layer.DiffID.String()
			}
		}
	}
	var config cacheimporttypes.CacheConfig
	if err := layout.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return err
	}
	for i, l := range config.Layers {
		if layer, ok := now[l.Blob]; ok {
			config.Layers[i].Blob = layer.Digest
			if told := l.Annotations; told != nil {
				told.MediaType, told.DiffID, told.Size = layer.MediaType, layer.DiffID, layer.Size
			}
		}
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return err
	}
	old := manifest.Config.Digest
	manifest.Config.Digest, manifest.Config.Size = digest.FromBytes(raw), int64(len(raw))
	err = layout.ReplaceBlob(old, manifest.Config.Digest, raw)
	for _, layer := range now { // a layer that was sent with the cache before
		if gone := os.Remove(layout.Blob(layer.Was)); !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
