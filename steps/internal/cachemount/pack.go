package cachemount

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Packing is a mount that is to be packed.
type Packing struct {
	Key  Key
	Dir  string // its folder
	Base string // folder of what it began with; empty: there was nothing
	// Before is what was unpacked into it; nil: nothing was.
	Before *Unpacked
	// Known is what earlier builds packed of this mount, and Before was not unpacked from; nil: nothing is known.
	Known *Mount
	// Own tells whether the clock of this build, or of an earlier one, has given a file its time, in nanoseconds since
	// 1970.
	Own     func(nanoseconds int64) bool
	Scratch string // a folder for temporary files
	Limit   int64  // bytes of all blobs
}

// ErrTooLarge tells that a mount is larger than its limit.
var ErrTooLarge = errors.New("it is larger than the limit")

const (
	// chunkSize is how many bytes of files make a chunk. A larger file is a chunk of its own.
	chunkSize = 8 << 20
	// mostSmall is how many chunks of less than a quarter of that a mount may have before they are packed together.
	mostSmall = 24
)

// Packed is what was packed.
type Packed struct {
	Mount
	New     int64 // bytes of new blobs
	Skipped int   // pipes, sockets and devices, which are not packed
}

// Pack packs a mount that nobody uses. New blobs go into the store; those that earlier builds left stay where they are.
func Pack(ctx context.Context, p Packing, store Store) (Packed, error) {
	before := p.Before
	if before == nil {
		before = &Unpacked{}
		if p.Known != nil {
			// What cannot be read is packed anew.
			if entries, err := readList(ctx, store, *p.Known); err == nil {
				before = &Unpacked{mount: *p.Known, entries: entries}
			}
		}
	}
	s := &packer{Packing: p, before: before, store: store, packed: Packed{Mount: Mount{Key: p.Key}}}
	if err := s.scan(); err != nil {
		return Packed{}, err
	}
	if err := s.compare(ctx); err != nil {
		return Packed{}, err
	}
	if err := s.pack(ctx); err != nil {
		return Packed{}, err
	}
	list, raw, err := writeList(s.entries)
	if err != nil {
		return Packed{}, err
	}
	s.packed.List, s.packed.Files = list, len(s.entries)
	if list.Plain > mostList || s.packed.Size() > p.Limit || s.packed.plain() > expansion*p.Limit {
		return Packed{}, ErrTooLarge
	}
	if list.Digest != before.mount.List.Digest {
		if err := store.Write(ctx, list, bytes.NewReader(raw)); err != nil {
			return Packed{}, err
		}
		s.packed.New += list.Size
	}
	return s.packed, nil
}

type packer struct {
	Packing
	before *Unpacked
	store  Store

	entries []entry
	changed []int64 // of each entry, nanoseconds since 1970
	fresh   []int   // places of entries whose contents are in no chunk that stays
	packed  Packed
}

// scan lists what is in the mount.
func (s *packer) scan() error {
	type inode struct{ device, number uint64 }
	first := map[inode]name{}
	var plain int64
	err := filepath.WalkDir(s.Dir, func(at string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(at, &stat); err != nil {
			return &fs.PathError{Op: "lstat", Path: at, Err: err}
		}
		rel, err := filepath.Rel(s.Dir, at)
		if err != nil {
			return err
		}
		e := entry{Path: name(rel), Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, MTime: stat.Mtim.Nano()}
		e.Own = s.Own(e.MTime)
		switch e.kind() {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			e.Link = name(target)
		case unix.S_IFREG:
			e.Size = stat.Size
			if node := (inode{stat.Dev, stat.Ino}); stat.Nlink > 1 {
				if e.Link = first[node]; e.Link == "" {
					first[node] = e.Path
				}
			}
			if e.Link != "" {
				e.Size = 0
			}
			plain += e.Size
		default:
			s.packed.Skipped++
			return nil
		}
		if len(s.entries) == mostEntries || plain > expansion*s.Limit {
			return ErrTooLarge
		}
		s.entries = append(s.entries, e)
		s.changed = append(s.changed, stat.Ctim.Nano())
		return nil
	})
	if err != nil || s.Base == "" {
		return err
	}
	return s.subtract()
}

// subtract leaves what differs from the base, with the folders that it is in, and notes what the base has in addition.
func (s *packer) subtract() error {
	there, needed := map[name]bool{}, map[name]bool{".": true}
	differs := make([]bool, len(s.entries))
	for i := len(s.entries) - 1; i >= 0; i-- {
		e := &s.entries[i]
		there[e.Path] = true
		var stat unix.Stat_t
		err := unix.Lstat(filepath.Join(s.Base, string(e.Path)), &stat)
		differs[i] = err != nil || stat.Mode != e.Mode || stat.Uid != e.UID || stat.Gid != e.GID ||
			!e.isFolder() && (stat.Mtim.Nano() != e.MTime || e.isRegular() && stat.Size != e.Size) ||
			e.kind() == unix.S_IFREG && stat.Nlink > 1
		if differs[i] || needed[e.Path] {
			differs[i] = true
			needed[name(filepath.Dir(string(e.Path)))] = true
		}
		if e.kind() == unix.S_IFREG && e.Link != "" && differs[i] {
			needed[e.Link] = true
		}
	}
	entries, changed := s.entries[:0], s.changed[:0]
	for i := range s.entries {
		if differs[i] {
			entries, changed = append(entries, s.entries[i]), append(changed, s.changed[i])
		}
	}
	s.entries, s.changed = entries, changed
	return filepath.WalkDir(s.Base, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.Base, at)
		if err != nil || there[name(rel)] {
			return err
		}
		if len(s.entries) == mostEntries {
			return ErrTooLarge
		}
		s.entries = append(s.entries, entry{Path: name(rel)})
		s.changed = append(s.changed, 0)
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// place is where a content is: in which chunk, from 1, and where in it.
type place struct {
	chunk  int
	offset int64
}

// identity is how contents are told apart.
type identity struct {
	size int64
	sum  [sumSize]byte
}

// sumSize is how many bytes of a SHA-256 tell contents of one mount apart. Sums are most of a list's bytes. Only who
// makes both contents, and so has the mount in hand, could make two with one sum.
const sumSize = 16

// compare finds the contents that are in chunks already, and decides which chunks stay.
func (s *packer) compare(ctx context.Context) error {
	byPath, byContent := map[name]*entry{}, map[identity]*entry{}
	sizes := map[int64]bool{}
	for i := range s.before.entries {
		e := &s.before.entries[i]
		byPath[e.Path] = e
		if e.isRegular() && e.Chunk > 0 && len(e.Sum) == sumSize {
			byContent[identity{e.Size, [sumSize]byte(e.Sum)}] = e
			sizes[e.Size] = true
		}
	}
	live := map[place]int64{}
	for i := range s.entries {
		e := &s.entries[i]
		if !e.isRegular() || e.Size == 0 {
			continue
		}
		was := byPath[e.Path]
		if was == nil || !was.isRegular() || was.Chunk == 0 || was.Size != e.Size || was.MTime != e.MTime ||
			s.changed[i] > s.before.since {
			was = nil
			if sizes[e.Size] {
				sum, err := s.sum(ctx, e)
				if err != nil {
					return err
				}
				e.Sum = sum[:]
				was = byContent[identity{e.Size, sum}]
			}
		}
		if was != nil {
			e.Sum, e.Chunk, e.Offset = was.Sum, was.Chunk, was.Offset
			live[place{e.Chunk, e.Offset}] = e.Size
		}
	}
	stays := s.staying(live)
	moved := map[int]int{}
	for i, chunk := range s.before.mount.Chunks {
		if stays[i+1] {
			s.packed.Chunks = append(s.packed.Chunks, chunk)
			moved[i+1] = len(s.packed.Chunks)
		}
	}
	for i := range s.entries {
		e := &s.entries[i]
		if e.Chunk = moved[e.Chunk]; e.Chunk == 0 && e.isRegular() && e.Size > 0 {
			e.Offset = 0
			s.fresh = append(s.fresh, i)
		}
	}
	return nil
}

// staying tells which chunks stay as they are: those of which at least half is in use, unless there are many small
// ones.
func (s *packer) staying(live map[place]int64) map[int]bool {
	used, stays := map[int]int64{}, map[int]bool{}
	for at, size := range live {
		used[at.chunk] += size
	}
	var small []int
	for i, chunk := range s.before.mount.Chunks {
		if used[i+1] == 0 || used[i+1] < chunk.Plain/2 {
			continue
		}
		stays[i+1] = true
		if chunk.Plain < chunkSize/4 {
			small = append(small, i+1)
		}
	}
	if len(small) > mostSmall {
		for _, chunk := range small {
			delete(stays, chunk)
		}
	}
	return stays
}

// sum hashes a file's content.
func (s *packer) sum(ctx context.Context, e *entry) (sum [sumSize]byte, err error) {
	if err := ctx.Err(); err != nil {
		return sum, err
	}
	f, err := s.open(e)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	hasher := sha256.New()
	if err := s.copy(hasher, f, e); err != nil {
		return sum, err
	}
	return [sumSize]byte(hasher.Sum(nil)[:sumSize]), nil
}

func (s *packer) open(e *entry) (*os.File, error) {
	return os.OpenFile(filepath.Join(s.Dir, string(e.Path)), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
}

// copy copies a file, which must be as long as it was.
func (s *packer) copy(to io.Writer, f *os.File, e *entry) error {
	n, err := io.Copy(to, io.LimitReader(f, e.Size+1))
	if err == nil && n != e.Size {
		err = fmt.Errorf("%s changes while it is packed", f.Name())
	}
	return err
}

// pack packs fresh contents into new chunks.
func (s *packer) pack(ctx context.Context) error {
	var groups [][]int
	var size int64
	for _, i := range s.fresh {
		e := &s.entries[i]
		if len(groups) == 0 || size+e.Size > chunkSize {
			groups, size = append(groups, nil), 0
		}
		e.Offset = size
		size += e.Size
		e.Chunk = len(s.packed.Chunks) + len(groups)
		groups[len(groups)-1] = append(groups[len(groups)-1], i)
	}
	if len(s.packed.Chunks)+len(groups) > mostChunks {
		return ErrTooLarge
	}
	kept := len(s.packed.Chunks)
	s.packed.Chunks = append(s.packed.Chunks, make([]Blob, len(groups))...)
	left := s.Limit
	for _, chunk := range s.packed.Chunks[:kept] {
		left -= chunk.Size
	}
	budget := &budget{left: left}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, files := range groups {
		group.Go(func() error {
			blob, err := s.chunk(ctx, files)
			s.packed.Chunks[kept+i] = blob
			if err == nil {
				err = budget.take(blob.Size)
			}
			return err
		})
	}
	err := group.Wait()
	s.packed.New += left - budget.left
	return err
}

// chunk packs the contents of files.
func (s *packer) chunk(ctx context.Context, files []int) (blob Blob, err error) {
	spool, err := os.CreateTemp(s.Scratch, "chunk-*")
	if err != nil {
		return blob, err
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	digester := digest.SHA256.Digester()
	packed := &counter{w: io.MultiWriter(spool, digester.Hash())}
	w, err := zstd.NewWriter(packed, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(window/2))
	if err != nil {
		return blob, err
	}
	for _, i := range files {
		if err := ctx.Err(); err != nil {
			return blob, err
		}
		e := &s.entries[i]
		f, err := s.open(e)
		if err != nil {
			return blob, err
		}
		hasher := sha256.New()
		err = s.copy(io.MultiWriter(w, hasher), f, e)
		f.Close()
		if err != nil {
			return blob, err
		}
		e.Sum = hasher.Sum(nil)[:sumSize]
		blob.Plain += e.Size
	}
	if err := w.Close(); err != nil {
		return blob, err
	}
	blob.Digest, blob.Size = digester.Digest(), packed.n
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return blob, err
	}
	return blob, s.store.Write(ctx, blob, spool)
}

// budget is how many bytes may still be packed.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(bytes int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left -= bytes; b.left < 0 {
		return ErrTooLarge
	}
	return nil
}
