// Package plan runs an Argo Workflow's steps on this machine: it resolves and substitutes templates as Argo does, with
// Argo's own library, and turns each container into a process, its volumes into folders, and its paths into the paths
// of those folders.
//
// It can do what OpenChoreo's builders use: steps in sequence, each a container of a ClusterWorkflowTemplate,
// parameters as variables. It refuses everything else by name, rather than run something other than what a cluster
// would.
package plan

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Library is what a platform engineer has installed: templates by name, and the workflows that name them.
type Library struct {
	Templates map[string]*wfv1.ClusterWorkflowTemplate
	Workflows map[string]*v1alpha1.ClusterWorkflow
}

// Add takes the documents of one file. Objects of other kinds, kustomize's for example, are passed over; a field that a
// kind does not have is an error.
func (l *Library) Add(file []byte) error {
	if l.Templates == nil {
		l.Templates, l.Workflows = map[string]*wfv1.ClusterWorkflowTemplate{}, map[string]*v1alpha1.ClusterWorkflow{}
	}
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file))); ; {
		raw, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var object metav1.TypeMeta
		if err := yaml.Unmarshal(raw, &object); err != nil {
			return err
		}
		switch object.Kind {
		case "ClusterWorkflowTemplate":
			template := new(wfv1.ClusterWorkflowTemplate)
			if err := yaml.UnmarshalStrict(raw, template); err != nil {
				return err
			}
			l.Templates[template.Name] = template
		case "ClusterWorkflow":
			workflow := new(v1alpha1.ClusterWorkflow)
			if err := yaml.UnmarshalStrict(raw, workflow); err != nil {
				return err
			}
			l.Workflows[workflow.Name] = workflow
		}
	}
}

// Workflow finds the spec of a ClusterWorkflow, in the form that it shares with a Workflow.
func (l *Library) Workflow(name string) (v1alpha1.WorkflowSpec, error) {
	workflow := l.Workflows[name]
	if workflow == nil {
		return v1alpha1.WorkflowSpec{}, fmt.Errorf(
			"there is no ClusterWorkflow %q; there is %s", name, names(l.Workflows),
		)
	}
	var spec v1alpha1.WorkflowSpec
	raw, err := json.Marshal(workflow.Spec)
	if err == nil {
		err = json.Unmarshal(raw, &spec)
	}
	return spec, err
}

// Get finds a template. It makes a Library what Argo's validator asks for templates.
func (l *Library) Get(_ context.Context, name string) (*wfv1.ClusterWorkflowTemplate, error) {
	if template := l.Templates[name]; template != nil {
		return template, nil
	}
	return nil, fmt.Errorf("there is no ClusterWorkflowTemplate %q; there is %s", name, names(l.Templates))
}

// WithSchema finds the templates whose step has its parameters described by a schema.
func (l *Library) WithSchema(schema string) []*wfv1.ClusterWorkflowTemplate {
	var found []*wfv1.ClusterWorkflowTemplate
	for _, name := range slices.Sorted(maps.Keys(l.Templates)) {
		if template := l.Templates[name]; template.Annotations[schemaAnnotation] == schema {
			found = append(found, template)
		}
	}
	return found
}

// Schemas are the schemas of the steps that a workflow runs, as far as its templates name them.
func (l *Library) Schemas(workflow *wfv1.Workflow) []string {
	var all []string
	for _, template := range workflow.Spec.Templates {
		for _, group := range template.Steps {
			for _, step := range group.Steps {
				if step.TemplateRef == nil || l.Templates[step.TemplateRef.Name] == nil {
					continue
				}
				if schema := l.Templates[step.TemplateRef.Name].Annotations[schemaAnnotation]; schema != "" {
					all = append(all, schema)
				}
			}
		}
	}
	return all
}

func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }
