package buildpack

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// The cache travels as what the lifecycle itself calls a cache image: an OCI image whose layers are those that
// buildpacks keep for the next build, and whose label tells which is whose. In between, the lifecycle has it as a
// folder: metadata and <diff ID>.tar.
//
// The registry's repository is the component's own, and so is its cache: <registry>/<image-name>:cache. Its owner is
// in its label; one of another owner is not taken.
const (
	cacheMetadata = "io.buildpacks.lifecycle.cache.metadata" // the label, and the file
	committed     = "committed"                              // the folder of a finished cache
)

func (in Parameters) cacheReference() string {
	return strings.TrimSuffix(in.Registry, "/") + "/" + in.ImageName + ":" + workspace.CacheTag
}

// metadataLimit is how large a manifest or configuration of a cache may be, in bytes.
const metadataLimit = 4 << 20

// ownerShown is how much of a foreign owner is shown, in bytes.
const ownerShown = 200

// importCache takes a cache from a registry: as a layout, and unpacked for the lifecycle. Its owner must be this
// one. It returns how many layers it has.
func importCache(
	ctx context.Context, source registry.Source, env step.Environment, reference string, owner string, files fetched,
) (int, error) {
	var image registry.Image
	err := env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		image, err = source.Image(ctx, reference, platform)
		return err
	})
	if err != nil {
		return 0, err
	}
	var manifest v1.Manifest
	var config v1.ConfigFile
	if err := errors.Join(
		json.Unmarshal(image.Manifest, &manifest), json.Unmarshal(image.Config, &config),
	); err != nil {
		return 0, err
	}
	metadata := config.Config.Labels[cacheMetadata]
	if metadata == "" || len(metadata) > metadataLimit || len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return 0, errors.New("it is not a cache of buildpacks")
	}
	if of := config.Config.Labels[step.OwnerLabel]; of != owner {
		return 0, fmt.Errorf("its owner is %q, and not %q", quote.Line(of, ownerShown), owner)
	}
	into := files.unpacked()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, layer := range manifest.Layers {
		group.Go(func() error {
			return env.Retry.Do(ctx, func(ctx context.Context) error {
				content, err := source.Open(ctx, image.Reference, layer.Digest)
				if err != nil {
					return err
				}
				defer content.Close()
				return importLayer(
					content, layer, files.imported().Blob(layer.Digest), config.RootFS.DiffIDs[i], into,
				)
			})
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if err := errors.Join(
		files.imported().WriteBlob(manifest.Config.Digest, image.Config),
		files.imported().WriteBlob(image.Descriptor.Digest, image.Manifest),
		files.imported().WriteIndex(image.Descriptor),
	); err != nil {
		return 0, err
	}
	return len(manifest.Layers), os.WriteFile(filepath.Join(into, cacheMetadata), []byte(metadata), 0o644)
}

// importLayer writes a compressed layer as a blob, and unpacked as the lifecycle's file of its diff ID, which it must
// have.
func importLayer(content io.Reader, layer v1.Descriptor, blob string, diffID v1.Hash, into string) (err error) {
	if layer.MediaType != types.OCILayerZStd {
		return fmt.Errorf("layer %s is of type %s", layer.Digest, layer.MediaType)
	}
	if err := os.MkdirAll(filepath.Dir(blob), 0o755); err != nil {
		return err
	}
	packed, err := os.Create(blob)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	plain, err := os.Create(filepath.Join(into, diffID.String()+".tar"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	inner := sha256.New()
	compressed := io.TeeReader(content, packed)
	decoder, err := zstd.NewReader(compressed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer decoder.Close()
	if _, err := io.Copy(io.MultiWriter(plain, inner), decoder); err != nil {
		return fmt.Errorf("layer %s: %w", layer.Digest, err)
	}
	if _, err := io.Copy(io.Discard, compressed); err != nil { // to the end, where its digest is checked
		return err
	}
	if hex.EncodeToString(inner.Sum(nil)) != diffID.Hex {
		return fmt.Errorf("layer %s has another content than its cache says", layer.Digest)
	}
	return nil
}

// linkCache makes a folder that the lifecycle takes for its cache, with what was fetched: the lifecycle writes there,
// and so the layers are links to the fetched ones.
func (f fetched) linkCache(to string) error {
	into := filepath.Join(to, committed)
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.unpacked())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(f.unpacked(), e.Name()), filepath.Join(into, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// keepCache turns the exporter's cache folder into a layout in the workspace, which publish-image pushes. Layers that
// came from the last build's cache stay as they came.
func (s *sealing) keepCache(exported string) error {
	files := s.in.fetched()
	dir := filepath.Join(exported, committed)
	metadata, err := os.ReadFile(filepath.Join(dir, cacheMetadata))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing was to be kept
	}
	if err != nil {
		return err
	}
	unpacked, err := filepath.Glob(filepath.Join(dir, "sha256:*.tar"))
	if err != nil || len(unpacked) == 0 {
		return err
	}
	staged, err := workspace.Stage(s.in.Workspace.Cache())
	if err != nil {
		return err
	}
	defer os.RemoveAll(staged)
	layout := imagelayout.Dir(staged)
	known := files.importedLayers()
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON},
	}
	config := v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture,
		Config: v1.Config{Labels: map[string]string{cacheMetadata: strings.TrimSpace(string(metadata))}},
		RootFS: v1.RootFS{Type: "layers"},
	}
	if owner := s.in.Owner.Label(); owner != "" {
		config.Config.Labels[step.OwnerLabel] = owner
	}
	unchanged := 0
	for _, path := range unpacked {
		diffID, err := v1.NewHash(strings.TrimSuffix(filepath.Base(path), ".tar"))
		if err != nil {
			return err
		}
		layer, ok := known[diffID]
		if ok {
			unchanged++
			err = copyBlob(files.imported().Blob(layer.Digest), layout.Blob(layer.Digest))
		} else {
			layer, err = pack(path, diffID, layout)
		}
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	if manifest.Config.Digest, manifest.Config.Size, err = layout.WriteJSON(config); err != nil {
		return err
	}
	image := v1.Descriptor{MediaType: manifest.MediaType, Annotations: map[string]string{refName: workspace.CacheTag}}
	if image.Digest, image.Size, err = layout.WriteJSON(manifest); err != nil {
		return err
	}
	if err := layout.WriteIndex(image); err != nil {
		return err
	}
	if err := workspace.MakeReadable(string(layout)); err != nil {
		return err
	}
	s.env.Log.Info("Kept layers for the next build", "layers", len(manifest.Layers), "unchanged", unchanged)
	return workspace.Replace(string(layout), s.in.Workspace.Cache())
}

// importedLayers are the layers of the cache as it came, by their diff IDs.
func (f fetched) importedLayers() map[v1.Hash]v1.Descriptor {
	layers := map[v1.Hash]v1.Descriptor{}
	var index v1.IndexManifest
	if f.imported().ReadIndex(&index) != nil || len(index.Manifests) != 1 {
		return layers
	}
	var manifest v1.Manifest
	var config v1.ConfigFile
	if f.imported().ReadJSON(index.Manifests[0].Digest, &manifest) != nil ||
		f.imported().ReadJSON(manifest.Config.Digest, &config) != nil {
		return layers
	}
	for i, diffID := range config.RootFS.DiffIDs {
		layers[diffID] = manifest.Layers[i]
	}
	return layers
}

// copyBlob copies a blob, since what was fetched is on another volume.
func copyBlob(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// pack compresses a layer, which must have that diff ID, into a layout. The same layer gives the same blob.
func pack(path string, diffID v1.Hash, layout imagelayout.Dir) (layer v1.Descriptor, err error) {
	in, err := os.Open(path)
	if err != nil {
		return layer, err
	}
	defer in.Close()
	dir := filepath.Join(string(layout), "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return layer, err
	}
	file, err := os.CreateTemp(string(layout), ".layer-*")
	if err != nil {
		return layer, err
	}
	defer func() {
		err = errors.Join(err, file.Close())
		os.Remove(file.Name())
	}()
	hasher := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(file, hasher), 1<<18)
	encoder, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return layer, err
	}
	inner := sha256.New()
	if _, err := io.Copy(io.MultiWriter(encoder, inner), in); err != nil {
		return layer, err
	}
	if err := errors.Join(encoder.Close(), out.Flush()); err != nil {
		return layer, err
	}
	if got := hex.EncodeToString(inner.Sum(nil)); got != diffID.Hex {
		return layer, fmt.Errorf("the layer %s has the content sha256:%s", diffID, got)
	}
	layer = v1.Descriptor{
		MediaType: types.OCILayerZStd,
		Digest:    v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(hasher.Sum(nil))},
	}
	if layer.Size, err = file.Seek(0, io.SeekCurrent); err != nil {
		return layer, err
	}
	return layer, os.Rename(file.Name(), layout.Blob(layer.Digest))
}
