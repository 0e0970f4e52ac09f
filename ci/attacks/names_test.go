package attacks

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/templates"
)

// workflows are the ClusterWorkflows by name.
func workflows(t *testing.T) map[string]v1alpha1.WorkflowSpec {
	t.Helper()
	all := map[string]v1alpha1.WorkflowSpec{}
	names := []string{templates.DockerfileBuilder}
	for _, b := range templates.Builders() {
		names = append(names, b.Workflow)
	}
	for _, name := range names {
		raw, err := os.ReadFile(filepath.Join("../../templates/control-plane", name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var object struct{ Spec v1alpha1.WorkflowSpec }
		if err := yaml.Unmarshal(raw, &object); err != nil {
			t.Fatal(err)
		}
		all[name] = object.Spec
	}
	return all
}

// programs are the expressions of all workflows.
var programs render.Programs

// component is whose run is rendered.
type component struct{ namespace, project, name, run string }

// rendered is what OpenChoreo makes for a run of a component.
func (c component) rendered(t *testing.T, workflow v1alpha1.WorkflowSpec) render.Output {
	t.Helper()
	out, err := render.Render(render.Input{
		Run: &v1alpha1.WorkflowRun{
			ObjectMeta: metav1.ObjectMeta{Name: c.run, Namespace: c.namespace, Labels: map[string]string{
				"openchoreo.dev/project": c.project, "openchoreo.dev/component": c.name,
			}},
			Spec: v1alpha1.WorkflowRunSpec{Workflow: v1alpha1.WorkflowRunConfig{Parameters: &runtime.RawExtension{
				Raw: []byte(`{"repository":{"url":"https://git.example.com/a.git","secretRef":"git-credentials"}}`),
			}}},
		},
		Workflow:    workflow,
		SecretStore: "openbao",
		SecretReference: func(string) *v1alpha1.SecretReference {
			return &v1alpha1.SecretReference{Spec: v1alpha1.SecretReferenceSpec{Data: []v1alpha1.SecretDataSource{}}}
		},
		Programs: &programs,
	})
	if err != nil {
		t.Fatal(err)
	}
	return *out
}

// arguments are the parameters of a rendered Workflow.
func arguments(t *testing.T, workflow map[string]any) map[string]string {
	t.Helper()
	raw, err := yaml.Marshal(workflow)
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Arguments struct {
				Parameters []struct{ Name, Value string }
			}
		}
	}
	if err := yaml.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, p := range object.Spec.Arguments.Parameters {
		all[p.Name] = p.Value
	}
	return all
}

var workflowParameter = regexp.MustCompile(`{{workflow\.parameters\.([a-z-]+)}}`)

// mutex is the lock of the last step, as Argo makes it of a Workflow's parameters.
func mutex(t *testing.T, parameters map[string]string) string {
	t.Helper()
	raw, err := os.ReadFile("../../templates/workflow-plane/generate-workload.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Templates []struct {
				Synchronization struct {
					Mutexes []struct{ Name string }
				}
			}
		}
	}
	if err := yaml.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	mutexes := object.Spec.Templates[0].Synchronization.Mutexes
	if len(mutexes) != 1 {
		t.Fatalf("there are %d mutexes", len(mutexes))
	}
	return workflowParameter.ReplaceAllStringFunc(mutexes[0].Name, func(match string) string {
		return parameters[workflowParameter.FindStringSubmatch(match)[1]]
	})
}

// Two components have neither a repository, and so no image, tag and cache, nor a lock in common, however their names
// are put together.
func TestNoTwoComponentsHaveOneName(t *testing.T) {
	t.Parallel()
	dockerfile := workflows(t)[templates.DockerfileBuilder]
	claims := func(c component) []string {
		parameters := arguments(t, c.rendered(t, dockerfile).Workflow)
		return []string{"image " + parameters["image-name"], "mutex " + mutex(t, parameters)}
	}
	long := strings.Repeat("x", 62)
	components := []component{{long, long, long, "run-1"}, {long + "x", long, long, "run-1"}}
	names := []string{"a", "b", "a-a", "a-b", "b-a", "a--b", "a-a-b", "a-b-a", "a.b", "a-b.a"}
	for _, namespace := range names[:8] { // those without a dot
		for _, project := range names {
			for _, name := range names {
				components = append(components, component{namespace, project, name, "run-1"})
			}
		}
	}
	seen := map[string]component{}
	for _, c := range components {
		for _, claim := range claims(c) {
			if other, taken := seen[claim]; taken {
				t.Errorf("%s is of %v and of %v", claim, other, c)
			}
			seen[claim] = c
		}
	}
	// A label may hold what no name of a project or component does. Such a run gets no name of a component.
	for _, c := range []component{
		{"a", "b_a", "b", "run-1"}, {"a", "a", "b_a", "run-1"}, {"a", "_a", "b", "run-1"}, {"a", "a_", "b", "run-1"},
		{"a", "", "a_b", "run-1"}, {"a", "a_b", "", "run-1"}, {"a", "A", "b", "run-1"}, {"a", "", "b", "run-1"},
	} {
		for _, claim := range claims(c) {
			if other, taken := seen[claim]; taken {
				t.Errorf("with the labels of %v a run takes %s of %v", c, claim, other)
			}
		}
	}
}

// All builders name an image alike, so that a component keeps its repository with another builder. The name is one that
// registries and publish-image take, however long its parts are.
func TestNamesOfImagesAreValid(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 63)
	for _, c := range []component{
		{"acme", "shop", "cart", "r"}, {"acme-eu", "shop--x", "cart.api", "r"}, {long, long, long, "r"},
	} {
		want := c.namespace + "_" + c.project + "_" + c.name
		for name, workflow := range workflows(t) {
			if got := arguments(t, c.rendered(t, workflow).Workflow)["image-name"]; got != want {
				t.Errorf("%s calls it %s, want %s", name, got, want)
			}
		}
		e := step(
			t, "publish-image", "--workspace="+t.TempDir(), "--registry=registry.example.com/openchoreo-builds",
			"--image-name="+want, "--max-attempts=1",
		)
		if strings.Contains(e.report.Message, "image-name") {
			t.Errorf("publish-image does not take %s: %s", want, e.report.Message)
		}
	}
}

// No run gets a Secret, or anything else, of another run in its namespace by the name that its author gives it.
func TestNoTwoRunsHaveOneSecret(t *testing.T) {
	t.Parallel()
	var runs []string
	suffixes := []string{
		"", "-git-secret", "-registry-push-secret", "-registry-pull-secret", "-oauth-client-secret", "-buildkit-client",
		"-workspace", "-secret", "-registry", "-push-secret",
	}
	for _, a := range suffixes {
		for _, b := range suffixes {
			if name := "x" + a + b; len(name) <= 63 {
				runs = append(runs, name)
			}
		}
	}
	for name, workflow := range workflows(t) {
		seen := map[string]string{}
		for _, run := range runs {
			if seen["run "+run] != "" { // made of other suffixes
				continue
			}
			seen["run "+run] = run
			out := component{"acme", "shop", "cart", run}.rendered(t, workflow)
			for _, object := range out.Resources {
				metadata := object["metadata"].(map[string]any)
				key := fmt.Sprint(object["kind"], " ", metadata["name"])
				if other := seen[key]; other != "" {
					t.Errorf("%s: %s is of the runs %s and %s", name, key, other, run)
				}
				seen[key] = run
				secret, _ := object["spec"].(map[string]any)["target"].(map[string]any)["name"]
				if secret != metadata["name"] {
					t.Errorf("%s: %s makes the Secret %v", name, key, secret)
				}
			}
		}
	}
}
