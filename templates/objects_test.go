package templates_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/workflow/validate"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/kustomization"
)

// built are the results of kustomize by folder, each a func() ([]any, error).
var built sync.Map

// build runs kustomize on a folder and returns the objects, which the caller may change. It runs once for a folder.
func build(t *testing.T, dir string) []map[string]any {
	t.Helper()
	once, _ := built.LoadOrStore(dir, sync.OnceValues(func() ([]any, error) { return kustomize(dir) }))
	all, err := once.(func() ([]any, error))()
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	var objects []map[string]any
	for _, object := range all {
		objects = append(objects, clone(object).(map[string]any))
	}
	return objects
}

func kustomize(dir string) ([]any, error) {
	result, err := kustomization.Build(dir)
	if err != nil {
		return nil, err
	}
	var objects []any
	for _, r := range result.Resources() {
		raw, err := r.MarshalJSON()
		if err != nil {
			return nil, err
		}
		var object map[string]any
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		return nil, errors.New("is empty")
	}
	return objects, nil
}

func ofKind(objects []map[string]any, kind string) []map[string]any {
	return slices.DeleteFunc(slices.Clone(objects), func(o map[string]any) bool { return o["kind"] != kind })
}

// getters hands the project's templates to Argo's validator.
type getters map[string]*wfv1.ClusterWorkflowTemplate

func (g getters) Get(_ context.Context, name string) (*wfv1.ClusterWorkflowTemplate, error) {
	if template := g[name]; template != nil {
		return template, nil
	}
	return nil, fmt.Errorf("there is no ClusterWorkflowTemplate %q", name)
}

var clusterWorkflowTemplates = sync.OnceValues(func() (getters, error) {
	objects, err := kustomize("workflow-plane")
	if err != nil {
		return nil, err
	}
	all := getters{}
	for _, object := range objects {
		template, err := convert[wfv1.ClusterWorkflowTemplate](object)
		if err != nil {
			return nil, err
		}
		all[template.Name] = &template
	}
	return all, nil
})

// installed are the templates of the WorkflowPlane without an overlay. They are the same for all tests: do not change
// them.
func installed(t *testing.T) getters {
	t.Helper()
	all, err := clusterWorkflowTemplates()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// argo serialises Argo's validator, which counts in a variable of its package.
var argo sync.Mutex

// validTemplate checks one template by Argo's linter.
func validTemplate(template *wfv1.ClusterWorkflowTemplate) error {
	argo.Lock()
	defer argo.Unlock()
	return validate.ValidateClusterWorkflowTemplate(
		argoContext(), nil, nil, template, nil, validate.ValidateOpts{Lint: true},
	)
}

// validWorkflow checks a Workflow as Argo does when it is submitted.
func validWorkflow(workflow *wfv1.Workflow, templates getters) error {
	argo.Lock()
	defer argo.Unlock()
	return validate.ValidateWorkflow(argoContext(), nil, templates, workflow, nil, validate.ValidateOpts{})
}

// argoContext holds the logger for Argo's functions.
var argoContext = sync.OnceValue(func() context.Context {
	return logging.WithLogger(context.Background(), logging.NewSlogLogger(logging.Error, logging.Text))
})

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func readYAML(t *testing.T, path string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal(readFile(t, path), &object); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return object
}

// convert turns a map into a type of Argo's or OpenChoreo's, and refuses fields that the type lacks.
func convert[T any](v any) (T, error) {
	var into T
	raw, err := json.Marshal(v)
	if err != nil {
		return into, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	return into, decoder.Decode(&into)
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

// set puts a value at a path. Only the path's last name may be absent.
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
