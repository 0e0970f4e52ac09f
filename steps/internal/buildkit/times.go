package buildkit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/regularfile"
)

// timekeeper gives the files of layers times that do not depend on when the build ran. It does so as soon as an
// instruction has ended and before anything reads what it made, so that a RUN that records times of files, as Java's
// class data archives do, records those that the image has.
//
// It changes own times only: those that the build's clock has given. Times from elsewhere, such as those in archives,
// were the same in another build. They lose their fractions of a second, which no layer can hold.
//
// An instruction may record times of files that it has just made itself: pip compiles modules and notes the times of
// their sources. What does so cannot be reproduced. Files of the very seconds that it notes keep their times.
type timekeeper struct {
	at      time.Time // in place of own times; whole seconds
	began   time.Time // when the build's clock began
	records *metadata.Store

	mu     sync.Mutex
	noted  map[int64]bool // own seconds that a file's content has
	older  map[int64]bool // times of earlier builds' clocks, in nanoseconds since 1970; it is never changed
	told   bool
	failed error // what could not be settled; nobody looks at errors of releases
}

// slack is how much the kernel's clock for files may be behind this process's, and more.
const slack = time.Second

func newTimekeeper(at time.Time, records *metadata.Store) *timekeeper {
	return &timekeeper{at: at, began: time.Now().Add(-slack), records: records, noted: map[int64]bool{}}
}

// learn takes note of times, in nanoseconds since 1970, that the clocks of earlier builds have given to files of cache
// mounts. A file that a RUN copies from there with its time gets the time that it gets where the mount was empty.
func (k *timekeeper) learn(times []int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	older := maps.Clone(k.older)
	if older == nil {
		older = map[int64]bool{}
	}
	for _, at := range times {
		older[at] = true
		older[at-at%int64(time.Second)] = true // as an archive has it
	}
	k.older = older
}

// settling is a snapshotter whose snapshots are settled each time they are released.
type settling struct {
	snapshot.Snapshotter
	keeper *timekeeper
}

// Mounts implements snapshot.Snapshotter.
func (s *settling) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	if err != nil || s.keeper.spares(key) {
		return m, err
	}
	depth := 0
	for parent := key; ; depth++ {
		info, err := s.Snapshotter.Stat(ctx, parent)
		if err != nil {
			return nil, err
		}
		if parent = info.Parent; parent == "" {
			break
		}
	}
	return &settlingMount{m, s.keeper, depth}, nil
}

// spares tells whether the snapshot is of what is no layer: a cache mount, whose times are its programs', or a context.
func (k *timekeeper) spares(key string) bool {
	item, ok := k.records.Get(key)
	if !ok {
		return false
	}
	var kind client.UsageRecordType
	if value := item.Get("cache.recordType"); value == nil || value.Unmarshal(&kind) != nil {
		return false
	}
	return kind == client.UsageRecordTypeCacheMount || kind == client.UsageRecordTypeLocalSource
}

type settlingMount struct {
	snapshot.Mountable
	keeper *timekeeper
	depth  int // how many snapshots it stands on
}

// Mount implements snapshot.Mountable.
func (m *settlingMount) Mount() ([]mount.Mount, func() error, error) {
	if err := m.keeper.failure(); err != nil {
		return nil, nil, err
	}
	mounts, release, err := m.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	dir, layer := changes(mounts)
	layer = layer || m.depth == 0
	return mounts, func() error {
		err := release()
		if dir == "" {
			return err
		}
		return errors.Join(err, m.keeper.settle(dir, m.depth, layer, below(mounts)))
	}, nil
}

// below are the folders of the layers upon which a mount stands, the topmost first.
func below(mounts []mount.Mount) []string {
	for _, option := range mounts[0].Options {
		if lower, ok := strings.CutPrefix(option, "lowerdir="); ok {
			return strings.Split(lower, ":")
		}
	}
	return nil
}

// changes is the directory in which a mount's changes are, if it can be written to; and whether nothing else is there.
func changes(mounts []mount.Mount) (dir string, layer bool) {
	if len(mounts) != 1 || slices.Contains(mounts[0].Options, "ro") {
		return "", false
	}
	if mounts[0].Type == "bind" {
		return mounts[0].Source, false
	}
	for _, option := range mounts[0].Options {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper, true
		}
	}
	return "", false
}

func (k *timekeeper) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failed
}

// settle settles what an instruction has left in a directory. The times within one chain of layers keep their order by
// nanoseconds, which no layer holds: programs such as make compare them from one RUN to the next.
//
// A file of the same time as the one that it replaces gets the same nanoseconds, if it has the same content, and else
// others. BuildKit leaves out of a layer what is there already, and takes files of the same nanoseconds for the same.
func (k *timekeeper) settle(dir string, depth int, layer bool, below []string) error {
	at := k.at.Add(time.Duration(depth + 1))
	files, err := k.search(dir, layer, below)
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, file := range files {
		mtime := file.mtime.Truncate(time.Second)
		if file.own {
			if k.noted[mtime.Unix()] {
				continue
			}
			mtime = at
		} else if file.replaces != nil {
			mtime = at
			if file.same {
				mtime = file.replaces.ModTime()
			}
		}
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(mtime.UnixNano())}
		err = errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, file.path, times, unix.AT_SYMLINK_NOFOLLOW))
	}
	if err != nil {
		k.failed = errors.Join(k.failed, fmt.Errorf("times of files: %w", err))
	}
	return err
}

// timed is a file whose time is to be settled.
type timed struct {
	path    string
	mtime   time.Time
	own     bool
	content bool // whether it is a regular file

	replaces fs.FileInfo // a file of the layers below, of the same second and size; nil: none
	same     bool        // whether replaces is the same; meaningful with it
}

// search finds files with own times, and, in a layer, those with fractions of a second; and looks for own times in the
// content of the former.
func (k *timekeeper) search(dir string, layer bool, below []string) (found []timed, err error) {
	now := time.Now().Add(slack)
	notes := newNotes(k.began, now)
	k.mu.Lock()
	older := k.older
	k.mu.Unlock()
	lower := lowerFiles{dir: below}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		file := timed{path: path, mtime: info.ModTime(), content: info.Mode().IsRegular()}
		file.own = !file.mtime.Before(k.began) && !file.mtime.After(now) || older[file.mtime.UnixNano()]
		fraction := layer && file.mtime.Nanosecond() != 0 && file.mtime.Unix() != k.at.Unix()
		if entry.IsDir() {
			lower.enter(path)
		} else if !file.own && file.mtime.Unix() == k.at.Unix() {
			if file.replaces, file.same, err = lower.replaced(path, info); err != nil {
				return err
			}
		}
		if !file.own && !fraction && file.replaces == nil {
			return nil
		}
		found = append(found, file)
		if file.own && file.content {
			notes.know(file.mtime.Unix(), uint64(info.Size()))
		}
		return nil
	})
	for _, file := range found {
		if err != nil || !file.own || !file.content {
			continue
		}
		var seconds []int64
		if seconds, err = notes.in(file.path); len(seconds) > 0 {
			k.note(strings.TrimPrefix(file.path, dir), seconds)
		}
	}
	return found, err
}

// lowerFiles are, for each folder of a layer, the folders of the same path in layers below, the topmost first.
type lowerFiles map[string][]string

// enter finds a folder's.
func (l lowerFiles) enter(path string) {
	if l[path] != nil {
		return
	}
	for _, dir := range l[filepath.Dir(path)] {
		dir = filepath.Join(dir, filepath.Base(path))
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			l[path] = append(l[path], dir)
		}
	}
}

// replaced finds the file that a file or link replaces, if the two have the same second and size but fractions of it;
// and whether they are the same. A file that is hidden does no harm: only fractions of a second depend on it.
func (l lowerFiles) replaced(path string, info fs.FileInfo) (replaces fs.FileInfo, same bool, err error) {
	for _, dir := range l[filepath.Dir(path)] {
		other := filepath.Join(dir, filepath.Base(path))
		replaces, err := os.Lstat(other)
		if err != nil {
			continue
		}
		at, before := info.ModTime(), replaces.ModTime()
		if replaces.Mode().Type() != info.Mode().Type() || replaces.Size() != info.Size() ||
			at.Unix() != before.Unix() ||
			at.Nanosecond() == 0 && before.Nanosecond() == 0 { // BuildKit compares contents then
			return nil, false, nil
		}
		switch {
		case info.Mode().IsRegular():
			same, err = sameContent(path, other)
		case info.Mode()&fs.ModeSymlink != 0:
			var one, two string
			one, err = os.Readlink(path)
			if err == nil {
				two, err = os.Readlink(other)
			}
			same = one == two
		default:
			return nil, false, nil
		}
		return replaces, same, err
	}
	return nil, false, nil
}

// sameContent tells whether two files of the same size have the same content.
func sameContent(one, other string) (bool, error) {
	a, _, err := regularfile.Open(one)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, _, err := regularfile.Open(other)
	if err != nil {
		return false, err
	}
	defer b.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		if n == 0 {
			return true, nil
		}
		if _, err := io.ReadFull(b, y[:n]); err != nil {
			return false, err
		}
		if !bytes.Equal(x[:n], y[:n]) {
			return false, nil
		}
	}
}

func (k *timekeeper) note(name string, seconds []int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, second := range seconds {
		k.noted[second] = true
	}
	if !k.told {
		k.told = true
		fmt.Fprintf(os.Stderr, "NOTE: %q holds times of this build, so files of these times keep them: each build "+
			"gives another digest\n", name)
	}
}

// notes finds the seconds between two in the content of files: as decimal numbers, and as numbers of 32 or 64 bits
// beside the size of a file of that second, as Java, Python and Ruby write them. It is strict: what is not meant as a
// time must not give each build another digest. Finer times than seconds are of no interest, since no image has them.
type notes struct {
	first, last int64 // seconds since 1970
	prefix      string
	sizes       map[int64]map[uint64]bool // of files, in bytes, by their seconds
	buffer      []byte
}

// smallest is the size, in bytes, of a file that tells something: small numbers stand beside any other.
const smallest = 16

// know tells of a file's time and size.
func (n *notes) know(second int64, size uint64) {
	if size < smallest {
		return
	}
	if n.sizes[second] == nil {
		n.sizes[second] = map[uint64]bool{}
	}
	n.sizes[second][size] = true
}

func newNotes(from, to time.Time) *notes {
	n := &notes{first: from.Unix(), last: to.Unix(), sizes: map[int64]map[uint64]bool{}, buffer: make([]byte, 1<<20)}
	first, last := fmt.Sprint(n.first), fmt.Sprint(n.last)
	for !strings.HasPrefix(last, first) {
		first = first[:len(first)-1]
	}
	n.prefix = first
	return n
}

// in returns the seconds that a file has, each once.
func (n *notes) in(path string) ([]int64, error) {
	f, _, err := regularfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found := map[int64]bool{}
	for kept := 0; ; {
		read, err := io.ReadFull(f, n.buffer[kept:])
		content := n.buffer[:kept+read]
		n.pairs(content, found)
		n.decimals(content, found)
		if err != nil {
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				err = nil
			}
			var seconds []int64
			for second := range found {
				seconds = append(seconds, second)
			}
			return seconds, err
		}
		kept = copy(n.buffer, content[len(content)-overlap:])
	}
}

// overlap is how many bytes of a buffer are read again with the next one: a number and what it must not stand beside.
const overlap = 32

func (n *notes) has(second int64) bool { return second >= n.first && second <= n.last }

// pairs finds seconds beside sizes.
func (n *notes) pairs(content []byte, found map[int64]bool) {
	if len(n.sizes) == 0 {
		return
	}
	for at := range n.marks(content) {
		for _, order := range orders {
			for _, width := range []int{4, 8} {
				start := order.start(at, width)
				second, ok := order.number(content, start, width)
				if !ok || n.sizes[int64(second)] == nil {
					continue
				}
				for _, beside := range []int{start + width, start - width} {
					if size, ok := order.number(content, beside, width); ok && n.sizes[int64(second)][size] {
						found[int64(second)] = true
					}
				}
			}
		}
	}
}

// byteOrder is the order of a number's bytes.
type byteOrder struct {
	binary.ByteOrder
	big bool
}

var orders = []byteOrder{{binary.LittleEndian, false}, {binary.BigEndian, true}}

// start is where seconds of width bytes begin whose marked byte is at index.
func (o byteOrder) start(index, width int) int {
	if o.big {
		return index - (width - 1 - marked)
	}
	return index - marked
}

func (o byteOrder) number(content []byte, start, width int) (uint64, bool) {
	if start < 0 || start+width > len(content) {
		return 0, false
	}
	if width == 4 {
		return uint64(o.Uint32(content[start:])), true
	}
	return o.Uint64(content[start:]), true
}

// marked is the byte of seconds by which they are searched for, counted from the lowest: it has the same value for half
// a year.
const marked = 3

// marks yields where a byte is that may be the marked one of seconds.
func (n *notes) marks(content []byte) iter.Seq[int] {
	first, last := byte(n.first>>(8*marked)), byte(n.last>>(8*marked))
	var next [256]bool // whether a byte may be the next lower one, which is on either side
	for high := n.first >> (8 * (marked - 1)); high <= n.last>>(8*(marked-1)); high++ {
		next[byte(high)] = true
	}
	return func(yield func(int) bool) {
		for mark := first; ; mark++ {
			for from := 0; ; {
				at := bytes.IndexByte(content[from:], mark)
				if at < 0 {
					break
				}
				at += from
				from = at + 1
				beside := at > 0 && next[content[at-1]] || at+1 < len(content) && next[content[at+1]]
				if beside && !yield(at) {
					return
				}
			}
			if mark == last {
				return
			}
		}
	}
}

func (n *notes) decimals(content []byte, found map[int64]bool) {
	if n.prefix == "" {
		return
	}
	for from := 0; ; {
		at := bytes.Index(content[from:], []byte(n.prefix))
		if at < 0 {
			return
		}
		at += from
		from = at + 1
		if at > 0 && isDigit(content[at-1]) {
			continue
		}
		end := at
		for end < len(content) && end-at < overlap && isDigit(content[end]) {
			end++
		}
		if second, err := strconv.ParseInt(string(content[at:end]), 10, 64); err == nil && n.has(second) {
			found[second] = true
		}
	}
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }
