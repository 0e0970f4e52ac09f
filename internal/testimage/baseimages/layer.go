package baseimages

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A blob is a compressed layer in a layout's blobs folder.
type blob struct {
	file           string
	digest, diffID v1.Hash
	size           int64
}

func (b *blob) Digest() (v1.Hash, error)            { return b.digest, nil }
func (b *blob) DiffID() (v1.Hash, error)            { return b.diffID, nil }
func (b *blob) Size() (int64, error)                { return b.size, nil }
func (b *blob) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (b *blob) Compressed() (io.ReadCloser, error)  { return os.Open(b.file) }

// writeLayer writes what fill adds as a layer into a layout's blobs folder: tar and compression in one pass, where
// asking go-containerregistry for a layer of a tar file would compress it twice.
func writeLayer(blobs string, fill func(*layerWriter) error) (v1.Layer, error) {
	file, err := os.CreateTemp(blobs, "layer-")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	defer os.Remove(file.Name()) // fails when all went well: it has another name then

	digest, diffID := sha256.New(), sha256.New()
	// The fastest level: these blobs travel over loopback only.
	compressed, err := gzip.NewWriterLevel(io.MultiWriter(file, digest), gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	w := &layerWriter{tar: tar.NewWriter(io.MultiWriter(compressed, diffID))}
	if err := fill(w); err != nil {
		return nil, err
	}
	if err := w.tar.Close(); err != nil {
		return nil, err
	}
	if err := compressed.Close(); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if err := file.Chmod(0o644); err != nil {
		return nil, err
	}
	b := &blob{digest: sum(digest), diffID: sum(diffID), size: info.Size()}
	b.file = filepath.Join(blobs, b.digest.Hex)
	if err := os.Rename(file.Name(), b.file); err != nil {
		return nil, err
	}
	return partial.CompressedToLayer(b)
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// A layerWriter writes a layer's files, with nothing in their headers that tells of the machine or the moment.
type layerWriter struct {
	tar *tar.Writer
}

// add writes one file. The name is relative to the root.
func (w *layerWriter) add(from *tar.Header, content io.Reader) error {
	header := &tar.Header{
		Typeflag: from.Typeflag, Name: from.Name, Linkname: from.Linkname, Size: from.Size, Mode: from.Mode,
		Uid: from.Uid, Gid: from.Gid, ModTime: from.ModTime.Truncate(time.Second),
	}
	if header.ModTime.After(epoch) {
		header.ModTime = epoch
	}
	if err := w.tar.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(w.tar, content)
	return err
}

// addAll writes files sorted by name, each after the folders it is in.
func (w *layerWriter) addAll(files files) error {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
			if _, ok := files[parent]; !ok {
				files.folder(parent, 0o755)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := files[name].write(name, w); err != nil {
			return err
		}
	}
	return nil
}

// files are the files of a layer, by names relative to the root.
type files map[string]file

type file struct {
	header tar.Header
	data   []byte
	source string // file on this machine that has the data; empty: data has it
}

func (f file) write(name string, w *layerWriter) error {
	f.header.Name = name
	if f.header.Typeflag == tar.TypeDir {
		f.header.Name += "/"
	}
	if f.source == "" {
		return w.add(&f.header, bytes.NewReader(f.data))
	}
	source, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer source.Close()
	return w.add(&f.header, source)
}

func textFile(content string, mode int64) file {
	return file{header: tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content)), ModTime: epoch},
		data: []byte(content)}
}

func (f files) text(name string, mode int64, content string) { f[name] = textFile(content, mode) }

func (f files) folder(name string, mode int64) {
	f[name] = file{header: tar.Header{Typeflag: tar.TypeDir, Mode: mode, ModTime: epoch}}
}

func (f files) copy(name, source string, mode, size int64) {
	f[name] = file{header: tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: size, ModTime: epoch}, source: source}
}

func (f files) symlink(name, target string) {
	f[name] = file{header: tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target, ModTime: epoch}}
}

// hardlink needs a target whose name sorts before its own.
func (f files) hardlink(name, target string) {
	f[name] = file{header: tar.Header{Typeflag: tar.TypeLink, Mode: 0o755, Linkname: target, ModTime: epoch}}
}
