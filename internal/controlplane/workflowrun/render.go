package workflowrun

import (
	"errors"
	"fmt"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
)

// Render returns the objects that OpenChoreo would create in the workflow plane for a WorkflowRun, with the workflow
// and the SecretReferences of the set. secretStore counts where the set does not hold the plane. The component checks
// come first, as OpenChoreo makes them, but for what no file holds; no schema checks parameters, for
// OpenChoreo does not either. Faults are an InvalidParameters that lists them.
func Render(set *objects.Set, o *objects.Object, secretStore string) (*render.Output, error) {
	run, err := objects.Decode[v1alpha1.WorkflowRun](o)
	if err != nil {
		return nil, err
	}
	if f := checkComponent(set, o, run, true); f != nil {
		return nil, invalid(*f)
	}
	ref := run.Spec.Workflow
	if findWorkflow(set, run.Namespace, ref.Kind, ref.Name) == nil {
		return nil, invalid(o.Fault([]string{
			"spec", "workflow", "name",
		}, "", fmt.Sprintf("%s %q is in no file; give its file or folder, too", ref.Kind, ref.Name)))
	}
	out, err := renderRun(set, run, secretStore)
	if err != nil {
		return nil, invalid(renderFault(set, o, run, err))
	}
	return out, nil
}

// renderRun renders a run whose workflow is in the set.
func renderRun(set *objects.Set, run *v1alpha1.WorkflowRun, secretStore string) (*render.Output, error) {
	found := findWorkflow(set, run.Namespace, run.Spec.Workflow.Kind, run.Spec.Workflow.Name)
	workflow, err := objects.Decode[v1alpha1.Workflow](found) // a ClusterWorkflow has the same spec
	if err != nil {
		return nil, err
	}
	return render.Render(render.Input{
		Run: run, Workflow: workflow.Spec,
		SecretStore: planeStore(set, run.Namespace, workflow.Spec.WorkflowPlaneRef, secretStore),
		SecretReference: func(name string) *v1alpha1.SecretReference {
			found := set.Find("SecretReference", run.Namespace, name)
			if found == nil {
				return nil
			}
			reference, err := objects.Decode[v1alpha1.SecretReference](found)
			if err != nil {
				return nil
			}
			return reference
		},
	})
}

// renderFault blames the line of the workflow that fails; of a SecretReference that is missing, the run.
func renderFault(set *objects.Set, o *objects.Object, run *v1alpha1.WorkflowRun, err error) objects.Fault {
	const never = "stays pending until it is mended, and only the controller's log says why: "
	if missing, ok := errors.AsType[*render.MissingError](err); ok {
		return stops(o, parametersPath, ReasonWorkflowPending, never+missing.Error())
	}
	if failed, ok := errors.AsType[*render.Error](err); ok && len(failed.Path) > 0 {
		workflow := findWorkflow(set, run.Namespace, run.Spec.Workflow.Kind, run.Spec.Workflow.Name)
		return stops(workflow, failed.Path, ReasonWorkflowPending, o.String()+" "+never+failed.Err.Error())
	}
	return stops(o, nil, ReasonWorkflowPending, never+err.Error())
}

// planeStore finds the ClusterSecretStore of a workflow's plane.
func planeStore(set *objects.Set, namespace string, ref *v1alpha1.WorkflowPlaneRef, otherwise string) string {
	found := findPlane(set, namespace, ref)
	if found == nil {
		return otherwise
	}
	plane, err := objects.Decode[v1alpha1.WorkflowPlane](found) // a ClusterWorkflowPlane has it in the same place
	if err != nil || plane.Spec.SecretStoreRef == nil {
		return ""
	}
	return plane.Spec.SecretStoreRef.Name
}
