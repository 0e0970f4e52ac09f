package buildpack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// FuzzGroup: a build has left group.toml, and what ran in it chose the words.
func FuzzGroup(f *testing.F) {
	f.Add([]byte("[[group]]\nid = \"a/b\"\nversion = \"1\"\n[[group-extensions]]\nid = \"c\"\n"))
	f.Add([]byte("group = 1"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, groupFile), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzztest.Of(4, 4).Bound(t, len(raw), func() { readGroup(dir) })
	})
}
