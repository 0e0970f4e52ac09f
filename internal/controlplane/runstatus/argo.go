package runstatus

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Observe writes into a run's status what its Argo Workflow says, as OpenChoreo's controller does. The times are Argo's
// own, not those at which somebody looked.
func Observe(run *v1alpha1.WorkflowRun, workflow *wfv1.Workflow) {
	run.Status = v1alpha1.WorkflowRunStatus{
		RunReference: &v1alpha1.ResourceReference{
			APIVersion: wfv1.SchemeGroupVersion.String(), Kind: "Workflow", Name: workflow.Name,
			Namespace: workflow.Namespace,
		},
		StartedAt:   moment(workflow.Status.StartedAt),
		CompletedAt: moment(workflow.Status.FinishedAt),
		Tasks:       tasks(workflow.Status.Nodes),
	}
	Pending(run)
	switch workflow.Status.Phase {
	case wfv1.WorkflowRunning:
		Started(run)
	case wfv1.WorkflowSucceeded:
		Started(run)
		End(run, true)
	case wfv1.WorkflowFailed, wfv1.WorkflowError:
		Started(run)
		End(run, false)
		explain(run, workflow.Status.Message)
	}
	since := cmp.Or(run.Status.CompletedAt, run.Status.StartedAt, &workflow.CreationTimestamp)
	for i := range run.Status.Conditions {
		run.Status.Conditions[i].LastTransitionTime = *since
	}
}

// explain adds Argo's message to the condition of a failure. OpenChoreo drops it, and with it the only word about a
// template that is missing.
func explain(run *v1alpha1.WorkflowRun, message string) {
	if message != "" {
		condition(run, failed, metav1.ConditionTrue, "WorkflowFailed", "Workflow execution failed: "+message)
	}
}

// Failure is what the condition of a failed run says; empty when the run has not failed.
func Failure(run *v1alpha1.WorkflowRun) string {
	for _, c := range run.Status.Conditions {
		if c.Type == failed && c.Status == metav1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

// moment is nil for the time that Argo writes where there is none yet.
func moment(t metav1.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// tasks are the pods among a workflow's nodes, in the order of their step groups. Of one group, which OpenChoreo leaves
// in any order, the one that started first comes first.
func tasks(nodes wfv1.Nodes) []v1alpha1.WorkflowTask {
	pods := Pods(nodes)
	all := make([]v1alpha1.WorkflowTask, 0, len(pods))
	for _, node := range pods {
		all = append(all, v1alpha1.WorkflowTask{
			Name: TaskName(&node), Phase: string(node.Phase), Message: node.Message,
			StartedAt: moment(node.StartedAt), CompletedAt: moment(node.FinishedAt),
		})
	}
	return all
}

// Pods are the nodes that a run's tasks are of, in the order of the tasks.
func Pods(nodes wfv1.Nodes) []wfv1.NodeStatus {
	pods := slices.DeleteFunc(slices.Collect(maps.Values(nodes)), func(n wfv1.NodeStatus) bool {
		return n.Type != wfv1.NodeTypePod
	})
	slices.SortFunc(pods, func(a, b wfv1.NodeStatus) int {
		return cmp.Or(
			cmp.Compare(group(a.Name), group(b.Name)), a.StartedAt.Compare(b.StartedAt.Time),
			cmp.Compare(a.Name, b.Name),
		)
	})
	return pods
}

// TaskName is the name of the task that a node is.
func TaskName(node *wfv1.NodeStatus) string {
	if node.DisplayName != "" {
		return node.DisplayName
	}
	_, name, _ := cutLast(node.Name, ".")
	return name
}

// group is the number of the step group in a node's name, "<workflow>[<group>].<step>"; -1 when there is none.
func group(node string) int {
	before, _, _ := cutLast(node, "]")
	_, number, found := cutLast(before, "[")
	if n, err := strconv.Atoi(number); found && err == nil {
		return n
	}
	return -1
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
