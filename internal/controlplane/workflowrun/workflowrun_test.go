package workflowrun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

const component = `
apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: cart, namespace: acme}
spec:
  owner: {projectName: shop}
  componentType: {kind: ClusterComponentType, name: deployment/service}
  workflow: {kind: ClusterWorkflow, name: dockerfile-builder}
`

const run = `
apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: cart-1
  namespace: acme
  labels: {openchoreo.dev/project: shop, openchoreo.dev/component: cart}
spec:
  workflow:
    kind: ClusterWorkflow
    name: dockerfile-builder
    parameters:
      repository: {url: "https://git.example.com/cart.git", revision: {branch: main}}
      buildEnv: [{name: A, value: "1"}]
      buildArgs: [{name: PORT, value: 8080}, {name: DEBUG, value: true}]
`

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	descriptor := "apiVersion: openchoreo.dev/v1alpha1\nmetadata: {name: cart}\nendpoints: []\n"
	dir := folder(t, map[string]string{
		"all.yaml":      component + "---" + run,
		"workload.yaml": descriptor,
		"odd.yml":       "{{ not yaml",
		"README.md":     "#",
	})
	r, err := Load("", dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "cart-1" || r.Namespace != "acme" || r.Project() != "shop" || r.ComponentName() != "cart" ||
		r.Component == nil {
		t.Errorf("got %+v", r)
	}
	for path, want := range map[string]string{
		"repository/url": "https://git.example.com/cart.git", "repository/revision/branch": "main",
		"docker/filePath":      "./Dockerfile",
		"buildEnv":             `[{"name":"A","value":"1"}]`,
		"buildArgs":            `[{"name":"PORT","value":"8080"},{"name":"DEBUG","value":"true"}]`,
		"repository/secretRef": "",
	} {
		if got := r.Text(strings.Split(path, "/")...); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
}

func TestLoadWithoutNamespace(t *testing.T) {
	cut := func(s string) string {
		return strings.NewReplacer(", namespace: acme", "", "  namespace: acme\n", "").Replace(s)
	}
	r, err := Load("", folder(t, map[string]string{"a.yaml": cut(component), "b.yaml": cut(run)}))
	if err != nil || r.Namespace != "default" || r.Component == nil {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestLoadListsEveryFault(t *testing.T) {
	tests := []struct {
		name    string
		choose  string
		files   map[string]string
		replace []string
		want    []string
	}{
		{name: "no run", files: map[string]string{"a.yaml": component}, want: []string{"there is no WorkflowRun in"}},
		{name: "a name that is not there", choose: "x", want: []string{`there is no WorkflowRun "x"; there is cart-1`}},
		{
			name:  "several runs",
			files: map[string]string{"a.yaml": run + "---" + strings.ReplaceAll(run, "cart-1", "cart-2")},
			want:  []string{"there are several WorkflowRuns; choose one of cart-1, cart-2 with --name"},
		},
		{
			name: "three faults in the parameters",
			replace: []string{
				"https://git.example.com/cart.git", "", "branch: main", "commit: nope", `[{name: A, value: "1"}]`,
				"A=1",
			},
			want: []string{
				"a.yaml:21: WorkflowRun acme/cart-1: spec.workflow.parameters.repository.url: must not be empty",
				"a.yaml:21: WorkflowRun acme/cart-1: spec.workflow.parameters.repository.revision.commit: does not " +
					"have the right form",
				"a.yaml:22: WorkflowRun acme/cart-1: spec.workflow.parameters.buildEnv: expected array, but got string",
			},
		},
		{
			name: "labels and workflow",
			replace: []string{"labels: {openchoreo.dev/project: shop, openchoreo.dev/component: cart}", "labels: {}",
				"kind: ClusterWorkflow\n    name: dockerfile-builder", "kind: ClusterWorkflow\n    name: other"},
			want: []string{"a.yaml:15: WorkflowRun acme/cart-1: metadata.labels: openchoreo.dev/project is required",
				"a.yaml:15: WorkflowRun acme/cart-1: metadata.labels: openchoreo.dev/component is required",
				`a.yaml:19: WorkflowRun acme/cart-1: spec.workflow.name: ClusterWorkflow "other" is in no file`},
		},
		{name: "another project", replace: []string{"openchoreo.dev/project: shop", "openchoreo.dev/project: bank"},
			want: []string{
				`a.yaml:15: WorkflowRun acme/cart-1: metadata.labels[openchoreo.dev/project]: ` +
					`ComponentValidationFailed: workflow run project label "bank" does not match component "cart" ` +
					`owner project "shop"`,
			}},
		{name: "another workflow than the component's",
			files: map[string]string{"a.yaml": strings.Replace(component, "dockerfile-builder", "x", 1) + "---" + run},
			want: []string{
				`a.yaml:19: WorkflowRun acme/cart-1: spec.workflow.name: ComponentValidationFailed: workflow run ` +
					`references workflow ClusterWorkflow/dockerfile-builder but component "cart" is configured with ` +
					`workflow ClusterWorkflow/x`,
			}},
		{name: "a field that does not exist",
			replace: []string{"spec:\n  workflow:", "spec:\n  workflw: {}\n  workflow:"},
			want:    []string{`a.yaml:17: WorkflowRun acme/cart-1: spec.workflw: there is no such field`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := test.files
			if files == nil {
				files = map[string]string{
					"a.yaml": component + "---" + strings.NewReplacer(test.replace...).Replace(run),
				}
			}
			dir := folder(t, files)
			_, err := Load(test.choose, dir)
			failure, ok := errors.AsType[*outcome.Error](err)
			if !ok || failure.Reason != outcome.InvalidParameters {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			faults := strings.Split(failure.Message, "\n  - ")
			if len(faults) > 1 {
				faults = faults[1:] // the first line counts them
			}
			if len(faults) != len(test.want) {
				t.Fatalf("got %q, want %q", faults, test.want)
			}
			for i, fault := range faults {
				if fault = strings.TrimPrefix(fault, dir+"/"); !strings.HasPrefix(fault, test.want[i]) {
					t.Errorf("got %q, want %q…", fault, test.want[i])
				}
			}
		})
	}
}

// FuzzLoad: A file with a WorkflowRun: what is accepted has a component and a repository.
func FuzzLoad(f *testing.F) {
	f.Add(component + "---" + run)
	f.Add("kind: WorkflowRun\napiVersion: openchoreo.dev/v1alpha1\nspec: {workflow: {parameters: 1}}")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "a.yaml")
		os.WriteFile(path, []byte(text), 0o644)
		if r, err := Load("", path); err == nil && (r.ComponentName() == "" || r.Text("repository", "url") == "") {
			t.Errorf("accepted %q", text)
		}
	})
}
