package workspace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// MakeFolders makes the folders of the workspace that a pod may have alone, for any user of the volume's group: what
// later steps leave, and the manifest's, which is made new. A link in the place of one is removed.
func (w Workspace) MakeFolders() error {
	if err := os.RemoveAll(w.TreeFolder()); err != nil {
		return err
	}
	for _, dir := range []string{w.TreeFolder(), w.Image(), w.Cache(), w.SBOM()} {
		if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
			if err := os.Remove(dir); err != nil {
				return err
			}
		}
		switch err := os.Mkdir(dir, 0o775); {
		case errors.Is(err, fs.ErrExist): // of an earlier run, with what it made
		case err != nil:
			return err
		default:
			if err := os.Chmod(dir, 0o775|fs.ModeSetgid); err != nil {
				return err
			}
		}
	}
	return nil
}

// stagingPattern is how folders of unfinished things are named. Who reads a folder of the workspace passes over names
// that begin with a dot.
const stagingPattern = ".staging-*"

// Stage makes a folder in which to make what Replace then puts at a path of the workspace: beside it, or inside it
// where a pod has only this folder of the workspace. The caller removes what is left of it.
func Stage(to string) (string, error) {
	if !isMountPoint(to) {
		dir, err := os.MkdirTemp(filepath.Dir(to), stagingPattern)
		if !errors.Is(err, syscall.EROFS) && !errors.Is(err, fs.ErrPermission) {
			return dir, err
		}
	}
	return os.MkdirTemp(to, stagingPattern)
}

// RemoveUnfinished removes what Stage made for an attempt that was killed. No other attempt may be at work.
func (w Workspace) RemoveUnfinished() error {
	var errs []error
	for _, dir := range []string{string(w), w.Image(), w.Cache(), w.SBOM()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // there is nothing then
		}
		for _, e := range entries {
			if ok, err := filepath.Match(stagingPattern, e.Name()); err == nil && ok {
				errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// Replace puts a finished folder in place of an older one. Both must be on one file system. It is done in one go, and
// when it fails the older one is there still; but where the older one is a mount point, or the finished one was made
// inside it (Stage), their entries change places one by one. Then what is there without an index.json, which goes first
// and comes last, is no image.
func Replace(finished, to string) error {
	if isMountPoint(to) || filepath.Dir(finished) == filepath.Clean(to) ||
		filepath.Dir(filepath.Dir(finished)) == filepath.Clean(to) {
		return replaceEntries(finished, to)
	}
	old := finished + ".old"
	err := os.Rename(to, old)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(finished, to)
	}
	if errors.Is(err, syscall.EBUSY) {
		return replaceEntries(finished, to)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(finished, to); err != nil {
		return errors.Join(err, os.Rename(old, to))
	}
	return os.RemoveAll(old)
}

// replaceEntries removes what is in a folder, but for what is being made there, and moves the entries of another one
// into it.
func replaceEntries(finished, to string) error {
	made, err := os.ReadDir(finished)
	if err != nil {
		return err
	}
	there, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	indexFirst := func(a, b fs.DirEntry) int {
		switch {
		case a.Name() == b.Name():
			return 0
		case a.Name() == indexFile:
			return -1
		case b.Name() == indexFile:
			return 1
		}
		return strings.Compare(a.Name(), b.Name())
	}
	slices.SortFunc(there, indexFirst)
	slices.SortFunc(made, indexFirst)
	for _, e := range there {
		if !strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
	}
	for _, e := range slices.Backward(made) {
		if err := os.Rename(filepath.Join(finished, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return os.Remove(finished)
}

// indexFile is the file without which a folder is no image layout.
const indexFile = "index.json"

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
