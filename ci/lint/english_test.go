package lint

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// turns are ways of saying something that a reader must take apart: the pattern, and what to write instead.
var turns = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b(is that|are those) of\b`), "name the thing: the tag of the cache, the layers of the image"},
	{regexp.MustCompile(`\b(makes of|made of (an?|the) \w+ an?)\b`), "turns A into B"},
	{regexp.MustCompile(`\b(holds?|held) [^.,;:]* against\b`), "compares A with B, or checks A by B"},
	{regexp.MustCompile(`(?i)\bwhoever\b`), "name the person or the program"},
	{regexp.MustCompile(`\btakes? no part\b`), "say what happens without it"},
	{regexp.MustCompile(`\bto begin with\b`), "first"},
	{regexp.MustCompile(`\b[Ww]hat is wrong\b`), "the fault"},
}

func TestCommentsArePlain(t *testing.T) {
	for _, path := range tracked(t, "*.go") {
		if path == "ci/lint/english_test.go" {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join("../..", path), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, group := range file.Comments {
			text := strings.Join(strings.Fields(group.Text()), " ")
			for _, turn := range turns {
				if found := turn.pattern.FindString(text); found != "" {
					t.Errorf("%s:%d: %q: %s", path, files.Position(group.Pos()).Line, found, turn.instead)
				}
			}
		}
	}
}
