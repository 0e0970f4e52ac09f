package workflowplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
)

// OpenChoreo tells whether the cluster has OpenChoreo's own kinds: there a WorkflowRun is all that is to be created.
func (p *Plane) OpenChoreo(ctx context.Context) (bool, error) {
	_, err := p.resource(ctx, v1alpha1.GroupVersion.String(), "WorkflowRun")
	if failed, ok := errors.AsType[*outcome.Error](err); ok && failed.Reason == outcome.NotFound {
		return false, nil
	}
	return err == nil, err
}

// resource is the path element of a kind, as the cluster says.
func (p *Plane) resource(ctx context.Context, version, kind string) (string, error) {
	var list metav1.APIResourceList
	missing := outcome.Errorf(
		outcome.NotFound, "the cluster at %s has no kind %s of %s", p.host, kind, version,
	).WithHint("Install what has that kind: Argo Workflows, or External Secrets. Or choose the cluster of the " +
		"WorkflowPlane with --kubeconfig or --context.")
	err := p.get(ctx, "kinds of "+version, groupPath(version), nil, &list)
	if failed, ok := errors.AsType[*outcome.Error](err); ok && failed.Reason == outcome.NotFound {
		return "", missing
	}
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool {
		return r.Kind == kind && !strings.Contains(r.Name, "/")
	})
	if i < 0 {
		return "", missing
	}
	return list.APIResources[i].Name, nil
}

func groupPath(version string) string {
	if strings.Contains(version, "/") {
		return "/apis/" + version
	}
	return "/api/" + version
}

// Create creates an object in its namespace. That there is one of that name is an error.
func (p *Plane) Create(ctx context.Context, object map[string]any) error {
	return p.write(ctx, object, func(path, _ string) *rest.Request {
		return p.client.Post().AbsPath(path).SetHeader("Content-Type", "application/json")
	})
}

// Apply creates an object in its namespace, or makes the one of that name like it, as kubectl apply --server-side does.
func (p *Plane) Apply(ctx context.Context, object map[string]any) error {
	return p.write(ctx, object, func(path, name string) *rest.Request {
		return p.client.Patch(types.ApplyPatchType).AbsPath(path+"/"+
			url.PathEscape(name)).Param("fieldManager", "stepwright")
	})
}

func (p *Plane) write(ctx context.Context, object map[string]any, request func(path, name string) *rest.Request) error {
	o := unstructured.Unstructured{Object: object}
	resource, err := p.resource(ctx, o.GetAPIVersion(), o.GetKind())
	if err != nil {
		return err
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	path := groupPath(o.GetAPIVersion()) + "/namespaces/" + url.PathEscape(o.GetNamespace()) + "/" + resource
	err = request(path, o.GetName()).Body(raw).Do(limited).Error()
	if err == nil {
		return nil
	}
	explained := p.explain(ctx, fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), err)
	failed, ok := errors.AsType[*outcome.Error](explained)
	switch status := apierrors.APIStatus(nil); {
	case !ok || !errors.As(err, &status):
	case failed.Reason == outcome.Forbidden:
		failed.Hint = fmt.Sprintf(
			"The user of the kubeconfig needs a Role in namespace %s with create and patch on %s.", o.GetNamespace(),
			resource,
		)
	case failed.Reason == outcome.NotFound:
		failed.Hint = fmt.Sprintf(
			"The namespace must be there: kubectl create namespace %s makes it.", o.GetNamespace(),
		)
	case status.Status().Code == http.StatusConflict:
		failed.Reason = outcome.InvalidParameters
		failed.Hint = "Give the run another name, or delete what is there."
	case status.Status().Code < http.StatusInternalServerError:
		failed.Reason, failed.Hint = outcome.InvalidParameters, "The cluster does not take this object; it says why."
	}
	return explained
}

// Outcome is nil for a run that has ended well. Otherwise it is an *outcome.Error, with the reason that the exit code
// of the step says.
func (p *Plane) Outcome(ctx context.Context, run *v1alpha1.WorkflowRun) error {
	why := runstatus.Failure(run)
	if why == "" {
		return nil
	}
	failed := outcome.Errorf(outcome.Failed, "%s: %s", run.Name, strings.TrimRight(why, ".\n"))
	where := run.Status.RunReference
	if where == nil {
		return failed
	}
	workflow, err := p.workflow(ctx, where.Namespace, where.Name)
	if _, gone := errors.AsType[*runstatus.NotFoundError](err); gone {
		return failed
	}
	if err != nil {
		return err
	}
	for _, node := range runstatus.Pods(workflow.Status.Nodes) {
		if node.Phase == wfv1.NodeFailed || node.Phase == wfv1.NodeError {
			message := strings.TrimRight(node.Message, ".\n")
			return outcome.Errorf(runstatus.ExitReason(node), "%s: %s", runstatus.TaskName(&node), message)
		}
	}
	return failed
}

// Details tells what is known of a run's tasks besides its status, by their names: nothing when its workflow is gone.
func (p *Plane) Details(ctx context.Context, run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error) {
	where := run.Status.RunReference
	if where == nil {
		return nil, nil
	}
	workflow, err := p.workflow(ctx, where.Namespace, where.Name)
	if _, gone := errors.AsType[*runstatus.NotFoundError](err); gone {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return runstatus.Details(workflow), nil
}
