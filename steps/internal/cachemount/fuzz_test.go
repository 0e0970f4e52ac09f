package cachemount

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// An index is a stranger's: all who may push to the component's repository can write one.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"format":"1","mounts":[{"id":"/m","list":{"digest":"sha256:00","size":1,"plain":1},"files":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			var i Index
			if json.Unmarshal(raw, &i) == nil && i.Check() == nil {
				i.Fit(1 << 20)
			}
		})
	})
}

// Whatever list and content a mount says to have, unpacking it writes in its folder and nowhere else.
func FuzzUnpack(f *testing.F) {
	store := newMemory()
	dir := f.TempDir()
	for name, content := range map[string]string{"a": "content", "d/b": "more"} {
		os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755)
		os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644)
	}
	os.Symlink("../a", filepath.Join(dir, "d", "l"))
	os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "hard"))
	m := pack(f, store, dir, nil).Mount
	var lines bytes.Buffer
	entries, err := readList(f.Context(), store, m)
	if err != nil {
		f.Fatal(err)
	}
	for i := range entries {
		json.NewEncoder(&lines).Encode(&entries[i])
	}
	f.Add(lines.Bytes(), []byte("contentmore"), false)
	f.Add([]byte(`{"p":".","m":16877}`+"\n"+`{"p":"../x","m":33188,"s":3,"c":1}`), []byte("abc"), true)
	f.Add(
		[]byte(`{"p":".","m":16877}`+"\n"+`{"p":"l","m":41471,"l":"/etc"}`+"\n"+`{"p":"l/x","m":33188}`),
		[]byte("abc"), false,
	)
	f.Fuzz(func(t *testing.T, list, content []byte, based bool) {
		around := t.TempDir()
		into := filepath.Join(around, "mount")
		if err := os.Mkdir(into, 0o755); err != nil {
			t.Fatal(err)
		}
		store := newMemory()
		m := Mount{
			Key: Key{ID: "/m"}, List: store.add(list), Chunks: []Blob{store.add(content)},
			Files: bytes.Count(bytes.TrimSpace(list), []byte("\n")) + 1,
		}
		if based {
			m.Base = m.List.Digest
		}
		fuzztest.Of(64, 4).Bound(t, len(list)+len(content), func() {
			Unpack(t.Context(), into, m, store)
		})
		outside, err := os.ReadDir(around)
		if err != nil || len(outside) != 1 {
			t.Errorf("beside the mount: %v, %v", outside, err)
		}
		filepath.WalkDir(into, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.Type()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeSetuid) != 0 {
				t.Errorf("%s is %v", path, entry.Type())
			}
			return err
		})
	})
}
