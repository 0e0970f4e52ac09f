package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The project has a target for each kind of stranger's bytes that it reads itself.
func TestFind(t *testing.T) {
	t.Parallel()
	found, err := find("../..")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, target := range found {
		names = append(names, target.String())
		if len(target.about) < 20 || !strings.HasSuffix(target.about, ".") {
			t.Errorf("the comment of %s does not say what it reads: %q", target, target.about)
		}
	}
	for _, want := range []string{
		"steps/internal/gitsource.FuzzReceivePack", "steps/internal/gitsource.FuzzWildmatch",
		"steps/internal/dockerfile.FuzzDockerfile", "steps/internal/cachemount.FuzzUnpack",
		"internal/descriptor.FuzzDescriptor", "steps/internal/handover.FuzzRead", "internal/registry.FuzzChallenge",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not found in %v", want, names)
		}
	}
}

// Of the inputs that the fuzzer has found, those are kept that run what no other one does, unless they are too long.
func TestKeep(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	files := map[string]string{
		filepath.Join(dir, "go.mod"): "module example.com/fuzzed\n\ngo 1.26\n",
		filepath.Join(dir, "a/a.go"): "package a\n\nfunc parse(s string) int {\n\tif s == \"\" {\n\t\treturn 0\n\t}\n" +
			"\tif s[0] == 'a' {\n\t\treturn 1\n\t}\n\tif s[0] == 'b' {\n\t\treturn 2\n\t}\n\treturn 3\n}\n",
		filepath.Join(dir, "a/a_test.go"): "package a\n\nimport \"testing\"\n\nfunc FuzzA(f *testing.F) {\n" +
			"\tf.Add(\"x\")\n\tf.Fuzz(func(t *testing.T, s string) { parse(s) })\n}\n",
	}
	for name, text := range map[string]string{
		"1": "y", "2": "aa", "3": "aaa", "4": "bbbb", "5": "xxxxx", "6": strings.Repeat("a", largest), "7": "abbbbb",
	} {
		files[filepath.Join(cache, "fuzz", "example.com", "fuzzed", "a", "FuzzA", name)] =
			"go test fuzz v1\nstring(" + strconv.Quote(text) + ")\n"
	}
	for file, text := range files {
		err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	shareCompiled(t, cache)
	t.Chdir(dir)
	t.Setenv("GOCACHE", cache)
	for _, test := range []struct {
		most int
		want string
	}{{1, "2"}, {9, "2 4"}} {
		if err := (target{folder: "a", name: "FuzzA"}).keep(t.Context(), test.most); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Join("a", "testdata", "fuzz", "FuzzA"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("of at most %d: %q, want %q", test.most, got, test.want)
		}
	}
	if err := (target{folder: "a", name: "FuzzB"}).keep(t.Context(), 2); err != nil {
		t.Errorf("a target that found nothing: %v", err)
	}
}

// shareCompiled gives a cache of Go what is compiled already, but no inputs.
func shareCompiled(t *testing.T, cache string) {
	t.Helper()
	raw, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	usual := strings.TrimSpace(string(raw))
	entries, err := os.ReadDir(usual)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != "fuzz" {
			if err := os.Symlink(filepath.Join(usual, name), filepath.Join(cache, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A crash is told, and does not keep the next target from running.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/fuzzed\n\ngo 1.26\n",
		"a/a_test.go": "package a\n\nimport \"testing\"\n\n" +
			"func FuzzBad(f *testing.F) {\n\tf.Add([]byte(\"x\"))\n" +
			"\tf.Fuzz(func(t *testing.T, b []byte) {\n" +
			"\t\tif len(b) == 1 {\n\t\t\tt.Error(\"one byte\")\n\t\t}\n\t})\n}\n",
		"b/b_test.go": "package b\n\nimport \"testing\"\n\nfunc FuzzGood(f *testing.F) {\n\tf.Add(\"x\")\n" +
			"\tf.Fuzz(func(*testing.T, string) {})\n}\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	var out bytes.Buffer
	r := round{chosen: regexp.MustCompile(""), limit: time.Second, record: dir, out: &out}
	err := r.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "1 of 2 targets fail: a.FuzzBad") {
		t.Errorf("%v", err)
	}
	said := out.String()
	if !strings.Contains(said, "one byte") || !strings.Contains(said, " s of CPU  fuzz: elapsed") {
		t.Errorf("said:\n%s", said)
	}
	before := kept(t, dir)
	r.chosen = regexp.MustCompile("Good")
	if err := r.run(t.Context()); err != nil {
		t.Error(err)
	}
	const good = "b.FuzzGood"
	if after := kept(t, dir); before[good].Inputs == 0 || before[good].CPU <= 0 ||
		after[good].Inputs <= before[good].Inputs || after[good].CPU <= before[good].CPU ||
		after["a.FuzzBad"] != before["a.FuzzBad"] {
		t.Errorf("%+v, and after a second round %+v", before, after)
	}
	r.chosen = regexp.MustCompile("None")
	if err := r.run(t.Context()); err == nil {
		t.Error("no target, and no error")
	}
}
