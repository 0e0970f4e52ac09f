//go:build e2e

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
)

// testParity compares the objects that OpenChoreo's controller makes for a run with those of `stepwright render`.
func testParity(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		parameters object
	}{
		{"nothing but a URL", object{}},
		{"everything", object{"docker": object{"context": "app", "filePath": "app/Containerfile"},
			"buildEnv":  []any{object{"name": "A", "value": "x=y\nz"}},
			"buildArgs": []any{object{"name": "B", "value": ""}}}},
		{"texts that Argo would expand",
			object{"docker": object{"context": "{{inputs.parameters.git-secret}}", "filePath": `{{=sprig.upper("x")}}`},
				"buildArgs": []any{object{"name": "A", "value": "{{workflow.name}} $(HOME) $$"}}}},
		{"a list as text", object{"docker": object{"context": "[1, 2]"}}},
		{"numbers and booleans", object{"docker": object{"context": 1000000, "filePath": true}, "buildEnv": 7}},
		{"null", object{"docker": object{"context": nil}, "buildEnv": nil, "buildArgs": []any{nil}}},
		{"lists of odd things",
			object{"buildEnv": []any{"A=b", 1, object{"name": 1, "value": object{}}, []any{}}, "buildArgs": "{}"}},
		{"markup and odd letters", object{"buildArgs": []any{object{"name": "A", "value": "<&> \u2028 é \\ \" '"}}}},
		{"objects where texts go", object{"docker": "no object", "buildArgs": object{"A": "b"}}},
		{"what only our builders take",
			object{"labels": []any{object{"name": "a", "value": "{{b}}"}}, "noCache": true,
				"docker":       object{"target": "x"},
				"buildSecrets": []any{object{"name": "a", "secretRef": "git-basic", "key": "password"}, nil}}},
		{"a SecretReference",
			object{"repository": object{"url": "https://git.example.com/x.git", "secretRef": "git-basic"}}},
	}
	for i, test := range tests {
		b := build{name: "parity", run: fmt.Sprintf("parity-%d", i+1), url: "https://git.example.com/acme/x.git",
			more: test.parameters}
		t.Run(test.name, func(t *testing.T) { compare(t, b.component(), b.workflowRun()) })
	}
	examples := must(filepath.Glob(filepath.Join(*repository, "examples/*/workflowrun.yaml")))(t)
	if len(examples) == 0 {
		t.Fatal("no examples")
	}
	for _, file := range examples {
		t.Run(filepath.Base(filepath.Dir(file)), func(t *testing.T) {
			var component, run object
			read(t, file, &run)
			read(t, filepath.Join(filepath.Dir(file), "component.yaml"), &component)
			for _, o := range []object{component, run} {
				o["metadata"].(object)["name"] = "parity-" + o["metadata"].(object)["name"].(string)
			}
			labels := run["metadata"].(object)["labels"].(object)
			labels["openchoreo.dev/component"] = "parity-" + labels["openchoreo.dev/component"].(string)
			compare(t, component, run)
		})
	}
}

func read(t *testing.T, file string, o any) {
	t.Helper()
	if err := yaml.Unmarshal(must(os.ReadFile(file))(t), o); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func compare(t *testing.T, component, run object) {
	t.Helper()
	name := run["metadata"].(object)["name"].(string)
	if err := k8s.apply(t.Context(), component, run); err != nil {
		t.Fatal(err)
	}
	var made *argo.Workflow
	eventually(t, time.Minute, "the Argo Workflow of "+name, func(ctx context.Context) (done bool, err error) {
		made, err = k8s.workflow(ctx, name)
		return made != nil, err
	})
	must(k8s.kubectl(t.Context(), "", "-n", namespace, "delete", "workflowrun", name, "--wait=false"))(t)

	// `stepwright render` reads the objects as kubectl shows them.
	dir := t.TempDir()
	for file, args := range map[string][]string{
		"run": nil, "workflows": {"clusterworkflows"}, "references": {"-n", namespace, "secretreferences"},
		"planes": {"clusterworkflowplanes"}, "projects": {"-n", namespace, "projects"},
		"types": {"clustercomponenttypes"},
	} {
		var text string
		if args == nil {
			text = canonical(t, component) + "\n---\n" + canonical(t, run)
		} else {
			text = must(k8s.kubectl(t.Context(), "", append([]string{"get", "-o", "yaml"}, args...)...))(t)
		}
		if err := os.WriteFile(filepath.Join(dir, file+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	set := must(objects.Load(dir))(t)
	o := must(workflowrun.Pick(set, name))(t)
	rendered := must(workflowrun.Render(set, o, ""))(t)

	got, want := comparable(t, made), comparable(t, rendered.Workflow)
	if got != want {
		t.Errorf("OpenChoreo made\n%s\nstepwright render makes\n%s", got, want)
	}
}

// comparable is a Workflow as it was asked for: without what the API server, Argo and the labels of ownership add.
func comparable(t *testing.T, workflow any) string {
	t.Helper()
	var w argo.Workflow
	if err := yaml.Unmarshal([]byte(canonical(t, workflow)), &w); err != nil {
		t.Fatal(err)
	}
	labels := maps.Clone(w.Labels)
	maps.DeleteFunc(labels, func(key, _ string) bool {
		return key == "workflows.argoproj.io/phase" || key == "workflows.argoproj.io/completed"
	})
	return canonical(t, object{"name": w.Name, "namespace": w.Namespace, "labels": labels, "spec": w.Spec})
}
