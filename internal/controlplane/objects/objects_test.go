package objects

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

const run = `apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: cart-1
spec:
  workflow:
    name: dockerfile-builder
    parameters:
      repository:
        url: https://git.example.com/cart.git
      buildEnv:
        - name: A
          value: "1"
      buildArgs: &args [{name: B, value: yes}]
      again: *args
`

// load reads files of these texts from a folder.
func load(t testing.TB, files map[string]string) *Set {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range set.Faults {
		set.Faults[i].File = filepath.Base(set.Faults[i].File)
	}
	return set
}

func TestAt(t *testing.T) {
	set := load(t, map[string]string{"a.yaml": "# a comment\n---\n# another\n" + run})
	if len(set.Faults) > 0 || len(set.Objects) != 1 {
		t.Fatalf("got %v, %v", set.Objects, set.Faults)
	}
	o := set.Find("WorkflowRun", "default", "cart-1")
	for path, want := range map[string]int{
		"": 4, "metadata": 6, "metadata.name": 7, "metadata.labels": 6, "spec.workflow.parameters.repository.url": 13,
		"spec.workflow.parameters.repository.none": 12, "spec.workflow.parameters.buildEnv": 14,
		"spec.workflow.parameters.buildEnv[0]":       15,
		"spec.workflow.parameters.buildEnv[0].value": 16, "spec.workflow.parameters.buildEnv[7]": 14,
		"spec.workflow.parameters.again[0].name": 17,
	} {
		if got := o.At(Path(path)...); got.Line != want {
			t.Errorf("%q is in line %d, want %d", path, got.Line, want)
		}
	}
}

func TestValuesAreThoseOfACluster(t *testing.T) {
	set := load(t, map[string]string{"a.yaml": run})
	decoded, err := Decode[struct {
		Metadata struct{ Namespace string }
		Spec     struct {
			Workflow struct {
				Kind       string
				Parameters struct{ Again []map[string]any }
			}
		}
	}](set.Objects[0])
	if err != nil {
		t.Fatal(err)
	}
	if decoded.Metadata.Namespace != "default" || decoded.Spec.Workflow.Kind != "ClusterWorkflow" ||
		decoded.Spec.Workflow.Parameters.Again[0]["value"] != true {
		t.Errorf("got %+v", decoded)
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name    string
		replace []string
		files   map[string]string
		want    []string
	}{
		{name: "none"},
		{name: "not YAML", replace: []string{"  workflow:\n", "  workflow: a: b\n"},
			want: []string{"a.yaml:6: not YAML: mapping values are not allowed"}},
		{name: "not YAML, in the second document",
			files: map[string]string{"a.yaml": run + "---\n" + strings.Replace(run, "  name:", "\tname:", 1)},
			want:  []string{"a.yaml:20: not YAML: found character that cannot start any token"}},
		{name: "a key that stands twice", replace: []string{"        url:", "        url: first\n        url:"},
			want: []string{
				"a.yaml:11: WorkflowRun default/cart-1: spec.workflow.parameters.repository.url: stands twice, first " +
					"in line 10",
			}},
		{name: "unknown fields",
			replace: []string{
				"spec:\n", "specs: 1\nspec:\n  workflw: {}\n", "metadata:\n", "metadata:\n  lables: {}\n",
			},
			want: []string{
				"a.yaml:4: WorkflowRun default/cart-1: metadata.lables: there is no such field",
				"a.yaml:6: WorkflowRun default/cart-1: specs: there is no such field",
				"a.yaml:8: WorkflowRun default/cart-1: spec.workflw: there is no such field",
			}},
		{name: "a kind that is none", replace: []string{"kind: WorkflowRun", "kind: WorkflowRum"},
			want: []string{`a.yaml:2: there is no kind "WorkflowRum" in openchoreo.dev/v1alpha1`}},
		{name: "a version that is none", replace: []string{"v1alpha1", "v1"},
			want: []string{`a.yaml:2: there is no kind "WorkflowRun" in openchoreo.dev/v1`}},
		{name: "required, enumerated and mistyped",
			replace: []string{
				"    name: dockerfile-builder\n    parameters:\n", "    kind: Workflo\n    parameters: 1\n    x:\n",
			},
			want: []string{
				`a.yaml:6: WorkflowRun default/cart-1: spec.workflow.name: Required value`,
				`a.yaml:7: WorkflowRun default/cart-1: spec.workflow.kind: Unsupported value: "Workflo": supported ` +
					`values: "Workflow", "ClusterWorkflow"`,
				`a.yaml:8: WorkflowRun default/cart-1: spec.workflow.parameters: Invalid value: "integer"`,
				`a.yaml:9: WorkflowRun default/cart-1: spec.workflow.x: there is no such field`,
			}},
		{name: "names and labels",
			replace: []string{"  name: cart-1", "  name: Cart_1\n  labels: {openchoreo.dev/project: 'a b'}"},
			want: []string{
				`a.yaml:4: WorkflowRun default/Cart_1: metadata.name: Invalid value: "Cart_1": a lowercase RFC 1123 ` +
					`subdomain`,
				`a.yaml:5: WorkflowRun default/Cart_1: metadata.labels: Invalid value: "a b": a valid label must`,
			}},
		{name: "a label of a number",
			replace: []string{"  name: cart-1", "  name: cart-1\n  labels:\n    b.c: x\n    b.d: 1"},
			want: []string{
				"a.yaml:7: WorkflowRun default/cart-1: metadata.labels[b.d]: Invalid value: 1: must be text",
			}},
		{name: "no metadata", replace: []string{"metadata:\n  name: cart-1\n", ""},
			want: []string{
				"a.yaml:1: WorkflowRun default/: metadata.name: Required value: name or generateName is required",
			}},
		{name: "two of one name", files: map[string]string{"a.yaml": run, "b.yaml": run},
			want: []string{"b.yaml:4: WorkflowRun default/cart-1: metadata.name: is already in "}},
		{name: "a rule of a definition",
			files: map[string]string{
				"a.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: ClusterComponentType\nmetadata: {name: a}\n" +
					"spec:\n  workloadType: deployment\n  resources:\n    - id: other\n      template: {}\n",
			},
			want: []string{
				"a.yaml:4: ClusterComponentType a: spec: Invalid value: resources must contain a primary resource",
			}},
		{name: "one twice in a set",
			files: map[string]string{
				"a.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: Workload\nmetadata: {name: a}\n" +
					"spec:\n  owner: {projectName: p, componentName: c}\n  container: {image: i}\n  endpoints:\n" +
					"    rest:\n      type: HTTP\n      port: 80\n      visibility:\n        - project\n" +
					"        - project\n",
			},
			want: []string{
				`a.yaml:13: Workload default/a: spec.endpoints.rest.visibility[1]: Duplicate value: "project"`,
			}},
		{name: "what others have in a folder", files: map[string]string{
			"a.yaml": "{{ not yaml", "workload.yaml": "apiVersion: openchoreo.dev/v1alpha1\nendpoints: []\n",
			"list.yaml": "[1]", "empty.yaml": "", "b.yaml": "apiVersion: v1\nkind: Secret\n",
			"c.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: Project\nmetadata: {name: p}\n",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.files == nil {
				test.files = map[string]string{"a.yaml": strings.NewReplacer(test.replace...).Replace(run)}
			}
			var got []string
			for _, f := range load(t, test.files).Faults {
				got = append(got, f.String())
			}
			slices.Sort(got)
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
		})
	}
}

// A file that somebody names is not passed over.
func TestNamedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(path, []byte("a: {"), 0o644); err != nil {
		t.Fatal(err)
	}
	set, err := Load(path)
	if err != nil || len(set.Faults) != 1 {
		t.Errorf("got %+v, %v", set, err)
	}
	if _, err := Load(path + ".none"); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
}

// Faults are in the file, whatever it holds.
func FuzzLoad(f *testing.F) {
	f.Add(run)
	f.Add(run + "--- # b\n" + run)
	f.Add("apiVersion: openchoreo.dev/v1alpha1\nkind: Component\nmetadata: &a\n  name: *a\nspec: {<<: *a}")
	f.Add("apiVersion: openchoreo.dev/v1alpha1\nkind: ClusterWorkflow\n? [a]\n: b\nspec: {resources: [1, {}]}")
	f.Add("apiVersion: openchoreo.dev/\r0")
	f.Add("apiVersion: v1\nkind: List\na0: &a0 [ha, ha]\n" + fuzztest.Laughs(func(name, twice int) string {
		return fmt.Sprintf("a%d: &a%d [*a%d, *a%d]\n", name, name, twice, twice)
	}) + "items: *a25\n")
	f.Fuzz(func(t *testing.T, text string) {
		var set *Set
		fuzztest.Of(16, 64).Bound(t, len(text), func() { set = load(t, map[string]string{"a.yaml": text}) })
		last := strings.Count(text, "\n") + 1
		for _, fault := range set.Faults {
			if fault.Line < 1 || fault.Line > last || fault.Message == "" {
				t.Errorf("%v of %d lines in %q", fault, last, text)
			}
		}
	})
}

// kubectl get prints lists.
func TestList(t *testing.T) {
	list := "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(run, "\n"), "\n", "\n  ") +
		"\n- apiVersion: v1\n  kind: ConfigMap\n- apiVersion: openchoreo.dev/v1alpha1\n  kind: WorkflowRan\n"
	set := load(t, map[string]string{"a.yaml": list})
	o := set.Find("WorkflowRun", "default", "cart-1")
	if len(set.Objects) != 1 || o == nil {
		t.Fatalf("got %v", set.Objects)
	}
	if got := o.At("spec", "workflow", "name"); got.Line != 10 {
		t.Errorf("spec.workflow.name is in line %d, want 10", got.Line)
	}
	if len(set.Faults) != 1 || set.Faults[0].Line != 22 || !strings.Contains(set.Faults[0].Message, "WorkflowRan") {
		t.Errorf("faults are %v, want one of line 22", set.Faults)
	}
}

// A key that stands twice is a fault, whatever its two values are.
func TestScalarsOfAKeyTwice(t *testing.T) {
	set := load(t, map[string]string{"a.yaml": strings.Replace(
		run, "        url: https", "        revision: {branch: 1.10}\n        revision: 7\n        url: https", 1,
	)})
	if len(set.Faults) == 0 || len(set.Objects) != 1 {
		t.Fatalf("%v: %v", set.Faults, set.Objects)
	}
	for _, scalar := range set.Objects[0].Scalars("spec", "workflow", "parameters", "repository") {
		if scalar.Written != "7" {
			t.Errorf("%v", scalar)
		}
	}
}
