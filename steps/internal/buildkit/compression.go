package buildkit

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/util/compression"
)

// The values of Compression.Type.
const (
	gzipType = "gzip"
	zstdType = "zstd"
)

// Compression is how layers are compressed. The same content gives the same bytes on every machine. The zero value is
// gzip.
type Compression struct {
	Type  string // gzip or zstd
	Level int    // 1 to 9 of gzip, 1 to 22 of zstd; 0: the default
}

// The default levels, by measurement (docs/reference/steps.md).
const (
	gzipLevel = 6
	zstdLevel = 3
)

// mostGzip is the highest level of gzip.
const mostGzip = 9

// Check wants the type to have the level. The schema knows those of both types together.
func (c Compression) Check() error {
	if c.Type != zstdType && c.Level > mostGzip {
		return fmt.Errorf("gzip has levels 1 to %d, and not %d", mostGzip, c.Level)
	}
	return nil
}

// level is the level that counts.
func (c Compression) level() int {
	switch {
	case c.Level != 0:
		return c.Level
	case c.Type == zstdType:
		return zstdLevel
	default:
		return gzipLevel
	}
}

// String tells compressions apart that give different bytes.
func (c Compression) String() string {
	if c.Type == zstdType {
		return fmt.Sprintf("%s-%d", zstdType, c.level())
	}
	return fmt.Sprintf("%s-%d", gzipType, c.level())
}

// MediaType is the type of the layers (OCI image specification).
func (c Compression) MediaType() string { return c.kind().MediaType() }

func (c Compression) kind() compression.Type {
	if c.Type == zstdType {
		return compression.Zstd
	}
	return compression.Gzip
}

// Writer compresses what is written to it. It is not complete before it is closed.
func (c Compression) Writer(to io.Writer) (io.WriteCloser, error) {
	if c.Type == zstdType {
		return zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level())))
	}
	return gzip.NewWriterLevel(to, c.level())
}

// Attributes ask a daemon for layers of this type. Its compressors are BuildKit's own. Where the layers are compressed
// anew after that, they are quick.
func (c Compression) Attributes(anew bool) map[string]string {
	attrs := map[string]string{"compression": c.kind().String()}
	switch {
	case c.Level != 0:
		attrs["compression-level"] = strconv.Itoa(c.Level)
	case anew:
		attrs["compression-level"] = "1"
	}
	return attrs
}

// config is what BuildKit takes.
func (c Compression) config() compression.Config { return compression.New(compressor{c.kind(), c}) }

// compressor is a compression of BuildKit's with another compressor in place of Go's own, which takes 2.6 times the
// time for layers that are 3 % smaller.
type compressor struct {
	compression.Type
	by Compression
}

// Compress implements compression.Type.
func (c compressor) Compress(context.Context, compression.Config) (compression.Compressor, compression.Finalizer) {
	return func(to io.Writer, _ string) (io.WriteCloser, error) { return c.by.Writer(to) }, nil
}

// NeedsComputeDiffBySelf implements compression.Type. Where layers are no overlays, BuildKit would compress by itself.
func (compressor) NeedsComputeDiffBySelf(compression.Config) bool { return true }

// compressedCache is a cache whose layers are compressed as the image's are: those that both have are made once.
type compressedCache struct {
	remotecache.Exporter
	compression compression.Config
}

// Config implements remotecache.Exporter.
func (c compressedCache) Config() remotecache.Config {
	return remotecache.Config{Compression: c.compression}
}
