// Package disk looks at file systems: which one is full.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

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

// often is how often a watch looks.
const often = 10 * time.Millisecond

// scarce is how little is left, in bytes, when a watch looks, of a disk that is full a moment later.
const scarce = 4 << 20

// Watch looks how much is left of the file systems of these paths, until it is asked for the first one of which there
// was little. A program that meets the end of a disk removes what it could not finish, and then there is room again.
func Watch(paths ...string) (scarcest func() (Disk, bool)) {
	ended, lowest := make(chan struct{}), make(chan Disk, 1)
	look := func(worst *Disk) {
		for _, path := range paths {
			d, err := Of(path)
			if err == nil && d.Path == path && (worst.Path == "" || d.Free < worst.Free) {
				*worst = d
			}
		}
	}
	go func() {
		var worst Disk
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			look(&worst)
			select {
			case <-tick.C:
			case <-ended:
				look(&worst)
				lowest <- worst
				return
			}
		}
	}()
	return sync.OnceValues(func() (Disk, bool) {
		close(ended)
		worst := <-lowest
		return worst, worst.Path != "" && (worst.Free < scarce || worst.lacksFiles())
	})
}
