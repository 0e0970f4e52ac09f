// Package outline knows of a file system what a COPY into it must know: the folders on the way, with their attributes
// and the names in them, and the digests of files that the COPY replaces.
//
// With it, a COPY can be done upon a skeleton, a folder that has just these files, in place of the file system itself,
// which need not be fetched for that. The layer that the COPY leaves is the same if it touches nothing but what the
// outline knows.
package outline

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/regularfile"
)

// Bounds of an outline. What is larger is not known.
const (
	mostEntries  = 4_000
	mostNames    = 1_000    // of a folder that is listed as a whole
	mostHashed   = 32 << 20 // bytes of all files whose digests are noted
	mostContent  = 64 << 10 // bytes of a file that is kept as it is
	deepest      = 100
	mostFileSize = 1 << 40 // bytes; of a skeleton's files, which are sparse
)

// errUnknown is why an outline cannot be made or be used.
var errUnknown = errors.New("not known")

// Entry is a file, and what is known below it.
type Entry struct {
	Mode    uint32 `json:"m"`           // as lstat has it, type and permissions
	UID     int    `json:"u,omitempty"` // as in the user namespace of the builder
	GID     int    `json:"g,omitempty"`
	Seconds int64  `json:"s,omitempty"` // since 1970, of the last change; no layer has fractions of them
	Size    int64  `json:"z,omitempty"` // bytes of a regular file
	Link    string `json:"l,omitempty"` // where a symbolic link leads
	SHA256  string `json:"h,omitempty"` // of a regular file's content, in hexadecimal; empty: it is not known
	Content []byte `json:"c,omitempty"` // of a regular file; empty: it is not known
	// Strange is whether it has more than an outline can tell: extended attributes, other names, or it is a device.
	Strange bool `json:"x,omitempty"`

	// Whole is whether a folder has no other files than Files.
	Whole bool              `json:"w,omitempty"`
	Files map[string]*Entry `json:"f,omitempty"` // of a folder, by their names
}

func (e *Entry) isDir() bool     { return e.Mode&unix.S_IFMT == unix.S_IFDIR }
func (e *Entry) isRegular() bool { return e.Mode&unix.S_IFMT == unix.S_IFREG }
func (e *Entry) isLink() bool    { return e.Mode&unix.S_IFMT == unix.S_IFLNK }

// Check wants an outline that comes from elsewhere to be one: its names stay within a skeleton.
func (e *Entry) Check() error {
	left := mostEntries
	return e.check(&left, deepest)
}

func (e *Entry) check(left *int, depth int) error {
	*left--
	switch {
	case e == nil || *left < 0 || depth < 0:
		return fmt.Errorf("an outline is too large: %w", errUnknown)
	case len(e.Files) > 0 && !e.isDir(), e.Size < 0, e.Size > mostFileSize, e.UID < 0, e.GID < 0:
		return fmt.Errorf("an outline is none: %w", errUnknown)
	}
	for name, file := range e.Files {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("an outline has a file %q: %w", name, errUnknown)
		}
		if err := file.check(left, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// Below is what is known of a file system that is there as a skeleton only, with layers upon it.
type Below struct {
	Root   *Entry
	Layers []string // folders with the changes of layers upon the skeleton, as overlayfs has them
}

// has tells whether one of the layers has a file.
func (b *Below) has(path string) bool {
	for _, layer := range b.Layers {
		if _, err := os.Lstat(filepath.Join(layer, path)); err == nil {
			return true
		}
	}
	return false
}

// Learn makes the outline of a file system in the folder root, of what layers upon it touch whose changes are in the
// folders changes. With users, it has the files of the names of users and groups, too.
//
// With below, the folder root is itself a skeleton with layers.
func Learn(root string, changes []string, users bool, below *Below) (*Entry, error) {
	l := &learning{root: root, changes: changes, below: below}
	var known *Entry
	if below != nil {
		known = below.Root
	}
	outline, err := l.folder("", known, below != nil)
	if err == nil && users {
		err = l.users(outline)
	}
	return outline, err
}

type learning struct {
	root    string
	changes []string
	below   *Below
	entries int
	hashed  int64
}

// lstat describes a file.
func (l *learning) lstat(path string) (*Entry, error) {
	if l.entries++; l.entries > mostEntries {
		return nil, fmt.Errorf("too many files: %w", errUnknown)
	}
	path = filepath.Join(l.root, path)
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return nil, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	e := &Entry{
		Mode: stat.Mode, UID: int(stat.Uid), GID: int(stat.Gid), Seconds: stat.Mtim.Sec,
	}
	switch {
	case e.isDir():
	case e.isRegular():
		e.Size = stat.Size
	case e.isLink():
		var err error
		if e.Link, err = os.Readlink(path); err != nil {
			return nil, err
		}
		e.Strange = !utf8.ValidString(e.Link)
	default:
		e.Strange = true
	}
	e.Strange = e.Strange || !e.isDir() && stat.Nlink > 1 || hasAttributes(path)
	return e, nil
}

// hasAttributes tells whether a file has extended attributes, or may have.
func hasAttributes(path string) bool {
	names := make([]byte, 4<<10)
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return false
	}
	if err != nil {
		return true
	}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name != "" && name != "security.selinux" { // the machine's, which no layer has
			return true
		}
	}
	return false
}

// folder describes a folder. known is what was known of it before, if its file system is a skeleton: nil where that has
// nothing.
func (l *learning) folder(path string, known *Entry, skeleton bool) (*Entry, error) {
	e, err := l.lstat(path)
	if err != nil {
		return nil, err
	}
	if known != nil && known.Strange {
		e.Strange = true
	}
	names, err := readNames(filepath.Join(l.root, path))
	if err != nil {
		return nil, err
	}
	touches := map[string]bool{}
	for _, changes := range l.changes {
		if !isDir(filepath.Join(changes, path)) {
			continue
		}
		touched, err := readNames(filepath.Join(changes, path))
		if err != nil {
			return nil, err
		}
		for _, name := range touched {
			touches[name] = true
		}
	}
	e.Whole = len(names) <= mostNames && (known == nil || known.Whole)
	e.Files = map[string]*Entry{}
	for _, name := range names {
		if len(names) > mostNames && !touches[name] {
			continue
		}
		if !utf8.ValidString(name) {
			e.Whole = false
			continue
		}
		var before *Entry
		if known != nil {
			before = known.Files[name]
		}
		if e.Files[name], err = l.file(filepath.Join(path, name), before, skeleton, touches[name]); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// file describes a file in a folder.
func (l *learning) file(path string, known *Entry, skeleton, touched bool) (*Entry, error) {
	e, err := l.lstat(path)
	if err != nil {
		return nil, err
	}
	real := !skeleton || l.below.has(path)
	switch {
	case e.isDir() && touched:
		return l.folder(path, known, skeleton)
	case e.isDir() && known != nil && known.isDir():
		e.Whole, e.Files, e.Strange = known.Whole, known.Files, e.Strange || known.Strange
		if real { // and so may be what is in it
			e.Whole, e.Files = false, nil
		}
	case !real:
		if known == nil {
			return nil, fmt.Errorf("%s: %w", path, errUnknown)
		}
		return known, nil
	case e.isRegular() && touched && !e.Strange:
		if l.hashed += e.Size; l.hashed > mostHashed {
			return e, nil
		}
		if e.SHA256, err = hashFile(filepath.Join(l.root, path)); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// userFiles are where the names of users and groups are.
var userFiles = []string{"passwd", "group"}

// users adds the files with the names of users and groups.
func (l *learning) users(outline *Entry) error {
	etc := outline.Files["etc"]
	if etc == nil || !etc.isDir() {
		return nil
	}
	for _, name := range userFiles {
		path := filepath.Join("etc", name)
		if l.below != nil && !l.below.has(path) {
			if known := l.below.Root.Files["etc"]; known != nil && known.Files[name] != nil {
				etc.add(name, known.Files[name])
			}
			continue
		}
		e, err := l.lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if before := etc.Files[name]; before != nil {
			e = before
		}
		if e.isRegular() && !e.Strange && e.Size <= mostContent {
			if e.Content, err = regularfile.Read(filepath.Join(l.root, path), mostContent); err != nil {
				return err
			}
		}
		etc.add(name, e)
	}
	return nil
}

func (e *Entry) add(name string, file *Entry) {
	if e.Files == nil {
		e.Files = map[string]*Entry{}
	}
	e.Files[name] = file
}

// HasUsers tells whether an outline has the files with the names of users and groups.
func (e *Entry) HasUsers() bool {
	etc := e.Files["etc"]
	if etc == nil || !etc.isDir() {
		return false
	}
	for _, name := range userFiles {
		if file := etc.Files[name]; file == nil || len(file.Content) == 0 {
			return false
		}
	}
	return true
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// readNames lists a folder.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func hashFile(path string) (string, error) {
	f, _, err := regularfile.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Build makes the skeleton in an empty folder.
func (e *Entry) Build(dir string) error {
	switch {
	case e.isDir():
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		for name, file := range e.Files {
			if err := file.Build(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
	case e.isLink():
		if err := os.Symlink(e.Link, dir); err != nil {
			return err
		}
	default: // in place of a device, too: nothing may touch it
		if err := os.WriteFile(dir, e.Content, 0o600); err != nil {
			return err
		}
		if len(e.Content) == 0 {
			if err := os.Truncate(dir, e.Size); err != nil {
				return err
			}
		}
	}
	if err := os.Lchown(dir, e.UID, e.GID); err != nil {
		return err
	}
	if !e.isLink() {
		if err := unix.Chmod(dir, e.Mode&0o7777); err != nil {
			return err
		}
	}
	return setTime(dir, e.Seconds, 0)
}

func setTime(path string, seconds, nanoseconds int64) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: seconds, Nsec: nanoseconds}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: path, Err: err}
	}
	return nil
}

// Settle wants the changes of a layer upon a skeleton, which are in a folder as overlayfs has them, to touch nothing
// but what is known. An error says that they do. The skeleton is in the folder base. Files that the layer replaces
// become the same there as those of the layer, if they are in the file system: a layer has nothing that is the same.
func (b *Below) Settle(base, changes string) error {
	return b.settle(base, changes, "", b.Root)
}

func (b *Below) settle(base, changes, path string, known *Entry) error {
	if known != nil && known.Strange {
		return fmt.Errorf("/%s: %w", path, errUnknown)
	}
	if isOpaque(filepath.Join(changes, path)) {
		return fmt.Errorf("/%s is replaced: %w", path, errUnknown)
	}
	entries, err := os.ReadDir(filepath.Join(changes, path))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := filepath.Join(path, entry.Name())
		var before *Entry
		if known != nil {
			before = known.Files[entry.Name()]
		}
		over := b.has(name)
		info, err := entry.Info()
		switch {
		case err != nil:
		case info.Mode()&os.ModeCharDevice != 0:
			err = fmt.Errorf("/%s is removed or a device: %w", name, errUnknown)
		case info.IsDir():
			if before != nil && !before.isDir() || before == nil && known != nil && !known.Whole && !over {
				err = fmt.Errorf("/%s: %w", name, errUnknown)
			} else if before != nil || over {
				err = b.settle(base, changes, name, before)
			}
		case over: // a layer has it, which is real
			if before != nil && before.isDir() {
				err = fmt.Errorf("/%s: %w", name, errUnknown)
			}
		case before == nil:
			if known != nil && !known.Whole {
				err = fmt.Errorf("/%s: %w", name, errUnknown)
			}
		case before.Strange:
			err = fmt.Errorf("/%s: %w", name, errUnknown)
		case before.isRegular() && info.Mode().IsRegular() || before.isLink() && info.Mode()&os.ModeSymlink != 0:
			err = before.match(filepath.Join(base, name), filepath.Join(changes, name), info)
		default:
			err = fmt.Errorf("/%s: %w", name, errUnknown)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isOpaque tells whether a folder of a layer hides what is below it.
func isOpaque(dir string) bool {
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		value := make([]byte, 8)
		n, err := unix.Lgetxattr(dir, name, value)
		if err == nil && n > 0 || err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return true
		}
	}
	return false
}

// match makes a file of a skeleton the same as the one that replaces it if the file in the file system is, and another
// one otherwise. As in a layer, times have no fractions of a second for that.
func (e *Entry) match(file, by string, has os.FileInfo) error {
	at := has.ModTime()
	if e.Size != has.Size() && e.isRegular() || e.Seconds != at.Unix() {
		return nil // they are told apart by that
	}
	same, err := e.same(by)
	if err != nil {
		return err
	}
	if e.isRegular() && e.Size > 0 {
		if err := replace(file, by, same); err != nil {
			return err
		}
	}
	fraction := int64(at.Nanosecond())
	if !same && fraction != 0 {
		fraction ^= 1 // with the same one, it would count as the same file
	}
	return setTime(file, e.Seconds, fraction)
}

// same tells whether the file in the file system has what another one has.
func (e *Entry) same(other string) (bool, error) {
	if e.isLink() {
		to, err := os.Readlink(other)
		return to == e.Link, err
	}
	if e.Size == 0 {
		return true, nil
	}
	if e.SHA256 == "" {
		return false, fmt.Errorf("%s: %w", other, errUnknown)
	}
	digest, err := hashFile(other)
	return digest == e.SHA256, err
}

// replace gives a file what another one has, or not quite that.
func replace(file, by string, same bool) error {
	from, _, err := regularfile.Open(by)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(file, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	if same {
		_, err = io.Copy(to, from)
	} else {
		first := make([]byte, 1)
		if _, err = from.ReadAt(first, 0); err == nil {
			_, err = to.WriteAt([]byte{^first[0]}, 0)
		}
	}
	return errors.Join(err, to.Close())
}
