package templates_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/expr/argoexpr"
	"github.com/argoproj/argo-workflows/v4/util/expr/env"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/util/template"
	gocmp "github.com/google/go-cmp/cmp"
)

// told is a workflow of each ClusterWorkflow with these components.
func told(t *testing.T, components ...string) map[string]wfv1.Workflow {
	t.Helper()
	all := map[string]wfv1.Workflow{}
	for _, cluster := range ofKind(build(t, overlay(t, components...)), "ClusterWorkflow") {
		rendered, _, err := renderRun(cluster, ordinary())
		if err != nil {
			t.Fatal(err)
		}
		workflow, err := convert[wfv1.Workflow](rendered)
		if err != nil {
			t.Fatal(err)
		}
		all[at(cluster, "metadata", "name").(string)] = workflow
	}
	return all
}

// The component commit-status leaves the steps of a build as they are: no build waits for it, and none fails by it.
func TestCommitStatusIsBesideTheBuild(t *testing.T) {
	t.Parallel()
	without := told(t)
	for _, components := range [][]string{
		{"commit-status"},
		{"commit-status", "annotate-failures"},
		{"annotate-failures", "commit-status"},
	} {
		for name, workflow := range told(t, components...) {
			if diff := gocmp.Diff(without[name].Spec.Templates[0], workflow.Spec.Templates[0]); diff != "" {
				t.Errorf("%s: the steps are not the same (-without +with)\n%s", name, diff)
			}
			plain := without[name].Spec
			if plain.OnExit != "" || len(plain.Hooks) > 0 || len(plain.Templates[1].Steps[0].Steps) > 0 {
				t.Errorf("%s does something at the end without components: %+v", name, plain.Templates[1])
			}
			if workflow.Spec.OnExit != "on-exit" || workflow.Spec.Templates[1].Name != "on-exit" {
				t.Fatalf("%s: at the end there is %s of %+v", name, workflow.Spec.OnExit, workflow.Spec.Templates)
			}
			var names []string
			for _, step := range workflow.Spec.Templates[1].Steps[0].Steps {
				names = append(names, step.Name)
				tolerated := step.ContinueOn != nil && step.ContinueOn.Failed && step.ContinueOn.Error
				if step.Name == "commit-status" && (!tolerated || step.When != "") {
					t.Errorf("%s: it can fail a run, or is left out: %+v", name, step)
				}
			}
			if len(names) != len(components) {
				t.Errorf("%s: with %v, at the end there are %v", name, components, names)
			}
		}
	}
}

// Argo itself knows when the first status is due, and what the last one is.
func TestCommitStatusExpressions(t *testing.T) {
	t.Parallel()
	const revision = "base64:e30="
	spec := told(t, "commit-status")["dockerfile-builder"].Spec
	due := func(globals map[string]string) bool {
		is, err := argoexpr.EvalBool(spec.Hooks["commit-status"].Expression, env.GetFuncMap(template.EnvMap(globals)))
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	for name, test := range map[string]struct {
		outputs map[string]string
		want    bool
	}{
		"nothing is checked out": {nil, false},
		"another output":         {map[string]string{"workflow.outputs.parameters.x": "y"}, false},
		"checkout has failed":    {map[string]string{"workflow.outputs.parameters.revision": ""}, false},
		"it is checked out":      {map[string]string{"workflow.outputs.parameters.revision": revision}, true},
	} {
		globals := map[string]string{"workflow.name": "cart-1", "workflow.status": "Running"}
		for key, value := range test.outputs {
			globals[key] = value
		}
		if got := due(globals); got != test.want {
			t.Errorf("%s: the first status is due: %t", name, got)
		}
	}

	ctx := logging.WithLogger(t.Context(), logging.NewSlogLogger(logging.Error, logging.Text))
	raw, err := json.Marshal(spec.Templates[1].Steps[0].Steps[0].Arguments)
	if err != nil {
		t.Fatal(err)
	}
	last := func(globals map[string]string) map[string]string {
		text, err := template.Replace(ctx, string(raw), template.ToAnyMap(globals), true)
		if err != nil {
			t.Fatal(err)
		}
		var arguments wfv1.Arguments
		if err := json.Unmarshal([]byte(text), &arguments); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		all := map[string]string{}
		for _, p := range arguments.Parameters {
			all[p.Name] = p.Value.String()
		}
		return all
	}
	// Before the end nothing is decided.
	for name, value := range last(map[string]string{"workflow.name": "cart-1"}) {
		if name != "status-credentials-timeout" && !strings.Contains(value, "{{=") {
			t.Errorf("%s is %q before the end", name, value)
		}
	}
	const failures = `"[{\"displayName\":\"a\",\"message\":\"{{x}}\"}]"`
	ended := func(status, revision string) map[string]string {
		globals := map[string]string{
			"workflow.name": "cart-1", "workflow.status": status, "workflow.failures": failures,
		}
		if revision != "" {
			globals["workflow.outputs.parameters.revision"] = revision
		}
		return last(globals)
	}
	inBase64 := "base64:" + base64.StdEncoding.EncodeToString([]byte(failures))
	for status, want := range map[string]string{"Succeeded": "success", "Failed": "failure", "Error": "failure"} {
		if diff := gocmp.Diff(map[string]string{
			"status": want, "revision": revision, "failures": inBase64, "status-credentials-timeout": "15",
		}, ended(status, revision)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", status, diff)
		}
	}
	if got := ended("Failed", "")["revision"]; got != "" {
		t.Errorf("nothing was checked out, and the revision is %q", got)
	}
}

// The credentials are in the pods of commit-status only, and those of a namespace may be its own.
func TestCommitStatusCredentials(t *testing.T) {
	t.Parallel()
	objects := build(t, overlay(t, "commit-status"))
	for _, object := range ofKind(objects, "ClusterWorkflowTemplate") {
		name := at(object, "metadata", "name").(string)
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(string(raw), "-commit-status"); has != (name == "commit-status") {
			t.Errorf("%s names the Secret: %t", name, has)
		}
	}
	own := overlay(t, "commit-status")
	file := filepath.Join(own, "kustomization.yaml")
	const settings = "configMapGenerator:\n- {name: control-plane-settings, behavior: merge, literals: " +
		`['commit-status-namespaces=["acme"]'], options: {disableNameSuffixHash: true}}` + "\n"
	if err := os.WriteFile(file, append(readFile(t, file), settings...), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{overlay(t, "commit-status"): "commit-status", own: "commit-status-acme"} {
		for _, cluster := range ofKind(build(t, dir), "ClusterWorkflow") {
			_, resources, err := renderRun(cluster, ordinary())
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, r := range resources {
				if strings.HasSuffix(at(r, "metadata", "name").(string), "-commit-status") {
					found = true
					if got := at(r, "spec", "dataFrom", 0, "extract", "key"); got != want {
						t.Errorf("the key is %v, want %s", got, want)
					}
				}
			}
			if !found {
				t.Errorf("%v has no ExternalSecret for it", at(cluster, "metadata", "name"))
			}
		}
	}
}
