package main

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/reference/fuzzing.md anew")

// kept are the tallies in a folder.
func kept(t *testing.T, dir string) map[string]tally {
	t.Helper()
	r, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r.Tallies
}

// The page has all targets and all figures, and what it calls found has a seed.
func TestPage(t *testing.T) {
	t.Parallel()
	const dir = "../../docs/reference"
	all, err := find("../..")
	if err != nil {
		t.Fatal(err)
	}
	r, err := readResults(dir)
	if err != nil {
		t.Fatal(err)
	}
	known := func(name string) bool {
		return slices.ContainsFunc(all, func(t target) bool { return t.String() == name })
	}
	for name := range r.Tallies {
		if !known(name) {
			t.Errorf("there is no target %s any more: take it out of %s", name, resultsFile)
		}
	}
	for _, f := range r.Found {
		raw, err := os.ReadFile(filepath.Join("../..", f.Proof))
		_, name, _ := strings.Cut(f.Target, ".")
		if err != nil || !known(f.Target) || !strings.Contains(f.Proof, name) && !strings.Contains(string(raw), name) {
			t.Errorf("%s has no seed of %s: %v", f.Proof, f.Target, err)
		}
	}
	want, file := page(all, r), filepath.Join(dir, pageFile)
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s is not up to date, run: go test ./ci/fuzz -run TestPage -update (%v)", file, err)
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestInputs(t *testing.T) {
	t.Parallel()
	said := []byte("fuzz: elapsed: 3s, execs: 7 (2/sec)\nfuzz: elapsed: 6s, execs: 12345 (4/sec)\nPASS\n")
	if n := inputs(said); n != 12345 {
		t.Errorf("%d", n)
	}
	if n := inputs([]byte("FAIL\n")); n != 0 {
		t.Errorf("%d of none", n)
	}
}
