package templates_test

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/schemas"
)

// earlierRuns are WorkflowRuns that people have: the examples, and the user guide's parameters, all of them.
func earlierRuns(t *testing.T) map[string]any {
	t.Helper()
	files, err := filepath.Glob("../examples/*/workflowrun.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%v %v", files, err)
	}
	all := map[string]any{}
	for _, path := range files {
		all[filepath.Base(filepath.Dir(path))] = at(readYAML(t, path), "spec", "workflow")
	}
	pairs := []any{object{"name": "A", "value": "b"}, object{"name": "C", "value": "$(A) {{x}}"}}
	repository := object{"url": "https://git.example.com/acme/cart.git", "secretRef": "git", "appPath": "/cart",
		"revision": object{"branch": "release", "commit": "6dcb09b5"}}
	all["everything of a Dockerfile"] = object{"name": "dockerfile-builder", "parameters": object{
		"repository": repository, "docker": object{"context": "/cart", "filePath": "/cart/Dockerfile"},
		"buildEnv": pairs, "buildArgs": pairs, "timestamps": "commit",
	}}
	all["everything of buildpacks"] = object{"name": "paketo-buildpacks-builder", "parameters": object{
		"repository": repository, "buildEnv": pairs, "bindings": object{"secretRef": "cart-bindings"},
	}}
	return all
}

// variables returns the variables of all steps of a run.
func variables(t *testing.T, workflow any) map[string]string {
	t.Helper()
	parameters, _ := at(workflow, "parameters").(map[string]any)
	rendered, _, err := renderRun(readYAML(t, "control-plane/"+at(workflow, "name").(string)+".yaml"), run{
		labels:       map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
		parameters:   parameters,
		externalRefs: gitCredentials,
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := stepVariables(t, rendered)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(name, _ string) bool { // of builders.yaml, which has others from time to time
		return strings.HasSuffix(name, " BUILDER_IMAGE") || strings.HasSuffix(name, " RUN_IMAGE")
	})
	return all
}

// declared are variables that runs of before have got since, which say more than their absence: the steps wait for the
// Secrets that their pods waited for.
var declared = map[string]string{
	"PULL_SECRET_REQUIRED": "true", "PUSH_SECRET_REQUIRED": "true", "SECRET_TIMEOUT": "180",
	"SECRET_KEYS": `[{"key":"registry-push-secret","secret":"registry-push-secret"},` +
		`{"key":"registry-pull-secret","secret":"registry-pull-secret"},` +
		`{"key":"workload-publisher-client-secret","secret":"oauth-client-secret"}]`,
}

// A run of before gives each step what it gave then, as testdata/earlier-runs.json has it. What is new says no more
// than its absence, empty or the default of the step's schema, or is declared.
func TestEarlierRunsAreAsBefore(t *testing.T) {
	t.Parallel()
	var recorded map[string]map[string]string
	if err := json.Unmarshal(readFile(t, "testdata/earlier-runs.json"), &recorded); err != nil {
		t.Fatal(err)
	}
	runs := earlierRuns(t)
	if len(recorded) < 8 {
		t.Errorf("%d runs are recorded", len(recorded))
	}
	for name, before := range recorded {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := variables(t, runs[name])
			for variable, value := range before {
				if now[variable] != value {
					t.Errorf("%s is %q, and was %q", variable, now[variable], value)
				}
			}
			for variable, value := range now {
				if _, there := before[variable]; there || value == "" {
					continue
				}
				template, name, _ := strings.Cut(variable, " ")
				if template == "generate-workload-cr" {
					template = "generate-workload"
				}
				if declared[name] == value {
					continue
				}
				properties := schemas.MustLoad(steps[template].schema).Properties
				i := slices.IndexFunc(properties, func(p *schemas.Property) bool {
					return schemas.EnvName(p.Name) == name
				})
				if i < 0 || schemas.Text(properties[i].Default) != value {
					t.Errorf("%s is %q, which no run asked for", variable, value)
				}
			}
		})
	}
}
