// Package filelock lets the processes of one machine take turns. A lock is held on a file, or on a folder, and ends
// with the process that holds it, however that process ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// HeldError says that a lock was not free.
type HeldError struct{ Path string }

func (e *HeldError) Error() string { return e.Path + " is locked by somebody else" }

// Exclusive waits until nobody else holds a lock on the path. The file is made where there is none, and so is its
// folder. Who waits when the context ends gets its cause.
func Exclusive(ctx context.Context, path string) (unlock func(), err error) {
	return wait(ctx, path, true)
}

// Shared waits until nobody holds an exclusive lock on the path. Any number may hold a shared one.
func Shared(ctx context.Context, path string) (unlock func(), err error) {
	return wait(ctx, path, false)
}

// Try takes an exclusive lock on the path at once, or returns a *HeldError.
func Try(path string) (unlock func(), err error) {
	file, err := open(path)
	if err != nil {
		return nil, err
	}
	return take(file, true)
}

// The system's own waiting cannot be interrupted.
func wait(ctx context.Context, path string, exclusive bool) (unlock func(), err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		file, err := open(path)
		if err != nil {
			return nil, err
		}
		unlock, err := take(file, exclusive)
		if _, held := errors.AsType[*HeldError](err); !held {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// open opens the file or folder to lock. A folder can be read only, which is enough for a lock.
func open(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return os.Open(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
}

// take locks an open file, or closes it.
func take(file *os.File, exclusive bool) (unlock func(), err error) {
	free, err := lock(file, exclusive)
	switch {
	case err != nil:
		err = fmt.Errorf("lock %s: %w", file.Name(), err)
	case !free:
		err = &HeldError{file.Name()}
	default:
		return func() { file.Close() }, nil // which unlocks it
	}
	file.Close()
	return nil, err
}
