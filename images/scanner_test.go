package main

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/guidetest"
)

// The scanner's image has its program, by the same rules as the images of steps, and is made when it is named only.
func TestScannersImage(t *testing.T) {
	dir := t.TempDir()
	// The guide's lines make it, and push it.
	guide := guidetest.Commands(guidetest.Blocks(
		t, "../docs/platform/provenance.md", "These lines are run by go test ./images, TestScannersImage.",
	)[0])
	if len(guide) != 2 {
		t.Fatalf("the guide has other lines: %q", guide)
	}
	args := func(line, architecture, registry string, more ...string) []string {
		line, _, _ = strings.Cut(line, " # ")
		line, ours := strings.CutPrefix(
			strings.NewReplacer("--arch amd64", "--arch "+architecture, "ghcr.io/", registry+"/").Replace(line),
			"go run ./images ",
		)
		if !ours {
			t.Fatalf("the guide has another line: %s", line)
		}
		words := strings.Fields(line)
		return slices.Concat(words[:1], []string{"--dir", dir}, more, words[1:])
	}
	source := clone(t, filepath.Join(t.TempDir(), "source"))
	out, err := run(t, nil, args(guide[0], runtime.GOARCH, "", "--source", source, "--version", version)...)
	if err != nil {
		t.Fatal(err)
	}
	all, digest := platforms(t, filepath.Join(dir, scanner.step))
	img := all[runtime.GOARCH]
	if img == nil || !strings.Contains(out, digest.String()) {
		t.Fatalf("platforms %v\n%s", all, out)
	}
	registry, err := devregistry.New(devregistry.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	host, err := registry.StartHandler("", registry)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := run(t, nil, args(guide[1], "", host, "--plain-http")...)
	if want := host + "/acme/stepwright/sbom-scanner:" + version + "@" + digest.String(); err != nil ||
		!strings.Contains(pushed, want) {
		t.Errorf("%v: %s, want %s", err, pushed, want)
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
