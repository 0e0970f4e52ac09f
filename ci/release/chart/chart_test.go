package chart

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/kustomization"
	project "github.com/stepwright/stepwright/templates"
)

const templates = "../../../templates"

// helm runs the helm of the module beside this package.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds helm")
	}
	args = append([]string{"tool", "-modfile=../helm/go.mod", "helm"}, args...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as for ci/e2e, so that Go builds it once
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return string(out), err
}

// written is the folder of the chart.
func written(t *testing.T, digests map[string]string) string {
	t.Helper()
	files, err := Files(templates, project.Version(), digests)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), Name)
	for name, text := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read returns the objects of a file by what they are.
func read(t *testing.T, text string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var object struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name      string `json:"name"`
				Namespace string `json:"namespace"`
			} `json:"metadata"`
		}
		var value map[string]any
		if err := errors.Join(
			yaml.Unmarshal([]byte(document), &object), yaml.Unmarshal([]byte(document), &value),
		); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if len(value) > 0 {
			all[path.Join(object.Kind, object.Metadata.Namespace, object.Metadata.Name)] = value
		}
	}
	return all
}

func TestLint(t *testing.T) {
	t.Parallel()
	if out, err := helm(t, "lint", "--strict", written(t, nil)); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestEqual: whatever the values, the chart renders what kustomize builds.
func TestEqual(t *testing.T) {
	t.Parallel()
	chart := written(t, nil)
	example, err := os.ReadFile(filepath.Join(templates, "overlays/example/settings.env"))
	if err != nil {
		t.Fatal(err)
	}
	type choice struct {
		name       string
		settings   string // of settings.env
		components []string
	}
	compatible := slices.DeleteFunc(slices.Clone(Components), func(c string) bool { return c == "user-namespaces" })
	tests := []choice{
		{"default values", "", nil},
		{"every setting", string(example), []string{"network-policies"}},
		{"components that go together", string(example), compatible},
		{"all components", "", Components},
	}
	for _, component := range Components {
		tests = append(tests, choice{"component " + component, "", []string{component}})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			settings, components := map[string]any{}, map[string]any{}
			for line := range strings.Lines(test.settings) {
				name, value, isSetting := strings.Cut(strings.TrimSpace(line), "=")
				if isSetting && !strings.HasPrefix(name, "#") {
					settings[name] = value
				}
			}
			for _, component := range test.components {
				components[component] = true
			}
			values, err := yaml.Marshal(map[string]any{"settings": settings, "components": components})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "values.yaml")
			if err := os.WriteFile(file, values, 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := helm(t, "template", Name, chart, "--values", file)
			if err != nil {
				t.Fatal(err)
			}
			got := read(t, out)

			if err := writeOverlay(dir, templates, settings, test.components...); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "settings.env"), []byte(test.settings), 0o644); err != nil {
				t.Fatal(err)
			}
			text, err := kustomization.Text(dir)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(read(t, string(text)), got); diff != "" {
				t.Errorf("kustomize's and the chart's objects differ (-kustomize +chart):\n%.4000s", diff)
			}
			if len(got) < 2*len(project.Workflows()) {
				t.Errorf("%d objects", len(got))
			}
		})
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("ab", 32)
	chart := written(t, map[string]string{"publish-image": digest})
	tests := []struct {
		name      string
		set       []string
		want, not []string
		err       string
	}{
		{"a digest", nil,
			[]string{`/publish-image:` + project.Version() + `@` + digest + `"`}, []string{":" + digest}, ""},
		{"a tag of one's own", []string{"images.tag=next", "images.registry=registry.acme.example/s"},
			[]string{`"registry.acme.example/s/publish-image:next"`}, []string{digest, "ghcr.io/stepwright"}, ""},
		{"one plane", []string{"planes.control=false"},
			[]string{"kind: ClusterWorkflowTemplate"}, []string{"kind: ClusterWorkflow\n"}, ""},
		{"the other", []string{"planes.workflow=false"},
			[]string{"kind: ClusterWorkflow\n"}, []string{"kind: ClusterWorkflowTemplate"}, ""},
		{"a large number", []string{"settings.build-deadline=10000000"}, []string{`"10000000"`}, nil, ""},
		{"a setting that is none", []string{"settings.registri=r"}, nil, nil, "registri"},
		{"a component that is none", []string{"components.registry-cash=true"}, nil, nil, "registry-cash"},
		{"two lines", []string{"settings.registry=a\nb"}, nil, nil, "registry"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			args := []string{"template", Name, chart}
			for _, value := range test.set {
				args = append(args, "--set", value)
			}
			out, err := helm(t, args...)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing", want)
				}
			}
			for _, not := range test.not {
				if strings.Contains(out, not) {
					t.Errorf("%q is there", not)
				}
			}
		})
	}
}

// TestMerge: components that change one place are found before anybody installs a chart of them.
func TestMerge(t *testing.T) {
	t.Parallel()
	text := func(s string) tree { return leaf{s, s} }
	base := mapping{"a": text("1"), "b": mapping{"c": text("2")}, "l": sequence{text("3")}}
	for name, test := range map[string]struct {
		first, second tree
		conflict      bool
	}{
		"different keys": {mapping{"a": text("x"), "b": base["b"], "l": base["l"]},
			mapping{"a": base["a"], "b": mapping{"c": text("y")}, "l": base["l"]}, false},
		"both append": {mapping{"a": base["a"], "b": base["b"], "l": sequence{text("3"), text("4")}},
			mapping{"a": base["a"], "b": base["b"], "l": sequence{text("3"), text("5")}}, false},
		"the same value": {mapping{"a": text("x"), "b": base["b"], "l": base["l"]},
			mapping{"a": text("y"), "b": base["b"], "l": base["l"]}, true},
		"the same new key": {mapping{"a": base["a"], "b": base["b"], "l": base["l"], "n": text("x")},
			mapping{"a": base["a"], "b": base["b"], "l": base["l"], "n": text("y")}, true},
		"one inside, one the whole": {mapping{"a": base["a"], "b": mapping{"c": text("y")}, "l": base["l"]},
			mapping{"a": base["a"], "b": text("z"), "l": base["l"]}, true},
		"one removes, one changes": {mapping{"b": base["b"], "l": base["l"]},
			mapping{"a": text("y"), "b": base["b"], "l": base["l"]}, true},
	} {
		t.Run(name, func(t *testing.T) {
			once, err := merge(base, base, test.first, "first")
			if err != nil {
				t.Fatal(err)
			}
			if _, err = merge(once, base, test.second, "second"); (err != nil) != test.conflict {
				t.Errorf("error %v", err)
			}
		})
	}
	key, err := merge(text("none"), text("none"), text("key"), "signing-key")
	if err != nil {
		t.Fatal(err)
	}
	both, err := merge(key, text("none"), text("keyless"), "signing-keyless")
	if err != nil || !reflect.DeepEqual(both, choice{"signing-keyless", text("keyless"), key}) {
		t.Errorf("components that are not for use together: %v, %v", both, err)
	}
}
