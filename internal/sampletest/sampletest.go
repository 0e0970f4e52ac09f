// Package sampletest has tests with long tables take some of their cases, others each time. All of them are taken where
// the test binary is given -exhaustive, as CI does at night; -seed takes the same as before.
package sampletest

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var (
	exhaustive = flag.Bool("exhaustive", false, "take all cases of tables of which some are enough")
	seed       = flag.Uint64("seed", 0, "decides which cases of a table are taken; 0: others each time")
)

// Exhaustive tells whether all cases are to be taken.
func Exhaustive() bool { return *exhaustive }

// Random returns what a test chooses cases by. The test's log tells the seed.
func Random(t testing.TB) *rand.Rand {
	t.Helper()
	by := *seed
	if by == 0 {
		by = uint64(time.Now().UnixNano())
	}
	t.Logf("some of the cases, by -seed %d", by)
	return rand.New(rand.NewPCG(by, 0))
}

// Of returns some cases of a table, in their order.
func Of[T any](t testing.TB, some int, cases []T) []T {
	t.Helper()
	if Exhaustive() || some >= len(cases) {
		return cases
	}
	chosen := Random(t).Perm(len(cases))[:some]
	slices.Sort(chosen)
	all := make([]T, 0, some)
	for _, i := range chosen {
		all = append(all, cases[i])
	}
	return all
}
