package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// shown is a test in a row of the user guide's table, and the folder that it is in.
var shown = regexp.MustCompile("`(Test\\w+)` in \\[([\\w/]+)\\]\\((?:\\.\\./)+([\\w/]+)\\)")

// TestUserGuide: each statement of OpenChoreo's user guide has an answer of ours, and a test that is there.
func TestUserGuide(t *testing.T) {
	rows, tests := 0, 0
	for line := range strings.Lines(read(t, "docs/reference/user-guide.md")) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| statement ") {
			continue
		}
		rows++
		cells := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), `\|`, ""), " | ")
		if len(cells) != 3 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		if !strings.Contains(cells[1], "](") {
			t.Errorf("no page answers: %s", line)
		}
		found := shown.FindAllStringSubmatch(cells[2], -1)
		if len(found) == 0 && cells[2] != "OpenChoreo's own |" {
			t.Errorf("nothing shows: %s", line)
		}
		for _, m := range found {
			tests++
			if m[2] != m[3] || !hasTest(t, m[3], m[1]) {
				t.Errorf("there is no %s in %s", m[1], m[3])
			}
		}
	}
	if rows < 100 || tests < 100 {
		t.Errorf("only %d rows and %d tests", rows, tests)
	}
}

func hasTest(t *testing.T, folder, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "func "+test+"(") {
			return true
		}
	}
	return false
}
