// Package examples_test validates the examples by their schemas.
package examples_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	openchoreo "github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
)

// each runs a test for each example: a folder with a workload descriptor.
func each(t *testing.T, test func(t *testing.T, folder string)) {
	t.Helper()
	found, err := filepath.Glob("*/workload.yaml")
	if err != nil || len(found) == 0 {
		t.Fatalf("no example found: %v", err)
	}
	for _, file := range found {
		t.Run(filepath.Dir(file), func(t *testing.T) { test(t, filepath.Dir(file)) })
	}
}

// read decodes a YAML file, and fails for a field that the type does not have.
func read[T any](t *testing.T, folder, name string) T {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err := yaml.UnmarshalStrict(content, &object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return object
}

func TestWorkflowRunBuildsTheComponent(t *testing.T) {
	each(t, func(t *testing.T, folder string) {
		component := read[openchoreo.Component](t, folder, "component.yaml")
		run := read[openchoreo.WorkflowRun](t, folder, "workflowrun.yaml")
		if component.Kind != "Component" || run.Kind != "WorkflowRun" {
			t.Errorf("kinds are %s and %s", component.Kind, run.Kind)
		}
		if component.Name != folder || component.Namespace != run.Namespace {
			t.Errorf(
				"component %s/%s of a run in namespace %s, in folder %s", component.Namespace, component.Name,
				run.Namespace, folder,
			)
		}
		labels := map[string]string{
			"openchoreo.dev/project":   component.Spec.Owner.ProjectName,
			"openchoreo.dev/component": component.Name,
		}
		if diff := cmp.Diff(labels, run.Labels); diff != "" {
			t.Errorf("labels of the run (-want +got):\n%s", diff)
		}
		workflow := component.Spec.Workflow
		if workflow == nil || workflow.Name != run.Spec.Workflow.Name || workflow.Kind != run.Spec.Workflow.Kind {
			t.Fatalf("the component's workflow is %+v, the run's %+v", workflow, run.Spec.Workflow)
		}
		schema, err := schemas.Load(run.Spec.Workflow.Name)
		if err != nil {
			t.Fatal(err)
		}
		var ofComponent, ofRun any
		for raw, into := range map[*[]byte]*any{
			&workflow.Parameters.Raw:          &ofComponent,
			&run.Spec.Workflow.Parameters.Raw: &ofRun,
		} {
			if err := json.Unmarshal(*raw, into); err != nil {
				t.Fatal(err)
			}
			for _, fault := range schema.Validate(*into) {
				t.Errorf("parameters: %s", fault)
			}
		}
		if diff := cmp.Diff(ofComponent, ofRun); diff != "" {
			t.Errorf("parameters (-component +run):\n%s", diff)
		}
	})
}

func TestDescriptorNamesFilesThatAreThere(t *testing.T) {
	type descriptor struct {
		APIVersion string            `json:"apiVersion"`
		Metadata   map[string]string `json:"metadata"`
		Endpoints  []struct {
			Name, DisplayName, Type, BasePath, SchemaFile string
			Port                                          int
			Visibility                                    []string
		} `json:"endpoints"`
		Configurations struct {
			Env   []struct{ Name, Value string }
			Files []struct {
				Name, MountPath string
				ValueFrom       struct{ Path string }
			}
		} `json:"configurations"`
	}
	each(t, func(t *testing.T, folder string) {
		workload := read[descriptor](t, folder, "workload.yaml")
		if workload.Metadata["name"] != folder {
			t.Errorf("metadata.name is %q, want %q", workload.Metadata["name"], folder)
		}
		var named []string
		for _, endpoint := range workload.Endpoints {
			named = append(named, endpoint.SchemaFile)
		}
		for _, file := range workload.Configurations.Files {
			named = append(named, file.ValueFrom.Path)
		}
		for _, name := range named {
			if info, err := os.Stat(filepath.Join(folder, name)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("workload.yaml names %q: %v", name, err)
			}
		}
	})
}

// The examples in Go are modules of their own, which the tests of this one do not reach.
func TestGoExamples(t *testing.T) {
	each(t, func(t *testing.T, folder string) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err != nil {
			t.Skip("not in Go")
		}
		for _, args := range [][]string{{"vet", "./..."}, {"test", "./..."}} {
			cmd := exec.CommandContext(t.Context(), "go", args...)
			cmd.Dir = folder
			cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOWORK=off")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("go %s: %v\n%s", args[0], err, out)
			}
		}
	})
}
