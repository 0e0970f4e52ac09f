package descriptor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
)

// repository is a folder with these files.
func repository(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Faults have their lines, and what leads out of the folder is not read. What becomes of values is tested with the
// step, where Workloads are made of them.
func TestRead(t *testing.T) {
	t.Parallel()
	outside := repository(t, map[string]string{"secret": "hunter22"})
	dir := repository(t, map[string]string{
		"app/workload.yaml": "endpoints:\n- name: web\n  port: \"8080\"\n  type: HTP\n  visibility: [public]\n" +
			"- {name: a, port: 1, type: HTTP, schemaFile: ../../secret}\n" +
			"- {name: b, port: 1, type: HTTP, schemaFile: link}\n" +
			"- {name: c, port: 1, type: HTTP, schemaFile: ../api.yaml}\n" +
			"- {name: d, port: 1, type: HTTP, schemaFile: none}\n- {name: e, port: 1, type: HTTP, schemaFile: .}\n" +
			"more: 1\nconfigurations:\n  files: [{name: f, mountPath: /f, valueFrom: {path: ../.git/config}}]\n",
		".git/config":         "token",
		"api.yaml":            "openapi: 3.0.0\n",
		"other/workload.yaml": "kind: Workload\nspec: {}\n",
	})
	if err := os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "app", "link")); err != nil {
		t.Fatal(err)
	}
	d, err := Read(Folder(dir), "app")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`line 3: endpoints[0].port: must be a number, without quotes; is "8080"`,
		`line 4: endpoints[0].type: must be one of HTTP`,
		`line 5: endpoints[0].visibility[0]: must be one of project`,
		`line 6: endpoints[1].schemaFile: "../../secret" leads out of the repository`,
		`line 7: endpoints[2].schemaFile: "link" leads out of the repository`,
		`line 9: endpoints[4].schemaFile: there is no file "none"`,
		`line 10: endpoints[5].schemaFile: app is not a regular file`,
		`line 13: configurations.files[0].valueFrom.path: "../.git/config" leads to what Git keeps for itself`,
	}
	if !slices.EqualFunc(d.Faults, want, func(n Note, want string) bool {
		return strings.HasPrefix(n.String(), want)
	}) {
		t.Errorf("faults:\n%v", d.Faults)
	}
	if got := outcome.Of(d.Err("app/workload.yaml")); got.Reason != outcome.PathEscapesRepository ||
		!strings.Contains(got.Message, "8 faults:\n  - line 3: ") {
		t.Errorf("%s: %s", got.Reason, got)
	}
	if len(d.Warnings) != 1 || d.Warnings[0].Line != 11 {
		t.Errorf("warnings: %v", d.Warnings)
	}
	d, err = Read(Folder(dir), "other")
	if err != nil || len(d.Faults) != 1 || d.Faults[0].Line != 1 ||
		!strings.Contains(d.Faults[0].Text, "a Workload custom resource") {
		t.Errorf("%v: %v", err, d)
	}
	if _, err := Read(Folder(dir), "."); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// changed is a repository in which somebody has written.
type changed struct{ Files }

func (c changed) ReadFile(path string, limit int64) ([]byte, error) {
	if path == "api.yaml" {
		return nil, outcome.Errorf(outcome.OutOfSpace, "api.yaml is not what it was")
	}
	return c.Files.ReadFile(path, limit)
}

// What the files themselves fail of is no fault of the descriptor.
func TestFailureOfTheFiles(t *testing.T) {
	t.Parallel()
	files := changed{Folder(repository(t, map[string]string{
		"workload.yaml": "endpoints:\n- {name: a, port: 0, type: HTTP, schemaFile: api.yaml}\n",
	}))}
	if d, err := Read(files, "."); err == nil || outcome.Of(err).Reason != outcome.OutOfSpace {
		t.Errorf("%v: %v", err, d)
	}
}

// FuzzDescriptor: every descriptor is read or refused with its faults named, and a value is read as the reference
// does.
func FuzzDescriptor(f *testing.F) {
	samples, err := filepath.Glob("../../steps/internal/workload/testdata/sample-descriptors/*/src/workload.yaml")
	if err != nil || len(samples) == 0 {
		f.Fatal(err, samples)
	}
	for _, s := range samples {
		raw, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add(append([]byte("endpoints:\n"), fuzztest.Long([]byte("- {name: a, port: 1}\n"))...))
	f.Add([]byte("endpoints: &a\n- <<: *a\n"))
	f.Add([]byte("\ufeffa: 1\r\n---\n...\n"))
	f.Add([]byte("a: 1\r\u2028b: 2\u0085c: {\n---\r0"))
	f.Add([]byte("configurations: {env: [{name: .nan, value: 1e400}, {name: !!binary aGk=}]}"))
	f.Add([]byte("a0: &a0 [ha, ha]\n" + fuzztest.Laughs(func(name, twice int) string {
		return fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", name, name, twice, twice)
	}) + "endpoints: *a25\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 1<<16 {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, Name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		var d *Descriptor
		var err error
		// YAML's nodes, the values and their lines are read separately.
		fuzztest.Of(8, 16).Bound(t, len(raw), func() { d, err = Read(Folder(dir), ".") })
		if err != nil {
			t.Fatal(err)
		}
		last := strings.Count(string(raw), "\n") + 1
		for _, note := range slices.Concat(d.Faults, d.Warnings) {
			if note.Line < 0 || note.Line > last {
				t.Errorf("%v of %d lines", note, last)
			}
		}
		if d.Err(Name) != nil {
			return
		}
		var c content
		if err := yaml.Unmarshal(raw, &c); err != nil {
			t.Fatalf("accepted what the reference's parser refuses: %v", err)
		}
		if len(d.Spec.Endpoints) != len(c.Endpoints) || len(d.Spec.Container.Env) != len(c.Configurations.Env) {
			t.Error("something was lost")
		}
	})
}
