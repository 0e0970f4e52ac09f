package descriptor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Folder is a repository in a folder of a developer's machine. Nobody else is expected to write there while it is read.
type Folder string

// errGit is the cause of a PathEscapesRepository that stays in the folder.
var errGit = errors.New("leads to what Git keeps for itself, which is not part of the repository")

// ReadFile implements Files.
func (f Folder) ReadFile(path string, limit int64) ([]byte, error) {
	escapes := outcome.Errorf(outcome.PathEscapesRepository, "%q leads out of the repository", path)
	local := filepath.FromSlash(strings.TrimLeft(path, "/"))
	if !filepath.IsLocal(local) {
		return nil, escapes
	}
	root, err := filepath.EvalSymlinks(string(f))
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, local))
	if err != nil {
		return nil, err
	}
	inside, err := filepath.Rel(root, real)
	if err != nil || !filepath.IsLocal(inside) {
		return nil, escapes
	}
	for part := range strings.SplitSeq(inside, string(filepath.Separator)) {
		if strings.EqualFold(part, ".git") {
			return nil, outcome.Errorf(outcome.PathEscapesRepository, "%q %w", path, errGit)
		}
	}
	if info, err := os.Stat(real); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(real)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return raw, err
}

// Check reads the descriptor in a file, with the files that it names, in the repository that the file is in.
func Check(file string) (*Descriptor, error) {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, err
	}
	root := RepositoryOf(dir)
	inside, err := filepath.Rel(root, dir)
	if err != nil {
		return nil, err
	}
	return read(Folder(root), filepath.ToSlash(inside), filepath.Base(file))
}

// RepositoryOf returns the root of the Git repository that a directory is in, or the directory itself where there is
// none. The directory is absolute.
func RepositoryOf(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			return at
		} else if at == filepath.Dir(at) || !errors.Is(err, fs.ErrNotExist) {
			return dir
		}
	}
}
