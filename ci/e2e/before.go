package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/stepwright/stepwright/internal/cachedir"
)

// before is the commit that TestUpgrade comes from and goes back to.
const before = "c4ed54ba6584344ab43d935c12eb1f35fe0c21b3"

// The folders in which makeBefore leaves things.
const (
	imagesBefore = "images" // of the steps, of version "before"
	bundleBefore = "bundle" // files for kubectl apply
)

// makeBefore makes the steps' images and the bundle of the commit before, which are kept, and returns their folder. It
// is empty where the clone has no such commit.
func (r runner) makeBefore(ctx context.Context) (string, error) {
	if err := exec.CommandContext(ctx, "git", "cat-file", "-e", before+"^{commit}").Run(); err != nil {
		fmt.Fprintf(r.stdout, "e2e: TestUpgrade is left out: this clone has no commit %s\n", before[:8])
		return "", ctx.Err()
	}
	dir, err := cachedir.Path("e2e", "before-"+before[:12])
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(dir), ".unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	source, made := filepath.Join(scratch, "source"), filepath.Join(scratch, "made")
	if err := r.commands(ctx,
		[]string{"git", "clone", "--quiet", "--no-checkout", ".", source},
		[]string{"git", "-C", source, "checkout", "--quiet", before},
		[]string{"go", "run", "-C", source, "./images", "build", "--version", "before", "--arch", runtime.GOARCH,
			"--dir", filepath.Join(made, imagesBefore)},
	); err != nil {
		return "", err
	}
	if err := rename(filepath.Join(source, overlay, "kustomization.yaml")); err != nil {
		return "", err
	}
	if err := r.command(
		ctx, "go", "run", "-C", source, "./ci/release", "--out", filepath.Join(made, bundleBefore), overlay,
	); err != nil {
		return "", err
	}
	return dir, os.Rename(made, dir)
}

// rename gives the images of an overlay the version before.
func rename(kustomization string) error {
	text, err := os.ReadFile(kustomization)
	if err != nil {
		return err
	}
	renamed := bytes.ReplaceAll(text, []byte("newTag: "+version+"\n"), []byte("newTag: before\n"))
	if bytes.Equal(renamed, text) {
		return fmt.Errorf("%s: there is no tag %s", kustomization, version)
	}
	return os.WriteFile(kustomization, renamed, 0o644)
}

// commands runs commands, one after the other, until one fails.
func (r runner) commands(ctx context.Context, commands ...[]string) error {
	for _, c := range commands {
		if err := r.command(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}
