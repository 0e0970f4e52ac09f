// Package imagelayout reads the image that a build left in the workspace: an OCI image layout, or a docker-archive. The
// build ran code of strangers, so nothing it left is believed: every digest and size is checked, no name leads out of
// the layout, annotations count for nothing, and whatever there may be many of has a bound.
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
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

const (
	maxManifest  = 4 << 20  // bytes; registries take no larger ones (OCI distribution specification)
	maxHeld      = 64 << 20 // bytes, of all manifests together: they are held in memory
	maxManifests = 1_000    // of an image
	maxBlobs     = 10_000   // of an image, and what one manifest may list
	maxDepth     = 8        // of indexes within indexes
)

// Image is a built image as a registry wants it: manifests, and the blobs they name.
type Image struct {
	Path      string          // of the layout or archive
	Manifests []Manifest      // each once, and after those it names: the last one is the image
	Blobs     []v1.Descriptor // each once; only those that belong into a registry; type, digest and size of each

	// Absent are the layers among Blobs that a sparse layout lacks. Only their digests and sizes are known, which
	// nobody has checked. Open does not have them.
	Absent map[v1.Hash]bool

	configs []v1.Descriptor // of images
	store   store
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

// Has tells whether a blob is one of the image's, also where the layout lacks it. No image has none.
func (i *Image) Has(b v1.Descriptor) bool {
	return i != nil && slices.ContainsFunc(i.Blobs, func(own v1.Descriptor) bool {
		return own.Digest == b.Digest && own.Size == b.Size
	})
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

// Check reads a blob to its end, so that it is sure to be here as a whole. It fails as Open does, or as reading does.
func (i *Image) Check(ctx context.Context, b v1.Descriptor) error {
	content, err := i.Open(b)
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = io.Copy(io.Discard, &cancelled{ctx, content})
	return err
}

// Labels returns the values that the images of all platforms give a label, each once.
func (i *Image) Labels(name string) ([]string, error) {
	var values []string
	for _, d := range i.configs {
		if d.Size > maxManifest {
			return nil, invalid(
				i.Path, "the configuration %s has %d bytes, more than %d", d.Digest, d.Size, maxManifest,
			)
		}
		content, err := i.Open(d)
		if err != nil {
			return nil, err
		}
		raw, err := io.ReadAll(content)
		content.Close()
		if err != nil {
			return nil, err
		}
		var config struct {
			Config struct {
				Labels map[string]string
			} `json:"config"`
		}
		if err := json.Unmarshal(raw, &config); err != nil {
			return nil, invalid(i.Path, "configuration %s: %w", d.Digest, err)
		}
		value, labelled := config.Config.Labels[name]
		if labelled && !slices.Contains(values, value) {
			values = append(values, value)
		}
	}
	return values, nil
}

// store holds blobs by their digest. Their content is not checked.
type store interface {
	// open returns a blob and its size. The error wraps fs.ErrNotExist when there is none.
	open(v1.Hash) (io.ReadCloser, int64, error)
	io.Closer
}

// Locate finds the image in a workspace: the layout, or else the archive. It is an ImageNotFound when there is neither.
func Locate(w workspace.Workspace) (string, error) {
	if !IsEmpty(w.Image()) {
		return w.Image(), nil
	}
	if _, err := os.Lstat(w.Archive()); err == nil {
		return w.Archive(), nil
	}
	return "", outcome.Errorf(
		outcome.ImageNotFound, "there is neither an image layout in %s nor an archive %s", w.Image(), w.Archive(),
	)
}

// IsEmpty tells whether there is no layout in a folder: a build that failed early leaves the folder empty, or with what
// it had begun to write in a folder whose name begins with a dot. A path that is no folder is empty, too.
func IsEmpty(dir string) bool {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	names, _ := f.Readdirnames(100) // a layout has three
	return !slices.ContainsFunc(names, func(name string) bool { return name[0] != '.' })
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
		f, err := openRegular(parent, filepath.Base(path), info)
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

// file opens a regular file, or what a link to one within the layout leads to: some tools share blobs so. The root lets
// no link lead out.
func (d directory) file(name string) (io.ReadCloser, int64, error) {
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a regular file", name)
	}
	f, err := openRegular(d.root, name, info)
	if err != nil {
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// openRegular opens the file that info tells of, which is regular. It neither waits nor reads when another one, such as
// a pipe, has taken its place meanwhile.
func openRegular(root *os.Root, name string, info fs.FileInfo) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && (!os.SameFile(info, now) || !now.Mode().IsRegular()) {
		err = fmt.Errorf("%s is being replaced", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
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
	known := map[v1.Hash]bool{}
	for _, d := range doc.Manifests {
		if !known[d.Digest] { // else it is there under another name
			known[d.Digest] = true
			roots = append(roots, d.descriptor())
			platforms = platforms && d.Platform != nil
		}
	}
	w := newWalk(path, s)
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
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        *descriptor     `json:"config"`
	Layers        descriptors     `json:"layers"`
	Blobs         descriptors     `json:"blobs"`
	Manifests     descriptors     `json:"manifests"`
}

// descriptor is as much of a descriptor as publishing needs. What else it holds may be large.
type descriptor struct {
	MediaType types.MediaType `json:"mediaType"`
	Digest    v1.Hash         `json:"digest"`
	Size      int64           `json:"size"`
	Platform  *struct{}       `json:"platform"` // whether there is one
}

func (d descriptor) descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// descriptors is a list of at most maxBlobs.
type descriptors []descriptor

// UnmarshalJSON implements json.Unmarshaler. It stops at the bound: in memory, a long list of empty descriptors is many
// times as large as its text.
func (d *descriptors) UnmarshalJSON(raw []byte) error {
	list := json.NewDecoder(bytes.NewReader(raw))
	begin, err := list.Token()
	if err != nil || begin == nil {
		return err
	}
	if begin != json.Delim('[') {
		return errors.New("descriptors that are not a list")
	}
	for *d = nil; list.More(); {
		if len(*d) == maxBlobs {
			return fmt.Errorf("a list of more than %d descriptors", maxBlobs)
		}
		var one descriptor
		if err := list.Decode(&one); err != nil {
			return err
		}
		*d = append(*d, one)
	}
	return nil
}

// walk collects what a manifest names, directly and through others.
type walk struct {
	store     store
	image     *Image
	manifests map[v1.Hash]bool
	blobs     map[v1.Hash]int // place in image.Blobs; -1 for one that stays away from the registry
	held      int64           // bytes of manifests
}

func newWalk(path string, s store) *walk {
	return &walk{
		store:     s,
		image:     &Image{Path: path, store: s},
		manifests: map[v1.Hash]bool{},
		blobs:     map[v1.Hash]int{},
	}
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
	if len(w.manifests) > maxManifests {
		return fmt.Errorf("it has more than %d manifests", maxManifests)
	}
	if w.held += int64(len(raw)); w.held > maxHeld {
		return fmt.Errorf("its manifests have more than %d bytes together", maxHeld)
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
		if err := w.child(child.descriptor(), depth+1); err != nil {
			return fmt.Errorf("index %s: %w", d.Digest, err)
		}
	}
	if err := w.content(&doc); err != nil {
		return fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	w.image.Manifests = append(w.image.Manifests, Manifest{Digest: d.Digest, MediaType: doc.MediaType, Raw: raw})
	return nil
}

// content adds the blobs that a manifest names.
func (w *walk) content(doc *document) error {
	if doc.Config != nil {
		config := doc.Config.descriptor()
		if err := w.blob(config, false); err != nil {
			return err
		}
		if config.MediaType.IsConfig() {
			w.image.configs = append(w.image.configs, config)
		}
	}
	for _, layer := range doc.Layers {
		if err := w.blob(layer.descriptor(), true); err != nil {
			return err
		}
	}
	for _, blob := range doc.Blobs {
		if err := w.blob(blob.descriptor(), false); err != nil {
			return err
		}
	}
	return nil
}

// child adds what an index names. That is a manifest, also of a type that is not known here, or a mere blob, as in an
// index of caches.
func (w *walk) child(d v1.Descriptor, depth int) error {
	if _, isBlob := w.blobs[d.Digest]; isBlob || w.manifests[d.Digest] {
		return nil
	}
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() && d.Size > maxManifest {
		return w.blob(d, false)
	}
	raw, err := w.read(d)
	if err != nil {
		return err
	}
	if !d.MediaType.IsIndex() && !d.MediaType.IsImage() {
		var doc document
		if json.Unmarshal(raw, &doc) != nil || doc.SchemaVersion != 2 {
			return w.blob(d, false)
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

// blob adds a blob that belongs into the registry. A layer need not be here.
func (w *walk) blob(d v1.Descriptor, layer bool) error {
	if d.Digest.Hex == "" {
		return errNameless
	}
	if at, seen := w.blobs[d.Digest]; seen {
		switch {
		case at < 0:
		case w.image.Blobs[at].Size != d.Size:
			return fmt.Errorf("blob %s has %d bytes, and not %d", d.Digest, w.image.Blobs[at].Size, d.Size)
		case !layer && w.image.Absent[d.Digest]:
			return fmt.Errorf("blob %s (%s) is %w", d.Digest, d.MediaType, errMissing)
		}
		return nil
	}
	if len(w.blobs) == maxBlobs {
		return fmt.Errorf("it has more than %d blobs", maxBlobs)
	}
	if !d.MediaType.IsDistributable() {
		w.blobs[d.Digest] = -1 // its licence keeps it where it comes from, and the builder need not have it
		return nil
	}
	content, err := open(w.store, d) // it is read when it is pushed; here it must only be there in full length
	switch {
	case err == nil:
		content.Close()
	case layer && errors.Is(err, errMissing):
		if w.image.Absent == nil {
			w.image.Absent = map[v1.Hash]bool{}
		}
		w.image.Absent[d.Digest] = true
	default:
		return err
	}
	w.blobs[d.Digest] = len(w.image.Blobs)
	w.image.Blobs = append(w.image.Blobs, d)
	return nil
}

var (
	errMissing  = errors.New("missing")
	errNameless = errors.New("it names a blob without a digest")
)

// open reads a blob that is as long, and has the content, that its descriptor says.
func open(s store, d v1.Descriptor) (*verifier, error) {
	if d.Digest.Hex == "" {
		return nil, errNameless
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
