package workflowrun

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/internal/outcome"
)

// Reasons of the conditions that OpenChoreo sets (docs/contract.md section 2).
const (
	ReasonComponentValidationFailed = "ComponentValidationFailed" // on a WorkflowRun
	ReasonWorkflowFailed            = "WorkflowFailed"            // on a WorkflowRun
	ReasonWorkflowPlaneNotFound     = "WorkflowPlaneNotFound"     // on a WorkflowRun
	ReasonWorkflowPending           = "WorkflowPending"           // on a WorkflowRun, before and after other faults
	ReasonWorkflowNotAllowed        = "WorkflowNotAllowed"        // on a Component
	ReasonWorkflowNotFound          = "WorkflowNotFound"          // on a Component
)

// Whether OpenChoreo tries again what has failed.
const (
	permanent  = "permanent: the run has failed, and another one is needed"
	eachMinute = "tried again each minute"
	growing    = "tried again, with growing waits"
	onChange   = "tried again when the Component, its type or the workflow changes"
)

// then says what OpenChoreo does after it has set a condition with that reason. docs/developers/before-a-run.md has the
// table.
var then = map[string]string{
	ReasonComponentValidationFailed: permanent,
	ReasonWorkflowFailed:            permanent,
	ReasonWorkflowPlaneNotFound:     eachMinute,
	ReasonWorkflowPending:           growing,
	ReasonWorkflowNotAllowed:        onChange,
	ReasonWorkflowNotFound:          onChange,
}

// stops is the fault at which OpenChoreo stops, with that reason.
func stops(o *objects.Object, path []string, reason, message string) objects.Fault {
	f := o.Fault(path, reason, message)
	f.Then = then[reason]
	return f
}

// Check returns every fault of a set: those of the files, those of parameters, and of each WorkflowRun, Component and
// workflow what OpenChoreo would stop at first. With partial, what no file holds may be in the cluster, and counts as
// right.
func Check(set *objects.Set, partial bool) []objects.Fault {
	faults := append([]objects.Fault{}, set.Faults...)
	for _, o := range set.Objects {
		switch o.Kind {
		case "WorkflowRun":
			faults = append(faults, checkRun(set, o, partial)...)
		case "Component":
			faults = append(faults, checkAllowed(set, o, partial)...)
		case "Workflow", "ClusterWorkflow":
			faults = append(faults, checkWorkflow(o)...)
		}
	}
	for _, d := range set.Descriptors {
		for _, note := range d.Faults {
			faults = append(faults, objects.Fault{
				Position: objects.Position{File: d.File, Line: max(note.Line, 1)}, Field: note.Field,
				Reason: string(outcome.DescriptorInvalid), Message: note.Text,
			})
		}
	}
	return faults
}

// Standalone says whether a WorkflowRun belongs to no component. OpenChoreo skips the component checks for it.
func Standalone(o *objects.Object) bool {
	run, err := objects.Decode[v1alpha1.WorkflowRun](o)
	return err == nil && run.Labels[ProjectLabel] == "" && run.Labels[ComponentLabel] == ""
}

func checkRun(set *objects.Set, o *objects.Object, partial bool) []objects.Fault {
	run, err := objects.Decode[v1alpha1.WorkflowRun](o)
	if err != nil {
		return nil // its faults are the set's
	}
	_, faults := checkParameters(
		set, o, run.Namespace, run.Spec.Workflow.Kind, run.Spec.Workflow.Name, run.Spec.Workflow.Parameters,
	)
	if f := checkComponent(set, o, run, partial); f != nil {
		return append(faults, *f)
	}
	if findWorkflow(set, run.Namespace, run.Spec.Workflow.Kind, run.Spec.Workflow.Name) == nil {
		if !partial {
			faults = append(faults, stops(o, []string{
				"spec", "workflow", "name",
			}, ReasonWorkflowFailed, "Workflow is not found in the cluster"))
		}
		return faults
	}
	if f := checkPlane(set, o, run); f != nil && !partial {
		return append(faults, *f)
	}
	if len(set.Faults) > 0 || len(faults) > 0 {
		return faults // rendering would fail of the same faults
	}
	rendered, err := renderRun(set, run, "")
	if err == nil {
		return append(faults, refusedSecrets(o, run, rendered)...)
	}
	if _, missing := errors.AsType[*render.MissingError](err); !missing || !partial {
		faults = append(faults, renderFault(set, o, run, err))
	}
	return faults
}

// planeKinds are the kinds of workflow planes.
var planeKinds = []v1alpha1.WorkflowPlaneRefKind{
	v1alpha1.WorkflowPlaneRefKindClusterWorkflowPlane, v1alpha1.WorkflowPlaneRefKindWorkflowPlane,
}

// checkPlane finds a workflow without its plane, in a set that holds planes: few people keep theirs beside
// applications, so that a set without any says nothing of them.
func checkPlane(set *objects.Set, o *objects.Object, run *v1alpha1.WorkflowRun) *objects.Fault {
	var there []string
	for _, kind := range planeKinds {
		for _, plane := range set.OfKind(string(kind)) {
			there = append(there, plane.String())
		}
	}
	found := findWorkflow(set, run.Namespace, run.Spec.Workflow.Kind, run.Spec.Workflow.Name)
	workflow, err := objects.Decode[v1alpha1.Workflow](found) // a ClusterWorkflow has the same spec
	if err != nil || len(there) == 0 || findPlane(set, run.Namespace, workflow.Spec.WorkflowPlaneRef) != nil {
		return nil
	}
	wanted := "a plane named default"
	if ref := workflow.Spec.WorkflowPlaneRef; ref != nil {
		wanted = fmt.Sprintf("%s %q", ref.Kind, ref.Name)
	}
	f := stops(o, []string{"spec", "workflow", "name"}, ReasonWorkflowPlaneNotFound, fmt.Sprintf(
		"No workflow plane found for the workflow associated with this workflow run: %s wants %s, and there is %s",
		found, wanted, strings.Join(there, ", "),
	))
	return &f
}

// findPlane finds a workflow's plane; nil when the set does not hold it. Without a reference it is the one named
// default, of the namespace or else of the cluster.
func findPlane(set *objects.Set, namespace string, ref *v1alpha1.WorkflowPlaneRef) *objects.Object {
	const byDefault = "default"
	cluster, own := string(planeKinds[0]), string(planeKinds[1])
	switch {
	case ref == nil:
		if found := set.Find(own, namespace, byDefault); found != nil {
			return found
		}
		return set.Find(cluster, "", byDefault)
	case ref.Kind == v1alpha1.WorkflowPlaneRefKindWorkflowPlane:
		return set.Find(own, namespace, ref.Name)
	}
	return set.Find(cluster, "", ref.Name)
}

// checkComponent makes the checks of OpenChoreo's controller in its order and in its words, and returns the first that
// fails.
func checkComponent(set *objects.Set, o *objects.Object, run *v1alpha1.WorkflowRun, partial bool) *objects.Fault {
	fail := func(path []string, format string, args ...any) *objects.Fault {
		f := stops(o, path, ReasonComponentValidationFailed, fmt.Sprintf(format, args...))
		return &f
	}
	labels, workflow := []string{"metadata", "labels"}, []string{"spec", "workflow", "name"}
	project, name := run.Labels[ProjectLabel], run.Labels[ComponentLabel]
	if project == "" && name == "" {
		return nil
	}
	if project == "" || name == "" {
		return fail(labels, "component workflow run must have both %s and %s labels", ProjectLabel, ComponentLabel)
	}
	found := set.Find("Component", run.Namespace, name)
	if found == nil {
		if partial {
			return nil
		}
		return fail(append(labels, ComponentLabel), "component %q not found", name)
	}
	component, err := objects.Decode[v1alpha1.Component](found)
	if err != nil {
		return nil // its faults are the set's
	}
	if owner := component.Spec.Owner.ProjectName; owner != project {
		return fail(
			append(labels, ProjectLabel),
			"workflow run project label %q does not match component %q owner project %q", project, component.Name,
			owner,
		)
	}
	ref := run.Spec.Workflow
	if kind, allowed := componentType(set, component); kind == nil {
		if !partial {
			return fail(
				append(labels, ComponentLabel), "component type %q not found for component %q",
				component.Spec.ComponentType.Name, component.Name,
			)
		}
	} else if len(allowed) == 0 {
		return fail(
			workflow, "no workflows are allowed by component type %q, but workflow run references workflow %s/%s",
			kind.Name, ref.Kind, ref.Name,
		)
	} else if !allows(allowed, ref.Kind, ref.Name) {
		return fail(
			workflow, "workflow %s/%s is not allowed for component type %q; allowed: %s", ref.Kind, ref.Name,
			kind.Name, list(allowed),
		)
	}
	if own := component.Spec.Workflow; own != nil && (own.Kind != ref.Kind || own.Name != ref.Name) {
		return fail(
			workflow, "workflow run references workflow %s/%s but component %q is configured with workflow %s/%s",
			ref.Kind, ref.Name, component.Name, own.Kind, own.Name,
		)
	}
	return nil
}

// componentType finds a component's type, cluster-wide or of its namespace, and the workflows that it allows.
func componentType(set *objects.Set, component *v1alpha1.Component) (*objects.Object, []v1alpha1.WorkflowRef) {
	ref := component.Spec.ComponentType
	_, name, _ := strings.Cut(ref.Name, "/") // before it is the type of its workload
	if ref.Kind == v1alpha1.ComponentTypeRefKindClusterComponentType {
		found := set.Find("ClusterComponentType", "", name)
		return found, allowedWorkflows(found)
	}
	found := set.Find("ComponentType", component.Namespace, name)
	return found, allowedWorkflows(found)
}

// allowedWorkflows are in the same place in both kinds of component types; in a cluster-wide one they name only
// ClusterWorkflows.
func allowedWorkflows(o *objects.Object) []v1alpha1.WorkflowRef {
	if o == nil {
		return nil
	}
	kind, err := objects.Decode[struct {
		Spec struct {
			AllowedWorkflows []v1alpha1.WorkflowRef `json:"allowedWorkflows"`
		} `json:"spec"`
	}](o)
	if err != nil {
		return nil
	}
	return kind.Spec.AllowedWorkflows
}

func allows(refs []v1alpha1.WorkflowRef, kind v1alpha1.WorkflowRefKind, name string) bool {
	for _, ref := range refs {
		if ref.Kind == kind && ref.Name == name {
			return true
		}
	}
	return false
}

func list(refs []v1alpha1.WorkflowRef) string {
	var names []string
	for _, ref := range refs {
		names = append(names, fmt.Sprintf("%s/%s", ref.Kind, ref.Name))
	}
	return "[" + strings.Join(names, ", ") + "]"
}

// checkAllowed finds what keeps a Component from being ready: its workflow.
func checkAllowed(set *objects.Set, o *objects.Object, partial bool) []objects.Fault {
	component, err := objects.Decode[v1alpha1.Component](o)
	if err != nil || component.Spec.Workflow == nil {
		return nil
	}
	w := component.Spec.Workflow
	_, faults := checkParameters(set, o, component.Namespace, w.Kind, w.Name, w.Parameters)
	path := []string{"spec", "workflow", "name"}
	kind, allowed := componentType(set, component)
	switch {
	case kind == nil: // a run of the component says so
	case len(allowed) == 0:
		return append(faults, stops(o, path, ReasonWorkflowNotAllowed,
			fmt.Sprintf(
				"No workflows are allowed by ComponentType %q, but component specifies workflow %q", kind.Name,
				w.Name,
			)))
	case !allows(allowed, w.Kind, w.Name):
		return append(faults, stops(o, path, ReasonWorkflowNotAllowed,
			fmt.Sprintf(
				"Workflow %q (kind %s) is not allowed by ComponentType %q; allowed workflows: %v", w.Name, w.Kind,
				kind.Name, allowed,
			)))
	case !partial && findWorkflow(set, component.Namespace, w.Kind, w.Name) == nil:
		return append(
			faults,
			stops(o, path, ReasonWorkflowNotFound, fmt.Sprintf("Workflow %q (kind %s) not found", w.Name, w.Kind)),
		)
	}
	return faults
}

func findWorkflow(set *objects.Set, namespace string, kind v1alpha1.WorkflowRefKind, name string) *objects.Object {
	if kind == v1alpha1.WorkflowRefKindWorkflow {
		return set.Find("Workflow", namespace, name)
	}
	return set.Find(clusterWorkflow, "", name)
}

// checkWorkflow makes the checks of OpenChoreo's admission webhook.
func checkWorkflow(o *objects.Object) []objects.Fault {
	workflow, err := objects.Decode[v1alpha1.Workflow](o)
	if err != nil {
		return nil
	}
	var faults []objects.Fault
	fault := func(message string, path ...string) { faults = append(faults, o.Fault(path, "", message)) }
	checkTemplate := func(raw []byte, path ...string) {
		var template struct {
			APIVersion, Kind string
			Metadata         struct {
				Name      any
				Namespace any
			}
		}
		if err := json.Unmarshal(raw, &template); err != nil {
			fault(err.Error(), path...)
			return
		}
		at := func(names ...string) []string { return append(append([]string{}, path...), names...) }
		if template.APIVersion == "" {
			fault("apiVersion is required in resource template", at("apiVersion")...)
		}
		if template.Kind == "" {
			fault("kind is required in resource template", at("kind")...)
		} else if strings.Contains(template.Kind, "${") {
			fault("kind must be a literal value, not a template expression", at("kind")...)
		}
		if template.Metadata.Name == nil || template.Metadata.Name == "" {
			fault("metadata.name is required in resource template", at("metadata", "name")...)
		}
		if template.Metadata.Namespace != "${metadata.namespace}" {
			fault(`metadata.namespace must be set to "${metadata.namespace}"`, at("metadata", "namespace")...)
		}
	}
	if t := workflow.Spec.RunTemplate; t != nil {
		checkTemplate(t.Raw, "spec", "runTemplate")
	}
	seen := map[string]int{}
	for i, resource := range workflow.Spec.Resources {
		path := []string{"spec", "resources", fmt.Sprint(i)}
		if first, again := seen[resource.ID]; again {
			fault(fmt.Sprintf("resource id %q is already used at index %d", resource.ID, first), append(path, "id")...)
		}
		seen[resource.ID] = i
		if resource.Template != nil {
			checkTemplate(resource.Template.Raw, append(path, "template")...)
		}
	}
	if _, err := render.Schema(workflow.Spec.Parameters); err != nil {
		failed, _ := errors.AsType[*render.Error](err)
		fault(failed.Err.Error(), failed.Path...)
	}
	return faults
}
