// Package programtest builds programs for tests, and keeps them: a later test of the same checkout that wants the same
// program of the same files need not link it again.
package programtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
)

// Build puts the programs of main packages into a folder, each under the last name of its package. They are static, and
// built in the folder of a module. The caller may change them.
func Build(ctx context.Context, into, module string, packages ...string) error {
	module, err := filepath.Abs(module)
	if err != nil {
		return err
	}
	// Two checkouts would take turns otherwise in making the kept program their own.
	sum := sha256.Sum256([]byte(module))
	kept, err := cachedir.Path("test-programs", hex.EncodeToString(sum[:8]))
	if err != nil {
		return err
	}
	for _, dir := range []string{kept, into} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	unlock, err := filelock.Exclusive(ctx, filepath.Join(kept, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	// Go leaves a program as it is that has been built of the same files in the same way.
	build := exec.CommandContext(ctx, "go", append([]string{
		"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", kept + string(filepath.Separator),
	}, packages...)...)
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, name := range packages {
		name = path.Base(name)
		if err := copyProgram(filepath.Join(into, name), filepath.Join(kept, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
