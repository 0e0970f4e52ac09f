package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/schemas"
)

// A reason that is written as text can be misspelt; a constant of internal/outcome cannot. Succeeded and Failed are
// phases of Argo and OpenChoreo, too.
func TestReasonsAreConstants(t *testing.T) {
	var reasons []string
	for _, r := range schemas.Reasons() {
		if r.Name != "Succeeded" && r.Name != "Failed" {
			reasons = append(reasons, r.Name)
		}
	}
	for _, path := range tracked(t, "*.go") {
		if strings.HasSuffix(path, "_test.go") || path == "internal/outcome/outcome.go" {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join("../..", path), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if text, err := strconv.Unquote(literal.Value); err == nil && slices.Contains(reasons, text) {
				t.Errorf("%s:%d: use outcome.%s", path, files.Position(literal.Pos()).Line, text)
			}
			return true
		})
	}
}
