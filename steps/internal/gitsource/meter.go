package gitsource

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// meter counts what a checkout has done, for the lines that a long one shows.
type meter struct {
	received           atomic.Int64 // bytes of the pack, or of Git LFS
	objects, ofObjects atomic.Int64 // that were received
	deltas, ofDeltas   atomic.Int64 // that were resolved
	files, ofFiles     atomic.Int64 // that were written
}

// A checkout that is quick shows nothing; a long one a line now and then.
const (
	firstReport = 5 * time.Second
	nextReport  = 10 * time.Second
)

// reset begins anew, for another pack.
func (m *meter) reset() {
	for _, n := range []*atomic.Int64{
		&m.received, &m.objects, &m.ofObjects, &m.deltas, &m.ofDeltas, &m.files, &m.ofFiles,
	} {
		n.Store(0)
	}
}

// report shows the counts from time to time until ctx ends. done is closed after the last line.
func (m *meter) report(ctx context.Context, log func() *slog.Logger) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		timer := time.NewTimer(firstReport)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			log().Info("Still checking out", m.counts()...)
			timer.Reset(nextReport)
		}
	}()
	return ended
}

// counts are the attributes of a line: only what has begun.
func (m *meter) counts() []any {
	args := []any{"received", megabytes(m.received.Load())}
	for _, c := range []struct {
		name    string
		now, of *atomic.Int64
	}{{"objects", &m.objects, &m.ofObjects}, {"deltas", &m.deltas, &m.ofDeltas}, {"files", &m.files, &m.ofFiles}} {
		switch now, of := c.now.Load(), c.of.Load(); {
		case of > 0:
			args = append(args, c.name, fmt.Sprintf("%d of %d", min(now, of), of))
		case now > 0: // files are written before all trees have arrived
			args = append(args, c.name, now)
		}
	}
	return args
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
