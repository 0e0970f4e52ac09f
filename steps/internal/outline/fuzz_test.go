package outline

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// An outline comes with a cache, and all who may push there can write one. What it makes stays in its folder.
func FuzzBuild(f *testing.F) {
	f.Add([]byte(`{"m":16877,"w":true,"f":{"etc":{"m":16877,"f":{"passwd":{"m":33188,"z":3,"c":"YWJj"}}},` +
		`"l":{"m":41471,"l":"../../x"}}}`))
	f.Add([]byte(`{"m":16877,"f":{"..":{"m":33188}}}`))
	f.Add([]byte(`{"m":16877,"f":{"a":null}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		around := t.TempDir()
		fuzztest.Of(4, 4).Bound(t, len(raw), func() {
			var e *Entry
			if json.Unmarshal(raw, &e) == nil && e.Check() == nil && e.isDir() {
				e.Build(filepath.Join(around, "root"))
				e.HasUsers()
			}
		})
		if outside, err := os.ReadDir(around); err != nil || len(outside) > 1 {
			t.Errorf("beside the root: %v, %v", outside, err)
		}
	})
}
