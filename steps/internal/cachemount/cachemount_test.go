package cachemount

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// memory is a store in memory.
type memory struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	written int64 // bytes
	opened  int64
}

func newMemory() *memory { return &memory{blobs: map[digest.Digest][]byte{}} }

func (m *memory) Open(_ context.Context, b Blob) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	raw, ok := m.blobs[b.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	m.opened += int64(len(raw))
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (m *memory) Write(_ context.Context, b Blob, from io.Reader) error {
	raw, err := io.ReadAll(from)
	if err == nil && (digest.FromBytes(raw) != b.Digest || int64(len(raw)) != b.Size) {
		err = errors.New("another digest or size")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blobs[b.Digest] = raw
	m.written += b.Size
	return err
}

// add packs raw bytes as a blob.
func (m *memory) add(raw []byte) Blob {
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	packed := encoder.EncodeAll(raw, nil)
	b := Blob{Digest: digest.FromBytes(packed), Size: int64(len(packed)), Plain: int64(len(raw))}
	m.blobs[b.Digest] = packed
	return b
}

func never(int64) bool { return false }

func pack(t testing.TB, store Store, dir string, before *Unpacked) Packed {
	t.Helper()
	p, err := Pack(t.Context(), Packing{
		Key: Key{ID: "/m"}, Dir: dir, Before: before, Own: never, Scratch: t.TempDir(), Limit: 1 << 30,
	}, store)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func unpack(t testing.TB, store Store, m Mount) (string, *Unpacked) {
	t.Helper()
	dir := t.TempDir()
	u, err := Unpack(t.Context(), dir, m, store)
	if err != nil {
		t.Fatal(err)
	}
	return dir, u
}

func write(t testing.TB, dir, file string, content []byte) {
	t.Helper()
	path := filepath.Join(dir, file)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func noise(bytes int) []byte {
	raw := make([]byte, bytes)
	rand.Read(raw)
	return raw
}

// listing tells all of a folder.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	nodes := map[uint64]string{}
	if err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(at, &stat); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, at)
		line := fmt.Sprintf("%q %o %d:%d %d", rel, stat.Mode, stat.Uid, stat.Gid, stat.Mtim.Nano())
		if d.Type() == fs.ModeSymlink {
			target, _ := os.Readlink(at)
			line += " -> " + target
		}
		if d.Type().IsRegular() {
			raw, err := os.ReadFile(at)
			if err != nil {
				return err
			}
			line += " " + digest.FromBytes(raw).Encoded()
			if same := nodes[stat.Ino]; same != "" {
				line += " is " + same
			}
			nodes[stat.Ino] = rel
		}
		lines = append(lines, line)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// sample is a folder with all that a mount may hold.
func sample(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for i := range 300 {
		write(t, dir, fmt.Sprintf("pkg/mod/%03d/file.go", i), bytes.Repeat([]byte{byte(i), 'x'}, 500+i))
	}
	write(t, dir, "big", noise(9<<20))
	write(t, dir, "empty", nil)
	write(t, dir, "name\xff\n", []byte("not UTF-8"))
	write(t, dir, "read-only/file", []byte("Go's modules"))
	write(t, dir, "sticky/file", []byte("x"))
	for _, err := range []error{
		os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "linked")),
		os.Symlink("/etc/passwd", filepath.Join(dir, "away")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		os.Chmod(filepath.Join(dir, "read-only/file"), 0o444),
		os.Chmod(filepath.Join(dir, "read-only"), 0o555),
		os.Chmod(filepath.Join(dir, "sticky"), fs.ModeSticky|fs.ModeSetgid|0o777),
		os.Chtimes(filepath.Join(dir, "pkg/mod/007"), time.Unix(7, 77), time.Unix(7, 77)),
		os.Chtimes(filepath.Join(dir, "empty"), time.Unix(-5, 5), time.Unix(-5, 5)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(filepath.Join(dir, "away"), 12, 34); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, "sticky/file"), 1000, 1001); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "read-only"), 0o755) })
	return dir
}

func TestPackAndUnpack(t *testing.T) {
	t.Parallel()
	store := newMemory()
	dir := sample(t)
	first := pack(t, store, dir, nil)
	if first.New != first.Size() || first.Size() != store.written {
		t.Errorf("%d bytes are new, %d all, %d written", first.New, first.Size(), store.written)
	}
	again, before := unpack(t, store, first.Mount)
	t.Cleanup(func() { os.Chmod(filepath.Join(again, "read-only"), 0o755) })
	if want, got := listing(t, dir), listing(t, again); got != want {
		t.Errorf("unpacked is\n%s\nwant\n%s", got, want)
	}
	t.Run("unchanged", func(t *testing.T) {
		written := store.written
		same := pack(t, store, again, before)
		if same.New != 0 || store.written != written || same.List != first.List ||
			!slices.Equal(same.Chunks, first.Chunks) {
			t.Errorf("%d bytes are new: %+v", same.New, same.Mount)
		}
	})
	t.Run("times and names", func(t *testing.T) { // as go build gives the files of its cache new times
		later := time.Now().Add(time.Hour)
		for i := range 200 {
			file := filepath.Join(again, fmt.Sprintf("pkg/mod/%03d/file.go", i))
			if err := os.Chtimes(file, later, later); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(filepath.Join(again, "big"), filepath.Join(again, "bigger")); err != nil {
			t.Fatal(err)
		}
		moved := pack(t, store, again, before)
		if moved.New != moved.List.Size || !slices.Equal(moved.Chunks, first.Chunks) {
			t.Errorf("%d bytes are new, more than the list's %d", moved.New, moved.List.Size)
		}
		third, _ := unpack(t, store, moved.Mount)
		t.Cleanup(func() { os.Chmod(filepath.Join(third, "read-only"), 0o755) })
		if want, got := listing(t, again), listing(t, third); got != want {
			t.Errorf("unpacked is\n%s\nwant\n%s", got, want)
		}
	})
	t.Run("one file", func(t *testing.T) {
		write(t, again, "pkg/mod/003/file.go", noise(5000))
		changed := pack(t, store, again, before)
		if content := changed.New - changed.List.Size; content < 5000 || content > 6000 {
			t.Errorf("%d bytes are new", content)
		}
	})
	t.Run("same size and time", func(t *testing.T) {
		path := filepath.Join(again, "pkg/mod/004/file.go")
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		content := bytes.Repeat([]byte{'?'}, int(info.Size()))
		if err := errors.Join(
			os.WriteFile(path, content, 0o644), os.Chtimes(path, info.ModTime(), info.ModTime()),
		); err != nil {
			t.Fatal(err)
		}
		third, _ := unpack(t, store, pack(t, store, again, before).Mount)
		t.Cleanup(func() { os.Chmod(filepath.Join(third, "read-only"), 0o755) })
		got, err := os.ReadFile(filepath.Join(third, "pkg/mod/004/file.go"))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("the changed file is not packed: %v", err)
		}
	})
	t.Run("most of a chunk gone", func(t *testing.T) {
		for i := range 280 {
			os.RemoveAll(filepath.Join(again, fmt.Sprintf("pkg/mod/%03d", i)))
		}
		less := pack(t, store, again, before)
		if less.plain() > 10<<20 {
			t.Errorf("%d bytes are kept, of which no file is left", less.plain())
		}
	})
	t.Run("a list that is known", func(t *testing.T) { // of a mount that an earlier build left in the builder's state
		p, err := Pack(t.Context(), Packing{
			Key: Key{ID: "/m"}, Dir: dir, Known: &first.Mount, Own: never, Scratch: t.TempDir(), Limit: 1 << 30,
		}, store)
		if err != nil || p.New != 0 {
			t.Errorf("%d bytes are new: %v", p.New, err)
		}
	})
}

// Each build of many adds a little: chunks do not become ever more.
func TestManySmallChanges(t *testing.T) {
	t.Parallel()
	store := newMemory()
	dir := t.TempDir()
	write(t, dir, "big", noise(5<<20))
	packed := pack(t, store, dir, nil)
	for i := range 60 {
		next, before := unpack(t, store, packed.Mount)
		write(t, next, fmt.Sprint("file", i), noise(1000))
		packed = pack(t, store, next, before)
	}
	if n := len(packed.Chunks); n > mostSmall+2 {
		t.Errorf("%d chunks", n)
	}
	last, _ := unpack(t, store, packed.Mount)
	if entries, err := os.ReadDir(last); err != nil || len(entries) != 61 {
		t.Errorf("%d files: %v", len(entries), err)
	}
}

func TestBase(t *testing.T) {
	t.Parallel()
	store := newMemory()
	base := t.TempDir()
	for _, file := range []string{"a/kept", "a/changed", "a/gone", "b/gone/x", "c/file", "d"} {
		write(t, base, file, noise(100_000))
	}
	dir := t.TempDir()
	copyTo := func(to string) {
		t.Helper()
		if err := os.CopyFS(to, os.DirFS(base)); err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{"a/kept", "a/changed", "a/gone", "b/gone/x", "c/file", "d"} {
			info, err := os.Stat(filepath.Join(base, file))
			if err != nil {
				t.Fatal(err)
			}
			os.Chtimes(filepath.Join(to, file), info.ModTime(), info.ModTime())
		}
	}
	copyTo(dir)
	write(t, dir, "a/changed", []byte("changed"))
	write(t, dir, "new/file", []byte("new"))
	for _, err := range []error{
		os.Remove(filepath.Join(dir, "a/gone")), os.RemoveAll(filepath.Join(dir, "b/gone")),
		os.RemoveAll(filepath.Join(dir, "c")), os.Symlink("/etc", filepath.Join(dir, "c")),
		os.Remove(filepath.Join(dir, "d")), os.Mkdir(filepath.Join(dir, "d"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	packed, err := Pack(t.Context(), Packing{
		Key: Key{ID: "/m", Base: digest.FromString("base")}, Dir: dir, Base: base, Own: never, Scratch: t.TempDir(),
		Limit: 1 << 30,
	}, store)
	if err != nil {
		t.Fatal(err)
	}
	if packed.Size() > 5000 {
		t.Errorf("%d bytes: the base is packed, too", packed.Size())
	}
	again := t.TempDir()
	copyTo(again)
	if _, err := Unpack(t.Context(), again, packed.Mount, store); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"."} { // the others have their own times
		at := time.Unix(1, 0)
		os.Chtimes(filepath.Join(again, folder), at, at)
		os.Chtimes(filepath.Join(dir, folder), at, at)
	}
	strip := func(text string) string { // times of folders that nothing has changed are the copy's
		lines := strings.Split(text, "\n")
		return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, `"b" `) }), "\n")
	}
	if want, got := strip(listing(t, dir)), strip(listing(t, again)); got != want {
		t.Errorf("unpacked is\n%s\nwant\n%s", got, want)
	}
}

// What no build packs is unpacked not at all, or harmlessly.
func TestHostileMounts(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	folder := entry{Path: ".", Mode: unix.S_IFDIR | 0o755}
	file := func(path string) entry { return entry{Path: name(path), Mode: unix.S_IFREG | 0o644, Size: 4, Chunk: 1} }
	in := func(path string) entry { return entry{Path: name(path), Mode: unix.S_IFDIR | 0o755} }
	link := func(path, to string) entry {
		return entry{Path: name(path), Mode: unix.S_IFLNK | 0o777, Link: name(to)}
	}
	hard := func(path, to string) entry {
		return entry{Path: name(path), Mode: unix.S_IFREG | 0o644, Link: name(to)}
	}
	for title, entries := range map[string][]entry{
		"parent":                        {folder, file("../evil")},
		"absolute":                      {folder, file("/evil")},
		"dots inside":                   {folder, in("a"), file("a/../../evil")},
		"through a link":                {folder, link("a", outside), file("a/evil")},
		"through a link to the parent":  {folder, link("a", ".."), file("a/evil")},
		"link in the place of a folder": {folder, in("a"), link("a", outside), file("a/evil")},
		"folder after a link":           {folder, link("a", outside), in("a"), file("a/evil")},
		"hard link out":                 {folder, hard("a", "../secret")},
		"absolute hard link":            {folder, hard("a", filepath.Join(outside, "secret"))},
		"hard link to a link":           {folder, link("b", outside+"/secret"), hard("a", "b")},
		"hard link to the folder":       {folder, hard("a", ".")},
		"hard link to what comes later": {folder, hard("a", "b"), file("b")},
		"device":                        {folder, {Path: "a", Mode: unix.S_IFCHR | 0o666}},
		"block device":                  {folder, {Path: "a", Mode: unix.S_IFBLK | 0o666}},
		"pipe":                          {folder, {Path: "a", Mode: unix.S_IFIFO | 0o666}},
		"no kind":                       {folder, {Path: "a", Mode: 0o644}},
		"removal where no base is":      {folder, {Path: "a"}},
		"no folder":                     {file("a")},
		"nothing":                       {},
		"folder that is a link":         {link(".", outside), file("evil")},
		"twice":                         {folder, file("a"), file("a")},
		"overlapping contents": {
			folder, file("a"), {Path: "b", Mode: unix.S_IFREG, Size: 3, Chunk: 1, Offset: 2},
		},
		"beyond the chunk":        {folder, {Path: "a", Mode: unix.S_IFREG, Size: 9, Chunk: 1}},
		"negative offset":         {folder, {Path: "a", Mode: unix.S_IFREG, Size: 1, Chunk: 1, Offset: -1}},
		"overflow":                {folder, {Path: "a", Mode: unix.S_IFREG, Size: 1, Chunk: 1, Offset: 1<<63 - 1}},
		"no such chunk":           {folder, {Path: "a", Mode: unix.S_IFREG, Size: 1, Chunk: 2}},
		"zero byte":               {folder, file("a\x00b")},
		"target with a zero byte": {folder, link("a", "b\x00c")},
	} {
		t.Run(title, func(t *testing.T) {
			store := newMemory()
			list, raw, err := writeList(entries)
			if err != nil {
				t.Fatal(err)
			}
			store.blobs[list.Digest] = raw
			m := Mount{Key: Key{ID: "/m"}, List: list, Chunks: []Blob{store.add([]byte("evil"))}, Files: len(entries)}
			dir := filepath.Join(t.TempDir(), "mount")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if _, err := Unpack(t.Context(), dir, m, store); err == nil {
				t.Error("it is unpacked")
			}
			for _, place := range []string{outside, filepath.Dir(dir)} {
				left, err := os.ReadDir(place)
				if err != nil || len(left) > 1 || len(left) == 1 && left[0].Name() != "mount" {
					t.Errorf("%s: %v %v", place, left, err)
				}
			}
		})
	}
	t.Run("set-id bits", func(t *testing.T) {
		store := newMemory()
		e := file("a")
		e.Mode |= unix.S_ISUID | unix.S_ISGID
		list, raw, _ := writeList([]entry{folder, e})
		store.blobs[list.Digest] = raw
		dir, _ := unpack(t, store, Mount{List: list, Chunks: []Blob{store.add([]byte("evil"))}, Files: 2})
		if info, err := os.Stat(filepath.Join(dir, "a")); err != nil || info.Mode() != 0o644 {
			t.Errorf("%v %v", info, err)
		}
	})
}

func TestDamagedBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "file", noise(100_000))
	for _, of := range []string{"list", "chunk"} {
		for title, damage := range map[string]func(*memory, *Blob){
			"missing":   func(m *memory, b *Blob) { delete(m.blobs, b.Digest) },
			"truncated": func(m *memory, b *Blob) { m.blobs[b.Digest] = m.blobs[b.Digest][:b.Size/2] },
			"empty":     func(m *memory, b *Blob) { m.blobs[b.Digest] = nil },
			"changed": func(m *memory, b *Blob) {
				raw := slices.Clone(m.blobs[b.Digest])
				raw[len(raw)/2] ^= 1
				m.blobs[b.Digest] = raw
			},
			"longer": func(m *memory, b *Blob) { m.blobs[b.Digest] = append(slices.Clone(m.blobs[b.Digest]), 0) },
			"another blob of the same content": func(m *memory, b *Blob) {
				m.blobs[b.Digest] = m.blobs[m.add(plainOf(m.blobs[b.Digest])).Digest]
				m.blobs[b.Digest] = append(m.blobs[b.Digest], 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0) // a frame to skip
			},
			"bomb": func(m *memory, b *Blob) {
				bomb := m.add(make([]byte, 64<<20))
				bomb.Plain = b.Plain
				*b = bomb
			},
			"a larger plain size": func(_ *memory, b *Blob) { b.Plain += 10 },
			"no zstd": func(m *memory, b *Blob) {
				raw := bytes.Repeat([]byte("?"), int(b.Size))
				b.Digest = digest.FromBytes(raw)
				m.blobs[b.Digest] = raw
			},
		} {
			t.Run(of+"/"+title, func(t *testing.T) {
				t.Parallel()
				store := newMemory()
				m := pack(t, store, dir, nil).Mount
				if of == "list" {
					damage(store, &m.List)
				} else {
					damage(store, &m.Chunks[0])
				}
				if _, err := Unpack(t.Context(), t.TempDir(), m, store); err == nil {
					t.Error("it is unpacked")
				}
			})
		}
	}
}

func plainOf(packed []byte) []byte {
	decoder, _ := zstd.NewReader(nil)
	raw, _ := decoder.DecodeAll(packed, nil)
	return raw
}

func TestFit(t *testing.T) {
	t.Parallel()
	mount := func(id string, size int64) Mount {
		return Mount{Key: Key{ID: id}, List: Blob{Digest: digest.FromString(id), Size: size}}
	}
	index := Index{Format: Format, Mounts: []Mount{
		mount("new", 40), mount("huge", 500), mount("old", 50), mount("older", 20),
	}}
	kept, out := index.Fit(100)
	var ids []string
	for _, m := range kept.Mounts {
		ids = append(ids, m.ID)
	}
	if want := []string{"new", "old"}; !slices.Equal(ids, want) || len(out) != 2 {
		t.Errorf("kept %v, want %v; out %v", ids, want, out)
	}
	if err := kept.Check(); err != nil {
		t.Error(err)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	for title, content := range map[string][]byte{"noise": noise(200_000), "zeros": make([]byte, 2<<20)} {
		dir := t.TempDir()
		write(t, dir, "file", content)
		_, err := Pack(t.Context(), Packing{Dir: dir, Own: never, Scratch: t.TempDir(), Limit: 100_000}, newMemory())
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", title, err)
		}
	}
}

func TestIndexes(t *testing.T) {
	t.Parallel()
	good := func() Index {
		return Index{Format: Format, Mounts: []Mount{{
			Key: Key{ID: "/m"}, List: Blob{Digest: digest.FromString("a"), Size: 1},
			Chunks: []Blob{{Digest: digest.FromString("b"), Size: 1}},
		}}}
	}
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for title, change := range map[string]func(*Index){
		"format": func(i *Index) { i.Format = "2" },
		"twice":  func(i *Index) { i.Mounts = append(i.Mounts, i.Mounts[0]) },
		"digest": func(i *Index) { i.Mounts[0].List.Digest = "sha256:../../x" },
		"other digest": func(i *Index) {
			i.Mounts[0].List.Digest = digest.Digest("sha512:" + strings.Repeat("ab", 64))
		},
		"size":          func(i *Index) { i.Mounts[0].Chunks[0].Size = -1 },
		"plain size":    func(i *Index) { i.Mounts[0].Chunks[0].Plain = -1 },
		"base":          func(i *Index) { i.Mounts[0].Base = "x" },
		"many mounts":   func(i *Index) { i.Mounts = make([]Mount, mostMounts+1) },
		"many chunks":   func(i *Index) { i.Mounts[0].Chunks = make([]Blob, mostChunks+1) },
		"long id":       func(i *Index) { i.Mounts[0].ID = strings.Repeat("x", mostID+1) },
		"an odd number": func(i *Index) { i.Mounts[0].Ordinal = -1 },
	} {
		index := good()
		change(&index)
		if index.Check() == nil {
			t.Errorf("%s: it is taken", title)
		}
	}
}
