package buildkit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/filelock"
)

// TemporaryPattern is how directories for the state of a builder that is Temporary are named, for os.MkdirTemp. What a
// builder finds beside its own and nobody uses, it removes.
const TemporaryPattern = ".buildkit-*"

// sweep removes what builders that were killed left beside state. It does what it can: of another user, who has other
// ids, some may stay.
func sweep(state string) {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(state), TemporaryPattern))
	if err != nil {
		return
	}
	for _, dir := range left {
		if dir == state || !abandoned(dir) {
			continue
		}
		if err := removeAll(dir); err != nil {
			fmt.Fprintf(os.Stderr, "WARNING: what an earlier build left cannot be removed: %v\n", err)
		}
	}
}

// abandoned tells whether neither a step nor a builder has this directory. One without locks is new.
func abandoned(dir string) bool {
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return false
	}
	for _, name := range []string{lockFile, workFile} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) && name == workFile {
			continue // the builder was not started
		} else if err != nil {
			return false
		}
		unlock, err := filelock.Try(path)
		if err != nil {
			return false
		}
		defer unlock()
	}
	return true
}

// removeAll is os.RemoveAll by several threads: a disk, and more so one in a network, answers many at once. What is no
// directory goes last, and so the locks do.
func removeAll(dir string) error {
	return errors.Join(removeInside(dir, make(chan struct{}, 8)), os.RemoveAll(dir))
}

// removeInside removes the directories in a directory, with all that is in them.
func removeInside(dir string, threads chan struct{}) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // os.RemoveAll says what it is
	}
	var group errgroup.Group
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		remove := func() error { return errors.Join(removeInside(path, threads), os.RemoveAll(path)) }
		select {
		case threads <- struct{}{}:
			group.Go(func() error {
				defer func() { <-threads }()
				return remove()
			})
		default:
			if err := remove(); err != nil {
				return errors.Join(err, group.Wait())
			}
		}
	}
	return group.Wait()
}

// layersFile tells, in the directory of a builder's state, how its layers were made.
const layersFile = "layers"

// adopt removes what builds have left in the directory of a builder's state when the files in their layers have another
// time than files of this build get, or the layers are compressed in another way: BuildKit would use such layers, and
// the image's digest would tell of earlier builds. It removes, too, what a crash of the machine may have damaged.
//
// Where the state is new then, nothing waits for the disk any more, if the kernel can do so: unsynced.
func adopt(state string, c Config) (unsynced bool, err error) {
	mine := "kept"
	if c.Times != nil {
		mine = c.Times.UTC().Format(time.RFC3339Nano)
	}
	mine += " " + c.Compression.String()
	boot := boot()
	marked := mine + unsyncedMark + boot
	path := filepath.Join(state, layersFile)
	theirs, err := os.ReadFile(path)
	switch {
	case err == nil && string(theirs) == mine:
		return false, nil
	case err == nil && string(theirs) == marked && boot != "":
		go func() {
			if err := settleState(state, mine); err != nil {
				fmt.Fprintf(os.Stderr, "WARNING: the builder's state is not on the disk yet: %v\n", err)
			}
		}()
		return false, nil
	}
	entries, err := os.ReadDir(state)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if name := entry.Name(); name != lockFile && name != workFile {
			if err := removeAll(filepath.Join(state, name)); err != nil {
				return false, err
			}
		}
	}
	if (c.Temporary || boot != "") && skipSyncs() {
		mine, unsynced = marked, true
	}
	return unsynced, os.WriteFile(path, []byte(mine), 0o600)
}
