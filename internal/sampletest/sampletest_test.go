package sampletest

import (
	"slices"
	"testing"
)

func TestOf(t *testing.T) {
	cases := []int{1, 2, 3, 4, 5, 6, 7, 8}
	set := func(all bool, by uint64) {
		*exhaustive, *seed = all, by
	}
	before, old := *exhaustive, *seed
	t.Cleanup(func() { set(before, old) })
	set(false, 7)
	some := Of(t, 3, cases)
	if len(some) != 3 || !slices.IsSorted(some) || len(slices.Compact(slices.Clone(some))) != 3 {
		t.Errorf("3 of %v: %v", cases, some)
	}
	if again := Of(t, 3, cases); !slices.Equal(again, some) {
		t.Errorf("by one seed %v and %v", some, again)
	}
	if all := Of(t, 9, cases); !slices.Equal(all, cases) {
		t.Errorf("9 of %v: %v", cases, all)
	}
	set(true, 7)
	if all := Of(t, 3, cases); !slices.Equal(all, cases) {
		t.Errorf("all of %v: %v", cases, all)
	}
	set(false, 0)
	found := map[int]bool{}
	for range 200 {
		for _, c := range Of(t, 1, cases) {
			found[c] = true
		}
	}
	if len(found) != len(cases) {
		t.Errorf("never taken but these: %v", found)
	}
}
