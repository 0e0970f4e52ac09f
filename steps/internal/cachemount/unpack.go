package cachemount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Unpacked is what was unpacked into a mount.
type Unpacked struct {
	mount   Mount
	entries []entry
	since   int64 // nanoseconds since 1970; what has changed later, a build has changed
}

// Times are the times, in nanoseconds since 1970, that the clocks of earlier builds have given to files.
func (u *Unpacked) Times() []int64 {
	var times []int64
	for i := range u.entries {
		if e := &u.entries[i]; e.Own {
			times = append(times, e.MTime)
		}
	}
	slices.Sort(times)
	return slices.Compact(times)
}

// unpackers is how many chunks are unpacked at once: while some arrive, others are written.
const unpackers = 6

// Unpack fills a folder, which is empty or holds the mount's base. What it leaves when it fails is of no use. It gives
// set-id bits to no file.
func Unpack(ctx context.Context, dir string, m Mount, store Store) (*Unpacked, error) {
	entries, err := readList(ctx, store, m)
	if err != nil {
		return nil, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && uint64(m.plain()) > fs.Bavail*uint64(fs.Bsize)/10*9 {
		return nil, fmt.Errorf("%d bytes have no place on the disk: %w", m.plain(), unix.ENOSPC)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	u := &unpacker{root: root, based: m.Base != ""}
	folders := u.folders()
	defer folders.close()
	chunks := make([][]*entry, len(m.Chunks))
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Mode == 0:
			err = root.RemoveAll(string(e.Path))
		case e.isFolder():
			err = folders.make(e)
		case e.isRegular() && e.Chunk > 0:
			chunks[e.Chunk-1] = append(chunks[e.Chunk-1], e)
		}
		if err != nil {
			return nil, err
		}
	}
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(unpackers)
	for i, files := range chunks {
		if len(files) > 0 {
			group.Go(func() error { return u.chunk(inside, store, m.Chunks[i], files) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.isRegular() && e.Chunk == 0:
			err = folders.write(e, nil)
		case e.kind() == unix.S_IFREG && e.Link != "":
			err = folders.link(e)
		case e.kind() == unix.S_IFLNK:
			err = folders.symlink(e)
		}
		if err != nil {
			return nil, err
		}
	}
	for i := len(entries) - 1; i >= 0; i-- {
		if e := &entries[i]; e.isFolder() {
			if err := folders.settle(e); err != nil {
				return nil, err
			}
		}
	}
	return &Unpacked{mount: m, entries: entries, since: time.Now().UnixNano()}, nil
}

type unpacker struct {
	root  *os.Root
	based bool // something may be there already
}

func (u *unpacker) folders() *folders { return &folders{unpacker: u} }

// chunk writes the files whose contents are in a chunk.
func (u *unpacker) chunk(ctx context.Context, store Store, chunk Blob, files []*entry) error {
	slices.SortStableFunc(files, func(a, b *entry) int { return cmp.Compare(a.Offset, b.Offset) })
	folders := u.folders()
	defer folders.close()
	buffer := make([]byte, 128<<10)
	return read(ctx, store, chunk, func(plain io.Reader) error {
		var at int64
		var before *entry
		for _, e := range files {
			if before != nil && e.Offset == before.Offset && e.Size == before.Size {
				if err := folders.copy(before, e, buffer); err != nil {
					return err
				}
				continue
			}
			if e.Offset < at {
				return errors.New("contents of two files overlap")
			}
			if _, err := io.CopyN(io.Discard, plain, e.Offset-at); err != nil {
				return err
			}
			if err := folders.write(e, &content{plain, buffer}); err != nil {
				return err
			}
			at, before = e.Offset+e.Size, e
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// content is where a file's content is read from.
type content struct {
	plain  io.Reader
	buffer []byte
}

// folders writes files into folders, of which it holds the last one open. Only the root opens folders, and names of
// files in them are single ones: nothing leads out.
type folders struct {
	*unpacker
	path string
	last *os.File
}

func (f *folders) close() {
	if f.last != nil {
		f.last.Close()
	}
}

// in opens the folder that an entry is in, and returns its descriptor and the name in it.
func (f *folders) in(p name) (int, string, error) {
	dir, base := path.Dir(string(p)), path.Base(string(p))
	if f.last == nil || f.path != dir {
		opened, err := f.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, "", err
		}
		f.close()
		f.last, f.path = opened, dir
	}
	return int(f.last.Fd()), base, nil
}

// place is in for what is to be made. Where the base has something, it goes.
func (f *folders) place(e *entry) (int, string, error) {
	if f.based {
		if err := f.root.RemoveAll(string(e.Path)); err != nil {
			return -1, "", err
		}
	}
	return f.in(e.Path)
}

// make makes a folder, with what it needs until all is in it.
func (f *folders) make(e *entry) error {
	if e.Path == "." {
		return nil
	}
	if info, err := f.root.Lstat(string(e.Path)); f.based && err == nil && info.IsDir() {
		return nil
	}
	dir, base, err := f.place(e)
	if err != nil {
		return err
	}
	return failed("mkdir", e.Path, unix.Mkdirat(dir, base, 0o700))
}

// settle gives a folder its owner, mode and time.
func (f *folders) settle(e *entry) error {
	opened, err := f.root.OpenFile(string(e.Path), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer opened.Close()
	fd := int(opened.Fd())
	if err := errors.Join(
		failed("chown", e.Path, unix.Fchown(fd, int(e.UID), int(e.GID))),
		failed("chmod", e.Path, unix.Fchmod(fd, e.Mode&0o7777)),
	); err != nil {
		return err
	}
	return f.time(fd, ".", e)
}

func (f *folders) time(dir int, base string, e *entry) error {
	at := unix.NsecToTimespec(e.MTime)
	return failed("utimes", e.Path, unix.UtimesNanoAt(dir, base, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW))
}

// write writes a file. Without a content it is empty.
func (f *folders) write(e *entry, c *content) error {
	dir, base, err := f.place(e)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return failed("open", e.Path, err)
	}
	if c != nil {
		err = c.copy(fd, e)
	}
	err = errors.Join(
		err,
		failed("chown", e.Path, unix.Fchown(fd, int(e.UID), int(e.GID))),
		failed("chmod", e.Path, unix.Fchmod(fd, e.Mode&0o777)),
		failed("close", e.Path, unix.Close(fd)),
	)
	if err != nil {
		return err
	}
	return f.time(dir, base, e)
}

// copy copies as much as the file is long.
func (c *content) copy(fd int, e *entry) error {
	for left := e.Size; left > 0; {
		n, err := io.ReadFull(c.plain, c.buffer[:min(left, int64(len(c.buffer)))])
		if err != nil {
			return err
		}
		left -= int64(n)
		for part := c.buffer[:n]; len(part) > 0; {
			written, err := unix.Write(fd, part)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return failed("write", e.Path, err)
			}
			part = part[written:]
		}
	}
	return nil
}

// copy writes a file with the content of another one, which is there.
func (f *folders) copy(from, e *entry, buffer []byte) error {
	there, err := f.root.OpenFile(string(from.Path), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer there.Close()
	return f.write(e, &content{there, buffer})
}

// link gives a file another path.
func (f *folders) link(e *entry) error {
	from := f.unpacker.folders()
	defer from.close()
	source, sourceBase, err := from.in(e.Link)
	if err != nil {
		return err
	}
	dir, base, err := f.place(e)
	if err != nil {
		return err
	}
	return failed("link", e.Path, unix.Linkat(source, sourceBase, dir, base, 0))
}

func (f *folders) symlink(e *entry) error {
	dir, base, err := f.place(e)
	if err != nil {
		return err
	}
	if err := failed("symlink", e.Path, unix.Symlinkat(string(e.Link), dir, base)); err != nil {
		return err
	}
	if err := unix.Fchownat(dir, base, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return failed("chown", e.Path, err)
	}
	return f.time(dir, base, e)
}

// failed says what could not be done to a path.
func failed(what string, p name, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: what, Path: string(p), Err: err}
}
