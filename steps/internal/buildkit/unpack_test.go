package buildkit

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/klauspost/compress/zstd"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layer is decompressed to what it was, whatever it is; what is broken is not taken for its end.
func TestUnzipping(t *testing.T) {
	content := make([]byte, 5*aheadBlocks*aheadBlock/2+17)
	rand.NewChaCha8([32]byte{1}).Read(content[:len(content)/2])
	zip := func(content []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(content)
		w.Close()
		return out.Bytes()
	}
	zipped := zip(content)
	unsummed := append(bytes.Clone(zipped[:len(zipped)-8]), make([]byte, 8)...)
	flipped := bytes.Clone(zipped)
	flipped[len(flipped)/3] ^= 1
	coder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		layer, want []byte
		broken      error // nil: it is whole
	}{
		"gzip":            {layer: zipped, want: content},
		"gzip of nothing": {layer: zip(nil)},
		"gzip in two members": {
			layer: append(zip(content), zip(content)...), want: append(bytes.Clone(content), content...),
		},
		"not compressed after all":      {layer: content[len(content)/2:], want: content[len(content)/2:]},
		"zstd after all":                {layer: coder.EncodeAll(content, nil), want: content},
		"nothing":                       {},
		"cut off":                       {layer: zipped[:len(zipped)/2], broken: io.ErrUnexpectedEOF},
		"cut off in the checksum":       {layer: zipped[:len(zipped)-3], broken: io.ErrUnexpectedEOF},
		"with another checksum":         {layer: unsummed, broken: errAny},
		"with another byte":             {layer: flipped, broken: errAny},
		"with something after it":       {layer: append(zipped[:len(zipped):len(zipped)], "x"...), broken: errAny},
		"cut off at the end of a block": {layer: zip(content[:aheadBlock])[:30], broken: io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			for _, read := range []func(io.Reader) io.Reader{
				func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader,
			} {
				chain := diff.NewProcessorChain(ocispecs.MediaTypeImageLayerGzip, read(bytes.NewReader(test.layer)))
				layer, err := diff.GetProcessor(t.Context(), chain, nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, ours := layer.(plainLayer); !ours || layer.MediaType() != ocispecs.MediaTypeImageLayer {
					t.Fatalf("the layer is a %T of type %s", layer, layer.MediaType())
				}
				got, err := io.ReadAll(layer)
				if closing := layer.Close(); closing != nil {
					t.Error(closing)
				}
				switch {
				case test.broken == nil && (err != nil || !bytes.Equal(got, test.want)):
					t.Errorf("%d bytes, wanted %d: %v", len(got), len(test.want), err)
				case test.broken == errAny && err == nil, test.broken != errAny && !errors.Is(err, test.broken):
					t.Errorf("%d bytes: %v, wanted %v", len(got), err, test.broken)
				}
			}
		})
	}
}

// errAny stands for each failure.
var errAny = errors.New("any")

// Who stops to read in the middle waits for a read that is under way, and for nothing else.
func TestReadAheadStops(t *testing.T) {
	from := &slow{begun: make(chan struct{}, 1), proceed: make(chan struct{})}
	a := readAhead(from)
	<-from.begun
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Fatal("the stream is still used after Close")
	case <-time.After(20 * time.Millisecond):
	}
	close(from.proceed)
	<-closed
	if _, err := io.ReadAll(a); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a read after Close: %v", err)
	}
}

// slow is an endless stream that waits.
type slow struct{ begun, proceed chan struct{} }

func (s *slow) Read(p []byte) (int, error) {
	select {
	case s.begun <- struct{}{}:
	default:
	}
	<-s.proceed
	return len(p), nil
}
