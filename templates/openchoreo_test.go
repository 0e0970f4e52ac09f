package templates_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/schemas"
)

var openchoreoModule = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	return strings.TrimSpace(string(out)), err
})

// refused lists why OpenChoreo's API server would not take an object.
func refused(t *testing.T, object map[string]any) []string {
	t.Helper()
	raw, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var set objects.Set
	set.Read("", raw)
	var all []string
	for _, fault := range set.Faults {
		all = append(all, strings.TrimPrefix(fault.Field+": "+fault.Message, ": "))
	}
	return all
}

// OpenChoreo takes the examples, and their builders take their parameters.
func TestExamples(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, path := range files {
		object := readYAML(t, path)
		kind, _ := object["kind"].(string)
		if kind != "WorkflowRun" && kind != "Component" {
			continue
		}
		checked++
		for _, fault := range refused(t, object) {
			t.Errorf("%s: %s", path, fault)
		}
		if kind == "Component" && at(object, "spec", "workflow") == nil {
			continue // another CI builds it
		}
		workflow, _ := at(object, "spec", "workflow", "name").(string)
		schema, err := schemas.Load(workflow)
		if err != nil {
			t.Errorf("%s: spec.workflow.name: %v", path, err)
			continue
		}
		for _, fault := range schema.Validate(at(object, "spec", "workflow", "parameters")) {
			t.Errorf("%s: spec.workflow.parameters.%s", path, fault)
		}
	}
	if checked < 2 {
		t.Error("there are no examples")
	}
}
