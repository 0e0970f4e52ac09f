package runstatus

import (
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// conditions are type, status and reason.
func conditions(run *v1alpha1.WorkflowRun) map[string]string {
	all := map[string]string{}
	for _, c := range run.Status.Conditions {
		all[c.Type] = string(c.Status) + " " + c.Reason
	}
	return all
}

// The table of conditions in docs/contract.md section 2, of workflows that a real Argo has run.
func TestObserve(t *testing.T) {
	running := workflowplanetest.Workflow(t, "cart-1")
	running.Status.Phase, running.Status.FinishedAt = wfv1.WorkflowRunning, metav1.Time{}
	tests := []struct {
		name     string
		workflow *wfv1.Workflow
		want     map[string]string
		tasks    []string
		failure  string
	}{
		{"new", &wfv1.Workflow{}, map[string]string{"WorkflowCompleted": "False WorkflowPending"}, nil, ""},
		{
			"running", running,
			map[string]string{"WorkflowCompleted": "False WorkflowPending", "WorkflowRunning": "True WorkflowRunning"},
			[]string{"checkout-source Succeeded", "containerfile-build Succeeded", "publish-image Succeeded"}, "",
		},
		{
			"succeeded", workflowplanetest.Workflow(t, "cart-1"),
			map[string]string{"WorkflowCompleted": "True WorkflowSucceeded", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowSucceeded": "True WorkflowSucceeded"},
			[]string{"checkout-source Succeeded", "containerfile-build Succeeded", "publish-image Succeeded"}, "",
		},
		{
			"failed", workflowplanetest.Workflow(t, "cart-2"),
			map[string]string{"WorkflowCompleted": "True WorkflowFailed", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowFailed": "True WorkflowFailed"},
			[]string{"checkout-source Succeeded",
				"containerfile-build Failed main: Error (exit code 22): BuildFailed: exit code: 1. See the log."},
			"failed",
		},
		{
			"a template that is missing", workflowplanetest.Workflow(t, "cart-3"),
			map[string]string{"WorkflowCompleted": "True WorkflowFailed", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowFailed": "True WorkflowFailed"},
			nil, "template reference checkout-source.checkout not found",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			run := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "acme"}}
			run.Status.Tasks = []v1alpha1.WorkflowTask{{Name: "of before"}}
			Observe(run, test.workflow)
			if diff := cmp.Diff(test.want, conditions(run)); diff != "" {
				t.Error(diff)
			}
			var tasks []string
			for _, task := range run.Status.Tasks {
				tasks = append(tasks, strings.TrimSpace(task.Name+" "+task.Phase+" "+task.Message))
				if task.StartedAt == nil || task.CompletedAt == nil {
					t.Errorf("%+v", task)
				}
			}
			if diff := cmp.Diff(test.tasks, tasks); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(Failure(run), test.failure) || (test.failure == "") != (Failure(run) == "") {
				t.Errorf("failure is %q", Failure(run))
			}
			if Completed(run) != (run.Status.CompletedAt != nil) {
				t.Errorf("%+v", run.Status)
			}
		})
	}
}

// Tasks are in the order of their step groups, by number, and only pods are tasks.
func TestOrderOfTasks(t *testing.T) {
	nodes := wfv1.Nodes{
		"root": {Name: "cart", Type: wfv1.NodeTypeSteps},
		"dag":  {Name: "cart.alone", Type: wfv1.NodeTypePod},
	}
	for _, name := range []string{"cart[10].k", "cart[9].j", "cart[2].c", "cart[0].a", "cart[1].b", "ca[9]rt[3].d"} {
		nodes[name] = wfv1.NodeStatus{Name: name, Type: wfv1.NodeTypePod}
		nodes[name+" group"] = wfv1.NodeStatus{Name: name, Type: wfv1.NodeTypeStepGroup}
	}
	nodes["skipped"] = wfv1.NodeStatus{Name: "cart[4].e", Type: wfv1.NodeTypeSkipped}
	var got []string
	for _, node := range Pods(nodes) {
		got = append(got, TaskName(&node))
	}
	if want := []string{"alone", "a", "b", "c", "d", "j", "k"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
