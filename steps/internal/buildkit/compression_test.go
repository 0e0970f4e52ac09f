package buildkit

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	processors "runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The bytes of a layer depend neither on the machine's processors nor on how a program writes.
func TestCompression(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var content []byte
	for len(content) < 2<<20 { // more than a block of each compressor
		content = fmt.Appendf(content, "line %d of %d\n", random.IntN(1000), len(content))
	}
	compress := func(c Compression, chunk func() int) []byte {
		t.Helper()
		var out bytes.Buffer
		w, err := c.Writer(&out)
		if err != nil {
			t.Fatal(err)
		}
		for rest := content; len(rest) > 0; {
			n := min(chunk(), len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	seen := map[string]Compression{}
	for _, c := range []Compression{{}, {gzipType, 1}, {gzipType, 9}, {zstdType, 0}, {zstdType, 1}, {zstdType, 9}} {
		t.Run(c.String(), func(t *testing.T) {
			want := compress(c, func() int { return len(content) })
			if other, ok := seen[string(want)]; ok {
				t.Errorf("as by %s", other)
			}
			seen[string(want)] = c
			for _, n := range []int{1, 2, 8} {
				before := processors.GOMAXPROCS(n)
				got := compress(c, func() int { return 1 + random.IntN(100_000) })
				processors.GOMAXPROCS(before)
				if !bytes.Equal(got, want) {
					t.Errorf("other bytes with %d processors", n)
				}
			}
			var plain io.Reader
			var err error
			if c.Type == zstdType {
				plain, err = zstd.NewReader(bytes.NewReader(want))
			} else {
				plain, err = gzip.NewReader(bytes.NewReader(want))
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes come back: %v", len(got), err)
			}
		})
	}
	for same, c := range map[Compression]Compression{
		{}:            {gzipType, gzipLevel},
		{zstdType, 0}: {zstdType, zstdLevel},
	} {
		if same.String() != c.String() {
			t.Errorf("%s is not %s", same, c)
		}
	}
}
