package templates_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/render"
)

// run is what the controller knows of a WorkflowRun.
type run struct {
	labels       map[string]string
	parameters   any            // as decoded from JSON
	externalRefs map[string]any // by id, {"spec": …}
}

// renderRun makes the Argo Workflow and the other resources of a run, those by the end of their name: git-secret of
// cart-1-git-secret.
func renderRun(
	clusterWorkflow map[string]any, r run,
) (workflow map[string]any, resources map[string]map[string]any, err error) {
	spec, err := convert[v1alpha1.WorkflowSpec](clusterWorkflow["spec"])
	if err != nil {
		return nil, nil, err
	}
	parameters, _ := r.parameters.(map[string]any)
	raw, err := json.Marshal(parameters)
	if err != nil {
		return nil, nil, err
	}
	const name = "cart-1"
	in := render.Input{
		Run: &v1alpha1.WorkflowRun{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "acme", Labels: r.labels},
			Spec: v1alpha1.WorkflowRunSpec{
				Workflow: v1alpha1.WorkflowRunConfig{Parameters: &runtime.RawExtension{Raw: raw}},
			},
		},
		Workflow:    spec,
		SecretStore: "openbao",
	}
	for _, reference := range r.externalRefs {
		secret, err := convert[v1alpha1.SecretReference](reference)
		if err != nil {
			return nil, nil, err
		}
		in.SecretReference = func(string) *v1alpha1.SecretReference { return &secret }
	}
	out, err := render.Render(in)
	if err != nil {
		return nil, nil, err
	}
	resources = map[string]map[string]any{}
	for _, resource := range out.Resources {
		resources[strings.TrimPrefix(at(resource, "metadata", "name").(string), name+"-")] = resource
	}
	return out.Workflow, resources, nil
}

// at finds a value by keys and indices; nil when it is absent.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			object, _ := v.(map[string]any)
			v = object[p]
		case int:
			list, _ := v.([]any)
			if p >= len(list) {
				return nil
			}
			v = list[p]
		}
	}
	return v
}

func clone(v any) any {
	switch v := v.(type) {
	case []any:
		v = slices.Clone(v)
		for i := range v {
			v[i] = clone(v[i])
		}
		return v
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, inner := range v {
			object[k] = clone(inner)
		}
		return object
	}
	return v
}

// set puts a value at a path that is there but for its last name, and returns v.
func set(t *testing.T, v any, value any, path ...any) {
	t.Helper()
	switch holder := at(v, path[:len(path)-1]...).(type) {
	case map[string]any:
		holder[path[len(path)-1].(string)] = value
	case []any:
		holder[path[len(path)-1].(int)] = value
	default:
		t.Fatalf("there is nothing at %v", path[:len(path)-1])
	}
}
