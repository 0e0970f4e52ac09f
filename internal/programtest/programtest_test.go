package programtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/cachedir"
)

// A program is what its files say, and is linked again only when they change.
func TestBuild(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	t.Setenv(cachedir.Variable, t.TempDir())
	module := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(module, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const source = "package main\n\nfunc main() { println(\"one\") }\n"
	write("go.mod", "module example.com/m\n\ngo 1.25\n")
	write("a/main.go", source)
	kept := func() os.FileInfo {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(os.Getenv(cachedir.Variable), "test-programs", "*", "a"))
		if err != nil || len(all) != 1 {
			t.Fatalf("%v, %v", all, err)
		}
		info, err := os.Stat(all[0])
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	build := func(says string) {
		t.Helper()
		into := filepath.Join(t.TempDir(), "new")
		if err := Build(t.Context(), into, module, "./a"); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(filepath.Join(into, "a")).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != says {
			t.Errorf("%q, %v", out, err)
		}
	}
	build("one")
	first := kept()
	build("one")
	if !os.SameFile(first, kept()) {
		t.Error("it was linked again")
	}
	write("a/main.go", strings.Replace(source, "one", "two", 1))
	build("two")
	write("a/main.go", "package main\n")
	if err := Build(t.Context(), t.TempDir(), module, "./a"); err == nil {
		t.Error("what does not compile was built")
	}
}
