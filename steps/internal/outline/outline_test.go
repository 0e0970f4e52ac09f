package outline

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// write makes files in a new folder. A name that ends in a slash is a folder; content that starts with "-> " makes a
// link.
func write(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range files {
		name, content, _ := strings.Cut(file, "=")
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else if err == nil {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// dated gives all files in a folder a time.
func dated(t *testing.T, at time.Time, dir string) string {
	t.Helper()
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(at.UnixNano())}
	if err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func learn(t *testing.T, root, changes string, users bool) *Entry {
	t.Helper()
	e, err := Learn(root, []string{changes}, users, nil)
	if err != nil {
		t.Fatal(err)
	}
	// As it travels.
	raw, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	known := &Entry{}
	if err := json.Unmarshal(raw, known); err != nil {
		t.Fatal(err)
	}
	if err := known.Check(); err != nil {
		t.Fatal(err)
	}
	return known
}

func TestSkeletonHasWhatTheLayerTouches(t *testing.T) {
	root := write(t, "app/sub/x=1", "app/same=same", "app/unknown/deep/y=2", "app/link=-> /data", "other/z=3")
	at := time.Unix(1_000_000_000, 7)
	for path, mode := range map[string]os.FileMode{
		"app": 0o750 | os.ModeSetgid, "app/same": 0o600, "app/sub": 0o777 | os.ModeSticky,
	} {
		if err := os.Chmod(filepath.Join(root, path), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(root, path), at, at); err != nil {
			t.Fatal(err)
		}
	}
	known := learn(t, root, write(t, "app/sub/new=1", "app/same=same"), false)
	skeleton := t.TempDir()
	if err := known.Build(skeleton); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "app", "app/sub", "app/same", "app/sub/x", "app/unknown", "app/link", "other"} {
		want, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.Lstat(filepath.Join(skeleton, name))
		if err != nil {
			t.Fatal(err)
		}
		if got.Mode() != want.Mode() || got.ModTime().Unix() != want.ModTime().Unix() ||
			!got.IsDir() && got.Size() != want.Size() {
			t.Errorf("%s is %v of %v with %d bytes, want %v of %v with %d", name, got.Mode(), got.ModTime(), got.Size(),
				want.Mode(), want.ModTime(), want.Size())
		}
	}
	for _, name := range []string{"app/unknown/deep", "other/z"} {
		if _, err := os.Lstat(filepath.Join(skeleton, name)); err == nil {
			t.Errorf("the skeleton has %s", name)
		}
	}
}

func TestSettle(t *testing.T) {
	root := []string{"app/sub/x=1", "app/same=same", "app/link=-> /data", "app/unmet=3", "aside/z=4"}
	for _, c := range []struct {
		name           string
		first, changes []string // of a layer
		layers         [][]string
		later          bool // whether changes are of another second
		refused        bool
	}{
		{name: "what is new", changes: []string{"app/new=1", "app/newer/deep/y=2", "top=1"}},
		{name: "what was met", first: []string{"app/same=same"}, changes: []string{"app/same=some"}},
		{name: "a file that was not met", changes: []string{"app/unmet=5"}, refused: true},
		{name: "a file that was not met, of another time", changes: []string{"app/unmet=5"}, later: true},
		{name: "a file that was not met, of another size", changes: []string{"app/unmet=other"}},
		{name: "a folder that was not met", changes: []string{"aside/y=5"}, refused: true},
		{name: "a folder that was not met, with nothing in it", changes: []string{"aside/"}},
		{name: "a folder over a file", changes: []string{"app/unmet/y=5"}, refused: true},
		{name: "a folder over a link", changes: []string{"app/link/y=5"}, refused: true},
		{name: "a file over a folder", changes: []string{"app/sub=5"}, refused: true},
		{name: "a file over a link", changes: []string{"app/link=5"}, refused: true},
		{name: "a link over a file", changes: []string{"app/unmet=-> x"}, refused: true},
		{name: "a link over a link", changes: []string{"app/link=-> /date"}},
		{
			name: "what a layer has", layers: [][]string{{"app/unmet=7", "app/own/x=1"}},
			changes: []string{"app/unmet=5", "app/own/x=2", "app/own/y=3"},
		},
		{
			name: "what a layer has not", layers: [][]string{{"app/own/x=1"}},
			changes: []string{"aside/z=5"}, refused: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := write(t, append([]string{"app/met=1"}, c.first...)...)
			known := learn(t, dated(t, time.Unix(1_000_000_000, 1), write(t, root...)), first, false)
			skeleton := t.TempDir()
			if err := known.Build(skeleton); err != nil {
				t.Fatal(err)
			}
			below := Below{Root: known}
			for _, layer := range c.layers {
				below.Layers = append(below.Layers, write(t, layer...))
			}
			at := time.Unix(1_000_000_000, 0)
			if c.later {
				at = at.Add(time.Second)
			}
			if err := below.Settle(skeleton, dated(t, at, write(t, c.changes...))); err != nil != c.refused {
				t.Errorf("refused: %v, want %v", err, c.refused)
			}
		})
	}
}

func TestSettleTellsReplacedFilesApart(t *testing.T) {
	for _, nanoseconds := range []int64{0, 1, 2} { // of the layer's files; those below have 2
		root := write(t, "a=same", "b=same", "c=same", "e=-> x", "f=-> x")
		known := learn(t, dated(t, time.Unix(1_000_000_000, 2), root), write(t, "a=1", "b=1", "c=1"), false)
		skeleton := t.TempDir()
		if err := known.Build(skeleton); err != nil {
			t.Fatal(err)
		}
		changes := dated(t, time.Unix(1_000_000_000, nanoseconds),
			write(t, "a=same", "b=some", "c=longer", "d=", "e=-> x", "f=-> y"))
		if err := (&Below{Root: known}).Settle(skeleton, changes); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{"a": true, "b": false, "c": false, "e": true, "f": false} {
			had, has := filepath.Join(skeleton, name), filepath.Join(changes, name)
			if same := counts(t, had, has); same != want {
				t.Errorf("%s with %d nanoseconds is the same: %v, want %v", name, nanoseconds, same, want)
			}
		}
	}
}

// counts tells whether a file counts as the same as another one of the same mode and owner when a layer is made.
func counts(t *testing.T, one, other string) bool {
	t.Helper()
	a, err := os.Lstat(one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Lstat(other)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
		return false
	}
	if a.ModTime().Nanosecond() != 0 {
		return true
	}
	read := os.ReadFile
	if a.Mode()&os.ModeSymlink != 0 {
		read = func(path string) ([]byte, error) {
			to, err := os.Readlink(path)
			return []byte(to), err
		}
	}
	x, err := read(one)
	if err != nil {
		t.Fatal(err)
	}
	y, err := read(other)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

func TestStrangeFilesAreNotTouched(t *testing.T) {
	root := write(t, "named=1", "attributed/x=1")
	if err := os.Link(filepath.Join(root, "named"), filepath.Join(root, "twice")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(filepath.Join(root, "attributed"), "user.x", []byte("y"), 0); err != nil {
		t.Skipf("extended attributes: %v", err)
	}
	for _, change := range []string{"named=2", "attributed/y=1"} {
		changes := write(t, change)
		known := learn(t, root, changes, false)
		skeleton := t.TempDir()
		if err := known.Build(skeleton); err != nil {
			t.Fatal(err)
		}
		if (&Below{Root: known}).Settle(skeleton, changes) == nil {
			t.Errorf("%s is done upon a skeleton", change)
		}
	}
}

func TestUsers(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		users bool
		want  bool
	}{
		{"both", []string{"etc/passwd=x", "etc/group=y"}, true, true},
		{"not asked for", []string{"etc/passwd=x", "etc/group=y"}, false, false},
		{"one", []string{"etc/passwd=x"}, true, false},
		{"none", []string{"etc/x=y"}, true, false},
		{"no folder", []string{"x=y"}, true, false},
		{"a link", []string{"etc/passwd=-> group", "etc/group=y"}, true, false},
		{"large", []string{"etc/passwd=" + strings.Repeat("x", mostContent+1), "etc/group=y"}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			known := learn(t, write(t, c.files...), write(t, "x="), c.users)
			if known.HasUsers() != c.want {
				t.Errorf("has users: %v, want %v", !c.want, c.want)
			}
			skeleton := t.TempDir()
			if err := known.Build(skeleton); err != nil {
				t.Fatal(err)
			}
			if had, err := os.ReadFile(filepath.Join(skeleton, "etc/passwd")); c.want && string(had) != "x" {
				t.Errorf("the skeleton's passwd is %q: %v", had, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	dir := func(name string, file *Entry) *Entry {
		return &Entry{Mode: syscall.S_IFDIR | 0o755, Files: map[string]*Entry{name: file}}
	}
	regular := &Entry{Mode: syscall.S_IFREG | 0o644}
	deep := regular
	for range deepest + 1 {
		deep = dir("x", deep)
	}
	for name, outline := range map[string]*Entry{
		"nothing":           nil,
		"parent":            dir("..", regular),
		"itself":            dir(".", regular),
		"no name":           dir("", regular),
		"path":              dir("a/b", regular),
		"zero":              dir("a\x00", regular),
		"nothing as a file": dir("a", nil),
		"files in a file":   {Mode: syscall.S_IFREG, Files: map[string]*Entry{"a": regular}},
		"files in a link":   {Mode: syscall.S_IFLNK, Link: "/", Files: map[string]*Entry{"a": regular}},
		"size":              dir("a", &Entry{Mode: syscall.S_IFREG, Size: -1}),
		"too deep":          deep,
	} {
		if outline.Check() == nil {
			t.Errorf("%s: it passes", name)
		}
	}
}
