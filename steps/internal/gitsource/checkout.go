package gitsource

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/stepwright/stepwright/internal/outcome"
)

// tree is a commit's tree on its way to the disk. The repository is a stranger's: every name is checked, everything is
// made through an os.Root and must be new, directories come before files and symbolic links after them, so that nothing
// is ever written through a link.
type tree struct {
	root *os.Root
	dir  string // where root is in the source, for messages; empty or with a final slash

	names      int // in all trees, so far
	text       int // bytes of paths and of links' targets, so far
	files      []file
	links      []link
	submodules []file

	mu   sync.Mutex
	want map[plumbing.Hash][]int32 // files that are still to be written
}

type file struct {
	path string
	mode filemode.FileMode
	hash plumbing.Hash

	size     int64 // on the disk, with the time, once it is written
	modified time.Time
}

type link struct {
	path, target string
	file         int32
}

const (
	mostNames   = 1_000_000 // of files and directories in one repository; the largest known have half of that
	mostText    = 128 << 20 // bytes of all paths and links' targets in one repository
	longestPath = 4095      // bytes; Linux has no longer ones, nor links to such
)

// writers is how many files are written at once: making a file waits for the disk more than it computes.
func writers() int { return min(8, max(2, 2*runtime.GOMAXPROCS(0))) }

// write makes the files of the tree below root, but for symbolic links. The pack's commits must be resolved.
func (t *tree) write(ctx context.Context, p *pack, top plumbing.Hash) error {
	if err := p.resolve(ctx, plumbing.TreeObject, 1, nil); err != nil {
		return err
	}
	t.want = map[plumbing.Hash][]int32{}
	if err := t.plan(ctx, p, top); err != nil {
		return err
	}
	if err := p.resolve(ctx, plumbing.BlobObject, writers(), t.claim); err != nil {
		return err
	}
	for name, files := range t.want {
		return invalid("object %s, the content of %s, is missing", name, t.dir+t.files[files[0]].path)
	}
	return nil
}

// finish makes the symbolic links. No file may be written after it.
func (t *tree) finish() error {
	for _, l := range t.links {
		if err := t.link(l); err != nil {
			return err
		}
	}
	return nil
}

// plan makes the directories, and lists the other entries. One tree at a time is held.
func (t *tree) plan(ctx context.Context, p *pack, top plumbing.Hash) error {
	type directory struct {
		path string // empty, or with a final slash
		hash plumbing.Hash
	}
	left := []directory{{"", top}}
	for len(left) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := left[len(left)-1]
		left = left[:len(left)-1]
		kind, raw, err := p.object(d.hash)
		if err != nil {
			return err
		}
		if kind != plumbing.TreeObject {
			return invalid("object %s is a %s where a tree should be", d.hash, kind)
		}
		err = parseTree(d.hash, raw, func(e treeEntry) error {
			if t.names%1000 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			f, err := t.entry(d.path, e)
			if err == nil && e.mode == filemode.Dir {
				left = append(left, directory{f.path + "/", e.hash})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entry takes one entry of a tree: a directory is made, all else is listed.
func (t *tree) entry(dir string, e treeEntry) (file, error) {
	if err := checkName(e.name); err != nil {
		return file{}, outcome.Errorf(
			outcome.RepositoryInvalid, "the repository has a path that cannot be checked out: %q: %w", t.dir+dir, err,
		)
	}
	f := file{path: dir + e.name, mode: e.mode, hash: e.hash}
	if t.names++; t.names > mostNames {
		return f, outcome.Errorf(
			outcome.RepositoryInvalid, "the repository has more than %d files and directories", mostNames,
		)
	}
	if len(f.path) > longestPath {
		return f, outcome.Errorf(
			outcome.RepositoryInvalid, "the repository has a path of more than %d bytes: %.60q…", longestPath,
			t.dir+f.path,
		)
	}
	if err := t.hold(len(f.path)); err != nil {
		return f, err
	}
	switch e.mode {
	case filemode.Dir, filemode.Submodule:
		if err := t.root.Mkdir(f.path, 0o755); err != nil {
			return f, t.failed(f.path, err)
		}
		if e.mode == filemode.Submodule {
			t.submodules = append(t.submodules, f)
		}
		return f, nil
	case filemode.Symlink:
		if isModules(e.name) {
			return f, outcome.Errorf(
				outcome.RepositoryInvalid, "%s is a symbolic link, which Git does not allow", t.dir+f.path,
			)
		}
	}
	t.want[f.hash] = append(t.want[f.hash], int32(len(t.files)))
	t.files = append(t.files, f)
	return f, nil
}

// hold counts text that is held in memory.
func (t *tree) hold(bytes int) error {
	if t.text += bytes; t.text > mostText {
		return outcome.Errorf(
			outcome.RepositoryInvalid, "the paths and links of the repository have more than %d bytes", mostText,
		)
	}
	return nil
}

// claim returns how to write the files that have that content.
func (t *tree) claim(name plumbing.Hash) func(content) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	files, ok := t.want[name]
	if !ok {
		return nil
	}
	delete(t.want, name)
	return func(open content) error {
		for _, i := range files {
			r, err := open()
			if err == nil {
				err = t.create(i, r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// create makes a file, or notes a link.
func (t *tree) create(i int32, content io.Reader) error {
	f := &t.files[i]
	if f.mode == filemode.Symlink {
		target, err := io.ReadAll(io.LimitReader(content, longestPath+1))
		if err != nil {
			return err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if err := t.hold(len(target)); err != nil {
			return err
		}
		t.links = append(t.links, link{f.path, string(target), i})
		return nil
	}
	perm := fs.FileMode(0o644)
	if f.mode == filemode.Executable {
		perm = 0o755
	}
	to, err := t.root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return t.failed(f.path, err)
	}
	buf := buffers.Get().(*[copySize]byte)
	defer buffers.Put(buf)
	// Without the writer's ReadFrom, which would make a buffer of its own for each file.
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, content, buf[:])
	if err == nil {
		err = f.written(to.Stat())
	}
	return errors.Join(err, to.Close())
}

// written notes what the index says of a file.
func (f *file) written(info fs.FileInfo, err error) error {
	if err == nil {
		f.size, f.modified = info.Size(), info.ModTime()
	}
	return err
}

const copySize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// link makes a symbolic link, which may lead anywhere: nothing is written after it.
func (t *tree) link(l link) error {
	target := l.target
	if target == "" || len(target) > longestPath || strings.ContainsRune(target, 0) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the symbolic link %s has no valid target", t.dir+l.path)
	}
	if err := t.root.Symlink(target, l.path); err != nil {
		return t.failed(l.path, err)
	}
	return t.files[l.file].written(t.root.Lstat(l.path))
}

// failed is the error for what cannot be made: the tree may have a name twice, or as a file and as a directory.
func (t *tree) failed(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the repository has %q twice in one directory", t.dir+name)
	}
	return err
}
