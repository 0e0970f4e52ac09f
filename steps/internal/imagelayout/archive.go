package imagelayout

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
)

const (
	maxEntries = 100_000  // of an archive: its table is held in memory
	maxNames   = 16 << 20 // bytes, of the entries' names and links together
	maxLinks   = 8        // from one entry to the next
	maxLayers  = 1_000    // of an archive; container runtimes take 127
)

// archive is a docker-archive: manifest.json names the configuration and the layers, which are uncompressed as a rule.
type archive struct {
	file    *os.File
	entries map[string]entry
	blobs   map[v1.Hash]blob
}

type entry struct {
	offset, size int64
	link         string // the entry that it stands for
}

// blob is a compressed layer in a file without a name, or part of the archive.
type blob struct {
	*io.SectionReader
	file *os.File // nil for a part of the archive
}

func (a *archive) open(digest v1.Hash) (io.ReadCloser, int64, error) {
	b, ok := a.blobs[digest]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(io.NewSectionReader(b, 0, b.Size())), b.Size(), nil
}

func (a *archive) Close() error {
	errs := []error{a.file.Close()}
	for _, b := range a.blobs {
		if b.file != nil {
			errs = append(errs, b.file.Close())
		}
	}
	return errors.Join(errs...)
}

// readArchive turns a docker-archive into the image that a registry wants. It takes over f.
func readArchive(ctx context.Context, path string, f *os.File, scratch string) (image *Image, err error) {
	a := &archive{file: f, entries: map[string]entry{}, blobs: map[v1.Hash]blob{}}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := a.index(); err != nil {
		return nil, invalid(path, "it is not a docker-archive: %w", err)
	}
	var images []struct {
		Config string
		Layers []string
	}
	raw, err := a.read("manifest.json")
	if err == nil {
		err = json.Unmarshal(raw, &images)
	}
	if err != nil {
		return nil, invalid(path, "it is not a docker-archive: manifest.json: %w", err)
	}
	if len(images) != 1 {
		return nil, invalid(path, "the archive holds %d images, and not one", len(images))
	}
	config, err := a.read(images[0].Config)
	if err != nil {
		return nil, invalid(path, "configuration %q: %w", images[0].Config, err)
	}
	var content struct {
		RootFS v1.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &content); err != nil {
		return nil, invalid(path, "configuration %q: %w", images[0].Config, err)
	}
	if want, got := len(content.RootFS.DiffIDs), len(images[0].Layers); want != got {
		return nil, invalid(path, "the archive has %d layers, its configuration %d", got, want)
	}

	if n := len(images[0].Layers); n > maxLayers {
		return nil, invalid(path, "the archive has %d layers, more than %d", n, maxLayers)
	}
	layers, err := a.layers(ctx, images[0].Layers, content.RootFS.DiffIDs, scratch)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, ours := errors.AsType[*outcome.Error](err); ours {
		return nil, err
	}
	if err != nil {
		return nil, invalid(path, "%w", err)
	}
	return a.image(path, images[0].Config, config, layers)
}

// layers compresses the layers of these names, whose contents have these digests. Each content is compressed once.
func (a *archive) layers(ctx context.Context, names []string, diffIDs []v1.Hash, scratch string) ([]compressed, error) {
	first := map[v1.Hash]int{} // the place of a content's first layer
	layers := make([]compressed, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		if _, again := first[diffIDs[i]]; again {
			continue
		}
		first[diffIDs[i]] = i
		g.Go(func() (err error) {
			if layers[i], err = a.compress(gctx, name, diffIDs[i], scratch); err != nil {
				return fmt.Errorf("layer %q: %w", name, err)
			}
			return nil
		})
	}
	err := g.Wait()
	for _, l := range layers {
		if l.file == nil {
			continue
		}
		if l.size == 0 { // it failed
			l.file.Close()
			continue
		}
		a.blobs[l.digest] = blob{io.NewSectionReader(l.file, 0, l.size), l.file}
	}
	for i, diffID := range diffIDs {
		layers[i] = layers[first[diffID]]
	}
	return layers, err
}

// image writes the manifest that a docker-archive lacks.
func (a *archive) image(path, configName string, config []byte, layers []compressed) (*Image, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	e, err := a.find(configName)
	if err != nil {
		return nil, err
	}
	a.blobs[digest] = blob{SectionReader: io.NewSectionReader(a.file, e.offset, e.size)}
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.DockerManifestSchema2,
		Config:        v1.Descriptor{MediaType: types.DockerConfigJSON, Digest: digest, Size: size},
		Layers:        []v1.Descriptor{},
	}
	for _, l := range layers {
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: types.DockerLayer,
			Digest:    l.digest,
			Size:      l.size,
		})
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, err
	}
	root := v1.Descriptor{MediaType: manifest.MediaType}
	if root.Digest, root.Size, err = v1.SHA256(bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	w := newWalk(path, a)
	if err := w.manifest(root, raw, 0); err != nil {
		return nil, invalid(path, "%w", err)
	}
	return w.image, nil
}

// index notes where each entry is. The tar reader reads no further than it must, so the file stands where the entry's
// content begins.
func (a *archive) index() error {
	tr := tar.NewReader(a.file)
	for names := 0; ; {
		header, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if len(a.entries) == maxEntries {
			return fmt.Errorf("it has more than %d entries", maxEntries)
		}
		if names += len(header.Name) + len(header.Linkname); names > maxNames {
			return fmt.Errorf("its names have more than %d bytes together", maxNames)
		}
		offset, err := a.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		name := path.Clean(header.Name)
		switch header.Typeflag {
		case tar.TypeReg:
			a.entries[name] = entry{offset: offset, size: header.Size}
		case tar.TypeLink:
			a.entries[name] = entry{link: path.Clean(header.Linkname)}
		case tar.TypeSymlink: // older Dockers link to a layer that they had written before
			a.entries[name] = entry{link: path.Join(path.Dir(name), header.Linkname)}
		}
	}
}

func (a *archive) find(name string) (entry, error) {
	e, ok := a.entries[path.Clean(name)]
	for range maxLinks {
		if !ok || e.link == "" {
			break
		}
		e, ok = a.entries[e.link]
	}
	if !ok || e.link != "" {
		return entry{}, fs.ErrNotExist
	}
	return e, nil
}

func (a *archive) read(name string) ([]byte, error) {
	e, err := a.find(name)
	if err != nil {
		return nil, err
	}
	return readSmall(io.NewSectionReader(a.file, e.offset, e.size), e.size)
}

// compressed is a layer as it goes into the registry.
type compressed struct {
	file   *os.File
	digest v1.Hash
	size   int64
}

// compress writes a layer, compressed anew, into a file without a name, and checks that its content is the one that the
// configuration means.
func (a *archive) compress(ctx context.Context, name string, diffID v1.Hash, scratch string) (c compressed, err error) {
	e, err := a.find(name)
	if err != nil {
		return c, err
	}
	in := bufio.NewReader(&cancelled{ctx, io.NewSectionReader(a.file, e.offset, e.size)})
	var content io.Reader = in
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if content, err = gzip.NewReader(in); err != nil {
			return c, err
		}
	}
	c.file, err = os.CreateTemp(scratch, ".layer-*")
	if err == nil {
		err = os.Remove(c.file.Name()) // so that it ends with the process, however that ends
	}
	if err != nil {
		return c, outcome.Errorf(outcome.Failed, "a place for a compressed layer: %w", err)
	}
	inner, outer := sha256.New(), sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(c.file, outer), 1<<18)
	zipper, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return c, err
	}
	if _, err := io.Copy(io.MultiWriter(zipper, inner), content); err != nil {
		return c, err
	}
	if err := errors.Join(zipper.Close(), out.Flush()); err != nil {
		return c, err
	}
	if got := hex.EncodeToString(inner.Sum(nil)); got != diffID.Hex {
		return c, fmt.Errorf("it is damaged: its content has the digest sha256:%s, and not %s", got, diffID)
	}
	c.digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(outer.Sum(nil))}
	c.size, err = c.file.Seek(0, io.SeekCurrent)
	return c, err
}

// cancelled is a reader that ends with a context.
type cancelled struct {
	ctx context.Context
	io.Reader
}

func (c *cancelled) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.Reader.Read(p)
}
