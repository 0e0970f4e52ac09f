package workload

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// imageLimit bounds the file that holds an image's reference, in bytes.
const imageLimit = 1024

// image returns the reference of the image, wherever it is given.
func (in Parameters) image() (string, error) {
	switch {
	case in.ImageFile == "":
		return in.Image, nil
	case in.Image != "":
		return "", outcome.Invalid("image-file: image is given, too, and only one of them can count")
	}
	raw, err := os.ReadFile(in.ImageFile)
	if err != nil {
		return "", outcome.Errorf(outcome.InvalidParameters, "image-file: %w", err).WithHint(
			"Name the file that the build or the push left the image's reference in.",
		)
	}
	image := strings.TrimSpace(string(raw))
	if image == "" || len(image) > imageLimit || strings.ContainsAny(image, " \t\r\n") {
		return "", outcome.Errorf(
			outcome.InvalidParameters, "image-file: %s does not hold the reference of an image and nothing else",
			in.ImageFile,
		)
	}
	return image, nil
}

// manifest makes the Workload of the descriptor that the parameters name, of that in the workspace, or of the image
// alone.
func (in Parameters) manifest() (*Manifest, error) {
	target := Target{
		Namespace: in.Namespace,
		Project:   in.Project,
		Component: in.Component,
		Image:     in.Image,
		Name:      in.WorkloadName,
	}
	if in.Descriptor != "" {
		return loadFrom(in.Descriptor, target)
	}
	// External CI has no workspace, but may have a variable of its own named so, as Jenkins has: only what
	// checkout-source left counts.
	if _, err := in.Workspace.ReadRevision(); errors.Is(err, fs.ErrNotExist) && in.Run == "" && in.AppPath == "." {
		return &Manifest{Workload: bare(target)}, nil
	}
	return Load(in.Workspace.Source(), in.AppPath, target)
}

// loadFrom makes a Workload of the descriptor in a directory of this machine, which must have one.
func loadFrom(dir string, target Target) (*Manifest, error) {
	real, err := filepath.Abs(dir)
	if err == nil {
		real, err = filepath.EvalSymlinks(real)
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "descriptor: %w", err)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return nil, outcome.Errorf(outcome.InvalidParameters, "descriptor: %s is not a directory", dir).WithHint(
			"Name the directory that holds " + descriptorName + ".",
		)
	}
	if _, err := os.Lstat(filepath.Join(real, descriptorName)); err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "descriptor: there is no %s in %s", descriptorName, dir).
			WithHint("Name the directory that holds it; without a descriptor leave the parameter empty.")
	}
	root := repositoryOf(real)
	appPath, err := filepath.Rel(root, real)
	if err != nil {
		return nil, err
	}
	return Load(root, appPath, target)
}

// repositoryOf returns the root of the Git repository that a directory is in, or the directory itself where there is
// none.
func repositoryOf(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			return at
		}
		if at == filepath.Dir(at) {
			return dir
		}
	}
}
