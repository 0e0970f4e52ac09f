package lint

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is how long a line of code may be; a tab counts as four.
const maxColumns = 120

func TestLinesAreShort(t *testing.T) {
	for _, path := range tracked(t, "*.go") {
		file, err := os.Open(filepath.Join("../..", path))
		if err != nil {
			t.Fatal(err)
		}
		number := 0
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			number++
			if n := utf8.RuneCountInString(strings.ReplaceAll(lines.Text(), "\t", "    ")); n > maxColumns {
				t.Errorf("%s:%d: %d columns, more than %d", path, number, n, maxColumns)
			}
		}
		if err := lines.Err(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		file.Close()
	}
}

// tracked are the project's own files that match a pattern, by their paths from the root.
func tracked(t *testing.T, pattern string) []string {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", pattern)
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 })
	files = slices.DeleteFunc(files, func(path string) bool {
		_, err := os.Stat(filepath.Join("../..", path))
		return os.IsNotExist(err) // removed, and not committed yet
	})
	if len(files) == 0 {
		t.Fatalf("no file is %s", pattern)
	}
	return files
}
