// Package render turns a WorkflowRun into the objects that OpenChoreo's controller makes for it: an Argo Workflow, and
// the objects that the workflow needs.
//
// It follows the controller of OpenChoreo v1.2.0 with odd values, too (docs/contract.md section 2): a text "[1, 2]"
// becomes a list, 1000000 arrives as 1e+06, null as NULL_VALUE. A test compares it with the controller's own code.
// What costs more than v1.2.4 and later allow is refused, although earlier ones render it.
package render

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// ServiceAccount is what every Argo Workflow of OpenChoreo runs as: admission replaces any other.
const ServiceAccount = "workflow-sa"

// Input is what the controller knows when it renders a run.
type Input struct {
	Run *v1alpha1.WorkflowRun

	// Workflow is the spec of the Workflow or ClusterWorkflow that the run names.
	Workflow v1alpha1.WorkflowSpec

	// SecretStore is the ClusterSecretStore of the workflow plane; empty when it has none.
	SecretStore string

	// SecretReference finds one by name in the run's namespace; nil when there is none of that name.
	SecretReference func(name string) *v1alpha1.SecretReference

	// Programs keeps compiled expressions for the next Render that it is given to; nil: none are kept.
	Programs *Programs
}

// Output is what the controller creates in the workflow plane.
type Output struct {
	Prerequisites []map[string]any // namespace, service account, role and role binding
	Resources     []map[string]any // of the workflow's spec.resources
	Workflow      map[string]any   // the Argo Workflow

	cost uint64 // of the expressions, in CEL's units
}

// Objects lists everything in the order of its creation.
func (o *Output) Objects() []map[string]any {
	all := append([]map[string]any{}, o.Prerequisites...)
	return append(append(all, o.Resources...), o.Workflow)
}

// Error is why a run cannot be rendered. OpenChoreo only logs it, and tries again for ever.
type Error struct {
	Path []string // where in the Workflow or ClusterWorkflow, from its root
	Err  error
}

func (e *Error) Error() string {
	if len(e.Path) == 0 {
		return e.Err.Error()
	}
	return objects.Field(e.Path) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// MissingError is a SecretReference that is not there.
type MissingError struct{ Namespace, Name string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("there is no SecretReference %q in namespace %q", e.Name, e.Namespace)
}

// fail makes an Error of a place.
func fail(path []string, format string, args ...any) *Error {
	return &Error{Path: append([]string{}, path...), Err: fmt.Errorf(format, args...)}
}

// Render renders a run. Its errors are of type *Error.
func Render(in Input) (*Output, error) {
	context, err := newContext(in)
	if err != nil {
		return nil, err
	}
	run := newEngine(in.Programs, context)
	path := []string{"spec", "runTemplate"}
	template, err := decode(path, in.Workflow.RunTemplate)
	if err != nil {
		return nil, err
	}
	if err := enforceServiceAccount(path, template); err != nil {
		return nil, err
	}
	workflow, err := run.object(path, template)
	if err != nil {
		return nil, err
	}
	namespace, _, _ := unstructured.NestedString(workflow, "metadata", "namespace")
	if namespace == "" {
		return nil, fail(path, "there is no metadata.namespace")
	}
	resources, err := run.resources(in)
	if err != nil {
		return nil, err
	}
	parametersToText(workflow)
	for _, object := range append(resources, workflow) {
		label(object, in.Run)
	}
	return &Output{
		Prerequisites: prerequisites(namespace), Resources: resources, Workflow: workflow, cost: run.cost,
	}, nil
}

// newContext gathers what expressions may name.
func newContext(in Input) (map[string]any, error) {
	parameters, err := parameters(in)
	if err != nil {
		return nil, err
	}
	labels := in.Run.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	context := map[string]any{
		"metadata": map[string]any{
			"namespaceName":   in.Run.Namespace,
			"workflowRunName": in.Run.Name,
			"namespace":       planeNamespace(in.Run),
			"labels":          labels,
		},
		"parameters":    parameters,
		"workflowplane": map[string]any{"secretStore": in.SecretStore},
	}
	refs, err := externalRefs(in, context)
	if err != nil {
		return nil, err
	}
	if len(refs) > 0 { // otherwise externalRefs is not declared, and an expression that names it does not compile
		context["externalRefs"] = refs
	}
	return context, nil
}

func planeNamespace(run *v1alpha1.WorkflowRun) string { return "workflows-" + run.Namespace }

func externalRefs(in Input, context map[string]any) (map[string]any, error) {
	names := newEngine(in.Programs, context)
	resolved := map[string]any{}
	for i, ref := range in.Workflow.ExternalRefs {
		path := []string{"spec", "externalRefs", strconv.Itoa(i), "name"}
		value, err := names.text(path, ref.Name)
		if err != nil {
			return nil, err
		}
		name, ok := value.(string)
		switch {
		case !ok:
			return nil, fail(path, "%s is %s, and must be text", ref.Name, kindOf(value))
		case name == "":
			continue
		case ref.Kind != "SecretReference":
			return nil, fail(path[:3], "kind %q is not supported, only SecretReference is", ref.Kind)
		}
		var found *v1alpha1.SecretReference
		if in.SecretReference != nil {
			found = in.SecretReference(name)
		}
		if found == nil {
			return nil, fail(path, "%w", &MissingError{Namespace: in.Run.Namespace, Name: name})
		}
		var spec map[string]any // through JSON: expressions see numbers as doubles
		text, err := json.Marshal(found.Spec)
		if err == nil {
			err = json.Unmarshal(text, &spec)
		}
		if err != nil {
			return nil, fail(path, "SecretReference %q: %w", name, err)
		}
		resolved[ref.ID] = map[string]any{"spec": spec}
	}
	return resolved, nil
}

func (e *engine) resources(in Input) ([]map[string]any, error) {
	var all []map[string]any
	for i, resource := range in.Workflow.Resources {
		path := []string{"spec", "resources", strconv.Itoa(i)}
		if resource.IncludeWhen != "" {
			at := append(path, "includeWhen")
			value, err := e.text(at, resource.IncludeWhen)
			if err != nil {
				return nil, err
			}
			include, ok := value.(bool)
			if !ok {
				return nil, fail(at, "%s is %s, and must be true or false", resource.IncludeWhen, kindOf(value))
			}
			if !include {
				continue
			}
		}
		path = append(path, "template")
		template, err := decode(path, resource.Template)
		if err != nil {
			return nil, err
		}
		object, err := e.object(path, template)
		if err != nil {
			return nil, err
		}
		if name, _, _ := unstructured.NestedString(object, "metadata", "name"); strings.HasPrefix(name, "-") {
			continue // from an empty name
		}
		object["metadata"].(map[string]any)["namespace"] = planeNamespace(in.Run)
		all = append(all, object)
	}
	return all, nil
}

func decode(path []string, raw *runtime.RawExtension) (map[string]any, error) {
	if raw == nil || len(raw.Raw) == 0 {
		return nil, fail(path, "is missing")
	}
	template := map[string]any{}
	if err := json.Unmarshal(raw.Raw, &template); err != nil {
		return nil, fail(path, "%w", err)
	}
	return template, nil
}

// object renders one object.
func (e *engine) object(path []string, template map[string]any) (map[string]any, error) {
	rendered, err := e.render(path, template)
	if err != nil {
		return nil, err
	}
	object := textToLists(valuesToText(rendered)).(map[string]any)
	for _, name := range [][]string{{"apiVersion"}, {"kind"}, {"metadata", "name"}} {
		if value, _, err := unstructured.NestedString(object, name...); err != nil || value == "" {
			return nil, fail(append(path, name...), "is missing, or no text, once rendered")
		}
	}
	return object, nil
}

// enforceServiceAccount does what the admission webhook does to a template.
func enforceServiceAccount(path []string, template map[string]any) error {
	if _, given := template["spec"]; !given {
		template["spec"] = map[string]any{}
	}
	spec, ok := template["spec"].(map[string]any)
	if !ok {
		return fail(append(path, "spec"), "is %s, and must be an object", kindOf(template["spec"]))
	}
	spec["serviceAccountName"] = ServiceAccount
	return nil
}

// label says whose an object is: the controller finds and deletes it by these labels.
func label(object map[string]any, run *v1alpha1.WorkflowRun) {
	u := unstructured.Unstructured{Object: object}
	labels := u.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["openchoreo.dev/workflowrun"] = run.Name
	labels["openchoreo.dev/workflowrun-namespace"] = run.Namespace
	labels["openchoreo.dev/managed-by"] = "workflowrun-controller"
	u.SetLabels(labels)
}

// prerequisites are what a namespace of runs consists of: its Role is all that a step may do in Kubernetes.
func prerequisites(namespace string) []map[string]any {
	const role, rbac = ServiceAccount + "-role", "rbac.authorization.k8s.io"
	metadata := func(name string) map[string]any { return map[string]any{"name": name, "namespace": namespace} }
	return []map[string]any{
		{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}},
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ServiceAccount)},
		{"apiVersion": rbac + "/v1", "kind": "Role", "metadata": metadata(role), "rules": []any{map[string]any{
			"apiGroups": []any{"argoproj.io"}, "resources": []any{"workflowtaskresults"},
			"verbs": []any{"create", "patch"},
		}}},
		{"apiVersion": rbac + "/v1", "kind": "RoleBinding", "metadata": metadata(ServiceAccount + "-role-binding"),
			"subjects": []any{map[string]any{"kind": "ServiceAccount", "name": ServiceAccount, "namespace": namespace}},
			"roleRef":  map[string]any{"apiGroup": rbac, "kind": "Role", "name": role}},
	}
}

// kindOf names the type of a value in words.
func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "text"
	case bool:
		return "a boolean"
	case int64, uint64, float64:
		return "a number"
	case []any, []string:
		return "a list"
	case map[string]any, map[string]string:
		return "an object"
	}
	if value == omitted {
		return "omitted"
	}
	return fmt.Sprintf("%T", value)
}
