package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// The cache travels as an OCI image, <registry>/<image-name>:cache, which publish-image pushes. Its first layer is what
// BuildKit calls the configuration of a cache: which instruction on which input has which layers. The others are the
// layers that builds of this component made. Those of base images are not among them: they stay in their registries,
// and a label tells which. Its owner is in a label, too.
//
// The step holds the cache, and BuildKit, its own or a daemon, gets it by the session: the registry is reached in one
// way, and what arrives is checked here.

// cacheMetadataLabel is the label with a cacheMetadata.
const cacheMetadataLabel = "dev.stepwright.buildkit.cache"

// cacheMetadata is what the label of a cache tells.
type cacheMetadata struct {
	// Format is what format returned to the build that left it. A cache of another format is not taken.
	Format string `json:"format"`
	// Config describes BuildKit's configuration of the cache, the manifest's first layer.
	Config ocispec.Descriptor `json:"config"`
	// Layers are all layers that the configuration names.
	Layers []cacheLayer `json:"layers"`
	// Dated are those among them that an image by a daemon has, as the daemon knows them.
	Dated []datedLayer `json:"dated,omitempty"`
	// Outlines is what the build knew of files in them, which the next build's COPYs need.
	Outlines []buildkit.Outline `json:"outlines,omitempty"`
}

// cacheFormat changes with what decides on the bytes of a layer: one commit has one digest, with whatever cache.
const cacheFormat = "3"

// format tells caches apart whose layers would be other ones in this build. What a daemon's RUN has recorded of times
// is not what the step's own builder would.
func (in Parameters) format() string {
	format := cacheFormat + " " + in.compression().String()
	if in.BuildKitAddress != "" {
		format += " daemon 3"
	}
	if in.Timestamps == keptTimes {
		format += " " + keptTimes
	}
	return format
}

// cacheLayer is a layer that a cache names, with BuildKit's own annotations.
type cacheLayer struct {
	ocispec.Descriptor
	// From is the base image that has it, a reference with a digest. Empty: it is in the cache's own repository.
	From string `json:"from,omitempty"`
}

const (
	cacheDisabled = "disabled"

	configLimit   = 1 << 20 // bytes; BuildKit reads no larger one
	metadataLimit = 4 << 20 // bytes
	layersLimit   = 5_000
	ownerShown    = 200 // bytes of a foreign owner
)

// layerCache is the cache of the component, and what the registry had of it when the build began.
type layerCache struct {
	in    Parameters
	env   step.Environment
	own   registry.Source // where the component's images are
	bases registry.Source // where base images are

	taken *takenCache // nil: there is none to take

	mu      sync.Mutex
	present map[digest.Digest]bool // layers of the taken cache that were asked for, whether its repository has them

	broken error // why a layer of the taken cache could not be had by the last build; nil when none was lacking
	saved  bool  // whether the last build left a cache
}

// takenCache is a cache that a registry had.
type takenCache struct {
	reference string // repository@digest
	config    []byte // BuildKit's
	metadata  cacheMetadata
	layers    map[digest.Digest]cacheLayer
	dated     map[digest.Digest]datedLayer // by the daemon's digests, and by their own
}

// newLayerCache takes the component's cache from its registry, unless the parameters say otherwise. That there is none
// costs nothing but time. It returns nil when there is to be no cache.
func newLayerCache(
	ctx context.Context, in Parameters, credentials *registry.Credentials, env step.Environment,
) (*layerCache, error) {
	if in.Registry == "" || in.ImageName == "" || in.Cache == cacheDisabled || in.Owner.Label() == "" ||
		in.Timestamps == commitTimes { // its layers are of use to no other commit
		return nil, nil
	}
	c := &layerCache{in: in, env: env, present: map[digest.Digest]bool{}}
	var err error
	if c.own, c.bases, err = in.registries(credentials); err != nil || in.NoCache {
		return c, err
	}
	started := time.Now()
	reference := in.cacheReference(workspace.CacheTag)
	c.taken, err = c.take(ctx, reference)
	switch {
	case err == nil:
		env.Log.Info("Took the cache of the last build", "cache", reference, "layers", len(c.taken.layers), "took",
			time.Since(started))
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case registry.IsMissing(err):
		env.Log.Info("There is no cache yet", "cache", reference)
	default:
		env.Log.Warn("Building without the cache", "cache", reference, "error", err)
	}
	return c, nil
}

// registries are where the component's images are, and where base images are.
func (in Parameters) registries(credentials *registry.Credentials) (own, bases registry.Source, err error) {
	transport, err := trust.Transport(in.CABundle)
	if err != nil {
		return own, bases, err
	}
	own = registry.Source{Insecure: in.InsecureRegistries, Credentials: credentials, Transport: transport}
	if in.InsecurePlainHTTP {
		host, _, _ := strings.Cut(in.Registry, "/")
		own.Insecure = append(slices.Clone(in.InsecureRegistries), host)
	}
	return own, registry.Source{
		Mirrors: in.RegistryMirrors, Insecure: in.InsecureRegistries, Credentials: credentials, Transport: transport,
	}, nil
}

// cacheReference is a tag of the component's images.
func (in Parameters) cacheReference(tag string) string {
	return strings.TrimSuffix(in.Registry, "/") + "/" + in.ImageName + ":" + tag
}

// takeOwn fetches manifest and configuration of what a build of a component left. The component must be its owner.
func takeOwn(
	ctx context.Context, from registry.Source, reference string, owner step.Owner, retry outcome.Retry,
) (image registry.Image, manifest v1.Manifest, config v1.ConfigFile, err error) {
	platform := v1.Platform{OS: cacheOS, Architecture: cacheArchitecture}
	if err = retry.Do(ctx, func(ctx context.Context) (err error) {
		image, err = from.Image(ctx, reference, platform)
		return err
	}); err != nil {
		return image, manifest, config, err
	}
	err = errors.Join(json.Unmarshal(image.Manifest, &manifest), json.Unmarshal(image.Config, &config))
	if of := config.Config.Labels[step.OwnerLabel]; err == nil && of != owner.Label() {
		err = fmt.Errorf("its owner is %q, and not %q", quote.Line(of, ownerShown), owner.Label())
	}
	return image, manifest, config, err
}

// take fetches a cache, without its layers.
func (c *layerCache) take(ctx context.Context, reference string) (*takenCache, error) {
	image, manifest, config, err := takeOwn(ctx, c.own, reference, c.in.Owner, c.env.Retry)
	if err != nil {
		return nil, err
	}
	t := &takenCache{
		reference: image.Reference, layers: map[digest.Digest]cacheLayer{}, dated: map[digest.Digest]datedLayer{},
	}
	told := config.Config.Labels[cacheMetadataLabel]
	if told == "" || len(told) > metadataLimit || json.Unmarshal([]byte(told), &t.metadata) != nil {
		return nil, errors.New("it is not a cache of Dockerfile builds")
	}
	if t.metadata.Format != c.in.format() {
		return nil, fmt.Errorf("it is of another version: its format is %q, and not %q",
			quote.Line(t.metadata.Format, ownerShown), c.in.format())
	}
	if err := t.check(manifest); err != nil {
		return nil, err
	}
	t.config, err = readLayer(ctx, c.own, t.reference, manifest.Layers[0], c.env.Retry)
	return t, err
}

// readLayer fetches a small layer as a whole.
func readLayer(
	ctx context.Context, from registry.Source, reference string, layer v1.Descriptor, retry outcome.Retry,
) (raw []byte, err error) {
	err = retry.Do(ctx, func(ctx context.Context) error {
		content, err := from.Open(ctx, reference, layer.Digest)
		if err != nil {
			return err
		}
		defer content.Close()
		raw, err = io.ReadAll(io.LimitReader(content, layer.Size+1))
		return err
	})
	if err == nil && int64(len(raw)) != layer.Size {
		err = fmt.Errorf("its layer %s has another size than it says", layer.Digest)
	}
	return raw, err
}

// check wants a cache's metadata and manifest to tell the same.
func (t *takenCache) check(manifest v1.Manifest) error {
	if len(manifest.Layers) == 0 || manifest.Layers[0].Digest.String() != t.metadata.Config.Digest.String() ||
		manifest.Layers[0].Size != t.metadata.Config.Size || t.metadata.Config.Size > configLimit {
		return errors.New("it has no configuration of BuildKit's")
	}
	if len(t.metadata.Layers) > layersLimit {
		return fmt.Errorf("it names more than %d layers", layersLimit)
	}
	listed := map[string]int64{}
	for _, layer := range manifest.Layers[1:] {
		listed[layer.Digest.String()] = layer.Size
	}
	for _, layer := range t.metadata.Layers {
		if err := layer.Digest.Validate(); err != nil || layer.Digest.Algorithm() != digest.SHA256 || layer.Size <= 0 {
			return fmt.Errorf(
				"it names a layer %q of %d bytes", quote.Line(layer.Digest.String(), ownerShown), layer.Size,
			)
		}
		if layer.From == "" {
			if size, ok := listed[layer.Digest.String()]; !ok || size != layer.Size {
				return fmt.Errorf("its manifest does not list layer %s", layer.Digest)
			}
		} else if _, err := name.NewDigest(layer.From); err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
		t.layers[layer.Digest] = layer
	}
	for _, layer := range t.metadata.Dated {
		known, ok := t.layers[layer.Digest]
		if !ok || known.From != "" || known.Size != layer.Size || layer.Was.Validate() != nil ||
			layer.DiffID.Validate() != nil {
			return fmt.Errorf("it does not have layer %s of its image", quote.Line(layer.Digest.String(), ownerShown))
		}
		t.dated[layer.Was], t.dated[layer.Digest] = layer, layer
	}
	return nil
}

// The image of a cache runs nowhere. It says the same on every machine, so that any finds it.
const (
	cacheOS           = "linux"
	cacheArchitecture = "amd64"
)

// elsewhere tells whether publish-image finds a layer without the workspace: in the cache that was taken, or in a base
// image.
func (c *layerCache) elsewhere(ctx context.Context, blob digest.Digest) bool {
	if c == nil || c.taken == nil {
		return false
	}
	if dated, ok := c.taken.dated[blob]; ok {
		blob = dated.Digest
	}
	layer, known := c.taken.layers[blob]
	if !known || layer.From != "" {
		return known
	}
	c.mu.Lock()
	there, asked := c.present[blob]
	c.mu.Unlock()
	if asked {
		return there
	}
	there, err := c.own.Has(ctx, c.taken.reference, hash(blob))
	if err != nil {
		there = false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.present[blob] = there
	return there
}

// isWhole tells whether the registry has all layers of the taken cache. A daemon that misses a base image's layer in a
// cache cannot pull that image any more, for nobody, until it is started anew.
func (c *layerCache) isWhole(ctx context.Context) bool {
	var asking errgroup.Group
	asking.SetLimit(8)
	for blob := range c.taken.layers {
		asking.Go(func() error {
			if !c.elsewhere(ctx, blob) {
				return fs.ErrNotExist
			}
			return nil
		})
	}
	return asking.Wait() == nil
}

// dated are the layers of an earlier image by a daemon; nil: none is known.
func (c *layerCache) dated() map[digest.Digest]datedLayer {
	if c == nil || c.taken == nil {
		return nil
	}
	return c.taken.dated
}

// isDated tells whether publish-image finds what becomes of a daemon's layer without the workspace.
func (c *layerCache) isDated(ctx context.Context, blob digest.Digest) bool {
	_, known := c.dated()[blob]
	return known && c.elsewhere(ctx, blob)
}

// open opens a layer of the taken cache.
func (c *layerCache) open(ctx context.Context, layer cacheLayer) (io.ReadCloser, error) {
	source, reference := c.own, c.taken.reference
	if layer.From != "" {
		source, reference = c.bases, layer.From
	}
	var opened io.ReadCloser
	err := c.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		opened, err = source.Open(ctx, reference, hash(layer.Digest))
		return err
	})
	return opened, err
}

func hash(d digest.Digest) v1.Hash {
	return v1.Hash{Algorithm: d.Algorithm().String(), Hex: d.Encoded()}
}

// caching is a build that takes from the cache and leaves one.
type caching struct {
	*layerCache
	builder *buildkit.BuildKit
	image   *sparse   // the store of the image's layout
	staged  string    // folder in the workspace, which end removes
	into    string    // folder in it, of the layout of the new cache
	kept    *sparse   // its store
	taking  *fetching // the store of the taken cache; nil when there is none

	bases   sync.Once
	ofBases map[digest.Digest]string // layers of base images that the taken cache does not know
}

// prepare adds a cache to a build whose image goes into the store image. Its files are in the folder dir.
func (c *layerCache) prepare(
	ctx context.Context, builder *buildkit.BuildKit, image *sparse, dir string, options *client.SolveOpt,
	stores map[string]content.Store,
) (*caching, error) {
	s := &caching{layerCache: c, builder: builder, image: image}
	var err error
	if s.staged, err = workspace.Stage(c.in.Workspace.Cache()); err == nil {
		s.into = filepath.Join(s.staged, "cache")
		s.kept, err = newSparse(s.into, s.needless)
	}
	if err != nil { // a workspace without the folder; nothing is exported then
		s.into = ""
		c.env.Log.Warn("No cache is kept for the next build", "error", err)
	} else {
		stores["local:"+s.into] = s.kept
		export := maps.Clone(options.Exports[0].Attrs) // with its compression: a layer has one
		export["dest"], export["mode"] = s.into, c.in.Cache
		delete(export, "tar")
		export["ignore-error"] = "true" // a build without a cache is a build
		options.CacheExports = []client.CacheOptionsEntry{{Type: "local", Attrs: export}}
	}
	if c.taken == nil || c.in.late() && c.taken.isKnown(ctx, builder) {
		return s, nil
	}
	if c.in.late() && !c.isWhole(ctx) {
		c.env.Log.Warn("Building without the cache, of which a layer is lost", "cache", c.taken.reference)
		c.taken = nil
		return s, nil
	}
	from := filepath.Join(dir, "taken")
	if s.taking, err = newFetching(ctx, from, c.taken.layers, c.open); err != nil {
		return s, err
	}
	manifest, err := c.taken.manifest()
	if err != nil {
		return s, err
	}
	taken := imagelayout.Dir(from)
	if err := errors.Join(
		taken.WriteBlob(c.taken.metadata.Config.Digest, c.taken.config),
		taken.WriteBlob(digest.FromBytes(manifest), manifest),
	); err != nil {
		return s, err
	}
	stores["local:"+from] = s.taking
	options.CacheImports = []client.CacheOptionsEntry{{Type: "local", Attrs: map[string]string{
		"src": from, "digest": digest.FromBytes(manifest).String(),
	}}}
	return s, nil
}

// manifest is the cache's manifest as BuildKit has it: it knows no other base images than its own cache.
func (t *takenCache) manifest() ([]byte, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: t.metadata.Config}
	m.SchemaVersion = 2
	for _, layer := range t.metadata.Layers {
		m.Layers = append(m.Layers, layer.Descriptor)
	}
	return json.Marshal(m)
}

// needless tells whether the new cache need not have a layer: the registry has it, or the image, or a base image.
func (s *caching) needless(ctx context.Context, blob digest.Digest) bool {
	if s.image.has(ctx, blob) || s.elsewhere(ctx, blob) {
		return true
	}
	s.bases.Do(func() { s.findBases(ctx) })
	return s.ofBases[blob] != ""
}

// findBases looks for the layers of base images that the taken cache does not know. BuildKit exports the cache after
// the image, in whose provenance they are.
func (s *caching) findBases(ctx context.Context) {
	s.ofBases = map[digest.Digest]string{}
	known := map[string]bool{}
	if s.taken != nil {
		for _, layer := range s.taken.layers {
			known[layer.From] = true
		}
	}
	for _, base := range basesIn(ctx, s.image.Store, time.Time{}) {
		if known[base] {
			continue
		}
		known[base] = true
		layers, err := layersOf(ctx, s.builder, base)
		if err != nil {
			s.env.Log.Debug("Layers of a base image are kept in the cache", "image", base, "because", err)
		}
		for _, layer := range layers {
			s.ofBases[layer] = base
		}
	}
}

// keep turns what BuildKit exported as a cache into a layout in the workspace, which publish-image pushes. exported
// describes BuildKit's manifest; it is empty when there is nothing to be kept. outlines are a list of buildkit.Outline
// in JSON; it is empty when the builder tells of none. dated are the layers of the image, where a daemon has made it:
// the cache has them as the image has.
func (s *caching) keep(ctx context.Context, exported, outlines string, dated []datedLayer) error {
	s.saved = false
	if exported == "" {
		return nil
	}
	var desc ocispec.Descriptor
	if err := json.Unmarshal([]byte(exported), &desc); err != nil {
		return err
	}
	layout := imagelayout.Dir(s.into)
	var theirs ocispec.Manifest
	if err := layout.ReadJSON(desc.Digest, &theirs); err != nil {
		return err
	}
	if err := useDated(layout, &theirs, dated); err != nil {
		return err
	}
	metadata := cacheMetadata{Format: s.in.format(), Config: theirs.Config}
	if outlines != "" {
		if err := json.Unmarshal([]byte(outlines), &metadata.Outlines); err != nil {
			return err
		}
	}
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON},
		Layers:        []v1.Descriptor{inRegistry(theirs.Config)},
	}
	listed := map[digest.Digest]bool{}
	for _, d := range theirs.Layers {
		layer := cacheLayer{Descriptor: d}
		if !isOf(dated, d.Digest) {
			layer.From = s.baseOf(ctx, d.Digest)
		}
		metadata.Layers = append(metadata.Layers, layer)
		if layer.From == "" && !listed[d.Digest] {
			listed[d.Digest] = true
			manifest.Layers = append(manifest.Layers, inRegistry(d))
		}
	}
	for _, layer := range dated {
		if listed[layer.Digest] {
			metadata.Dated = append(metadata.Dated, layer)
		}
	}
	label, err := json.Marshal(metadata)
	if err != nil {
		return err
	}
	config := v1.ConfigFile{
		OS: cacheOS, Architecture: cacheArchitecture,
		Config: v1.Config{Labels: map[string]string{
			cacheMetadataLabel: string(label), step.OwnerLabel: s.in.Owner.Label(),
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
	if err := errors.Join(
		os.Remove(layout.Blob(desc.Digest)), os.RemoveAll(filepath.Join(s.into, "ingest")), layout.WriteIndex(root),
		workspace.MakeReadable(s.into),
	); err != nil {
		return err
	}
	absent := 0
	for layer := range listed {
		if _, err := os.Stat(layout.Blob(layer)); err != nil {
			absent++
		}
	}
	s.env.Log.Info("Kept layers for the next build", "layers", len(listed), "of them elsewhere", absent,
		"in base images", len(metadata.Layers)-len(listed))
	s.saved = true
	return workspace.Replace(s.into, s.in.Workspace.Cache())
}

// end lets go of the files, and notes whether the taken cache was what it said.
func (s *caching) end() error {
	if s.taking != nil {
		s.taking.close()
		s.broken = s.taking.broken()
	}
	return os.RemoveAll(s.staged)
}

// drop gives up the taken cache where a layer of it could not be had, and the build failed or could leave no cache
// because of that. It tells whether it did: the build is to be done once more.
func (c *layerCache) drop(ctx context.Context, failure error) bool {
	if c == nil || c.taken == nil || c.broken == nil || ctx.Err() != nil || failure == nil && c.saved {
		return false
	}
	c.env.Log.Warn("Building again without the cache, of which a layer cannot be had", "cache", c.taken.reference,
		"error", c.broken)
	c.taken, c.broken = nil, nil
	return true
}

// baseOf is the base image that has a layer, which then stays there. Empty: it is in the component's own repository. So
// are layers of base images that are the image's, too: there, no foreign registry is asked for them again.
func (s *caching) baseOf(ctx context.Context, layer digest.Digest) string {
	if s.image.has(ctx, layer) {
		return ""
	}
	if s.taken != nil {
		if known, ok := s.taken.layers[layer]; ok {
			return known.From
		}
	}
	return s.ofBases[layer]
}

// inRegistry describes a layer of a cache to a registry, to which BuildKit's annotations are of no use.
func inRegistry(d ocispec.Descriptor) v1.Descriptor {
	return v1.Descriptor{
		MediaType: types.MediaType(d.MediaType), Size: d.Size,
		Digest: v1.Hash{Algorithm: d.Digest.Algorithm().String(), Hex: d.Digest.Encoded()},
	}
}

// outlines are what the cache that was taken tells of files.
func (c *layerCache) outlines() []buildkit.Outline {
	if c == nil || c.taken == nil {
		return nil
	}
	return c.taken.metadata.Outlines
}

// images are the images in which publish-image looks for layers that the workspace lacks, besides base images: the
// cache that was taken.
func (c *layerCache) images() []string {
	if c == nil || c.taken == nil {
		return nil
	}
	return []string{c.taken.reference}
}
