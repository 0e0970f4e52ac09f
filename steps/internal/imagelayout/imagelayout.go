// Package imagelayout reads the image that a build left in the workspace: an OCI image layout, or a docker-archive. The
// build ran code of strangers, so nothing it left is believed: every digest and size is checked, and no name leads out
// of the layout.
package imagelayout

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

const (
	maxManifest  = 4 << 20  // bytes; registries take no larger ones (OCI distribution specification)
	maxManifests = 64 << 20 // bytes, of all manifests together: they are held in memory
	maxDepth     = 8        // of indexes within indexes
)

// Image is a built image as a registry wants it: manifests, and the blobs they name.
type Image struct {
	Path      string          // of the layout or archive
	Manifests []Manifest      // each once, and after those it names: the last one is the image
	Blobs     []v1.Descriptor // each once; only those that belong into a registry
	Bases     []string        // the images it was built on, as far as its annotations tell

	// Elsewhere are the layers that a sparse layout leaves where they are: in the repository of this image, which
	// theirs was built on. Open does not have them.
	Elsewhere map[v1.Hash]string

	store store
}

// Manifest is an image manifest, an index, or whatever else names blobs by a manifest.
type Manifest struct {
	Digest    v1.Hash
	MediaType types.MediaType
	Raw       []byte // travels as it is: any other spelling is another digest
}

// Root is the manifest that is the image.
func (i *Image) Root() Manifest { return i.Manifests[len(i.Manifests)-1] }

// Size is the size of all blobs, in bytes.
func (i *Image) Size() int64 {
	var size int64
	for _, b := range i.Blobs {
		size += b.Size
	}
	return size
}

// Close lets go of the files.
func (i *Image) Close() error { return i.store.Close() }

// Open reads a blob. A damaged one ends in an ImageInvalid instead of its last bytes, so that nobody takes it for
// whole.
func (i *Image) Open(b v1.Descriptor) (io.ReadCloser, error) {
	content, err := open(i.store, b)
	if err != nil {
		return nil, invalid(i.Path, "%w", err)
	}
	return &reporter{content, i.Path}, nil
}

// store holds blobs by their digest. Their content is not checked.
type store interface {
	// open returns a blob and its size. The error wraps fs.ErrNotExist when there is none.
	open(v1.Hash) (io.ReadCloser, int64, error)
	io.Closer
}

// Locate finds the image in a workspace: the layout, or else the archive. It is an ImageNotFound when there is neither.
func Locate(w workspace.Workspace) (string, error) {
	// A build that failed early leaves an empty folder.
	if entries, err := os.ReadDir(w.Image()); err == nil && len(entries) > 0 {
		return w.Image(), nil
	}
	if _, err := os.Lstat(w.Archive()); err == nil {
		return w.Archive(), nil
	}
	return "", outcome.Errorf(
		outcome.ImageNotFound, "there is neither an image layout in %s nor an archive %s", w.Image(), w.Archive(),
	)
}

// Open reads the image at a path: a folder is an OCI image layout, a file a docker-archive. The layers of an archive
// are compressed into nameless files in the folder scratch. The error is an ImageNotFound, or an ImageInvalid that
// names the fault.
func Open(ctx context.Context, path, scratch string) (*Image, error) {
	// The builder owns the folder, and so may have put a link there that leads elsewhere: it must stay within the
	// path's own folder.
	parent, err := os.OpenRoot(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, outcome.Errorf(outcome.ImageNotFound, "there is no %s", path)
	}
	if err != nil {
		return nil, invalid(path, "%w", err)
	}
	defer parent.Close()
	info, err := parent.Stat(filepath.Base(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, outcome.Errorf(outcome.ImageNotFound, "there is no %s", path)
	case err != nil:
		return nil, invalid(path, "%w", err)
	case info.IsDir():
		root, err := parent.OpenRoot(filepath.Base(path))
		if err != nil {
			return nil, invalid(path, "%w", err)
		}
		image, err := readLayout(path, directory{root})
		if err != nil {
			root.Close()
		}
		return image, err
	case info.Mode().IsRegular():
		f, err := parent.Open(filepath.Base(path))
		if err != nil {
			return nil, invalid(path, "%w", err)
		}
		return readArchive(ctx, path, f, scratch)
	}
	return nil, invalid(path, "it is neither a folder nor a file")
}

func invalid(path, format string, args ...any) *outcome.Error {
	return outcome.Errorf(outcome.ImageInvalid, "the image in %s: %w", path, fmt.Errorf(format, args...))
}

// directory is the store of an OCI image layout.
type directory struct{ root *os.Root }

func (d directory) open(digest v1.Hash) (io.ReadCloser, int64, error) {
	return d.file(path.Join("blobs", digest.Algorithm, digest.Hex))
}

// file opens a regular file. A link is refused even where it stays inside: no builder makes one.
func (d directory) file(name string) (io.ReadCloser, int64, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := d.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	now, err := f.Stat()
	if err == nil && !os.SameFile(info, now) {
		err = fmt.Errorf("%s is being replaced", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, now.Size(), nil
}

func (d directory) Close() error { return d.root.Close() }

func (d directory) read(name string) ([]byte, error) {
	content, size, err := d.file(name)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return readSmall(content, size)
}

func readSmall(content io.Reader, size int64) ([]byte, error) {
	if size > maxManifest {
		return nil, fmt.Errorf("it has %d bytes, more than a registry takes (%d)", size, maxManifest)
	}
	return io.ReadAll(io.LimitReader(content, maxManifest))
}

// readLayout reads an OCI image layout.
func readLayout(path string, d directory) (*Image, error) {
	raw, err := d.read("oci-layout")
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err == nil {
		err = json.Unmarshal(raw, &layout)
	}
	if err == nil && !strings.HasPrefix(layout.Version, "1.") {
		err = fmt.Errorf("imageLayoutVersion is %q", layout.Version)
	}
	if err != nil {
		return nil, invalid(path, "it is not an OCI image layout: oci-layout: %w", err)
	}
	index, err := d.read("index.json")
	if err != nil {
		return nil, invalid(path, "index.json: %w", err)
	}
	return readIndex(path, index, d)
}

// readIndex reads the image that index.json names. A layout may hold several: those for several platforms are one image
// whose index is index.json itself, others are ambiguous.
func readIndex(path string, index []byte, s store) (*Image, error) {
	var doc document
	if err := json.Unmarshal(index, &doc); err != nil {
		return nil, invalid(path, "index.json: %w", err)
	}
	var roots []v1.Descriptor
	platforms := true
	for _, d := range doc.Manifests {
		known := false
		for _, r := range roots {
			known = known || r.Digest == d.Digest // under another name
		}
		if !known {
			roots = append(roots, d)
			platforms = platforms && d.Platform != nil
		}
	}
	w := walk{store: s, image: &Image{Path: path, store: s}, manifests: map[v1.Hash]bool{}, blobs: map[v1.Hash]int{}}
	switch {
	case len(roots) == 0:
		return nil, invalid(path, "index.json names no image")
	case len(roots) == 1:
		raw, err := w.read(roots[0])
		if err == nil {
			err = w.manifest(roots[0], raw, 0)
		}
		if err != nil {
			return nil, invalid(path, "%w", err)
		}
	case platforms:
		digest, size, err := v1.SHA256(bytes.NewReader(index))
		if err == nil {
			err = w.manifest(v1.Descriptor{MediaType: types.OCIImageIndex, Digest: digest, Size: size}, index, 0)
		}
		if err != nil {
			return nil, invalid(path, "%w", err)
		}
	default:
		return nil, invalid(
			path, "index.json names %d images, such as %s and %s: which one is meant?", len(roots), roots[0].Digest,
			roots[1].Digest,
		)
	}
	return w.image, nil
}

// document is what manifests of any kind name.
type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	Config        *v1.Descriptor    `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Blobs         []v1.Descriptor   `json:"blobs"`
	Manifests     []v1.Descriptor   `json:"manifests"`
	Annotations   map[string]string `json:"annotations"`
}

// baseName is the annotation with the reference of the image that an image is built on (OCI image specification).
const baseName = "org.opencontainers.image.base.name"

// walk collects what a manifest names, directly and through others.
type walk struct {
	store     store
	image     *Image
	manifests map[v1.Hash]bool
	blobs     map[v1.Hash]int // place in image.Blobs; -1 for one that stays away from the registry
	held      int64           // bytes of manifests
}

// manifest adds a manifest after all that it names.
func (w *walk) manifest(d v1.Descriptor, raw []byte, depth int) error {
	if w.manifests[d.Digest] {
		return nil
	}
	w.manifests[d.Digest] = true
	if depth > maxDepth {
		return fmt.Errorf("manifest %s: indexes are nested more than %d deep", d.Digest, maxDepth)
	}
	if w.held += int64(len(raw)); w.held > maxManifests {
		return fmt.Errorf("its manifests have more than %d bytes together", maxManifests)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if doc.MediaType != "" && d.MediaType != "" && doc.MediaType != d.MediaType {
		return fmt.Errorf(
			"manifest %s is of type %q, and not %q as it was said to be", d.Digest, doc.MediaType, d.MediaType,
		)
	}
	if doc.MediaType == "" {
		doc.MediaType = d.MediaType
	}
	if doc.MediaType == "" {
		return fmt.Errorf("manifest %s does not say of which type it is", d.Digest)
	}
	for _, child := range doc.Manifests {
		if err := w.child(child, depth+1); err != nil {
			return fmt.Errorf("index %s: %w", d.Digest, err)
		}
	}
	base := doc.Annotations[baseName]
	if doc.Config != nil {
		if err := w.blob(*doc.Config, ""); err != nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
	}
	for _, layer := range doc.Layers {
		if err := w.blob(layer, base); err != nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
	}
	for _, blob := range doc.Blobs {
		if err := w.blob(blob, ""); err != nil {
			return fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
	}
	if base != "" {
		w.image.Bases = append(w.image.Bases, base)
	}
	w.image.Manifests = append(w.image.Manifests, Manifest{Digest: d.Digest, MediaType: doc.MediaType, Raw: raw})
	return nil
}

// child adds what an index names. That is a manifest, also of a type that is not known here, or a mere blob, as in an
// index of caches.
func (w *walk) child(d v1.Descriptor, depth int) error {
	if _, isBlob := w.blobs[d.Digest]; isBlob || w.manifests[d.Digest] {
		return nil
	}
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() && d.Size > maxManifest {
		return w.blob(d, "")
	}
	raw, err := w.read(d)
	if err != nil {
		return err
	}
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
		var doc document
		if json.Unmarshal(raw, &doc) != nil || doc.SchemaVersion != 2 {
			return w.blob(d, "")
		}
	}
	return w.manifest(d, raw, depth)
}

// read returns a manifest, verified by its digest.
func (w *walk) read(d v1.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf(
			"manifest %s has %d bytes, more than a registry takes (%d)", d.Digest, d.Size, maxManifest,
		)
	}
	content, err := open(w.store, d)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	return io.ReadAll(content)
}

// blob adds a blob that belongs into the registry. A layer that is not here may be in the repository of the base image.
func (w *walk) blob(d v1.Descriptor, base string) error {
	if at, seen := w.blobs[d.Digest]; seen {
		if at < 0 {
			return nil
		}
		known := &w.image.Blobs[at]
		if known.Size != d.Size {
			return fmt.Errorf("blob %s has %d bytes, and not %d", d.Digest, known.Size, d.Size)
		}
		if len(d.Annotations) > 0 {
			merged := maps.Clone(d.Annotations)
			maps.Copy(merged, known.Annotations)
			known.Annotations = merged
		}
		return nil
	}
	if !d.MediaType.IsDistributable() {
		w.blobs[d.Digest] = -1 // its licence keeps it where it comes from, and the builder need not have it
		return nil
	}
	content, err := open(w.store, d) // it is read when it is pushed; here it must only be there in full length
	switch {
	case err == nil:
		content.Close()
	case base != "" && errors.Is(err, errMissing):
		if w.image.Elsewhere == nil {
			w.image.Elsewhere = map[v1.Hash]string{}
		}
		w.image.Elsewhere[d.Digest] = base
	default:
		return err
	}
	w.blobs[d.Digest] = len(w.image.Blobs)
	w.image.Blobs = append(w.image.Blobs, d)
	return nil
}

var errMissing = errors.New("missing")

// open reads a blob that is as long, and has the content, that its descriptor says.
func open(s store, d v1.Descriptor) (*verifier, error) {
	if d.Digest.Hex == "" {
		return nil, errors.New("it names a blob without a digest")
	}
	content, size, err := s.open(d.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s (%s) is %w", d.Digest, d.MediaType, errMissing)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err == nil && size != d.Size {
		err = fmt.Errorf("blob %s (%s) is incomplete: it has %d of %d bytes", d.Digest, d.MediaType, size, d.Size)
	}
	if err != nil {
		content.Close()
		return nil, err
	}
	return &verifier{ReadCloser: content, want: d, hasher: hasher}, nil
}

// verifier reads a blob and holds back its last bytes until the digest of the whole is verified.
type verifier struct {
	io.ReadCloser
	want   v1.Descriptor
	hasher hash.Hash
	n      int64
	err    error
}

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	n, err := v.ReadCloser.Read(p)
	v.n += int64(n)
	v.hasher.Write(p[:n])
	switch {
	case v.n < v.want.Size && err == io.EOF:
		v.err = fmt.Errorf("blob %s is incomplete: it has %d of %d bytes", v.want.Digest, v.n, v.want.Size)
	case v.n > v.want.Size:
		v.err = fmt.Errorf("blob %s is longer than its %d bytes", v.want.Digest, v.want.Size)
	case v.n == v.want.Size && hex.EncodeToString(v.hasher.Sum(nil)) != v.want.Digest.Hex:
		v.err = fmt.Errorf("blob %s is damaged: its content has another digest", v.want.Digest)
	default:
		v.err = err
		return n, err
	}
	return 0, v.err
}

// reporter makes failures of reading an outcome.
type reporter struct {
	io.ReadCloser
	path string
}

func (r *reporter) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = invalid(r.path, "%w", err)
	}
	return n, err
}
