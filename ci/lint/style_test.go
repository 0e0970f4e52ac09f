package lint

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// goFiles are the project's Go files, from its root.
func goFiles(t *testing.T) []string {
	t.Helper()
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.go")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, path := range strings.Fields(string(out)) {
		if _, err := os.Stat(filepath.Join("../..", path)); err == nil { // git lists what was removed, too
			files = append(files, path)
		}
	}
	if len(files) == 0 {
		t.Fatal("no file found")
	}
	return files
}

// maxColumns is how long a line of code may be; a tab counts as four.
const maxColumns = 120

func TestLinesAreShort(t *testing.T) {
	for _, path := range goFiles(t) {
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
