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

// maxColumns is how long a line of code may be; a tab counts as four.
const maxColumns = 120

func TestLinesAreShort(t *testing.T) {
	list := exec.Command("git", "ls-files", "*.go")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Fields(string(out))
	if len(files) == 0 {
		t.Fatal("no file found")
	}
	for _, path := range files {
		file, err := os.Open(filepath.Join("../..", path))
		if os.IsNotExist(err) { // removed, and not committed yet
			continue
		}
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
