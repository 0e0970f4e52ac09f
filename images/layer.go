package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// A file is one of a layer, and belongs to root. Its name is relative to the root and ends with a slash when it is a
// folder.
type file struct {
	name         string
	mode         int64
	content      []byte
	capabilities []int
}

func folder(name string, mode int64) file { return file{name: name + "/", mode: mode} }

func text(name, content string) file { return file{name: name, mode: 0o644, content: []byte(content)} }

// beginning is the time of all files. It is no commit's, so that what stays the same in the next version stays the same
// layer, which registries and nodes have already.
var beginning = time.Unix(0, 0)

// layerOf makes a layer of files, in this order: each after the folders it is in.
func layerOf(files []file) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg,
			Name:     f.name,
			Mode:     f.mode,
			Size:     int64(len(f.content)),
			ModTime:  beginning,
		}
		if f.name[len(f.name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if len(f.capabilities) > 0 {
			header.PAXRecords = map[string]string{capabilityRecord: fileCapabilities(f.capabilities)}
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithCompressedCaching, tarball.WithCompressionLevel(gzip.BestCompression),
		tarball.WithMediaType(types.OCILayer),
	)
}

// capabilityRecord is the PAX record of the extended attribute security.capability, as container runtimes read it.
const capabilityRecord = "SCHILY.xattr.security.capability"

// fileCapabilities is the attribute's value: the kernel's struct vfs_cap_data, revision 2. The capabilities are
// permitted, and not in effect at once, for the kernel does not start such a program in a pod without them: setcap
// calls it cap_…+p.
func fileCapabilities(capabilities []int) string {
	const revision2 = 0x02000000
	var permitted uint64
	for _, c := range capabilities {
		permitted |= 1 << c
	}
	data := binary.LittleEndian.AppendUint32(nil, revision2)
	for _, half := range []uint32{uint32(permitted), uint32(permitted >> 32)} {
		data = binary.LittleEndian.AppendUint32(data, half)
		data = binary.LittleEndian.AppendUint32(data, 0) // inheritable
	}
	return string(data)
}
