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

	top        plumbing.Hash // the tree that is planned
	folders    *folders
	names      int // in all trees, so far
	text       int // bytes of paths and of links' targets, so far
	files      []file
	links      []link
	submodules []file

	meter *meter

	mu   sync.Mutex
	want map[plumbing.Hash]int32 // the first of the files that are still to be written with that content
}

type file struct {
	path string
	hash plumbing.Hash
	mode filemode.FileMode
	dir  int32 // its directory in folders
	next int32 // the next file with the same content, or none

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
	file         int32
}

const (
	mostNames   = 1_000_000 // of files and directories in one repository; the largest known have half of that
	mostText    = 128 << 20 // bytes of all paths and links' targets in one repository
	longestPath = 4095      // bytes; Linux has no longer ones, nor links to such
)

// writers is how many files are written at once: making a file waits for the disk more than it computes.
func writers() int { return min(8, max(2, 2*runtime.GOMAXPROCS(0))) }

// begin plans a tree and makes its directories.
func (t *tree) begin(ctx context.Context, p *pack, top plumbing.Hash) (err error) {
	if t.folders, err = newFolders(t.root); err != nil {
		return err
	}
	t.top, t.want = top, map[plumbing.Hash]int32{}
	err = t.plan(ctx, p, top)
	t.meter.files.Store(0)
	t.meter.ofFiles.Store(int64(len(t.files)))
	return err
}

// early is called when a pack's first blob arrives. If all trees are there, as git sends those of a commit with a tag,
// files are written while the pack arrives. Otherwise, and if anything is wrong with them, they are written by write,
// which knows all: git sends the trees of other commits among the blobs.
func (t *tree) early(ctx context.Context, p *pack, find func(*pack) (commit, error)) (claims, error) {
	err := p.resolveAll(ctx, plumbing.CommitObject, plumbing.TagObject, plumbing.TreeObject)
	if err == nil {
		var at commit
		if at, err = find(p); err == nil {
			err = t.begin(ctx, p, at.tree)
		}
	}
	if err != nil {
		return nil, errors.Join(context.Cause(ctx), t.reset())
	}
	return t.claim, nil
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
	t.top, t.folders, t.want = plumbing.ZeroHash, nil, nil
	t.names, t.text, t.files, t.links, t.submodules = 0, 0, nil, nil, nil
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
		if err := t.begin(ctx, p, top); err != nil {
			return err
		}
	}
	if err := p.resolve(ctx, plumbing.BlobObject, writers(), t.claim); err != nil {
		return err
	}
	for name, i := range t.want {
		return invalid("object %s, the content of %s, is missing", name, t.dir+t.files[i].path)
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

// plan makes the directories, and lists the other entries. One tree at a time is held.
func (t *tree) plan(ctx context.Context, p *pack, top plumbing.Hash) error {
	type directory struct {
		path  string // empty, or with a final slash
		hash  plumbing.Hash
		index int32 // in folders
	}
	left := []directory{{"", top, 0}}
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
func (t *tree) entry(dir string, index int32, e treeEntry) (file, error) {
	if err := checkName(e.name); err != nil {
		return file{}, outcome.Errorf(
			outcome.RepositoryInvalid, "the repository has a path that cannot be checked out: %q: %w", t.dir+dir, err,
		)
	}
	f := file{path: dir + e.name, mode: e.mode, hash: e.hash, dir: index, next: none}
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
	if first, ok := t.want[f.hash]; ok {
		f.next = first
	}
	t.want[f.hash] = int32(len(t.files))
	t.files = append(t.files, f)
	t.folders.fill(index)
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
	first, ok := t.want[name]
	if !ok {
		return nil
	}
	delete(t.want, name)
	return func(c content) error {
		known := none // a file with the same content, whose sum is known
		for i := first; i != none; i = t.files[i].next {
			if err := t.create(i, c, known); err != nil {
				return err
			}
			known = i
			t.meter.files.Add(1)
		}
		return nil
	}
}

// create makes a file, or notes a link.
func (t *tree) create(i int32, c content, known int32) error {
	f := &t.files[i]
	if f.mode == filemode.Symlink {
		return t.note(i, c)
	}
	perm := uint32(0o644)
	if f.mode == filemode.Executable {
		perm = 0o755
	}
	made, err := t.folders.create(f.dir, f.name(), perm, func(to descriptor) error {
		if known != none {
			f.sum = t.files[known].sum
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
		if known != none {
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
func (t *tree) note(i int32, c content) error {
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
	f := &t.files[i]
	f.sum, f.hashed = sha256.Sum256(target), true
	t.links = append(t.links, link{f.path, string(target), i})
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
	f := &t.files[l.file]
	made, err := t.folders.link(f.dir, f.name(), target)
	if err != nil {
		return t.failed(l.path, err)
	}
	f.made(&made)
	return nil
}

// failed is the error for what cannot be made: the tree may have a name twice, or as a file and as a directory.
func (t *tree) failed(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the repository has %q twice in one directory", t.dir+name)
	}
	return err
}
