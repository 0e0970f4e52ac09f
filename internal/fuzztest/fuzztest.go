// Package fuzztest bounds what parsers of strangers' bytes may cost, for their fuzz targets.
package fuzztest

import (
	"runtime"
	"strings"
	"testing"
	"time"
)

// Cost is what a parser may take for an input of n bytes: Base and n times PerByte, and Time and n times TimePerByte.
type Cost struct {
	Base, PerByte     uint64        // bytes allocated in all, whether or not they are held
	Time, TimePerByte time.Duration // of the processor; generous, for the race detector
}

// Of returns a cost in MiB, and in KiB for each byte, with the time of parsers that read a text a few times.
func Of(mebi, kibiPerByte uint64) Cost {
	return Cost{Base: mebi << 20, PerByte: kibiPerByte << 10, Time: 2 * time.Second, TimePerByte: 20 * time.Microsecond}
}

// Small is the cost of parsers that read a text once or a few times.
var Small = Of(1, 1)

// Bound runs parse, of an input of n bytes, and fails where it costs more. Nothing else may run in the process.
func (c Cost) Bound(t *testing.T, n int, parse func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := processorTime()
	parse()
	took := processorTime() - started
	runtime.ReadMemStats(&after)
	if took > c.Time+time.Duration(n)*c.TimePerByte {
		t.Errorf("an input of %d bytes took %v", n, took)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > c.Base+c.PerByte*uint64(n) {
		t.Errorf("an input of %d bytes took %d bytes of memory", n, allocated)
	}
}

// laughs is how often Laughs doubles: enough to break a bound, and not the machine.
const laughs = 25

// Laughs are texts each of which is twice the one before, for languages that expand names: line(i, i-1) says so of the
// two names by their numbers.
func Laughs(line func(name, twice int) string) string {
	var b strings.Builder
	for i := range laughs {
		b.WriteString(line(i+1, i))
	}
	return b.String()
}

// long is how many bytes a seed has that is made long.
const long = 64 << 10

// Long repeats a seed until it has 64 KiB: what costs the square of a text's length is seen there.
func Long[T ~string | ~[]byte](seed T) T {
	return T(strings.Repeat(string(seed), max(1, long/max(1, len(seed)))))
}
