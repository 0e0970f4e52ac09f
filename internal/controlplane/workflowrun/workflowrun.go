// Package workflowrun checks WorkflowRuns, and what belongs to them, as far as that is possible without a cluster.
package workflowrun

import (
	"fmt"
	"slices"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/templates"
)

// Labels that tie a WorkflowRun to its component (docs/contract.md section 2).
const (
	ProjectLabel   = "openchoreo.dev/project"
	ComponentLabel = "openchoreo.dev/component"
)

const clusterWorkflow = string(v1alpha1.WorkflowRefKindClusterWorkflow)

// Run is a WorkflowRun that passed every check, with what belongs to it.
type Run struct {
	*v1alpha1.WorkflowRun
	Component  *v1alpha1.Component    // nil when no file holds it
	Workflow   *v1alpha1.WorkflowSpec // nil when no file holds it
	Parameters map[string]any         // with the defaults of the workflow's schema
}

// Project and ComponentName are what the run's labels say.
func (r *Run) Project() string { return r.Labels[ProjectLabel] }

// ComponentName is the component that the run builds.
func (r *Run) ComponentName() string { return r.Labels[ComponentLabel] }

// Text returns a parameter as a step takes it: the path leads through nested objects; text is bare, everything else
// JSON.
func (r *Run) Text(path ...string) string {
	var value any = r.Parameters
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return schemas.Text(value)
}

// isOurs tells whether a workflow is one of the templates.
func isOurs(kind v1alpha1.WorkflowRefKind, name string) bool {
	return string(kind) == clusterWorkflow && slices.Contains(templates.Workflows(), name)
}

// Load reads files, and the YAML files directly in folders, and returns the WorkflowRun of that name; name may be empty
// when they hold only one. Faults are an InvalidParameters that lists them all.
func Load(name string, paths ...string) (*Run, error) {
	set, err := objects.Load(paths...)
	if err != nil {
		return nil, err
	}
	return Of(set, name, false)
}

// Of is Load for files that were read. Elsewhere says that the run's workflow may be where it will run, if no file
// holds it; otherwise it is one of ours.
func Of(set *objects.Set, name string, elsewhere bool) (*Run, error) {
	o, err := Pick(set, name)
	if err != nil {
		return nil, err
	}
	run, faults := newRun(set, o, elsewhere)
	if len(faults) > 0 {
		return nil, invalid(faults...)
	}
	return run, nil
}

// Pick returns the WorkflowRun of that name from a set without faults; name may be empty when there is only one.
func Pick(set *objects.Set, name string) (*objects.Object, error) {
	if len(set.Faults) > 0 {
		return nil, invalid(set.Faults...)
	}
	var names []string
	for _, o := range set.OfKind("WorkflowRun") {
		if o.Name == name {
			return o, nil
		}
		names = append(names, o.Name)
	}
	switch {
	case len(names) == 0:
		return nil, invalid(objects.Fault{
			Message: "there is no WorkflowRun in these files; of a folder only the files directly in it are read",
		})
	case name != "":
		return nil, invalid(objects.Fault{
			Message: fmt.Sprintf("there is no WorkflowRun %q; there is %s", name, strings.Join(names, ", ")),
		})
	case len(names) > 1:
		return nil, invalid(objects.Fault{
			Message: fmt.Sprintf(
				"there are several WorkflowRuns; choose one of %s with --name", strings.Join(names, ", "),
			),
		})
	}
	return set.OfKind("WorkflowRun")[0], nil
}

// newRun checks what stepwright run needs, which is more than OpenChoreo does in one way, and less in another: a run
// without labels cannot be run here, and what no file holds may be in the cluster.
func newRun(set *objects.Set, o *objects.Object, elsewhere bool) (*Run, []objects.Fault) {
	decoded, err := objects.Decode[v1alpha1.WorkflowRun](o)
	if err != nil {
		return nil, []objects.Fault{o.Fault(nil, "", err.Error())}
	}
	run := &Run{WorkflowRun: decoded}
	var faults []objects.Fault
	if run.Project() == "" && run.ComponentName() == "" {
		for _, label := range []string{ProjectLabel, ComponentLabel} {
			faults = append(faults, o.Fault([]string{"metadata", "labels"}, "", label+" is required"))
		}
	}
	w := run.Spec.Workflow
	found := findWorkflow(set, run.Namespace, w.Kind, w.Name)
	switch {
	case found != nil:
		workflow, err := objects.Decode[v1alpha1.Workflow](found) // a ClusterWorkflow has the same spec
		if err != nil {
			return nil, append(faults, found.Fault(nil, "", err.Error()))
		}
		run.Workflow = &workflow.Spec
	case !elsewhere && !isOurs(w.Kind, w.Name):
		faults = append(faults, o.Fault([]string{"spec", "workflow", "name"}, "",
			fmt.Sprintf(
				"%s %q is in no file: give its file or folder, too. Without one there is %s %s", w.Kind, w.Name,
				clusterWorkflow, strings.Join(templates.Workflows(), ", "),
			)))
	}
	if f := checkComponent(set, o, run.WorkflowRun, true); f != nil {
		faults = append(faults, *f)
	}
	if c := set.Find("Component", run.Namespace, run.ComponentName()); c != nil {
		if run.Component, err = objects.Decode[v1alpha1.Component](c); err != nil {
			faults = append(faults, c.Fault(nil, "", err.Error()))
		}
	}
	var more []objects.Fault
	run.Parameters, more = checkParameters(set, o, run.Namespace, w.Kind, w.Name, w.Parameters)
	faults = append(faults, more...)
	return run, faults
}

// invalid is the outcome of a command that was given these files.
func invalid(faults ...objects.Fault) *outcome.Error {
	texts := make([]string, 0, len(faults))
	for _, f := range faults {
		texts = append(texts, f.String())
	}
	return outcome.Invalid(texts...)
}
