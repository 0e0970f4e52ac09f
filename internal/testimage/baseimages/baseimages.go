// Package baseimages makes the base images that builds start from, for machines that cannot reach the registries they
// live in: equivalents of a few well-known images, from Debian packages and the machine's own Go toolchain.
//
// The images are kept as OCI image layouts and pushed into a local registry under the paths they have in their own, so
// that the registry can serve as a mirror. They are for the machine's own platform only, and lack some of what the real
// ones have: golang has Go and CA certificates, but neither gcc nor git, and not the tests of the standard library;
// busybox has the applets that Debian gives it, which do not include adduser.
package baseimages

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/registry"
)

// The images that can be made, by the names a Dockerfile's FROM resolves to.
const (
	Debian  = "docker.io/library/debian:bookworm-slim"
	Busybox = "docker.io/library/busybox:1"
	Golang  = "docker.io/library/golang:1.26-bookworm"
	Static  = "gcr.io/distroless/static-debian12:nonroot"
)

// Systems to build and to run applications in that have no Dockerfile: Debian with the toolchains, and with the
// runtimes, of Go, Node.js, Python and Java. They stand in for no image, and are made only for those who name them;
// internal/testimage/testbuilders does.
const (
	Toolchains = "docker.io/stepwright/toolchains:bookworm"
	Runtimes   = "docker.io/stepwright/runtimes:bookworm"
)

// Rootless is Debian with what BuildKit needs to run without root. It, too, is made only for those who name it; ci/e2e
// does.
const Rootless = "docker.io/stepwright/rootless:bookworm"

// Node is Debian with Node.js and npm. It, too, is made only for those who name it; ci/bench does.
const Node = "docker.io/stepwright/node:bookworm"

// Systems for ci/cluster, which makes images of kind from them: of its node, and of the container for commands beside
// it. They, too, are made only for those who name them.
const (
	KindNode     = "docker.io/stepwright/kind-node:bookworm"
	KindCommands = "docker.io/stepwright/kind-commands:bookworm"
)

// edition is part of every image's key. Raise it when a recipe changes, so that images made by the old one are made
// anew.
const edition = 1

// How old the package lists may become: while nothing is missing, and before an image is made from them.
const (
	listsKept    = 7 * 24 * time.Hour
	listsForMake = time.Hour
)

// epoch is the time that images carry, and files without an older time of their own.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// A recipe tells how an image is made: of what, on which other image, and how it is configured.
type recipe struct {
	from string // its source, for the log
	base string // image whose layers it starts with; empty: none
	// its sources, a fact a line: the same facts make the same image
	inputs  func(context.Context, *archive) (string, error)
	content func(ctx context.Context, packages *archive, scratch string, w *layerWriter) error
	config  func(context.Context) (v1.Config, error)
}

var recipes = map[string]recipe{
	Debian:  debianRecipe,
	Busybox: busyboxRecipe,
	Golang:  golangRecipe,
	Static:  staticRecipe,

	Toolchains:       toolchainsRecipe,
	toolchainsDebian: debianWith(toolchainPackages),
	Runtimes:         debianWith(runtimePackages),
	Rootless:         debianWith(rootlessPackages),
	Node:             debianWith(nodePackages),
	KindNode:         debianWith(kindNodePackages),
	KindCommands:     debianWith(KindCommandsPackages),
}

// Names returns the names of all images that stand in for others, sorted.
func Names() []string {
	return []string{Busybox, Debian, Golang, Static}
}

// DefaultDir returns the folder images are kept in by default: base-images of package cachedir.
func DefaultDir() (string, error) { return cachedir.Path("base-images") }

// A Store is a folder of base images. Several processes may use one at a time.
type Store struct {
	Dir   string       // made when absent
	Log   *slog.Logger // hears of each image and how long it took; nil: nobody
	Force bool         // make images anew that are there
}

// Ensure makes those of the named images, or of all that stand in for others when none is named, that are not in the
// store or were made from other packages or another Go than the present ones. When all are there it takes milliseconds
// and needs no network.
func (s Store) Ensure(ctx context.Context, names ...string) error {
	names, err := s.known(names)
	if err != nil {
		return err
	}
	unlock, err := filelock.Exclusive(ctx, s.lockFile())
	if err != nil {
		return err
	}
	defer unlock()

	packages := &archive{root: filepath.Join(s.Dir, "apt"), log: s.log()}
	if err := packages.refresh(ctx, listsKept); err != nil {
		return err
	}
	images, err := s.plan(ctx, packages, names)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(images, (*image).missing) {
		return nil
	}
	// Old lists may name packages that the archive has replaced since.
	if err := packages.refresh(ctx, listsForMake); err != nil {
		return err
	}
	if images, err = s.plan(ctx, packages, names); err != nil {
		return err
	}
	if err := s.removeUnfinished(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, img := range images {
		if !img.missing() {
			close(img.made)
			continue
		}
		group.Go(func() error {
			started := time.Now()
			s.log().Info("Making a base image", "image", img.name, "from", img.recipe.from)
			if err := img.make(ctx, packages); err != nil {
				return fmt.Errorf("make base image %s: %w", img.name, err)
			}
			close(img.made)
			s.log().Info(
				"Made the base image", "image", img.name, "took", time.Since(started).Round(10*time.Millisecond),
			)
			return s.removeOthers(img)
		})
	}
	return group.Wait()
}

// Image opens an image that Ensure has made.
func (s Store) Image(ref string) (v1.Image, error) {
	folders, err := filepath.Glob(filepath.Join(s.Dir, folderPrefix(ref)+"*"))
	if err != nil {
		return nil, err
	}
	if len(folders) == 0 {
		return nil, fmt.Errorf("base image %s is not in %s: %w", ref, s.Dir, fs.ErrNotExist)
	}
	return open(folders[0])
}

// An image is one that Ensure was asked for, or that another one starts with.
type image struct {
	name   string
	recipe recipe
	inputs string
	folder string // of its layout; the name is a hash of its sources
	force  bool
	base   *image
	made   chan struct{} // closed when the layout is there
}

func (i *image) missing() bool {
	_, err := os.Stat(filepath.Join(i.folder, "index.json"))
	return err != nil || i.force
}

// plan works out what each image would be made of now. An image's base comes before it.
func (s Store) plan(ctx context.Context, packages *archive, names []string) ([]*image, error) {
	var images []*image
	var add func(ref string) (*image, error)
	add = func(ref string) (*image, error) {
		if i := slices.IndexFunc(images, func(i *image) bool { return i.name == ref }); i >= 0 {
			return images[i], nil
		}
		img := &image{name: ref, recipe: recipes[ref], force: s.Force, made: make(chan struct{})}
		facts := fmt.Sprintf("edition %d\nplatform linux/%s\n", edition, runtime.GOARCH)
		if img.recipe.base != "" {
			base, err := add(img.recipe.base)
			if err != nil {
				return nil, err
			}
			img.base = base
			facts += "base " + filepath.Base(img.base.folder) + "\n"
		}
		own, err := img.recipe.inputs(ctx, packages)
		if err != nil {
			return nil, fmt.Errorf("find what %s is made of: %w", ref, err)
		}
		img.inputs = facts + own
		key := sha256.Sum256([]byte(img.inputs))
		img.folder = filepath.Join(s.Dir, folderPrefix(ref)+hex.EncodeToString(key[:6]))
		images = append(images, img)
		return img, nil
	}
	for _, ref := range names {
		if _, err := add(ref); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// make writes the image's layout beside its folder and moves it there when it is whole.
func (i *image) make(ctx context.Context, packages *archive) error {
	unfinished, err := os.MkdirTemp(filepath.Dir(i.folder), unfinishedPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	blobs := filepath.Join(unfinished, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	scratch := filepath.Join(unfinished, "scratch")
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return err
	}
	layer, err := writeLayer(blobs, func(w *layerWriter) error { return i.recipe.content(ctx, packages, scratch, w) })
	if err != nil {
		return err
	}
	lower := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	if i.base != nil {
		select {
		case <-i.base.made:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if lower, err = open(i.base.folder); err != nil {
			return err
		}
		if err := linkLayers(lower, i.base.folder, blobs); err != nil {
			return err
		}
	}
	img, err := mutate.Append(lower, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "stepwright: " + i.recipe.from},
	})
	if err != nil {
		return err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Created = v1.Time{Time: epoch}
	if file.Config, err = i.recipe.config(ctx); err != nil {
		return err
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	path, err := layout.Write(unfinished, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendImage(img, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": i.name,
	})); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(unfinished, "inputs"), []byte(i.inputs), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(scratch); err != nil {
		return err
	}
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(i.folder); err != nil {
		return err
	}
	return os.Rename(unfinished, i.folder)
}

// linkLayers gives a layout the layers of another without copying them. Where files cannot be linked they are copied
// later.
func linkLayers(img v1.Image, from, blobs string) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		_ = os.Link(filepath.Join(from, "blobs", "sha256", digest.Hex), filepath.Join(blobs, digest.Hex))
	}
	return nil
}

func open(folder string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, fmt.Errorf("open base image in %s: %w", folder, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open base image in %s: %w", folder, err)
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf(
			"open base image in %s: %d images in the layout, want 1", folder, len(manifest.Manifests),
		)
	}
	return index.Image(manifest.Manifests[0].Digest)
}

const unfinishedPrefix = ".unfinished-"

// removeUnfinished removes what a killed process left.
func (s Store) removeUnfinished() error {
	folders, err := filepath.Glob(filepath.Join(s.Dir, unfinishedPrefix+"*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	return err
}

// removeOthers removes an image's layouts that were made of something else.
func (s Store) removeOthers(img *image) error {
	folders, err := filepath.Glob(filepath.Join(s.Dir, folderPrefix(img.name)+"*"))
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if folder != img.folder {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}
	return err
}

// folderPrefix is what the folders of an image start with: `debian-bookworm-slim@`.
func folderPrefix(ref string) string {
	return strings.ReplaceAll(ref[strings.LastIndex(ref, "/")+1:], ":", "-") + "@"
}

// known returns all names for none, and refuses those no recipe is known for.
func (s Store) known(names []string) ([]string, error) {
	if len(names) == 0 {
		return Names(), nil
	}
	for i, given := range names {
		ref, err := name.ParseReference(given)
		if err != nil {
			return nil, fmt.Errorf("base image %q: %w", given, err)
		}
		canonical := registry.Name(ref.Name())
		if _, ok := recipes[canonical]; !ok {
			return nil, fmt.Errorf(
				"base image %q cannot be made here; those that can: %s", given, strings.Join(Names(), ", "),
			)
		}
		names = slices.Clone(names)
		names[i] = canonical
	}
	return names, nil
}

// lockFile is locked by one process to make images, and by any number to read them.
func (s Store) lockFile() string { return filepath.Join(s.Dir, ".lock") }

func (s Store) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}
