package gitsource

import (
	"container/list"
	"io/fs"
	"iter"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// folders are the directories of a tree, which are made below one that is open already. Each is reached from its
// parent's descriptor, and never through a symbolic link: so a file costs one name to look up, however deep it is, and
// nothing leads out. Some descriptors are kept open, those used last. All methods may be called from several
// goroutines at once.
type folders struct {
	mu   sync.Mutex
	all  []folder // the first one is the top
	open map[int32]*handle
	idle list.List // of the *handles that nobody uses, the one that was used last at the front
}

type folder struct {
	name   string
	parent int32
	full   bool // something is in it
}

// handle is an open directory.
type handle struct {
	dir   int32
	fd    int
	users int
	idle  *list.Element // nil: in use
}

// mostHandles is how many directories are open at once, besides those in use. A process may usually have 1,024 files.
const mostHandles = 128

// newFolders begins with an open directory, whose descriptor it copies.
func newFolders(top *os.Root) (*folders, error) {
	dir, err := top.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := &folders{all: []folder{{parent: none}}, open: map[int32]*handle{}}
	f.open[0] = &handle{fd: fd, users: 1} // never closed before close
	return f, nil
}

// close closes all descriptors. Nothing may be in use.
func (f *folders) close() {
	if f == nil {
		return
	}
	for _, h := range f.open {
		unix.Close(h.fd)
	}
	f.open = nil
}

// use returns the descriptor of a directory, which stays open until leave.
func (f *folders) use(dir int32) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, err := f.reach(dir)
	if err != nil {
		return 0, err
	}
	f.take(h)
	return h.fd, nil
}

func (f *folders) take(h *handle) {
	h.users++
	if h.idle != nil {
		f.idle.Remove(h.idle)
		h.idle = nil
	}
}

func (f *folders) leave(dir int32) {
	f.mu.Lock()
	f.release(f.open[dir])
	f.mu.Unlock()
}

func (f *folders) release(h *handle) {
	if h.users--; h.users == 0 {
		h.idle = f.idle.PushFront(h)
	}
}

// reach opens a directory by way of its nearest ancestor that is open.
func (f *folders) reach(dir int32) (*handle, error) {
	way := []int32{dir}
	for f.open[way[len(way)-1]] == nil {
		way = append(way, f.all[way[len(way)-1]].parent)
	}
	at := f.open[way[len(way)-1]]
	for i := len(way) - 2; i >= 0; i-- {
		fd, err := openAt(at.fd, f.all[way[i]].name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, err
		}
		f.evict()
		at = &handle{dir: way[i], fd: fd}
		f.open[way[i]] = at
		f.take(at)
		f.release(at)
	}
	return at, nil
}

// evict closes the directories that were not used for the longest time, while too many are open.
func (f *folders) evict() {
	for len(f.open) >= mostHandles && f.idle.Len() > 0 {
		h := f.idle.Remove(f.idle.Back()).(*handle)
		unix.Close(h.fd)
		delete(f.open, h.dir)
	}
}

// add makes a directory in another one. One that is there already is an error.
func (f *folders) add(parent int32, name string) (int32, error) {
	fd, err := f.use(parent)
	if err != nil {
		return none, err
	}
	defer f.leave(parent)
	if err := retried(func() error { return unix.Mkdirat(fd, name, 0o755) }); err != nil {
		return none, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[parent].full = true
	f.all = append(f.all, folder{name: strings.Clone(name), parent: parent})
	return int32(len(f.all) - 1), nil
}

// fill notes that something is in a directory.
func (f *folders) fill(dir int32) { f.all[dir].full = true }

// empty are the paths of those with nothing in them.
func (f *folders) empty() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := 1; i < len(f.all); i++ {
			if f.all[i].full {
				continue
			}
			path := f.all[i].name
			for at := f.all[i].parent; at > 0; at = f.all[at].parent {
				path = f.all[at].name + "/" + path
			}
			if !yield(path) {
				return
			}
		}
	}
}

// create makes a new file in a directory, and closes it once write has written it. It returns what became of it.
func (f *folders) create(
	dir int32, name string, perm uint32, write func(descriptor) error,
) (made unix.Stat_t, err error) {
	at, err := f.use(dir)
	if err != nil {
		return made, err
	}
	defer f.leave(dir)
	fd, err := openAt(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
	if err != nil {
		return made, err
	}
	if err = write(descriptor(fd)); err == nil {
		err = os.NewSyscallError("fstat", unix.Fstat(fd, &made))
	}
	// As in package os, a close that a signal interrupts has closed.
	if closed := unix.Close(fd); err == nil && closed != nil && closed != unix.EINTR {
		err = &fs.PathError{Op: "close", Path: name, Err: closed}
	}
	return made, err
}

// link makes a symbolic link in a directory.
func (f *folders) link(dir int32, name, target string) (made unix.Stat_t, err error) {
	at, err := f.use(dir)
	if err != nil {
		return made, err
	}
	defer f.leave(dir)
	if err := retried(func() error { return unix.Symlinkat(target, at, name) }); err != nil {
		return made, &fs.PathError{Op: "symlink", Path: name, Err: err}
	}
	err = retried(func() error { return unix.Fstatat(at, name, &made, unix.AT_SYMLINK_NOFOLLOW) })
	return made, os.NewSyscallError("fstatat", err)
}

// descriptor writes to an open file.
type descriptor int

func (d descriptor) Write(p []byte) (int, error) {
	for written := 0; ; {
		n, err := unix.Write(int(d), p[written:])
		if n > 0 {
			written += n
		}
		switch {
		case err == unix.EINTR:
		case err != nil:
			return written, os.NewSyscallError("write", err)
		case written == len(p):
			return written, nil
		}
	}
}

func openAt(dir int, name string, flags int, perm uint32) (fd int, err error) {
	err = retried(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		return err
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

// retried makes a call again that a signal interrupts.
func retried(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
