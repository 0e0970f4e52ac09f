package buildpack

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// productFolders are what a build leaves: the mounts of its application and of its layers.
var productFolders = []string{"application", "layers"}

// MakeProduct makes the folders application and layers in dir, for the containers that build and seal to mount. They
// are in the image as they are here, and all that is made in them takes after them. A volume is not fit to be one of
// them: its root belongs to root, is writable to everyone, and hands its group on, on the word of the kubelet, so the
// image's digest would depend on where it was built.
func MakeProduct(dir string) error {
	for _, name := range productFolders {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// The group first, and neither it nor the mode as the volume or the umask would have them.
		if err := os.Chown(path, -1, os.Getgid()); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o755); err != nil {
			return err
		}
	}
	return nil
}
