package main

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// The scanner's image has its program, by the same rules as the images of steps, and is made when it is named only.
func TestScannersImage(t *testing.T) {
	dir := t.TempDir()
	out, err := run(
		t, nil, "build", "--source", clone(t, filepath.Join(t.TempDir(), "source")), "--dir", dir, "--version", version,
		"--arch", runtime.GOARCH, scanner.step,
	)
	if err != nil {
		t.Fatal(err)
	}
	all, digest := platforms(t, filepath.Join(dir, scanner.step))
	img := all[runtime.GOARCH]
	if img == nil || !strings.Contains(out, digest.String()) {
		t.Fatalf("platforms %v\n%s", all, out)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if entry := config.Config.Entrypoint; !slices.Equal(entry, []string{"/usr/local/bin/sbom-scanner"}) {
		t.Errorf("it starts %v", entry)
	}
	chosen, err := imagesOf(nil)
	if err != nil || slices.ContainsFunc(chosen, func(i image) bool { return i.step == scanner.step }) {
		t.Errorf("it is made unasked: %v, %v", chosen, err)
	}
}

// The scanner's own tests, which its module keeps from those of this one.
func TestScanner(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles syft")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-trimpath", "./...")
	cmd.Dir = filepath.Join("..", scanner.module)
	cmd.Env = slices.Concat(cmd.Environ(), settings, []string{"CGO_ENABLED=0"})
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
