package dockerfile

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/steps/internal/buildkit"
)

// The values of the parameter timestamps.
const (
	commitTimes = "commit"
	keptTimes   = "keep"
)

// epochArg is the build argument by which Dockerfiles and BuildKit know the time of the source.
const epochArg = "SOURCE_DATE_EPOCH"

// fixedTime is the time of files that a build makes, unless it is asked for another. It depends on no commit, so that a
// layer that an earlier commit's build has left is the one that this commit's build would make. Archives of zip cannot
// hold times before 1980, and this one is in 1980 in every time zone.
var fixedTime = time.Date(1980, 1, 2, 0, 0, 0, 0, time.UTC)

// fileTime is the time of the files that the build makes; nil when they keep theirs.
func (b *build) fileTime() *time.Time {
	switch {
	case b.epoch == nil || b.in.Timestamps == keptTimes:
		return nil
	case b.in.Timestamps == commitTimes:
		return b.epoch
	default:
		return &fixedTime
	}
}

// dates are times that an image is given.
type dates struct {
	files *time.Time // of what the build makes; nil: each has its own
	image time.Time  // of the image itself; meaningful with files
	late  bool       // whether files are still to be given theirs, and layers are to be compressed anew

	// The others are meaningful with late.
	bases       map[digest.Digest]bool       // layers that stay as they are; nil: they are not known
	compression buildkit.Compression         // of the others
	dated       map[digest.Digest]datedLayer // what became of layers that the layout may lack
}

func (b *build) dates() dates {
	d := dates{files: b.fileTime(), bases: b.baseLayers, compression: b.in.compression()}
	if d.files != nil {
		d.image, d.late, d.dated = *b.epoch, b.in.late(), b.cache.dated()
	}
	return d
}

// frontendEpoch is what BuildKit takes for the time of the source. That is part of what it remembers instructions by,
// so it is the commit's only where the Dockerfile asks for it, or no earlier build's layers are of use anyway. seal
// puts the commit's time where the image tells its own.
func (b *build) frontendEpoch() time.Time {
	if at := b.fileTime(); at != nil && !b.source.asksForEpoch() {
		return *at
	}
	return *b.epoch
}

// asksForEpoch tells whether the Dockerfile declares the build argument that tells the time of the source.
func (s *source) asksForEpoch() bool {
	declares := func(arg instructions.ArgCommand) bool {
		for _, a := range arg.Args {
			if a.Key == epochArg {
				return true
			}
		}
		return false
	}
	for _, arg := range s.global {
		if declares(arg) {
			return true
		}
	}
	for _, stage := range s.stages {
		for _, command := range stage.Commands {
			if arg, ok := command.(*instructions.ArgCommand); ok && declares(*arg) {
				return true
			}
		}
	}
	return false
}

// daemonsBegan is before the clock of any daemon that has run something for a component. Nobody knows when a daemon ran
// what it has in its cache: before the commit or after it. So which files get another time depends on neither, and a
// layer that an earlier commit's build left is the one that this commit's build would make. A later moment here needs
// another key in confine, which no daemon has run anything by.
var daemonsBegan = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// dateLayers gives files of the layers that a daemon's instructions have made their time: to its RUNs nobody can. Own
// times are not to be told from others by then: those since daemonsBegan are taken for them. It compresses these layers
// as the step's own builder does. A layer that the layout lacks has become what it became before. It returns what
// becomes of the configuration's rootfs.
func (l *layout) dateLayers(
	manifest *ocispec.Manifest, history []ocispec.History, rootfs json.RawMessage,
) (json.RawMessage, error) {
	var root ocispec.RootFS
	if err := json.Unmarshal(rootfs, &root); err != nil || len(root.DiffIDs) != len(manifest.Layers) {
		return nil, fmt.Errorf("the image's configuration has %d layers, its manifest %d: %w", len(root.DiffIDs),
			len(manifest.Layers), err)
	}
	made := l.made(history, manifest.Layers)
	for i := range manifest.Layers {
		layer := &manifest.Layers[i]
		old := layer.Digest
		_, absent := os.Stat(l.Blob(old))
		known, isKnown := l.dates.dated[old]
		switch {
		case absent != nil && isKnown:
			layer.Digest, layer.Size, layer.MediaType = known.Digest, known.Size, known.MediaType
			root.DiffIDs[i] = known.DiffID
		case made[i] != bases:
			before, again := l.anew[old] // of another platform's image
			if again && (before.Digest != old || made[i] != builds) {
				layer.Digest, layer.Size, layer.MediaType = before.Digest, before.Size, before.MediaType
				root.DiffIDs[i] = before.DiffID
				break
			}
			if err := l.dateLayer(layer, &root.DiffIDs[i], made[i] == builds); err != nil {
				return nil, fmt.Errorf("layer %s: %w", old, err)
			}
			l.gone[old] = true
			l.anew[old] = datedLayer{described(*layer), root.DiffIDs[i], old}
		}
		l.kept[layer.Digest] = true
		one := datedLayer{described(*layer), root.DiffIDs[i], old}
		if l.dates.bases == nil && layer.Digest == old { // it may be a base image's
			continue
		}
		if !slices.ContainsFunc(l.layers, func(known datedLayer) bool {
			return known.Digest == one.Digest && known.Was == one.Was
		}) {
			l.layers = append(l.layers, one)
		}
	}
	return json.Marshal(root)
}

// described is a layer's type, digest and size.
func described(layer ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size}
}

// maker is who has made a layer.
type maker int

const (
	builds maker = iota // the build
	bases               // a base image's
	either              // the build, most likely
)

// made tells who has made the layers. Where a daemon no longer has the base images, the history tells: in theirs are
// other times, but for those of an image of the same commit.
func (l *layout) made(history []ocispec.History, layers []ocispec.Descriptor) []maker {
	made := make([]maker, len(layers))
	if l.dates.bases != nil {
		for i, layer := range layers {
			if l.dates.bases[layer.Digest] {
				made[i] = bases
			}
		}
		return made
	}
	layer := 0
	for _, h := range history {
		if h.EmptyLayer || layer >= len(layers) {
			continue
		}
		switch at := h.Created; {
		case at != nil && at.Equal(fixedTime):
		case at != nil && (at.Equal(*l.dates.files) || at.Equal(l.dates.image)):
			made[layer] = either
		default:
			made[layer] = bases
		}
		layer++
	}
	for ; layer < len(layers); layer++ {
		made[layer] = bases
	}
	return made
}

// dateLayer writes a layer anew, and leaves the old one. It does nothing with one that may be a base image's, if no
// file is to get another time.
func (l *layout) dateLayer(desc *ocispec.Descriptor, diffID *digest.Digest, certain bool) error {
	old, err := os.Open(l.Blob(desc.Digest))
	if err != nil {
		return err
	}
	defer old.Close()
	plain, err := decompress(old, desc.MediaType)
	if err != nil {
		return err
	}
	defer plain.Close()
	file, err := os.CreateTemp(string(l.Dir), "layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	compressed, uncompressed := digest.Canonical.Digester(), digest.Canonical.Digester()
	zip, err := l.dates.compression.Writer(io.MultiWriter(file, compressed.Hash()))
	if err != nil {
		return err
	}
	changed := certain
	from, to := tar.NewReader(plain), tar.NewWriter(io.MultiWriter(zip, uncompressed.Hash()))
	for {
		header, err := from.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if !header.ModTime.Before(daemonsBegan) {
			header.ModTime, changed = *l.dates.files, true
		}
		if err := to.WriteHeader(header); err != nil {
			return err
		}
		// A header of what has no content may tell a size.
		if _, err := io.CopyN(to, from, header.Size); err != nil && err != io.EOF {
			return err
		}
	}
	if err := errors.Join(to.Close(), zip.Close()); err != nil || !changed {
		return err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	desc.Digest, desc.Size, *diffID = compressed.Digest(), size, uncompressed.Digest()
	desc.MediaType = l.dates.compression.MediaType()
	return errors.Join(file.Chmod(0o644), os.Rename(file.Name(), l.Blob(desc.Digest)))
}

// decompress reads a layer of a type.
func decompress(layer io.Reader, mediaType string) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(mediaType, "zstd"):
		reader, err := zstd.NewReader(layer)
		if err != nil {
			return nil, err
		}
		return reader.IOReadCloser(), nil
	case strings.HasSuffix(mediaType, "gzip"):
		return gzip.NewReader(layer)
	default:
		return io.NopCloser(layer), nil
	}
}
