package templates_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
)

const dockerfileBuilder = "control-plane/dockerfile-builder.yaml"

// lintClusterWorkflow lists the faults of a ClusterWorkflow.
func lintClusterWorkflow(t *testing.T, file string, object map[string]any, templates getters) []string {
	t.Helper()
	f := &faults{file: file}
	for _, fault := range refused(t, object) {
		f.all = append(f.all, file+": "+fault)
	}
	for _, key := range []string{"openchoreo.dev/workflow-type", "app.kubernetes.io/version"} {
		if at(object, "metadata", "labels", key) == nil {
			f.add("metadata.labels", "%s is absent", key)
		}
	}
	if at(object, "metadata", "annotations", "openchoreo.dev/description") == nil {
		f.add("metadata.annotations", "openchoreo.dev/description is absent")
	}
	for _, word := range []string{"retryStrategy", "ttlStrategy", "podSpecPatch", "script"} {
		if path := holds(at(object, "spec", "runTemplate"), word); path != "" {
			f.add("spec.runTemplate."+path, "is not allowed")
		}
	}
	spec, _ := object["spec"].(map[string]any)
	namespaces := map[string]any{
		"spec.runTemplate.metadata.namespace": at(spec, "runTemplate", "metadata", "namespace"),
	}
	resources, _ := at(spec, "resources").([]any)
	for i, r := range resources {
		namespaces[fmt.Sprintf(
			"spec.resources[%d].template.metadata.namespace", i,
		)] = at(r, "template", "metadata", "namespace")
		// It is asked for as long as the run is there, long after its end.
		if at(r, "template", "kind") == "ExternalSecret" && at(r, "template", "spec", "refreshInterval") != "5m" {
			f.add(fmt.Sprintf("spec.resources[%d].template.spec.refreshInterval", i), "must be 5m")
		}
	}
	for field, namespace := range namespaces {
		if namespace != "${metadata.namespace}" {
			f.add(field, "is %v, want ${metadata.namespace}", namespace)
		}
	}
	rendered, _, err := renderRun(object, ordinary())
	if failure, ok := errors.AsType[*render.Error](err); ok {
		f.add(objects.Field(failure.Path), "%v", failure.Err)
		return f.all
	}
	if err != nil {
		f.add("spec", "%v", err)
		return f.all
	}
	lintWorkflow(f, rendered, templates)
	return f.all
}

// lintWorkflow checks a rendered Workflow by Argo's validator and by the templates that it refers to.
func lintWorkflow(f *faults, rendered map[string]any, templates getters) {
	workflow, err := convert[wfv1.Workflow](rendered)
	if err != nil {
		f.add("spec.runTemplate", "%v", err)
		return
	}
	if err := validWorkflow(&workflow, templates); err != nil {
		f.add("spec.runTemplate.spec", "Argo: %v", err)
	}
	var given []string
	for _, p := range workflow.Spec.Arguments.Parameters {
		given = append(given, p.Name)
	}
	dockerfile := slices.ContainsFunc(workflow.Spec.Templates[0].Steps, func(group wfv1.ParallelSteps) bool {
		return slices.ContainsFunc(group.Steps, func(s wfv1.WorkflowStep) bool {
			return s.TemplateRef != nil && s.TemplateRef.Name == "containerfile-build"
		})
	})
	for _, name := range workflowParameterNames {
		if ofDockerfile := slices.Contains([]string{
			"docker-context", "dockerfile-path", "build-args",
		}, name); ofDockerfile && !dockerfile {
			continue
		}
		if !slices.Contains(given, name) {
			f.add("spec.runTemplate.spec.arguments.parameters", "%s, which templates count on, is absent", name)
		}
	}
	for i, group := range workflow.Spec.Templates[0].Steps {
		field := fmt.Sprintf("spec.runTemplate.spec.templates[0].steps[%d]", i)
		if len(group.Steps) != 1 {
			f.add(field, "has %d steps: parallel ones are shown in any order", len(group.Steps))
		}
		for _, step := range group.Steps {
			if step.TemplateRef == nil || templates[step.TemplateRef.Name] == nil {
				continue // Argo's validator has said so
			}
			if step.Name != step.TemplateRef.Name && step.Name != steps[step.TemplateRef.Name].template {
				f.add(field, "is named %s, and shown so", step.Name)
			}
			template := templates[step.TemplateRef.Name].GetTemplateByName(step.TemplateRef.Template)
			if template == nil {
				continue
			}
			for _, p := range step.Arguments.Parameters {
				if template.Inputs.GetParameterByName(p.Name) == nil {
					f.add(field, "%s has no parameter %s", step.TemplateRef.Name, p.Name)
				}
			}
		}
	}
}

func TestClusterWorkflows(t *testing.T) {
	t.Parallel()
	templates := installed(t)
	for _, object := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		for _, fault := range lintClusterWorkflow(t, "templates/control-plane/"+
			at(object, "metadata", "name").(string)+".yaml", object, templates) {
			t.Error(fault)
		}
	}
}

func TestClusterWorkflowsThatBreakARule(t *testing.T) {
	t.Parallel()
	workflow := func(more ...any) []any { return append([]any{"spec", "runTemplate", "spec"}, more...) }
	step := func(i int, more ...any) []any { return append(workflow("templates", 0, "steps", i, 0), more...) }
	tests := []struct {
		name  string
		path  []any
		value any
		want  string
	}{
		{"an unknown field", []any{"spec", "runTemplat"}, map[string]any{},
			"spec.runTemplat: there is no such field"},
		{"a field of the wrong type", []any{"spec", "ttlAfterCompletion"}, 5, "spec.ttlAfterCompletion: Invalid value"},
		{"another kind", []any{"kind"}, "ClusterWorkflo", `there is no kind "ClusterWorkflo"`},
		{"no type", []any{"metadata", "labels"}, map[string]any{},
			"metadata.labels: openchoreo.dev/workflow-type is absent"},
		{"no description", []any{"metadata", "annotations"}, map[string]any{},
			"metadata.annotations: openchoreo.dev/description is absent"},
		{"another namespace", []any{"spec", "resources", 1, "template", "metadata", "namespace"}, "default",
			"spec.resources[1].template.metadata.namespace: is default"},
		{"a secret that is asked for every 15 s", []any{"spec", "resources", 1, "template", "spec", "refreshInterval"},
			"15s", "spec.resources[1].template.spec.refreshInterval: must be 5m"},
		{"retries of Argo", workflow("templates", 0, "retryStrategy"), map[string]any{},
			"spec.runTemplate.spec.templates.[0].retryStrategy: is not allowed"},
		{"an expression that does not compile", workflow("entrypoint"), "${metadata.name.}",
			"spec.runTemplate.spec.entrypoint: ${metadata.name.}: "},
		{"an expression that fails", workflow("entrypoint"), "${parameters.nothing}",
			"spec.runTemplate.spec.entrypoint: ${parameters.nothing}: no such key"},
		{"a template that is not there", step(1, "templateRef", "name"), "kaniko",
			`spec.runTemplate.spec: Argo: templates.build-workflow.steps[1].containerfile-build`},
		{"an argument that the template lacks", step(1, "arguments", "parameters", 0, "name"), "env",
			"spec.runTemplate.spec.templates[0].steps[1]: containerfile-build has no parameter env"},
		{"a parameter that the template requires", step(2, "arguments", "parameters"), []any{},
			`spec.runTemplate.spec: Argo: templates.build-workflow.steps[2].publish-image`},
		{"another name of a step", step(1, "name"), "build",
			"spec.runTemplate.spec.templates[0].steps[1]: is named build, and shown so"},
		{"a workflow parameter that templates count on", workflow("arguments", "parameters", 0, "name"), "component",
			"spec.runTemplate.spec.arguments.parameters: component-name, which templates count on, is absent"},
		{"an unknown field of Argo", workflow("entrypoin"), "x", `spec.runTemplate: json: unknown field "entrypoin"`},
	}
	templates := installed(t)
	object := ofKind(build(t, "control-plane"), "ClusterWorkflow")[0]
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			broken := clone(object).(map[string]any)
			set(t, broken, test.value, test.path...)
			const file = "templates/" + dockerfileBuilder
			got := lintClusterWorkflow(t, file, broken, templates)
			if !slices.ContainsFunc(got, func(fault string) bool {
				return strings.HasPrefix(fault, file) && strings.Contains(fault, test.want)
			}) {
				t.Errorf("got %q, want one with %q", got, test.want)
			}
		})
	}
}

// OpenChoreo's own dockerfile-builder runs on the templates here, since they keep every name.
func TestTheReferencesClusterWorkflowRunsOnOurTemplates(t *testing.T) {
	t.Parallel()
	dir, err := openchoreoModule()
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := yaml.Unmarshal(
		readFile(t, filepath.Join(dir, "samples/getting-started/ci-workflows/dockerfile-builder.yaml")), &object,
	); err != nil {
		t.Fatal(err)
	}
	rendered, _, err := renderRun(object, ordinary())
	if err != nil {
		t.Fatal(err)
	}
	workflow, err := convert[wfv1.Workflow](rendered)
	if err != nil {
		t.Fatal(err)
	}
	if err := validWorkflow(&workflow, installed(t)); err != nil {
		t.Error(err)
	}
}
