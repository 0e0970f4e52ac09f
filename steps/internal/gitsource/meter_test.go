package gitsource

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A quick checkout shows no lines of its progress, and a long one a line every few seconds, in JSON, too.
func TestProgressOfALongCheckout(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		took  time.Duration
		lines int
		files int64 // written before it is known how many there are
	}{
		"quick":           {4 * time.Second, 0, 0},
		"six seconds":     {6 * time.Second, 1, 0},
		"ten minutes":     {10 * time.Minute, 60, 7},
		"sixteen seconds": {16 * time.Second, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				log := slog.New(slog.NewJSONHandler(&out, nil))
				ctx, cancel := context.WithCancel(t.Context())
				m := &meter{}
				m.received.Store(1_234_567_890)
				m.objects.Store(10)
				m.ofObjects.Store(20)
				m.deltas.Store(3)
				m.ofDeltas.Store(4)
				m.files.Store(c.files)
				var files any
				if c.files > 0 {
					files = float64(c.files)
				}
				done := m.report(ctx, func() *slog.Logger { return log })
				time.Sleep(c.took) // of the bubble's clock
				cancel()
				<-done
				lines := strings.Split(strings.TrimSpace(out.String()), "\n")
				if out.Len() == 0 {
					lines = nil
				}
				if len(lines) != c.lines {
					t.Fatalf("%d lines, want %d:\n%s", len(lines), c.lines, &out)
				}
				for _, line := range lines {
					var got map[string]any
					if err := json.Unmarshal([]byte(line), &got); err != nil {
						t.Fatal(err)
					}
					if got["received"] != "1234.6 MB" || got["objects"] != "10 of 20" || got["deltas"] != "3 of 4" ||
						got["files"] != files {
						t.Errorf("%s", line)
					}
				}
			})
		})
	}
}

// A pack, as it arrives and is resolved, is counted.
func TestMeterOfAPack(t *testing.T) {
	t.Parallel()
	base := []byte("base content")
	name := nameOf(t, 3, base)
	raw := packed(object(3, len(base), nil, base), object(7, 5, name[:], []byte{12, 3, 0x91, 1, 3}))
	p, err := receive(t, raw)
	if err != nil {
		t.Fatal(err)
	}
	contents(t, p)
	if m := p.meter; m.received.Load() != int64(len(raw)) || m.objects.Load() != 2 || m.ofObjects.Load() != 2 ||
		m.deltas.Load() != 1 || m.ofDeltas.Load() != 1 {
		t.Errorf("%v", m.counts())
	}
}
