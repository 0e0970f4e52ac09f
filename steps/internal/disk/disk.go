// Package disk looks at file systems: which one is full.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Disk is a file system.
type Disk struct {
	Path      string // a file or folder on it
	Device    uint64 // the same for whatever is on it
	Size      uint64 // bytes
	Free      uint64 // bytes that are left for this process
	Files     uint64 // how many files it can have; 0 when it has no bound
	FilesLeft uint64 // how many more
}

// Of looks at the file system of a path. Of one that is not there, it is the nearest folder's above.
func Of(path string) (Disk, error) {
	for {
		var at unix.Stat_t
		var of unix.Statfs_t
		err := unix.Stat(path, &at)
		if err == nil {
			err = unix.Statfs(path, &of)
		}
		if err == nil {
			size := uint64(of.Bsize)
			return Disk{path, at.Dev, of.Blocks * size, of.Bavail * size, of.Files, of.Ffree}, nil
		}
		above := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || above == path {
			return Disk{}, fmt.Errorf("%s: %w", path, err)
		}
		path = above
	}
}

// Some file systems keep a little for themselves, and a program that has failed has removed some of its files.
const (
	little   = 64 << 10 // bytes
	fewFiles = 64
)

// IsFull tells whether there is next to nothing left.
func (d Disk) IsFull() bool { return d.Free < little || d.lacksFiles() }

func (d Disk) lacksFiles() bool { return d.Files > 0 && d.FilesLeft <= min(d.Files/20, fewFiles) }

// String says how much is left.
func (d Disk) String() string {
	if d.lacksFiles() {
		return fmt.Sprintf("%d of %d inodes are left, and %s of %s", d.FilesLeft, d.Files, size(d.Free), size(d.Size))
	}
	return fmt.Sprintf("%s of %s are left", size(d.Free), size(d.Size))
}

func size(bytes uint64) string {
	const units = "KMGTPE"
	if bytes < 1<<10 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	value, unit := float64(bytes)/(1<<10), 0
	for value >= 1<<10 && unit < len(units)-1 {
		value, unit = value/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// Full returns the first file system that is full, of those that these paths are on. It asks the kernel, for those who
// have only the words of a program that met the end of a disk. Empty paths and absent ones do not count.
func Full(paths ...string) (Disk, bool) {
	for _, path := range paths {
		if path == "" {
			continue
		}
		if d, err := Of(path); err == nil && d.Path == path && d.IsFull() {
			return d, true
		}
	}
	return Disk{}, false
}

// OfError looks at the file system of the path that an error names. Where the file and its folder are gone, a mount may
// be gone, too: then only one that is full is meant.
func OfError(err error) (Disk, bool) {
	path, ok := errors.AsType[*fs.PathError](err)
	if !ok || !filepath.IsAbs(path.Path) {
		return Disk{}, false
	}
	d, err := Of(path.Path)
	return d, err == nil && (d.Path == path.Path || d.Path == filepath.Dir(path.Path) || d.IsFull())
}
