package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
)

// beside are the base images that the registry has which the image goes to, or a mirror there. publish-image has the
// registry mount their layers, so that the workspace need not have them. Layers of other registries it would have to
// fetch, from where a developer says: those are in the workspace.
type beside struct {
	builder *buildkit.BuildKit // of the process's own
	host    string             // of the registry; empty: none is known
	mirrors []registry.Mirror
	began   time.Time // when the build did, of which the base images are

	once sync.Once
	has  map[digest.Digest]bool
}

// beside finds base images of a build that begins now.
func (b *build) beside(builder *buildkit.BuildKit) *beside {
	host, _, _ := strings.Cut(b.in.Registry, "/")
	return &beside{builder: builder, host: host, mirrors: b.in.RegistryMirrors, began: time.Now()}
}

// layer tells whether a blob is a layer of these base images. The builder asks it when it exports an image: it has
// noted by then which base images it took.
func (b *beside) layer(ctx context.Context, blob digest.Digest) bool {
	if b.host == "" {
		return false
	}
	b.once.Do(func() {
		b.has = map[digest.Digest]bool{}
		for _, base := range basesIn(ctx, proxy.NewContentStore(b.builder.ContentClient()), b.began) {
			if !b.near(base) {
				continue
			}
			layers, err := layersOf(ctx, b.builder, base)
			if err != nil {
				continue // they are in the workspace then
			}
			for _, layer := range layers {
				b.has[layer] = true
			}
		}
	})
	return b.has[blob]
}

// near tells whether a base image is in the registry, or comes from a mirror there.
func (b *beside) near(base string) bool {
	at, err := name.NewDigest(base)
	if err != nil {
		return false
	}
	host := at.RegistryStr()
	if registry.Name(host) == registry.Name(b.host) {
		return true
	}
	for _, mirror := range registry.MirrorsOf(host, b.mirrors) {
		if at, _, _ := strings.Cut(mirror, "/"); at == b.host {
			return true
		}
	}
	return false
}

// basesIn returns the base images that provenance names which is in a store and not older than a time. It does what it
// can.
func basesIn(ctx context.Context, store content.Store, since time.Time) (bases []string) {
	var found []ocispec.Descriptor
	store.Walk(ctx, func(info content.Info) error {
		if info.Size <= metadataLimit && !info.CreatedAt.Before(since) {
			found = append(found, ocispec.Descriptor{Digest: info.Digest, Size: info.Size})
		}
		return nil
	})
	for _, desc := range found {
		if !isObject(ctx, store, desc) {
			continue // most often a layer
		}
		raw, err := content.ReadBlob(ctx, store, desc)
		var statement struct {
			Type string `json:"predicateType"`
		}
		if err != nil || json.Unmarshal(raw, &statement) != nil || statement.Type != attestation.Provenance {
			continue
		}
		if named, err := baseImages(raw); err == nil {
			bases = append(bases, named...)
		}
	}
	return bases
}

// isObject tells whether a blob begins as an object of JSON does.
func isObject(ctx context.Context, store content.Store, desc ocispec.Descriptor) bool {
	reader, err := store.ReaderAt(ctx, desc)
	if err != nil {
		return false
	}
	defer reader.Close()
	first := make([]byte, 1)
	_, err = reader.ReadAt(first, 0)
	return err == nil && first[0] == '{'
}

// layersOf lists the layers of a base image for all platforms whose manifests the builder has: it has just pulled them.
func layersOf(ctx context.Context, builder *buildkit.BuildKit, base string) ([]digest.Digest, error) {
	at, err := name.NewDigest(base)
	if err != nil {
		return nil, err
	}
	pulled := proxy.NewContentStore(builder.ContentClient())
	read := func(desc ocispec.Descriptor, into any) error {
		info, err := pulled.Info(ctx, desc.Digest)
		if err != nil {
			return err
		}
		if info.Size > metadataLimit {
			return fmt.Errorf("manifest %s has %d bytes", desc.Digest, info.Size)
		}
		raw, err := content.ReadBlob(ctx, pulled, ocispec.Descriptor{Digest: desc.Digest, Size: info.Size})
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, into)
	}
	var top struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := read(ocispec.Descriptor{Digest: digest.Digest(at.DigestStr())}, &top); err != nil {
		return nil, err
	}
	for _, image := range top.Manifests[:min(len(top.Manifests), layersLimit)] {
		var manifest ocispec.Manifest
		if read(image, &manifest) == nil {
			top.Layers = append(top.Layers, manifest.Layers...)
		}
	}
	var layers []digest.Digest
	for _, layer := range top.Layers {
		layers = append(layers, layer.Digest)
	}
	return layers, nil
}
