package lint

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sizes are how large a step's stripped binary may be, in MB. It is pulled by every node that runs a build.
var sizes = map[string]int64{
	"checkout-source":      16,
	"containerfile-build":  45,
	"buildpacks-build":     15,
	"scan-gate":            15,
	"commit-status":        15,
	"publish-image":        15,
	"generate-workload-cr": 15,
}

func TestBinariesAreSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("links every step")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "./steps/...")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binaries, err := os.ReadDir(dir)
	if err != nil || len(binaries) != len(sizes) {
		t.Fatalf("%d binaries, want %d; %v", len(binaries), len(sizes), err)
	}
	for _, b := range binaries {
		info, err := os.Stat(filepath.Join(dir, b.Name()))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %.1f MB", b.Name(), float64(info.Size())/1e6)
		if limit := sizes[b.Name()]; info.Size() > limit*1_000_000 {
			t.Errorf("%s is %.1f MB; it may be %d", b.Name(), float64(info.Size())/1e6, limit)
		}
	}
}
