package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/images/layouts"
)

// A result is an image that was built: an index of one image per platform.
type result struct {
	step    string
	digest  v1.Hash
	sizes   map[string]int64 // compressed bytes of manifest, configuration and layers, by architecture
	without []noToolchain    // why platforms are absent
}

// build makes the images of steps for architectures, each an OCI image layout in a folder of its own in dir.
func build(ctx context.Context, s source, images []image, architectures []string, dir string) ([]result, error) {
	scratch, err := os.MkdirTemp("", "stepwright-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	bundle, err := certificateBundle()
	if err != nil {
		return nil, err
	}
	system, err := layerOf(systemFiles(bundle))
	if err != nil {
		return nil, err
	}
	runcs := map[string]v1.Layer{}
	var without []noToolchain
	for _, architecture := range architectures {
		into := filepath.Join(scratch, architecture)
		if err := os.Mkdir(into, 0o755); err != nil {
			return nil, err
		}
		if err := compileSteps(ctx, s, images, architecture, into); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(images, func(img image) bool { return img.runc }) {
			continue
		}
		path := filepath.Join(into, "runc")
		err := compileRunc(ctx, s, architecture, path)
		if missing, ok := errors.AsType[noToolchain](err); ok {
			without = append(without, missing)
			continue
		}
		if err != nil {
			return nil, err
		}
		if runcs[architecture], err = layerOfProgram(path, nil); err != nil {
			return nil, err
		}
	}

	results := make([]result, len(images))
	group, ctx := errgroup.WithContext(ctx)
	for i, img := range images {
		group.Go(func() error {
			r := result{step: img.step, sizes: map[string]int64{}}
			index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
			for _, architecture := range architectures {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				layers := []v1.Layer{system}
				if img.runc {
					runc, ok := runcs[architecture]
					if !ok {
						r.without = without
						continue
					}
					layers = append(layers, runc)
				}
				if img.git {
					git, err := layerOfProgram(filepath.Join(scratch, architecture, gitStep), nil)
					if err != nil {
						return err
					}
					layers = append(layers, git)
				}
				binary, err := layerOfProgram(filepath.Join(scratch, architecture, img.step), img.capabilities)
				if err != nil {
					return err
				}
				platform, err := assemble(s, img, architecture, append(layers, binary))
				if err != nil {
					return err
				}
				size, err := sizeOf(platform)
				if err != nil {
					return err
				}
				if size > img.limit {
					return fmt.Errorf(
						"image %s for %s has %d bytes, and may have %d", img.step, architecture, size, img.limit,
					)
				}
				r.sizes[architecture] = size
				index = mutate.AppendManifests(index, mutate.IndexAddendum{
					Add:        platform,
					Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
				})
			}
			if len(r.sizes) == 0 {
				return fmt.Errorf("image %s would be for no platform: %w", img.step, r.without[0])
			}
			var err error
			if r.digest, err = index.Digest(); err != nil {
				return err
			}
			results[i] = r
			return writeLayout(filepath.Join(dir, img.step), index, s.version)
		})
	}
	return results, group.Wait()
}

func layerOfProgram(path string, capabilities []int) (v1.Layer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return layerOf(program(filepath.Base(path), content, capabilities))
}

// assemble makes an image of layers.
func assemble(s source, img image, architecture string, layers []v1.Layer) (v1.Image, error) {
	created := v1.Time{Time: s.time}
	assembled := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, layer := range layers {
		var err error
		assembled, err = mutate.Append(assembled, mutate.Addendum{Layer: layer, MediaType: types.OCILayer,
			History: v1.History{Created: created, CreatedBy: "stepwright/images"}})
		if err != nil {
			return nil, err
		}
	}
	config, err := assembled.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", architecture, created
	config.Config = img.config(s.labels(img.step))
	return mutate.ConfigFile(assembled, config)
}

// sizeOf is how many bytes a node fetches that has none of the image.
func sizeOf(img v1.Image) (int64, error) {
	size, err := img.Size()
	if err != nil {
		return 0, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return 0, err
	}
	size += manifest.Config.Size
	for _, layer := range manifest.Layers {
		size += layer.Size
	}
	return size, nil
}

// writeLayout writes a layout beside its folder and moves it there when it is whole.
func writeLayout(dir string, index v1.ImageIndex, version string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), ".unfinished-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	path, err := layout.Write(unfinished, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{layouts.RefName: version})); err != nil {
		return err
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(unfinished, dir)
}
