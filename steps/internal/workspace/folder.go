package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Replace puts a finished folder in place of an older one, in one go. Both must be on one file
// system. When it fails, the older one is there still.
func Replace(finished, to string) error {
	old := finished + ".old"
	err := os.Rename(to, old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(finished, to)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(finished, to); err != nil {
		return errors.Join(err, os.Rename(old, to))
	}
	return os.RemoveAll(old)
}

// MakeReadable lets the next step, which is another user, read a folder's files.
func MakeReadable(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.Chmod(path, 0o755)
		case entry.Type().IsRegular():
			return os.Chmod(path, 0o644)
		}
		return nil
	})
}

// IsDiskFull tells whether there is next to nothing left on a file system that one of these folders is on. It asks the
// kernel, for those who have only the words of a program that met the end of a disk. Empty names and absent folders do
// not count.
func IsDiskFull(dirs ...string) bool {
	for _, dir := range dirs {
		var fs unix.Statfs_t
		if dir == "" || unix.Statfs(dir, &fs) != nil {
			continue
		}
		const little = 64 << 10
		if fs.Bavail*uint64(fs.Bsize) < little || fs.Files > 0 && fs.Ffree == 0 {
			return true
		}
	}
	return false
}
