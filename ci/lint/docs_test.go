package lint

import (
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// Every package says what it is for. One of tests only, and a test's own program, need not.
func TestPackagesAreDocumented(t *testing.T) {
	documented := map[string]bool{}
	for _, file := range tracked(t, "*.go") {
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "/testdata/") {
			continue
		}
		parsed, err := parser.ParseFile(
			token.NewFileSet(), filepath.Join("../..", file), nil, parser.PackageClauseOnly|parser.ParseComments,
		)
		if err != nil {
			t.Fatal(err)
		}
		folder := path.Dir(file)
		documented[folder] = documented[folder] || strings.TrimSpace(parsed.Doc.Text()) != ""
	}
	if len(documented) < 50 {
		t.Fatalf("%d packages found", len(documented))
	}
	for folder, ok := range documented {
		if !ok {
			t.Errorf("%s: its package has no comment", folder)
		}
	}
}
