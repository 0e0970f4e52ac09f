package gitsource

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
)

// tree is a commit's tree on its way to the disk. The repository is a stranger's: every name is checked, everything is
// made through an os.Root and must be new, directories come before files and symbolic links after them, so that nothing
// is ever written through a link.
type tree struct {
	root *os.Root
	dir  string // where root is in the source, for messages; empty or with a final slash

	top        plumbing.Hash // the tree that is planned; zero: none, or it failed
	folders    *folders
	waiting    map[plumbing.Hash][]directory // those whose trees have not arrived yet
	names      int                           // in all trees, so far
	text       atomic.Int64                  // bytes of paths and of links' targets, so far
	files      []*file
	free       []file // room for files
	links      []link
	submodules []*file

	meter *meter

	mu   sync.Mutex
	want map[plumbing.Hash]*file // the first of the files that are still to be written with that content
}

// directory is one whose entries are to be planned.
type directory struct {
	path  string // empty, or with a final slash
	hash  plumbing.Hash
	index int32 // in folders
}

type file struct {
	path string
	hash plumbing.Hash
	mode filemode.FileMode
	dir  int32 // its directory in folders
	next *file // the next one with the same content, or nil

	size     int64 // on the disk, in bytes, once it is written
	modified unix.Timespec
	onDisk   uint32   // the mode that the disk gives it
	hashed   bool     // sum is known
	sum      [32]byte // SHA-256 of what was written
}

// name is the last part of the path.
func (f *file) name() string { return f.path[strings.LastIndexByte(f.path, '/')+1:] }

type link struct {
	path, target string
	file         *file
}

const (
	mostNames   = 1_000_000 // of files and directories in one repository; the largest known have half of that
	mostText    = 128 << 20 // bytes of all paths and links' targets in one repository
	longestPath = 4095      // bytes; Linux has no longer ones, nor links to such
)

// writers is how many files are written at once: making a file waits for the disk more than it computes.
func writers() int { return min(8, max(2, 2*runtime.GOMAXPROCS(0))) }

// begin makes ready to plan a tree.
func (t *tree) begin(top plumbing.Hash) (err error) {
	if t.folders, err = newFolders(t.root); err != nil {
		return err
	}
	t.top, t.want = top, map[plumbing.Hash]*file{}
	t.waiting = map[plumbing.Hash][]directory{top: {{"", top, 0}}}
	t.meter.files.Store(0)
	return nil
}

// arriving is a tree while its pack arrives: files are written as soon as their tree and their blob are there. What is
// not there in that order is left to write, which knows all. So is everything once something is wrong, since what
// comes may change it: a commit that is asked for by a prefix may turn out to be another one.
type arriving struct {
	*tree
	find   func(*pack) (commit, error)
	gaveUp bool
}

func (a *arriving) list(ctx context.Context, p *pack, name plumbing.Hash, content []byte) error {
	if a.gaveUp {
		return nil
	}
	err := a.tree.list(ctx, p, name, content, a.find)
	if err == nil {
		return nil
	}
	a.gaveUp = true
	a.mu.Lock()
	a.top, a.want = plumbing.ZeroHash, nil
	a.mu.Unlock()
	return context.Cause(ctx)
}

// list plans a tree that has arrived, if it is known where it belongs.
func (t *tree) list(
	ctx context.Context, p *pack, name plumbing.Hash, content []byte, find func(*pack) (commit, error),
) error {
	if t.folders == nil {
		// git sends commits and tags before trees.
		if err := p.resolveAll(ctx, plumbing.CommitObject, plumbing.TagObject); err != nil {
			return err
		}
		at, err := find(p)
		if err == nil {
			err = t.begin(at.tree)
		}
		if err != nil {
			return err
		}
	}
	places := t.waiting[name]
	delete(t.waiting, name)
	for _, d := range places {
		if err := t.plan(ctx, p, d, content); err != nil {
			return err
		}
	}
	return nil
}

// reset removes all that was made, so that another pack may be tried.
func (t *tree) reset() error {
	t.close()
	if t.top == plumbing.ZeroHash && t.folders == nil {
		return nil
	}
	dir, err := t.root.Open(".")
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	err = errors.Join(err, dir.Close())
	for _, name := range names {
		if err == nil && name != ".git" { // the repository's own
			err = t.root.RemoveAll(name)
		}
	}
	t.top, t.folders, t.waiting, t.want = plumbing.ZeroHash, nil, nil, nil
	t.names, t.files, t.free, t.links, t.submodules = 0, nil, nil, nil, nil
	t.text.Store(0)
	return err
}

// close gives back what begin took.
func (t *tree) close() { t.folders.close() }

// write makes the files of the tree below root, but for symbolic links, unless they are made already. The pack's
// commits must be resolved.
func (t *tree) write(ctx context.Context, p *pack, top plumbing.Hash) error {
	if p.late {
		if err := p.resolveAll(ctx, plumbing.TreeObject); err != nil {
			return err
		}
	}
	if t.top != top {
		if err := t.reset(); err != nil {
			return err
		}
		if err := t.begin(top); err != nil {
			return err
		}
	}
	for len(t.waiting) > 0 {
		for name, places := range t.waiting {
			kind, content, err := p.object(name)
			if err == nil {
				err = expectTree(name, kind)
			}
			if err != nil {
				return err
			}
			delete(t.waiting, name)
			for _, d := range places {
				if err := t.plan(ctx, p, d, content); err != nil {
					return err
				}
			}
		}
	}
	t.meter.ofFiles.Store(int64(len(t.files)))
	if err := p.resolve(ctx, plumbing.BlobObject, writers(), t.claim); err != nil {
		return err
	}
	for name, f := range t.want {
		return invalid("object %s, the content of %s, is missing", name, t.dir+f.path)
	}
	t.want = nil
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

// expectTree refuses an object of another kind.
func expectTree(name plumbing.Hash, kind plumbing.ObjectType) error {
	if kind != plumbing.TreeObject {
		return invalid("object %s is a %s where a tree should be", name, kind)
	}
	return nil
}

// plan makes the directories of a tree, whose content is given, and lists its other entries. Of trees below, it goes
// on with those that are there by now. The others are waiting.
func (t *tree) plan(ctx context.Context, p *pack, top directory, content []byte) error {
	left := []directory{top}
	for len(left) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := left[len(left)-1]
		left = left[:len(left)-1]
		if d.hash != top.hash {
			if _, ok := p.lookUp(d.hash); !ok {
				t.waiting[d.hash] = append(t.waiting[d.hash], d)
				continue
			}
			kind, raw, err := p.object(d.hash)
			if err == nil {
				err = expectTree(d.hash, kind)
			}
			if err != nil {
				return err
			}
			content = raw
		}
		err := parseTree(d.hash, content, func(e treeEntry) error {
			if t.names%1000 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			f, err := t.entry(d.path, d.index, e)
			if err == nil && e.mode == filemode.Dir {
				left = append(left, directory{f.path + "/", e.hash, f.dir})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// entry takes one entry of a tree: a directory is made, all else is listed. Of a directory, the file's dir is itself.
func (t *tree) entry(dir string, index int32, e treeEntry) (*file, error) {
	if err := checkName(e.name); err != nil {
		return nil, outcome.Errorf(
			outcome.RepositoryInvalid, "the repository has a path that cannot be checked out: %q: %w", t.dir+dir, err,
		)
	}
	if len(t.free) == 0 {
		t.free = make([]file, 128)
	}
	f := &t.free[0]
	*f = file{path: dir + e.name, mode: e.mode, hash: e.hash, dir: index}
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
		made, err := t.folders.add(index, e.name)
		if err != nil {
			return f, t.failed(f.path, err)
		}
		f.dir = made
		if e.mode == filemode.Submodule {
			t.free, t.submodules = t.free[1:], append(t.submodules, f)
		}
		return f, nil
	case filemode.Symlink:
		if isModules(e.name) {
			return f, outcome.Errorf(
				outcome.RepositoryInvalid, "%s is a symbolic link, which Git does not allow", t.dir+f.path,
			)
		}
	}
	t.free, t.files = t.free[1:], append(t.files, f)
	t.folders.fill(index)
	t.mu.Lock()
	defer t.mu.Unlock()
	f.next = t.want[f.hash]
	t.want[f.hash] = f
	return f, nil
}

// hold counts text that is held in memory.
func (t *tree) hold(bytes int) error {
	if t.text.Add(int64(bytes)) > mostText {
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
	first, ok := t.want[name]
	if !ok {
		return nil
	}
	delete(t.want, name)
	return func(c content) error {
		var known *file // one with the same content, whose sum is known
		for f := first; f != nil; f = f.next {
			if err := t.create(f, c, known); err != nil {
				return err
			}
			known = f
			t.meter.files.Add(1)
		}
		return nil
	}
}

// create makes a file, or notes a link.
func (t *tree) create(f *file, c content, known *file) error {
	if f.mode == filemode.Symlink {
		return t.note(f, c)
	}
	perm := uint32(0o644)
	if f.mode == filemode.Executable {
		perm = 0o755
	}
	made, err := t.folders.create(f.dir, f.name(), perm, func(to descriptor) error {
		if known != nil {
			f.sum = known.sum
		} else if c.memory != nil {
			f.sum = sha256.Sum256(c.memory)
		}
		if c.memory != nil {
			_, err := to.Write(c.memory)
			return err
		}
		r, err := c.open()
		if err != nil {
			return err
		}
		buf := buffers.Get().(*[copySize]byte)
		defer buffers.Put(buf)
		if known != nil {
			_, err = io.CopyBuffer(to, struct{ io.Reader }{r}, buf[:])
			return err
		}
		sum := sha256.New()
		_, err = io.CopyBuffer(to, io.TeeReader(r, sum), buf[:])
		sum.Sum(f.sum[:0])
		return err
	})
	if err != nil {
		return t.failed(f.path, err)
	}
	f.made(&made)
	f.hashed = true
	return nil
}

// note keeps a link for later.
func (t *tree) note(f *file, c content) error {
	r, err := c.open()
	if err != nil {
		return err
	}
	target, err := io.ReadAll(io.LimitReader(r, longestPath+1))
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.hold(len(target)); err != nil {
		return err
	}
	f.sum, f.hashed = sha256.Sum256(target), true
	t.links = append(t.links, link{f.path, string(target), f})
	return nil
}

// made notes what the index and the manifest say of a file.
func (f *file) made(stat *unix.Stat_t) {
	f.size, f.modified, f.onDisk = stat.Size, stat.Mtim, stat.Mode
}

// changed notes that a file has got another content than its blob's.
func (f *file) changed(info fs.FileInfo, err error) error {
	if err != nil {
		return err
	}
	f.size, f.modified, f.hashed = info.Size(), unix.NsecToTimespec(info.ModTime().UnixNano()), false
	return nil
}

const copySize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// link makes a symbolic link, which may lead anywhere: nothing is written after it.
func (t *tree) link(l link) error {
	target := l.target
	if target == "" || len(target) > longestPath || strings.ContainsRune(target, 0) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the symbolic link %s has no valid target", t.dir+l.path)
	}
	made, err := t.folders.link(l.file.dir, l.file.name(), target)
	if err != nil {
		return t.failed(l.path, err)
	}
	l.file.made(&made)
	return nil
}

// failed is the error for what cannot be made: the tree may have a name twice, or as a file and as a directory.
func (t *tree) failed(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the repository has %q twice in one directory", t.dir+name)
	}
	return err
}
