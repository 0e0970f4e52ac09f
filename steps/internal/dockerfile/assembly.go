package dockerfile

import (
	"bytes"
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
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// assembly puts an image together of what one or several builders make.
type assembly struct {
	in     Parameters
	env    step.Environment
	verify func() error // that the source is what it must be
	parts  []*build     // at least one
	times  *timeline
}

// begin makes the builders ready, all at once.
func (a *assembly) begin(ctx context.Context) error {
	var beginning errgroup.Group
	for _, b := range a.parts {
		beginning.Go(func() (err error) {
			if b.builder, err = b.begin(ctx); err != nil || b.builder.Platform == nil {
				return err
			}
			return b.source.setEnvironment(b.in, *b.builder.Platform)
		})
	}
	return beginning.Wait()
}

// close ends the builders.
func (a *assembly) close() {
	tidied := false
	for _, b := range a.parts {
		if b.builder == nil {
			continue
		}
		if !tidied {
			a.env.Tidy()
			tidied = true
		}
		if err := b.builder.Close(); err != nil {
			a.env.Log.Warn("The builder did not end well", "error", err)
		}
	}
}

// drop gives up caches of which a layer could not be had, and tells whether the build is to be done once more.
func (a *assembly) drop(ctx context.Context, failure error) bool {
	dropped := false
	for _, b := range a.parts {
		dropped = b.cache.drop(ctx, failure) || dropped
	}
	return dropped
}

// cached are the caches that were taken; never nil.
func (a *assembly) cached() []string {
	all := []string{}
	for _, b := range a.parts {
		all = append(all, b.cache.images()...)
	}
	return all
}

// solve builds once, and returns the image that is in the workspace then.
func (a *assembly) solve(ctx context.Context) (sealed, error) {
	started := time.Now()
	dir, err := workspace.Stage(a.in.Workspace.Image())
	if err != nil {
		return sealed{}, err
	}
	defer os.RemoveAll(dir)
	layouts, built := make([]string, len(a.parts)), make([]sealed, len(a.parts))
	makings := make([]*making, len(a.parts))
	defer func() {
		for _, m := range makings {
			if m != nil {
				m.end()
			}
		}
	}()
	building, solving := errgroup.WithContext(ctx)
	for i, b := range a.parts {
		at := dir
		if len(a.parts) > 1 {
			at = filepath.Join(dir, strconv.Itoa(i))
			if err := os.Mkdir(at, 0o755); err != nil {
				return sealed{}, err
			}
		}
		building.Go(func() (err error) {
			layouts[i], built[i], makings[i], err = b.solve(solving, at)
			return err
		})
	}
	if err := building.Wait(); err != nil {
		return sealed{}, err
	}
	tidying := time.Now()
	layout, image := layouts[0], built[0]
	if len(a.parts) > 1 {
		layout = filepath.Join(dir, "image")
		if image, err = join(layout, layouts, built, a.in.targets()); err != nil {
			return sealed{}, err
		}
	}
	if err := a.verify(); err != nil {
		return sealed{}, err
	}
	makings[0].keep(ctx, image) // of several, none has a cache
	a.times.own("keep the image and the caches", tidying)
	if err := a.times.seal(imagelayout.Dir(layout)); err != nil {
		a.env.Log.Warn("The report of the build lacks the image", "error", err)
	}
	if err := workspace.Replace(layout, a.in.Workspace.Image()); err != nil {
		return sealed{}, err
	}
	a.env.Log.Info("Built", "digest", image.digest, "base images", strings.Join(image.bases, ", "), "took",
		time.Since(started))
	return image, nil
}

// join puts layouts that are sealed together as one, in the folder into. Its root is an index that has the images in
// the order of the platforms, and then their attestations, as BuildKit has them in an index that one builder makes.
func join(into string, layouts []string, built []sealed, targets []ocispec.Platform) (sealed, error) {
	joined := sealed{}
	var images, attestations []ocispec.Descriptor
	for i, from := range layouts {
		joined.bases = append(joined.bases, built[i].bases...)
		listed, err := entries(imagelayout.Dir(from))
		if err != nil {
			return joined, err
		}
		for _, d := range listed {
			if d.Annotations[imagelayout.ReferenceType] == imagelayout.AttestationManifest {
				attestations = append(attestations, d)
			} else {
				images = append(images, d)
			}
		}
		if err := moveBlobs(from, into); err != nil {
			return joined, err
		}
	}
	place := func(d ocispec.Descriptor) int {
		return slices.IndexFunc(targets, func(p ocispec.Platform) bool {
			return d.Platform != nil && formatted(p) == formatted(*d.Platform)
		})
	}
	slices.SortStableFunc(images, func(x, y ocispec.Descriptor) int { return place(x) - place(y) })
	about := func(d ocispec.Descriptor) int {
		return slices.IndexFunc(images, func(image ocispec.Descriptor) bool {
			return image.Digest.String() == d.Annotations[imagelayout.ReferenceDigest]
		})
	}
	slices.SortStableFunc(attestations, func(x, y ocispec.Descriptor) int { return about(x) - about(y) })
	raw, err := json.MarshalIndent(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(images, attestations...),
	}, "", "  ")
	if err != nil {
		return joined, err
	}
	root := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
	}
	joined.digest = root.Digest.String()
	slices.Sort(joined.bases)
	joined.bases = slices.Compact(joined.bases)
	layout := imagelayout.Dir(into)
	return joined, errors.Join(layout.WriteBlob(root.Digest, raw), layout.WriteIndex(root))
}

// entries are what the root of a sealed layout lists, which goes if it is an index: else it is the one image, whose
// platform its configuration tells.
func entries(layout imagelayout.Dir) ([]ocispec.Descriptor, error) {
	var top, index ocispec.Index
	if err := layout.ReadIndex(&top); err != nil {
		return nil, err
	}
	root := top.Manifests[0]
	if root.MediaType == ocispec.MediaTypeImageIndex {
		err := layout.ReadJSON(root.Digest, &index)
		return index.Manifests, errors.Join(err, os.Remove(layout.Blob(root.Digest)))
	}
	var manifest ocispec.Manifest
	var config ocispec.Image
	err := layout.ReadJSON(root.Digest, &manifest)
	if err == nil {
		err = layout.ReadJSON(manifest.Config.Digest, &config)
	}
	root.Platform = &config.Platform
	return []ocispec.Descriptor{root}, err
}

// moveBlobs moves the blobs of one layout to another.
func moveBlobs(from, to string) error {
	folder := filepath.Join("blobs", string(digest.SHA256))
	blobs, err := os.ReadDir(filepath.Join(from, folder))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(to, folder), 0o755); err != nil {
		return err
	}
	for _, blob := range blobs {
		name := filepath.Join(folder, blob.Name())
		if err := os.Rename(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// marked is an output whose lines begin with a mark: several builds share the log.
type marked struct {
	mu   sync.Mutex
	out  io.Writer
	mark string
	rest []byte
}

func newMarked(out io.Writer, mark string) *marked {
	return &marked{out: out, mark: fmt.Sprintf("[%s] ", mark)}
}

// Write implements io.Writer. It passes whole lines on.
func (m *marked) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rest = append(m.rest, p...)
	for {
		line, after, found := bytes.Cut(m.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		if _, err := fmt.Fprintf(m.out, "%s%s\n", m.mark, line); err != nil {
			return 0, err
		}
		m.rest = after
	}
}

// end passes on what has no end of a line.
func (m *marked) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.rest) > 0 {
		fmt.Fprintf(m.out, "%s%s\n", m.mark, m.rest)
		m.rest = nil
	}
}
