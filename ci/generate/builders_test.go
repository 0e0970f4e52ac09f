package main

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/templates"
)

// A digest is changed, a builder added and a builder removed in templates/builders.yaml alone.
func TestABuilderIsOneEntry(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the project in a copy of it")
	}
	const builders = "templates/builders.yaml"
	project := copied(t)
	before := project.files(t)
	project.generate(t)
	project.check(t, before)
	entries := before[builders]
	some := templates.Builders()[0]

	t.Run("another digest", func(t *testing.T) {
		text := entries
		for i, old := range []string{some.Builder.Digest, some.Run.Digest} {
			digest := "sha256:" + strings.Repeat("ab"[i:i+1], 64)
			text = strings.ReplaceAll(text, old, digest)
		}
		project.write(t, builders, text)
		project.generate(t)
		bundle := project.bundle(t)
		for _, name := range []string{some.Builder.Name + "@sha256:aaaa", some.Run.Name + "@sha256:bbbb"} {
			if !strings.Contains(bundle, name) {
				t.Errorf("the bundle has no %s", name)
			}
		}
		for name, text := range project.files(t) {
			for _, old := range []string{some.Builder.Digest, some.Run.Digest} {
				if strings.Contains(text, old) {
					t.Errorf("%s still has the old digest %s", name, old)
				}
			}
		}
	})

	t.Run("another builder", func(t *testing.T) {
		project.write(t, builders, entries+`  - name: acme
    template: acme-buildpacks-build
    workflow: acme-buildpacks-builder
    title: Acme's buildpacks
    languages: [COBOL, Fortran]
    environment:
      about: such as ACME_LEVEL
      example: {name: ACME_LEVEL, value: "2"}
    writable: [/var/acme]
    builder:
      name: registry.acme.example/buildpacks/builder
      tag: "1"
      digest: sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
      platforms: [linux/arm64]
      source: https://git.acme.example/builder
      user: 1234
      group: 2345
    run:
      name: registry.acme.example/buildpacks/run
      tag: "1"
      digest: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
      platforms: [linux/arm64]
      source: https://git.acme.example/run
      user: 1235
      group: 2345
`)
		project.generate(t)
		bundle := project.bundle(t)
		for _, test := range []struct {
			kind, name string
			want       []string
		}{
			{"ClusterWorkflowTemplate", "acme-buildpacks-build", []string{
				"with Acme's buildpacks into an OCI image layout", `"runAsUser":1234`, `"runAsGroup":2345`,
				`"mountPath":"/var/acme"`, `"image":"registry.acme.example/buildpacks/builder@sha256:cccc`,
				`"default":"registry.acme.example/buildpacks/run@sha256:dddd`,
			}},
			{"ClusterWorkflow", "acme-buildpacks-builder", []string{
				"Build COBOL and Fortran without a Dockerfile, with Acme's buildpacks", "such as ACME_LEVEL. They win",
			}},
		} {
			object := object(t, bundle, test.kind, test.name)
			for _, want := range test.want {
				if !strings.Contains(object, want) {
					t.Errorf("%s %s has no %s in the bundle", test.kind, test.name, want)
				}
			}
		}
		project.run(t, "go", "test", "-short", "-vet=off", "-ldflags=-s -w",
			"./templates", "./schemas", "./ci/generate", "./ci/release")
		project.write(t, "run.yaml", strings.ReplaceAll(
			before["examples/reading-list-service/workflowrun.yaml"], some.Workflow, "acme-buildpacks-builder",
		))
		rendered := project.run(t, "go", "run", "./cmd/stepwright", "render", "run.yaml")
		if err := os.Remove(filepath.Join(project.dir, "run.yaml")); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(rendered, "name: acme-buildpacks-build\n") {
			t.Errorf("stepwright render makes of a run of it\n%s", rendered)
		}
	})

	t.Run("one builder less", func(t *testing.T) {
		project.write(t, builders, entries)
		project.generate(t)
		project.check(t, before)
	})
}

// object is an object of a bundle, as JSON; empty when there is none of that name.
func object(t *testing.T, bundle, kind, name string) string {
	t.Helper()
	for text := range strings.SplitSeq(bundle, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(raw, &head); err != nil {
			t.Fatal(err)
		}
		if head.Kind == kind && head.Metadata.Name == name {
			return string(raw)
		}
	}
	return ""
}

// tree is a copy of the project.
type tree struct{ dir string }

// copied copies all that Git knows, or would.
func copied(t *testing.T) tree {
	t.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	copied := tree{t.TempDir()}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil { // Git lists what was removed, too
			continue
		}
		raw, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(copied.dir, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, raw, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return copied
}

// files returns the texts of all files by their names.
func (p tree) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(p.dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(filepath.Join(p.dir, name))
		all[name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// check wants the same files with the same texts, and no others.
func (p tree) check(t *testing.T, want map[string]string) {
	t.Helper()
	got := p.files(t)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%s is not what it was", name)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("there are besides %q", slices.Sorted(maps.Keys(got)))
	}
}

func (p tree) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (p tree) generate(t *testing.T) {
	t.Helper()
	p.run(t, "go", "run", "./ci/generate")
}

// bundle returns the files that make bundle writes, of both planes, as one text.
func (p tree) bundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	p.run(t, "go", "run", "./ci/release", "bundle", "--out", dir)
	var bundle []byte
	for _, plane := range []string{"workflow", "control"} {
		raw, err := os.ReadFile(filepath.Join(dir, plane+"-plane.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(append(bundle, "\n---\n"...), raw...)
	}
	return string(bundle)
}

// run runs a program in the copy and returns its standard output.
func (p tree) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = p.dir
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out, complaints.Bytes())
	}
	return string(out)
}
