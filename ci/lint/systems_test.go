package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	loader "golang.org/x/tools/go/packages"
)

// TestOtherSystems type-checks what a release has for macOS and Windows. Code of other modules is believed, and its
// functions are not looked into, so it takes seconds where a compiler takes minutes.
func TestOtherSystems(t *testing.T) {
	for _, system := range []string{"darwin", "windows"} {
		t.Run(system, func(t *testing.T) {
			config := &loader.Config{
				Mode: loader.NeedName | loader.NeedFiles | loader.NeedCompiledGoFiles | loader.NeedImports |
					loader.NeedDeps | loader.NeedTypes | loader.NeedSyntax | loader.NeedTypesInfo |
					loader.NeedTypesSizes | loader.NeedModule,
				Dir: "../..",
				Env: append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH=arm64"),
				ParseFile: func(files *token.FileSet, name string, source []byte) (*ast.File, error) {
					file, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
					if file != nil && strings.Contains(name, "@") { // of the module cache
						for _, declared := range file.Decls {
							if function, ok := declared.(*ast.FuncDecl); ok {
								function.Body = nil
							}
						}
					}
					return file, err
				},
			}
			loaded, err := loader.Load(config, "./cmd/stepwright", "./steps/generate-workload-cr")
			if err != nil {
				t.Fatal(err)
			}
			seen := 0
			loader.Visit(loaded, nil, func(p *loader.Package) {
				if !strings.HasPrefix(p.PkgPath, module) {
					return
				}
				seen++
				for _, fault := range p.Errors {
					t.Errorf("%s: %v", p.PkgPath, fault)
				}
			})
			if seen < 20 {
				t.Errorf("%d packages of ours", seen)
			}
		})
	}
}
