package buildkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNotes(t *testing.T) {
	t.Parallel()
	from, to := time.Unix(1_795_731_000, 0), time.Unix(1_795_731_300, 0)
	const noted = 1_795_731_234
	wide := func(order binary.AppendByteOrder, values ...uint64) string {
		content := []byte("head")
		for _, value := range values {
			content = order.AppendUint64(content, value)
		}
		return string(content) + "tail"
	}
	half := func(order binary.AppendByteOrder, values ...uint32) string {
		content := []byte("head")
		for _, value := range values {
			content = order.AppendUint32(content, value)
		}
		return string(content) + "tail"
	}
	little, big := binary.LittleEndian, binary.BigEndian
	long := strings.Repeat("x", 1<<20-4)
	for name, c := range map[string]struct {
		file, content string
		want          []int64
	}{
		"none":                    {"a", "1795730999 1795731302 179573123 17957312341", nil},
		"decimal":                 {"a", "at 1795731234.", []int64{noted}},
		"decimal at the end":      {"a", "1795731234", []int64{noted}},
		"decimal with fractions":  {"a", "1795731234.5", []int64{noted}},
		"part of a longer number": {"a", "91795731234 1795731234567", nil},
		"two":                     {"a", "1795731234 1795731001", []int64{1_795_731_001, noted}},
		"little, size after":      {"a", wide(little, noted, 4711), []int64{noted}},
		"big, size before":        {"a", wide(big, 4711, noted), []int64{noted}},
		"little, another size":    {"a", wide(little, noted, 4712), nil},
		"little, no file of it":   {"a", wide(little, noted+1, 4711), nil},
		"half, size after":        {"a.pyc", "\xcb\r\r\n\x00\x00\x00\x00" + half(little, noted, 4711), []int64{noted}},
		"half, size before":       {"a", half(big, 4711, noted), []int64{noted}},
		"half alone":              {"a", half(little, noted, 0), nil},
		"across buffers":          {"a", long + wide(big, noted, 4711), []int64{noted}},
		"decimal across buffers":  {"a", long + " 1795731234 ", []int64{noted}},
		"empty":                   {"a", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), c.file)
			if err := os.WriteFile(path, []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			notes := newNotes(from, to)
			notes.know(noted, 4711)
			notes.know(noted, 1)
			got, err := notes.in(path)
			slices.Sort(got)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v: %v", got, c.want, err)
			}
		})
	}
}

// Content that has nothing to do with times is not taken for them: a digest would be another each time.
func TestNotesInNoise(t *testing.T) {
	t.Parallel()
	random := rand.NewChaCha8([32]byte{})
	content := make([]byte, 64<<20)
	random.Read(content)
	var numbers bytes.Buffer // such as offsets in programs
	for i := range 1 << 20 {
		binary.Write(&numbers, binary.LittleEndian, uint64(i)<<9)
	}
	path := filepath.Join(t.TempDir(), "noise")
	if err := os.WriteFile(path, slices.Concat(content, numbers.Bytes()), 0o644); err != nil {
		t.Fatal(err)
	}
	notes := newNotes(time.Unix(1_795_731_000, 0), time.Unix(1_795_734_600, 0))
	for i := range 3600 {
		notes.know(1_795_731_000+int64(i), 100+uint64(i))
	}
	got, err := notes.in(path)
	if err != nil || len(got) > 0 {
		t.Errorf("%v: %v", got, err)
	}
}

// BuildKit leaves out of a layer what counts as the same as what it replaces. Where times have nanoseconds, it looks at
// no content.
func TestSettleReplacedFiles(t *testing.T) {
	t.Parallel()
	at := time.Unix(315_619_200, 0)
	write := func(dir, content string, nanoseconds int) string {
		path := filepath.Join(dir, "in", "file")
		err := os.Mkdir(filepath.Dir(path), 0o755)
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = errors.Join(err, os.Symlink(to, path))
		} else {
			err = errors.Join(err, os.WriteFile(path, []byte(content), 0o644))
		}
		time := unix.NsecToTimespec(at.UnixNano() + int64(nanoseconds))
		err = errors.Join(err, unix.UtimesNanoAt(
			unix.AT_FDCWD, path, []unix.Timespec{time, time}, unix.AT_SYMLINK_NOFOLLOW,
		))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		below, above string
		same         bool
	}{
		"the same file":        {"one", "one", true},
		"another file":         {"one", "two", false},
		"the same link":        {"-> one", "-> one", true},
		"another link":         {"-> one", "-> two", false},
		"a file over a link":   {"-> one", "one", false},
		"a link over a file":   {"one", "-> one", false},
		"large, the same file": {strings.Repeat("x", 200_000), strings.Repeat("x", 200_000), true},
		"large, another file":  {strings.Repeat("x", 200_000), strings.Repeat("x", 199_999) + "y", false},
	} {
		for _, nanoseconds := range [][2]int{{2, 2}, {2, 0}, {0, 2}, {2, 3}} {
			below, above := t.TempDir(), t.TempDir()
			old, replacing := write(below, c.below, nanoseconds[0]), write(above, c.above, nanoseconds[1])
			const depth = 3
			if err := newTimekeeper(at, nil).settle(above, depth, true, []string{t.TempDir(), below}); err != nil {
				t.Fatal(err)
			}
			was, err := os.Lstat(old)
			if err != nil {
				t.Fatal(err)
			}
			is, err := os.Lstat(replacing)
			if err != nil {
				t.Fatal(err)
			}
			same := is.ModTime().Equal(was.ModTime()) && is.Mode() == was.Mode()
			if same != c.same || is.ModTime().Unix() != at.Unix() {
				t.Errorf("%s, %v: of %v upon %v", name, nanoseconds, is.ModTime().UnixNano(), was.ModTime().UnixNano())
			}
		}
	}
}

func BenchmarkNotes(b *testing.B) {
	random := rand.NewChaCha8([32]byte{})
	noise := make([]byte, 64<<20)
	random.Read(noise)
	for name, content := range map[string][]byte{
		"noise": noise, "zeros": make([]byte, 64<<20),
		"text": bytes.Repeat([]byte("some text, just so: 1234567890\n"), 2<<20),
	} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "a")
			if err := os.WriteFile(path, content, 0o644); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(content)))
			notes := newNotes(time.Unix(1_795_731_000, 0), time.Unix(1_795_731_300, 0))
			notes.know(1_795_731_000, 4711)
			for b.Loop() {
				if found, err := notes.in(path); err != nil || len(found) > 0 {
					b.Fatal(fmt.Sprint(found), err)
				}
			}
		})
	}
}
