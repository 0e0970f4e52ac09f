package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	for _, want := range []target{
		{"steps/internal/gitsource", "FuzzReceivePack"}, {"steps/internal/gitsource", "FuzzWildmatch"},
		{"steps/internal/dockerfile", "FuzzDockerfile"}, {"steps/internal/cachemount", "FuzzUnpack"},
		{"internal/descriptor", "FuzzDescriptor"}, {"steps/internal/handover", "FuzzRead"},
	} {
		if !slices.Contains(found, want) {
			t.Errorf("%s is not found in %v", want, found)
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
	err := run(t.Context(), regexp.MustCompile(""), time.Second, 0, &out)
	if err == nil || !strings.Contains(err.Error(), "1 of 2 targets fail: a.FuzzBad") {
		t.Errorf("%v", err)
	}
	said := out.String()
	if !strings.Contains(said, "one byte") || !strings.Contains(said, "2 of 2  b.FuzzGood\n  fuzz:") {
		t.Errorf("said:\n%s", said)
	}
	if err := run(t.Context(), regexp.MustCompile("Good"), time.Second, 2, &out); err != nil {
		t.Error(err)
	}
	if err := run(t.Context(), regexp.MustCompile("None"), time.Second, 0, &out); err == nil {
		t.Error("no target, and no error")
	}
}
