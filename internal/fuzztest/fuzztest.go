// Package fuzztest bounds what parsers of strangers' bytes may cost, for their fuzz targets.
package fuzztest

import (
	"runtime"
	"testing"
	"time"
)

// Cost is what a parser may take for an input of n bytes: Base and n times PerByte.
type Cost struct {
	Base, PerByte uint64        // bytes allocated in all, whether or not they are held
	Time          time.Duration // for any input that the fuzzer makes; generous, for a machine that does other things
}

// Of returns a cost in MiB, and in KiB for each byte, with a time for inputs as a fuzzer makes them.
func Of(mebi, kibiPerByte uint64) Cost {
	return Cost{Base: mebi << 20, PerByte: kibiPerByte << 10, Time: 5 * time.Second}
}

// Small is the cost of parsers that read a text once or a few times.
var Small = Of(1, 1)

// Bound runs parse, of an input of n bytes, and fails where it costs more. Nothing else may run in the process.
func (c Cost) Bound(t *testing.T, n int, parse func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	parse()
	took := time.Since(started)
	runtime.ReadMemStats(&after)
	if took > c.Time {
		t.Errorf("an input of %d bytes took %v", n, took)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > c.Base+c.PerByte*uint64(n) {
		t.Errorf("an input of %d bytes took %d bytes of memory", n, allocated)
	}
}
