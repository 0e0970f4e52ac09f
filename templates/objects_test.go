package templates_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// build runs kustomize on a folder.
func build(t *testing.T, dir string) []map[string]any {
	t.Helper()
	result, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	var objects []map[string]any
	for _, r := range result.Resources() {
		raw, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := yaml.Unmarshal(raw, &object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatalf("%s: is empty", dir)
	}
	return objects
}

func ofKind(objects []map[string]any, kind string) []map[string]any {
	return slices.DeleteFunc(slices.Clone(objects), func(o map[string]any) bool { return o["kind"] != kind })
}

// getters give Argo's validator the templates of the project.
type getters map[string]*wfv1.ClusterWorkflowTemplate

func (g getters) Get(_ context.Context, name string) (*wfv1.ClusterWorkflowTemplate, error) {
	if template := g[name]; template != nil {
		return template, nil
	}
	return nil, fmt.Errorf("there is no ClusterWorkflowTemplate %q", name)
}

func clusterWorkflowTemplates(t *testing.T) getters {
	t.Helper()
	all := getters{}
	for _, object := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		template, err := convert[wfv1.ClusterWorkflowTemplate](object)
		if err != nil {
			t.Fatal(err)
		}
		all[template.Name] = &template
	}
	return all
}

func argoContext() context.Context {
	return logging.WithLogger(context.Background(), logging.NewSlogLogger(logging.Error, logging.Text))
}

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

// convert decodes what is a map into a type of Argo's or OpenChoreo's, and refuses fields that the type lacks.
func convert[T any](v any) (T, error) {
	var into T
	raw, err := json.Marshal(v)
	if err == nil {
		err = yaml.UnmarshalStrict(raw, &into)
	}
	return into, err
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
