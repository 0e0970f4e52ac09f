package lint

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// A main wires; what can be tested is in a package.
func TestMainsAreShort(t *testing.T) {
	mains, err := filepath.Glob("../../steps/*/main.go")
	if err != nil || len(mains) == 0 {
		t.Fatal("no steps found", err)
	}
	for _, path := range append(mains, "../../cmd/stepwright/main.go", "../../ci/mirror/main.go") {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(source, []byte("\n")); lines > 45 {
			t.Errorf("%s has %d lines", path, lines)
		}
	}
}
