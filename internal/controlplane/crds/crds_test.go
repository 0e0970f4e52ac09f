package crds

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFilesAreThoseOfTheModule(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := Files.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		theirs, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/bases/openchoreo.dev_"+
			e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := Files.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, theirs) {
			t.Errorf("%s is not that of the module in go.mod; copy it anew", e.Name())
		}
	}
}
