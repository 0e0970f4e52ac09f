package redact

import (
	"bytes"
	"io"
	"testing"
)

// Output without the end of a line costs as much as any other.
func BenchmarkWriter(b *testing.B) {
	for name, piece := range map[string][]byte{
		"lines":       bytes.Repeat([]byte("[12/87] Compiling module example v1.2.3 (/src)\n"), 700),
		"no newline":  bytes.Repeat([]byte("x"), 32<<10),
		"half secret": bytes.Repeat([]byte("hunter2"), 4<<10),
	} {
		b.Run(name, func(b *testing.B) {
			var s Secrets
			s.Add("hunter22-and-more", "p@ss word/1", key)
			for b.Loop() {
				w := s.Writer(io.Discard)
				for n := 0; n < 80<<20; n += len(piece) {
					w.Write(piece)
				}
				w.Close()
			}
			b.SetBytes(80 << 20)
		})
	}
}
