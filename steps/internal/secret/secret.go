// Package secret reads Secrets as Kubernetes mounts them: a folder with a file per key.
package secret

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepwright/stepwright/internal/regularfile"
)

// Limit is how large one value may be, in bytes: Kubernetes takes no Secret larger than 1 MiB.
const Limit = 1 << 20

// ReadDir reads a mounted Secret: file name to content. An empty path, and a folder that does not exist, are a Secret
// without values: Secrets are optional where a step can do without. Folders are left out.
func ReadDir(dir string) (map[string][]byte, error) {
	values := map[string][]byte{}
	if dir == "" {
		return values, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return values, nil
	}
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		// Kubernetes mounts the files as links through a folder named ..data, so that it can swap them all at once.
		if strings.HasPrefix(entry.Name(), "..") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if values[entry.Name()], err = ReadFile(path); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// ReadFile reads a value of at most Limit bytes, also through links. What is not a regular file, such as a pipe, is an
// error at once.
func ReadFile(path string) ([]byte, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	return regularfile.Read(real, Limit)
}
