package handover

import (
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Install copies the program that runs into a folder, under its own name, for a container of another image to run.
func Install(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(filepath.Join(dir, filepath.Base(self)), renameio.WithPermissions(0o755))
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace()
}
