package attacks

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A descriptor that is a link out of the repository is not published.
func TestLinksOutOfTheRepository(t *testing.T) {
	workspace := t.TempDir()
	source := filepath.Join(workspace, "source")
	write(t, source, map[string]string{"README.md": "x"})
	if err := os.Symlink("/etc/passwd", filepath.Join(source, "workload.yaml")); err != nil {
		t.Fatal(err)
	}
	step(
		t, "generate-workload-cr", "--dry-run", "--descriptor="+source,
		"--image=registry.example.com/acme/cart:v1",
		"--namespace-name=acme", "--project-name=shop", "--component-name=cart",
	).refused(t, outcome.PathEscapesRepository, "workload.yaml")
}
