package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/cachemount"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// What cache mounts hold travels as an OCI image, too, <registry>/<image-name>:cache-mounts, beside the cache of layers
// and in the same way. Its first layer is a cachemount.Index, the others are the blobs that the index lists. The
// builder fills a mount when a RUN sees it, and packs it at the end; it gets blobs and leaves them by the session.

// mountsFormatLabel is the label with the cachemount.Format of mounts.
const mountsFormatLabel = "dev.stepwright.buildkit.cache-mounts"

// Media types of what mounts are made of.
const (
	mountsIndexType types.MediaType = "application/vnd.stepwright.cache-mounts.index.v1+json"
	mountsBlobType  types.MediaType = "application/vnd.stepwright.cache-mounts.blob.v1+zstd"
)

// mountCache is what earlier builds of the component left of their cache mounts.
type mountCache struct {
	in    Parameters
	env   step.Environment
	own   registry.Source
	limit int64 // bytes

	reference string // repository@digest of what was taken; empty: nothing was
	index     cachemount.Index
	raw       []byte // the index as it was taken
}

// mountLimit is the parameter cache-mount-limit in bytes; 0: no mount is kept.
func (in Parameters) mountLimit() (int64, error) {
	if in.CacheMountLimit == "" || in.CacheMountLimit == cacheDisabled {
		return 0, nil
	}
	number, shift := in.CacheMountLimit, 0
	for i, unit := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if cut, ok := strings.CutSuffix(number, unit); ok {
			number, shift = cut, 10*(i+1)
		}
	}
	value, err := strconv.ParseInt(number, 10, 64)
	if err == nil && value > 1<<50>>shift {
		err = strconv.ErrRange
	}
	if err != nil || value < 0 {
		return 0, outcome.Errorf(outcome.InvalidParameters, "cache-mount-limit: %q: %w", in.CacheMountLimit, err)
	}
	return value << shift, nil
}

// hasCacheMounts tells whether the Dockerfile may name a cache mount. What arguments make of a mount is not known here.
func (s *source) hasCacheMounts() bool {
	has := func(command instructions.Command) bool {
		run, ok := command.(*instructions.RunCommand)
		return ok && strings.Contains(run.String(), "--mount=") && strings.Contains(run.String(), "cache")
	}
	for i, stage := range s.stages {
		if slices.ContainsFunc(stage.Commands, has) || slices.ContainsFunc(s.triggers[i], has) {
			return true
		}
	}
	return false
}

// newMountCache takes what earlier builds left, without the contents. That there is nothing costs nothing but time. It
// returns nil when no mount is to be kept.
func newMountCache(
	ctx context.Context, in Parameters, src *source, credentials *registry.Credentials, env step.Environment,
) (*mountCache, error) {
	limit, err := in.mountLimit()
	if err != nil {
		return nil, err
	}
	if limit == 0 || in.Registry == "" || in.ImageName == "" || in.Owner.Label() == "" || !src.hasCacheMounts() {
		return nil, nil
	}
	if in.BuildKitAddress != "" {
		env.Log.Info("Cache mounts stay in the BuildKit daemon: none is kept in the registry")
		return nil, nil
	}
	c := &mountCache{in: in, env: env, limit: limit}
	if c.own, _, err = in.registries(credentials); err != nil || in.NoCache {
		return c, err
	}
	started := time.Now()
	reference := in.cacheReference(workspace.CacheMountsTag)
	err = c.take(ctx, reference)
	switch {
	case err == nil:
		env.Log.Info("Took the list of cache mounts of the last build", "cache", reference, "mounts",
			len(c.index.Mounts), "took", time.Since(started))
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case registry.IsMissing(err):
		env.Log.Info("There are no cache mounts yet", "cache", reference)
	default:
		env.Log.Warn("Building with empty cache mounts", "cache", reference, "error", err)
	}
	return c, nil
}

// take fetches the index. Its owner must be this component.
func (c *mountCache) take(ctx context.Context, reference string) error {
	image, manifest, config, err := takeOwn(ctx, c.own, reference, c.in.Owner, c.env.Retry)
	if err != nil {
		return err
	}
	if format, ok := config.Config.Labels[mountsFormatLabel]; !ok {
		return errors.New("it is nothing that cache mounts left")
	} else if format != cachemount.Format {
		return fmt.Errorf("it is of another version: its format is %q, and not %q",
			quote.Line(format, ownerShown), cachemount.Format)
	}
	if len(manifest.Layers) == 0 || manifest.Layers[0].Size > cachemount.MostIndex {
		return errors.New("it has no index")
	}
	raw, err := readLayer(ctx, c.own, image.Reference, manifest.Layers[0], c.env.Retry)
	if err != nil {
		return err
	}
	var index cachemount.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return err
	}
	if err := index.Check(); err != nil {
		return err
	}
	c.reference, c.index, c.raw = image.Reference, index, raw
	return nil
}

// config is what the builder is to do with cache mounts.
func (c *mountCache) config() *buildkit.Mounts {
	if c == nil {
		return nil
	}
	m := &buildkit.Mounts{Limit: c.limit, Namespace: c.in.Owner.Label()}
	if c.reference != "" {
		m.Index = ocispec.Descriptor{Digest: digest.FromBytes(c.raw), Size: int64(len(c.raw))}
	}
	return m
}

// keeping is a build whose cache mounts are kept.
type keeping struct {
	*mountCache
	staged string // folder in the workspace, which end removes
	into   string // folder in it, of the layout of what is kept
	taking *fetching
}

// prepare adds stores for cache mounts to a build. Files that were taken go into the folder dir.
func (c *mountCache) prepare(ctx context.Context, dir string, stores map[string]content.Store) (*keeping, error) {
	k := &keeping{mountCache: c}
	layers := map[digest.Digest]cacheLayer{}
	for _, m := range c.index.Mounts {
		for _, b := range m.Blobs() {
			layers[b.Digest] = cacheLayer{Descriptor: ocispec.Descriptor{Digest: b.Digest, Size: b.Size}}
		}
	}
	var err error
	from := filepath.Join(dir, "mounts")
	if k.taking, err = newFetching(ctx, from, layers, c.open); err != nil {
		return k, err
	}
	if c.raw != nil {
		if err := imagelayout.Dir(from).WriteBlob(digest.FromBytes(c.raw), c.raw); err != nil {
			return k, err
		}
	}
	stores[buildkit.TakenMounts] = k.taking
	if k.staged, err = workspace.Stage(c.in.Workspace.Cache()); err != nil {
		return k, err
	}
	k.into = filepath.Join(k.staged, "mounts")
	kept, err := newSparse(k.into, nowhere)
	if err == nil {
		stores[buildkit.KeptMounts] = kept
	}
	return k, err
}

// open opens a blob that was taken.
func (c *mountCache) open(ctx context.Context, blob cacheLayer) (io.ReadCloser, error) {
	var opened io.ReadCloser
	err := c.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		opened, err = c.own.Open(ctx, c.reference, hash(blob.Digest))
		return err
	})
	return opened, err
}

// keep turns what the builder packed into a layout in the workspace, which publish-image pushes. It lacks what the
// registry has. described is the descriptor of the builder's index; it is empty when no RUN has seen a mount.
func (k *keeping) keep(ctx context.Context, described string) error {
	if described == "" {
		return nil
	}
	var at ocispec.Descriptor
	if err := json.Unmarshal([]byte(described), &at); err != nil {
		return err
	}
	if k.raw != nil && at.Digest == digest.FromBytes(k.raw) {
		k.env.Log.Info("Cache mounts are as they were")
		return nil
	}
	layout := imagelayout.Dir(k.into)
	var index cachemount.Index
	if err := layout.ReadJSON(at.Digest, &index); err != nil {
		return err
	}
	index, lost := k.present(ctx, layout, index)
	for _, m := range lost {
		k.env.Log.Warn("The registry has lost what a cache mount held", "mount", quote.Line(m.Key.String(), ownerShown))
	}
	var sent, whole int64
	manifest := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: v1.Descriptor{MediaType: types.OCIConfigJSON},
		Layers: []v1.Descriptor{{MediaType: mountsIndexType}},
	}
	listed := map[digest.Digest]bool{}
	for _, m := range index.Mounts {
		for _, b := range m.Blobs() {
			if listed[b.Digest] {
				continue
			}
			listed[b.Digest] = true
			manifest.Layers = append(manifest.Layers, v1.Descriptor{
				MediaType: mountsBlobType, Size: b.Size, Digest: hash(b.Digest),
			})
			whole += b.Size
			if _, err := os.Stat(layout.Blob(b.Digest)); err == nil {
				sent += b.Size
			}
		}
	}
	if err := k.write(layout, index, manifest, listed); err != nil {
		return err
	}
	k.env.Log.Info("Kept cache mounts for the next build", "mounts", len(index.Mounts), "bytes", whole, "of them new",
		sent)
	if err := os.MkdirAll(k.in.Workspace.Cache(), 0o755); err != nil {
		return err
	}
	return workspace.Replace(k.into, k.in.Workspace.CacheMounts())
}

// write completes the layout, and removes what is not in it: the blobs of a mount that was too large.
func (k *keeping) write(
	layout imagelayout.Dir, index cachemount.Index, manifest v1.Manifest, listed map[digest.Digest]bool,
) (err error) {
	left, err := os.ReadDir(filepath.Dir(layout.Blob(digest.FromString(""))))
	if err != nil {
		return err
	}
	for _, blob := range left {
		if d := digest.NewDigestFromEncoded(digest.SHA256, blob.Name()); !listed[d] {
			if err := os.Remove(layout.Blob(d)); err != nil {
				return err
			}
		}
	}
	if manifest.Layers[0].Digest, manifest.Layers[0].Size, err = layout.WriteJSON(index); err != nil {
		return err
	}
	config := v1.ConfigFile{
		OS: cacheOS, Architecture: cacheArchitecture,
		Config: v1.Config{Labels: map[string]string{
			mountsFormatLabel: cachemount.Format, step.OwnerLabel: k.in.Owner.Label(),
		}},
		RootFS: v1.RootFS{Type: "layers"},
	}
	if manifest.Config.Digest, manifest.Config.Size, err = layout.WriteJSON(config); err != nil {
		return err
	}
	root := v1.Descriptor{MediaType: manifest.MediaType}
	if root.Digest, root.Size, err = layout.WriteJSON(manifest); err != nil {
		return err
	}
	return errors.Join(
		os.RemoveAll(filepath.Join(k.into, "ingest")), layout.WriteIndex(root), workspace.MakeReadable(k.into),
	)
}

// present leaves the mounts whose blobs are in the layout or in the registry, and tells which are not.
func (k *keeping) present(
	ctx context.Context, layout imagelayout.Dir, index cachemount.Index,
) (there cachemount.Index, lost []cachemount.Mount) {
	absent := make([]atomic.Bool, len(index.Mounts))
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for i, m := range index.Mounts {
		for _, b := range m.Blobs() {
			if _, err := os.Stat(layout.Blob(b.Digest)); err == nil {
				continue
			}
			group.Go(func() error {
				// What cannot be known is publish-image's to find out.
				if has, err := k.own.Has(inside, k.reference, hash(b.Digest)); err == nil && !has {
					absent[i].Store(true)
				}
				return nil
			})
		}
	}
	group.Wait()
	there.Format = index.Format
	for i, m := range index.Mounts {
		if absent[i].Load() {
			lost = append(lost, m)
		} else {
			there.Mounts = append(there.Mounts, m)
		}
	}
	return there, lost
}

// end lets go of the files.
func (k *keeping) end() error {
	if k.taking != nil {
		k.taking.close()
	}
	if k.staged == "" {
		return nil
	}
	return os.RemoveAll(k.staged)
}
