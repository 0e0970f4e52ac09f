// Package workspace is the directory in which steps meet: one leaves the source there, and another the image built from
// it.
package workspace

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2/maybe"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/regularfile"
)

// Workspace is that directory (docs/contract.md section 1).
type Workspace string

// Source is the folder of the checked-out repository.
func (w Workspace) Source() string { return filepath.Join(string(w), "source") }

// Image is the folder of the built image, an OCI image layout.
func (w Workspace) Image() string { return filepath.Join(string(w), "image") }

// Archive is the docker-archive that the incumbent's build step leaves instead of Image.
func (w Workspace) Archive() string { return filepath.Join(string(w), "app-image.tar") }

// Cache is the folder of the cache that a build leaves for the component's next one: an OCI image layout.
func (w Workspace) Cache() string { return filepath.Join(string(w), "cache") }

// CacheTag is the tag of the component's build cache, in the repository of its images.
const CacheTag = "cache"

// CacheMounts is the folder of what cache mounts held, which a build leaves for the component's next one: an OCI image
// layout. It is in the folder of the cache, so that a pod has both as one volume.
func (w Workspace) CacheMounts() string { return filepath.Join(w.Cache(), "mounts") }

// CacheMountsTag is the tag of what the component's cache mounts held, in the repository of its images.
const CacheMountsTag = "cache-mounts"

// SBOM is the folder of the bills of materials that buildpacks wrote: launch, what the image holds, and build, what it
// was made with.
func (w Workspace) SBOM() string { return filepath.Join(string(w), "sbom") }

// Revision is what checkout-source tells later steps about the source.
type Revision struct {
	URL         string    `json:"url"`    // without credentials
	Branch      string    `json:"branch"` // empty when a commit was asked for
	Commit      string    `json:"commit"` // the full SHA
	AuthorName  string    `json:"authorName"`
	AuthorEmail string    `json:"authorEmail"`
	Time        time.Time `json:"time"` // the committer's, UTC
}

// Encode is the revision as the parameter revision of later steps: JSON in base64, so that neither Argo nor Kubernetes
// expands what a stranger wrote in it.
func (r Revision) Encode() (string, error) {
	raw, err := json.Marshal(r)
	return "base64:" + base64.StdEncoding.EncodeToString(raw), err
}

// DecodeRevision reads the parameter revision, whose base64 is decoded already. The error is an InvalidParameters.
func DecodeRevision(text string) (Revision, error) {
	var r Revision
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, outcome.Errorf(outcome.InvalidParameters, "revision: %w", err).WithHint(
			"Pass the output revision of checkout-source unchanged.",
		)
	}
	return r, nil
}

// Chained is the source as a step's parameters source-digest and revision tell it. With a digest, the tree is the one
// with that digest, still to be verified, and nothing else is believed; an empty revision is unknown then. Without one,
// there is no tree, and the revision, when it is not given, is the one that the workspace tells, if any.
func (w Workspace) Chained(digest, revision string) (*Tree, Revision, error) {
	var known Revision
	var err error
	switch {
	case revision != "":
		known, err = DecodeRevision(revision)
	case digest == "":
		if known, err = w.ReadRevision(); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, known, fmt.Errorf("what checkout-source left: %w", err)
	}
	if digest == "" {
		return nil, known, nil
	}
	tree, err := w.OpenTree(digest)
	return tree, known, err
}

// Labels are the labels of an image with its source and time (OCI image specification). Each is left out
// that is not known; a zero time is none.
func (r Revision) Labels(created time.Time) map[string]string {
	labels := map[string]string{}
	if r.Commit != "" {
		labels["org.opencontainers.image.revision"] = r.Commit
	}
	if r.URL != "" {
		labels["org.opencontainers.image.source"] = r.URL
	}
	if !created.IsZero() {
		labels["org.opencontainers.image.created"] = created.Format(time.RFC3339)
	}
	return labels
}

// revisionLimit is how large a revision may be, in bytes: its longest part, the URL, has at most a few thousand.
const revisionLimit = 256 << 10

func (w Workspace) revision() string { return filepath.Join(string(w), "revision.json") }

// WriteRevision records what was checked out.
func (w Workspace) WriteRevision(r Revision) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return maybe.WriteFile(w.revision(), append(raw, '\n'), 0o644)
}

// ReadRevision returns what was checked out. The error wraps fs.ErrNotExist when checkout-source did not run here.
func (w Workspace) ReadRevision() (Revision, error) {
	var r Revision
	raw, err := regularfile.Read(w.revision(), revisionLimit)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", w.revision(), err)
	}
	return r, nil
}

// Resolve returns the real path of something in the repository. The path is relative to the repository's root, also
// with a leading slash (docs/contract.md section 1). What leaves the repository, itself or through a symbolic link, is
// a PathEscapesRepository, and so is what Git keeps for itself (IsGit); an absent file wraps fs.ErrNotExist.
func (w Workspace) Resolve(path string) (string, error) {
	return Resolve(w.Source(), path)
}

// Resolve is Workspace.Resolve for any root.
func Resolve(root, path string) (string, error) {
	local, err := within(path)
	if err != nil {
		return "", err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return "", err
	}
	if root, err = filepath.Abs(root); err != nil {
		return "", err
	}
	// os.Root walks link by link and refuses the first one that leaves, before what it leads to is looked at: a
	// dangling link that points outside is an escape, too, and not merely absent.
	inside, err := os.OpenRoot(root)
	if err != nil {
		return "", err
	}
	defer inside.Close()
	switch _, err := inside.Stat(local); {
	case err == nil:
	case isEscape(err):
		return "", escapes(path)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return "", fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	default:
		return "", err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, local))
	if err != nil {
		return "", err
	}
	if real != root && !strings.HasPrefix(real, root+string(filepath.Separator)) {
		return "", escapes(path)
	}
	if isInGit(root, real) {
		return "", leadsIntoGit(path)
	}
	return real, nil
}

// within is a path of the repository without leading slashes. One that leads out by its own text, or into .git, is a
// PathEscapesRepository.
func within(path string) (string, error) {
	local := strings.TrimLeft(path, "/")
	if local == "" {
		local = "."
	}
	if strings.ContainsRune(local, 0) || !filepath.IsLocal(local) {
		return "", escapes(path)
	}
	if namesGit(local) {
		return "", leadsIntoGit(path)
	}
	return local, nil
}

func escapes(path string) error {
	return outcome.Errorf(outcome.PathEscapesRepository, "%q leads out of the repository", path)
}

// ErrGit is the cause of a PathEscapesRepository that stays in the source's folder.
var ErrGit = errors.New("leads to what Git keeps for itself, which is not part of the repository")

func leadsIntoGit(path string) error {
	return outcome.Errorf(outcome.PathEscapesRepository, "%q %w", path, ErrGit).WithHint(
		"Name a file that is committed.",
	)
}

// isEscape tells the error of an os.Root that was asked to leave its directory: package os does not export it.
func isEscape(err error) bool {
	var path *fs.PathError
	return errors.As(err, &path) && path.Err != nil && path.Err.Error() == "path escapes from parent"
}

// ReadFile reads a file of the repository, as Resolve finds it, of at most limit bytes.
func (w Workspace) ReadFile(path string, limit int64) ([]byte, error) {
	return ReadFile(w.Source(), path, limit)
}

// ReadFile is Workspace.ReadFile for any root.
func ReadFile(root, path string, limit int64) ([]byte, error) {
	real, err := Resolve(root, path)
	if err != nil {
		return nil, err
	}
	raw, err := regularfile.Read(real, limit)
	switch {
	case errors.Is(err, regularfile.ErrNotRegular):
		return nil, fmt.Errorf("%s %w", path, regularfile.ErrNotRegular)
	case errors.Is(err, regularfile.ErrTooLarge):
		return nil, tooLarge(path, limit)
	}
	return raw, err
}

func tooLarge(path string, limit int64) error {
	return fmt.Errorf("%s is larger than %d bytes", path, limit)
}
