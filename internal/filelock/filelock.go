// Package filelock lets the processes of one machine take turns. A lock is held on a file, or on a folder, and ends
// with the process that holds it, however that process ends.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
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

// Claim is Exclusive, on a file, for a holder that others may wait for: before it waits, it calls waiting once with who
// holds the lock, such as "process 4711 on build-7". That is what the holder wrote into the file by Claim.
func Claim(ctx context.Context, path string, waiting func(holder string)) (unlock func(), err error) {
	unlock, err = Try(path)
	if _, held := errors.AsType[*HeldError](err); held {
		waiting(holder(path))
		unlock, err = Exclusive(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown machine"
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "process %d on %s\n", os.Getpid(), host), 0o644); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// longestHolder is how many bytes of a lock's file may name its holder.
const longestHolder = 300

// holder says who holds a lock, as far as its file tells.
func holder(path string) string {
	const unknown = "another process"
	file, err := os.Open(path)
	if err != nil {
		return unknown
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, longestHolder))
	if said := strings.TrimSpace(string(text)); err == nil && said != "" {
		return said
	}
	return unknown
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
