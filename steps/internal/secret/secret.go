// Package secret reads Secrets as Kubernetes mounts them: a folder with a file per key.
package secret

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

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

// pause is how long Await waits before it looks again.
const pause = 500 * time.Millisecond

// Await looks for a Secret until there tells that it is mounted in dir, and returns whether it came within limit.
// OpenChoreo makes a Secret and the pod at once, and with an optional volume the pod may start first. The
// log calls it by name, such as "Git secret".
func Await(
	ctx context.Context, log *slog.Logger, name, dir string, limit time.Duration, there func() (bool, error),
) (bool, error) {
	began, waiting := time.Now(), false
	for deadline := began.Add(limit); ; {
		is, err := there()
		if is && waiting {
			log.Info("The "+name+" is there", "took", time.Since(began))
		}
		if is || err != nil {
			return is, err
		}
		if !waiting {
			log.Info(
				"Waiting for the "+name+"; a node looks for one that is late about once a minute", "in", dir,
				"limit", limit,
			)
			waiting = true
		}
		if !time.Now().Before(deadline) {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(min(pause, time.Until(deadline))):
		}
	}
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
