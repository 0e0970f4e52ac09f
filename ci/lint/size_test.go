package lint

import (
	"os"
	"path/filepath"
	"testing"
)

// maxFile is how large a committed file may be, in bytes: what tests and builds write is none of the project's.
const maxFile = 512 << 10

func TestFilesAreSmall(t *testing.T) {
	for _, path := range tracked(t, "*") {
		info, err := os.Lstat(filepath.Join("../..", path))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxFile {
			t.Errorf("%s has %d bytes, more than %d: is it a leftover?", path, info.Size(), maxFile)
		}
	}
}
