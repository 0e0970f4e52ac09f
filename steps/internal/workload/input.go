package workload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"

	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/outcome"
)

// imageLimit bounds the file that holds an image's reference, in bytes.
const imageLimit = 1024

// image returns the reference of the image, wherever it is given. One that no kubelet would pull is refused before
// anything is called: the API takes any text.
func (in Parameters) image() (string, error) {
	switch {
	case in.ImageFile == "":
		return in.Image, checkImage("image", in.Image)
	case in.Image != "":
		return "", outcome.Invalid("image-file: image is given, too, and only one of them can count")
	}
	raw, err := readImage(in.ImageFile)
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
	return image, checkImage("image-file: "+in.ImageFile, image)
}

// readImage reads a little more than a reference can be. The file may be a pipe of the CI's.
func readImage(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 2*imageLimit))
}

// checkImage fails unless a text is an image's reference by the grammar that container runtimes share, and names more
// than a word. A word alone would be an image of Docker Hub's own, which no pipeline has pushed; it is what a variable
// holds that was never set, such as null or undefined.
func checkImage(where, image string) error {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return outcome.Errorf(
			outcome.InvalidParameters, "%s: %q is not the reference of an image: %w", where, image, err,
		).WithHint(imageHint(image))
	}
	if reference.IsNameOnly(named) && !strings.Contains(image, "/") {
		return outcome.Errorf(
			outcome.InvalidParameters, "%s: %q is a single word, without registry, tag or digest", where, image,
		).WithHint("It looks like the value of a variable that was not set. Give the reference that was pushed, " +
			"with its registry, and its tag or digest.")
	}
	return nil
}

// imageHint says what a text that is not a reference looks like.
func imageHint(image string) string {
	const form = "A reference is registry/repository:tag, registry/repository@sha256:digest, or both."
	switch {
	case strings.HasPrefix(image, "\ufeff"):
		return "It begins with a byte order mark, as some editors and shells write one: write the text without it. " +
			form
	case strings.Contains(image, "://"):
		return "It is a URL, or names a transport: leave out all up to the two slashes. " + form
	case strings.ContainsAny(image, "${}%<>"):
		return "It holds a variable or a placeholder that nothing has replaced. " + form
	case strings.ContainsAny(image, "\"'`"):
		return "The quotes are part of it: leave them out. " + form
	case strings.Contains(image, "="):
		return "It is an assignment: give only what stands after the equals sign. " + form
	case strings.HasPrefix(image, "/") || strings.HasPrefix(image, ":") || strings.Contains(image, "//"):
		return "The variable with the registry or the repository seems to be empty. " + form
	case strings.HasSuffix(image, ":") || strings.HasSuffix(image, "@"):
		return "The variable with the tag or the digest seems to be empty. " + form
	case strings.ToLower(image) != image:
		return "A repository's name is in lower case; only the registry's host and the tag may have capitals. " + form
	}
	return form
}

// manifest makes the Workload of the descriptor that the parameters name, of the one in the workspace, or of the image
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
		if in.SourceDigest != "" {
			return nil, outcome.Invalid("descriptor: source-digest is given, too, and tells only of the workspace")
		}
		return loadFrom(in.Descriptor, target)
	}
	if in.SourceDigest != "" {
		tree, err := in.Workspace.OpenTree(in.SourceDigest)
		if err != nil {
			return nil, err
		}
		return load(tree, in.Workspace.Source(), in.AppPath, target)
	}
	used, err := in.usesWorkspace()
	if err != nil {
		return nil, err
	}
	if !used {
		return &Manifest{Workload: bare(target)}, nil
	}
	return Load(in.Workspace.Source(), in.AppPath, target)
}

// usesWorkspace tells whether the application is in the workspace. External CI has none, with a WorkflowRun or without,
// but may have a variable of its own named so, as Jenkins has. What is certainly the application's is used: what
// checkout-source left, what app-path names, and what another checkout left for a WorkflowRun. A descriptor that is
// there otherwise is neither used nor passed over: both would be wrong for somebody.
func (in Parameters) usesWorkspace() (bool, error) {
	if _, err := in.Workspace.ReadRevision(); !errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if path.Clean("/"+in.AppPath) != "/" {
		return true, nil
	}
	source := in.Workspace.Source()
	if in.Run != "" {
		info, err := os.Stat(source)
		return err == nil && info.IsDir(), nil
	}
	if _, err := os.Lstat(filepath.Join(source, descriptor.Name)); err == nil {
		return false, outcome.Errorf(
			outcome.InvalidParameters, "workspace: %s has a %s, and nothing says that it is this component's: "+
				"checkout-source left no revision in %s", source, descriptor.Name, in.Workspace,
		).WithHint(fmt.Sprintf("Give descriptor=%s to use it. To register the image alone, give a workspace that is "+
			"not there; the variable WORKSPACE is the CI's own with some.", source))
	}
	return false, nil
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
			"Name the directory that holds " + descriptor.Name + ".",
		)
	}
	if _, err := os.Lstat(filepath.Join(real, descriptor.Name)); err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "descriptor: there is no %s in %s", descriptor.Name, dir).
			WithHint("Name the directory that holds it; without a descriptor leave the parameter empty.")
	}
	root := descriptor.RepositoryOf(real)
	appPath, err := filepath.Rel(root, real)
	if err != nil {
		return nil, err
	}
	return Load(root, appPath, target)
}
