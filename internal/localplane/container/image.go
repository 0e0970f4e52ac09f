package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
)

// ImageError says that an image, which its text names, cannot be had.
type ImageError struct{ Err error }

func (e *ImageError) Error() string { return e.Err.Error() }

func (e *ImageError) Unwrap() error { return e.Err }

// image is one that is unpacked.
type image struct {
	root   string
	config v1.Config
}

const (
	rootName         = "root"
	configName       = "config.json"
	unfinishedPrefix = ".unfinished-"
)

// An unpacked image that nobody uses stays for kept, or for atHand where keptImages others were used later. A run may
// be in one that was used within atHand.
const (
	kept       = 14 * 24 * time.Hour
	atHand     = 24 * time.Hour
	keptImages = 6
)

// platform is the platform that images are wanted for.
var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// attempts is how often a registry is asked that could not answer.
const attempts = 3

// image unpacks an image that is not there yet. One that is named by its digest is found without asking a registry.
func (r *Runtime) image(ctx context.Context, reference string, log func(string)) (image, error) {
	unlock, err := filelock.Exclusive(ctx, filepath.Join(r.Dir, ".lock"))
	if err != nil {
		return image{}, err
	}
	defer unlock()
	source, closeSource, err := r.source()
	if err != nil {
		return image{}, &ImageError{fmt.Errorf("image %s: %w", reference, err)}
	}
	defer closeSource()
	retry := outcome.Retry{Attempts: attempts}
	pinned := reference
	if !strings.Contains(reference, "@") {
		if err := retry.Do(ctx, func(ctx context.Context) error {
			found, err := source.Image(ctx, reference, platform)
			pinned = found.Reference
			return err
		}); err != nil {
			return image{}, &ImageError{err}
		}
	}
	_, digest, _ := strings.Cut(pinned, "@")
	hash, err := v1.NewHash(digest)
	if err != nil {
		return image{}, &ImageError{fmt.Errorf("image %s: %w", reference, err)}
	}
	dir := filepath.Join(r.Dir, hash.Algorithm+"-"+hash.Hex+"-"+runtime.GOARCH)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		log("Unpacking " + reference + ", once")
		started := time.Now()
		if err := retry.Do(ctx, func(ctx context.Context) error {
			return r.unpack(ctx, source, pinned, dir)
		}); err != nil {
			return image{}, &ImageError{err}
		}
		log(fmt.Sprintf("Unpacked it, took %s", time.Since(started).Round(100*time.Millisecond)))
		if err := r.removeOld(ctx); err != nil {
			return image{}, err
		}
	}
	found := image{root: filepath.Join(dir, rootName)}
	raw, err := os.ReadFile(filepath.Join(dir, configName))
	if err == nil {
		err = json.Unmarshal(raw, &found.config)
	}
	if err != nil {
		return image{}, err
	}
	now := time.Now()
	return found, os.Chtimes(dir, now, now)
}

// source is where images come from. It must be closed.
func (r *Runtime) source() (source registry.Source, closeSource func(), err error) {
	credentials, err := registry.LoadOwnCredentials(r.DockerConfig, new(redact.Secrets))
	if err != nil {
		return source, nil, err
	}
	transport, err := trust.Transport(r.CABundle)
	if err != nil {
		return source, nil, err
	}
	return registry.Source{
		Mirrors: r.Mirrors, Insecure: r.Insecure, Credentials: credentials, Transport: transport,
	}, transport.CloseIdleConnections, nil
}

// unpack puts an image's files and its configuration into a folder. Manifest and layers are verified by their digests
// as they come.
func (r *Runtime) unpack(ctx context.Context, source registry.Source, reference, into string) error {
	found, err := source.Image(ctx, reference, platform)
	if err != nil {
		return err
	}
	files, err := source.Files(ctx, reference, platform)
	if err != nil {
		return err
	}
	defer files.Close()
	arriving := &arrival{Reader: files}
	if err := r.write(ctx, arriving, found.Config, into); err != nil {
		if arriving.failure != nil {
			return arriving.failure
		}
		return fmt.Errorf("image %s: %w", reference, err)
	}
	return nil
}

// write writes an image's files, with their owners, and its configuration beside the folder, and moves it there when it
// is whole.
func (r *Runtime) write(ctx context.Context, files io.Reader, config []byte, into string) error {
	var file v1.ConfigFile
	if err := json.Unmarshal(config, &file); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(r.Dir, unfinishedPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = run(asRoot(context.WithoutCancel(ctx), "rm", "-rf", "--", unfinished)) }()
	root := filepath.Join(unfinished, rootName)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	tar := asRoot(ctx, "tar", "--extract", "--preserve-permissions", "--numeric-owner", "--directory", root)
	tar.Stdin = files
	if err := run(tar); err != nil {
		return err
	}
	raw, err := json.Marshal(file.Config)
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(root, 0o755), os.Chmod(unfinished, 0o755),
		os.WriteFile(filepath.Join(unfinished, configName), raw, 0o644), os.Rename(unfinished, into))
}

// arrival remembers why an archive could not be read to its end: who unpacks it only sees that it ended.
type arrival struct {
	io.Reader
	failure error
}

func (a *arrival) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil && err != io.EOF {
		a.failure = err
	}
	return n, err
}

// removeOld removes images that nobody has used for long, and remains of killed processes.
func (r *Runtime) removeOld(ctx context.Context) error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return err
	}
	old := superfluous(entries, time.Now())
	if old == nil {
		return nil
	}
	for i, name := range old {
		old[i] = filepath.Join(r.Dir, name)
	}
	return run(asRoot(ctx, "rm", append([]string{"-rf", "--"}, old...)...))
}

// superfluous are the names of those folders of images that need not stay.
func superfluous(entries []fs.DirEntry, now time.Time) []string {
	var names []string
	var images []fs.FileInfo
	for _, entry := range entries {
		info, err := entry.Info()
		switch {
		case err != nil || !entry.IsDir(): // it has gone, or is the lock
		case strings.HasPrefix(entry.Name(), unfinishedPrefix):
			names = append(names, entry.Name())
		default:
			images = append(images, info)
		}
	}
	slices.SortFunc(images, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, image := range images {
		if unused := now.Sub(image.ModTime()); unused > kept || i >= keptImages && unused > atHand {
			names = append(names, image.Name())
		}
	}
	return names
}
