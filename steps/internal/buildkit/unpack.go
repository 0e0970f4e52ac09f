package buildkit

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/typeurl/v2"
	"github.com/klauspost/compress/gzip"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// A fresh builder unpacks its base images at the beginning of each build, which waits for that. By itself, containerd
// decompresses gzip by turns with writing files.
func init() { diff.RegisterProcessor(unzipping) }

// unzipping handles layers that are compressed by gzip, as their type says: a quicker library decompresses them, ahead
// of what writes the files. What they are after all is recognized as containerd does.
func unzipping(_ context.Context, mediaType string) (diff.StreamProcessorInit, bool) {
	if !strings.HasSuffix(mediaType, "gzip") {
		return nil, false
	}
	return func(
		_ context.Context, layer diff.StreamProcessor, _ map[string]typeurl.Any,
	) (diff.StreamProcessor, error) {
		buffered := bufio.NewReaderSize(layer, 64<<10)
		if magic, _ := buffered.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
			plain, err := compression.DecompressStream(buffered)
			if err != nil {
				return nil, err
			}
			return plainLayer{plain}, nil
		}
		plain, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, err
		}
		return plainLayer{readAhead(plain)}, nil
	}, true
}

// plainLayer is a decompressed layer.
type plainLayer struct{ io.ReadCloser }

// MediaType implements diff.StreamProcessor.
func (plainLayer) MediaType() string { return ocispecs.MediaTypeImageLayer }

// How much is read ahead: so many blocks of so many bytes.
const (
	aheadBlocks = 8
	aheadBlock  = 256 << 10
)

// ahead reads a stream in a goroutine of its own.
type ahead struct {
	full, empty chan []byte
	err         error // of the stream; to be read when full is closed
	end         func()

	block []byte // which is being read
	rest  []byte // of it
}

// readAhead starts to read. The stream may not be used after Close, nor before it has returned.
func readAhead(from io.Reader) *ahead {
	a := &ahead{full: make(chan []byte, aheadBlocks), empty: make(chan []byte, aheadBlocks)}
	for range aheadBlocks {
		a.empty <- make([]byte, aheadBlock)
	}
	stop := make(chan struct{})
	a.end = sync.OnceFunc(func() {
		close(stop)
		for range a.full { // until the goroutine has closed it
		}
	})
	go func() {
		defer close(a.full)
		for {
			select {
			case <-stop:
				a.err = io.ErrClosedPipe
				return
			case block := <-a.empty:
				n := 0
				for block = block[:aheadBlock]; n < len(block) && a.err == nil; {
					var more int
					more, a.err = from.Read(block[n:])
					n += more
				}
				a.full <- block[:n]
				if a.err != nil {
					return
				}
			}
		}
	}()
	return a
}

// Read implements io.Reader.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.block != nil {
			a.empty <- a.block
			a.block = nil
		}
		block, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.block, a.rest = block, block
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close implements io.Closer. It returns when the stream is no longer used.
func (a *ahead) Close() error {
	a.end()
	return nil
}
