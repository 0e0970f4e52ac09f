package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// repository is where the source is published.
const repository = "https://github.com/stepwright/stepwright"

// A source is the commit and the folder that images are built from.
type source struct {
	dir      string    // the module's root
	revision string    // full hash of the commit; "-dirty" follows when files differ from it
	version  string    // the tag, or the answer of git describe for the commit
	time     time.Time // of the commit, or what $SOURCE_DATE_EPOCH says
}

// sourceIn asks Git about the source in a directory. An empty version is found out.
func sourceIn(ctx context.Context, dir, version string) (source, error) {
	s := source{dir: dir, version: version}
	said, err := git(ctx, dir, "log", "-1", "--format=%H %ct")
	if err != nil {
		return source{}, err
	}
	hash, seconds, _ := strings.Cut(said, " ")
	s.revision = hash
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds = epoch
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("time of the images: %w", err)
	}
	s.time = time.Unix(unix, 0).UTC()

	changed, err := git(ctx, dir, "status", "--porcelain")
	if err != nil {
		return source{}, err
	}
	if changed != "" {
		s.revision += "-dirty"
	}
	if s.version == "" {
		if s.version, err = git(ctx, dir, "describe", "--tags", "--always", "--abbrev=12"); err != nil {
			return source{}, err
		}
		if changed != "" {
			s.version += "-dirty"
		}
	}
	return s, nil
}

// labels are the image's: those of the OCI specification.
func (s source) labels(step string) map[string]string {
	const prefix = "org.opencontainers.image."
	return map[string]string{
		prefix + "title":    step,
		prefix + "source":   repository,
		prefix + "version":  s.version,
		prefix + "revision": s.revision,
		prefix + "created":  s.time.Format(time.RFC3339),
	}
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	out, err := output(cmd)
	return strings.TrimSpace(string(out)), err
}

// output runs a command and returns its standard output. Its standard error is part of the error.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
