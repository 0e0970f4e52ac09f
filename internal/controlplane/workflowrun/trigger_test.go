package workflowrun

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

const builtComponent = `apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: cart, namespace: acme}
spec:
  owner: {projectName: shop}
  componentType: {kind: ClusterComponentType, name: deployment/service}
  workflow:
    kind: ClusterWorkflow
    name: dockerfile-builder
    parameters:
      repository:
        url: "https://git.example.com/cart.git"
      buildEnv: [{name: A, value: "1"}]
`

var noon = time.Unix(1767225600, 0)

func read(t *testing.T, texts ...string) *objects.Set {
	t.Helper()
	set := new(objects.Set)
	for _, text := range texts {
		set.Read("app.yaml", []byte(text))
	}
	if len(set.Faults) > 0 {
		t.Fatal(set.Faults)
	}
	return set
}

// A run of a Component is the one that occ makes: its name, its labels, its workflow and parameters.
func TestOfComponent(t *testing.T) {
	set := read(t, builtComponent)
	o, err := OfComponent(set, "", "", noon)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Of(set, o.Name, false)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "cart-build-1767225600000" || r.Namespace != "acme" || r.Component == nil ||
		r.Spec.Workflow.Kind != v1alpha1.WorkflowRefKindClusterWorkflow ||
		r.Spec.Workflow.Name != "dockerfile-builder" ||
		r.Text("repository", "url") != "https://git.example.com/cart.git" {
		t.Errorf("%+v", r.WorkflowRun)
	}
	want := map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"}
	if diff := cmp.Diff(want, r.Labels); diff != "" {
		t.Error(diff)
	}
}

// A fault of a parameter is at its line of the Component's file, and that of a setting is at its flag.
func TestFaultsOfProposedRuns(t *testing.T) {
	for name, test := range map[string]struct {
		text     string
		settings []string
		want     []string
	}{
		"in the file": {strings.Replace(builtComponent, `[{name: A, value: "1"}]`, `A`, 1), nil, []string{
			"app.yaml:13: WorkflowRun acme/cart-build-1767225600000: spec.workflow.parameters.buildEnv: ",
		}},
		"in a setting": {builtComponent, []string{"repository.url=nowhere"}, []string{
			"--set repository.url: WorkflowRun acme/cart-build-1767225600000: spec.workflow.parameters.repository.url",
		}},
		"in an item of a setting": {builtComponent, []string{`buildEnv=[{"name":"A"},{"name":7}]`}, []string{
			"--set buildEnv: WorkflowRun acme/cart-build-1767225600000: spec.workflow.parameters.buildEnv[",
		}},
		"no such parameter": {builtComponent, []string{"repository.brunch=x"}, []string{
			"spec.workflow.parameters.repository",
		}},
		"every setting": {builtComponent, []string{"a", "=b", "buildEnv[7].name=B"}, []string{
			"2 faults", `--set "a" is not of the form path=value`, `--set "=b" is not`,
		}},
		"another workflow": {builtComponent, []string{"spec.workflow.name=x"}, []string{"stay as they are"}},
		"another workflow, by its object": {
			builtComponent, []string{`spec.workflow={"kind": "Workflow", "name": "dockerfile-builder"}`},
			[]string{"stay as they are"},
		},
		"beyond a list": {builtComponent, []string{"buildEnv[7].name=B", "repository.url.x=B"}, []string{
			`--set buildEnv[7].name: a list of 1 has no place "7"; [1] adds one`,
			`--set repository.url.x: "x" is below`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			set := read(t, test.text)
			o, err := OfComponent(set, "", "cart", noon)
			if err == nil && len(test.settings) > 0 {
				o, err = Set(set, o, test.settings)
			}
			if err == nil {
				_, err = Of(set, o.Name, false)
			}
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in %v", want, err)
				}
			}
		})
	}
}

func TestChoosingAComponent(t *testing.T) {
	other := strings.Replace(builtComponent, "namespace: acme", "namespace: zeta", 1)
	bare := builtComponent[:strings.Index(builtComponent, "  workflow:")]
	for name, test := range map[string]struct {
		files                      []string
		namespace, component, want string
	}{
		"none":             {nil, "", "", "neither a WorkflowRun nor a Component"},
		"another":          {[]string{builtComponent}, "", "shop", "there is no Component shop; there is acme/cart"},
		"several":          {[]string{builtComponent, other}, "", "cart", "choose one of acme/cart, zeta/cart with"},
		"by its namespace": {[]string{builtComponent, other}, "zeta", "cart", ""},
		"without workflow": {[]string{bare}, "", "", "app.yaml:4: Component acme/cart: spec.workflow: has no workflow"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OfComponent(read(t, test.files...), test.namespace, test.component, noon)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestSet(t *testing.T) {
	set := read(t, builtComponent)
	o, err := OfComponent(set, "", "", noon)
	if err != nil {
		t.Fatal(err)
	}
	o, err = Set(set, o, []string{
		"repository.revision.commit=1234567", // a text, though JSON would have it a number
		"spec.workflow.parameters.repository.revision.branch=main=2",
		"buildEnv[0].value=8080", "buildEnv[1].name=B", `buildEnv[1].value={"a":1}`,
		`docker={"context":"./api"}`, "metadata.labels[example.com/why]=7",
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Of(set, o.Name, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ got, want string }{
		{r.Text("repository", "revision", "commit"), "1234567"},
		{r.Text("repository", "revision", "branch"), "main=2"},
		{r.Text("repository", "url"), "https://git.example.com/cart.git"},
		{r.Text("docker", "context"), "./api"},
		{r.Text("buildEnv"), `[{"name":"A","value":"8080"},{"name":"B","value":"{\"a\":1}"}]`},
		{r.Labels["example.com/why"], "7"},
	} {
		if want.got != want.want {
			t.Errorf("%q, want %q", want.got, want.want)
		}
	}
	component, err := objects.Decode[v1alpha1.Component](set.Find("Component", "acme", "cart"))
	if err != nil || strings.Contains(string(component.Spec.Workflow.Parameters.Raw), "8080") {
		t.Errorf("%v %s", err, component.Spec.Workflow.Parameters.Raw)
	}
}

// A run is done again under its name with another time, without what came of it.
func TestAgain(t *testing.T) {
	set := read(t, run)
	old, err := objects.Decode[v1alpha1.WorkflowRun](set.Find("WorkflowRun", "acme", "cart-1"))
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[string]string{
		"cart-1":                        "cart-1-1767225600000",
		"cart-build-1667225600":         "cart-build-1767225600000",
		strings.Repeat("x", 63):         strings.Repeat("x", 49) + "-1767225600000",
		strings.Repeat("x", 51) + "-yy": strings.Repeat("x", 49) + "-1767225600000",
	} {
		earlier := old.DeepCopy()
		earlier.Name, earlier.Annotations = before, map[string]string{"stepwright.dev/commit": "1"}
		earlier.Status.Conditions = nil
		set := new(objects.Set)
		o, err := Again(set, earlier, noon)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Of(set, o.Name, false)
		if err != nil || r.Name != after || len(r.Annotations) > 0 || !cmp.Equal(r.Labels, old.Labels) ||
			r.Text("repository", "url") != "https://git.example.com/cart.git" {
			t.Errorf("%s: %v %+v", before, err, r.ObjectMeta)
		}
	}
}
