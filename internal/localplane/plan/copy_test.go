package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A copy of a developer's folder has the files that links lead to, since a container sees nothing else of this machine.
func TestCopyOfAFolder(t *testing.T) {
	t.Parallel()
	from, elsewhere, scratch := t.TempDir(), t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(from, "npm", "type"):         "npmrc",
		filepath.Join(from, "maven.type"):          "maven",
		filepath.Join(from, "npm", "deeper", "at"): "left out",
		filepath.Join(elsewhere, ".npmrc"):         "x",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(elsewhere, ".npmrc"), filepath.Join(from, "npm", ".npmrc")); err != nil {
		t.Fatal(err)
	}
	optional := true
	made, err := mount{path: "/etc/b", folder: filepath.Join(scratch, "b")}.of(
		"Secret", "b", map[string]Source{"b": {Copy: from}}, &optional,
	)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // several containers may have the volume
		if err := (mounts{made}).make(); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	err = filepath.WalkDir(made.folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		local, _ := filepath.Rel(made.folder, path)
		got[local] = string(raw) + " " + d.Type().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{
		"npm/type": "npmrc ----------", "npm/.npmrc": "x ----------", "maven.type": "maven ----------",
	}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if inside := (mounts{made}).inside()[0]; !inside.Lent || !inside.ReadOnly || inside.Source != made.folder {
		t.Errorf("the container has %+v", inside)
	}
}
