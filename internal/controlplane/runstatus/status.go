// Package runstatus writes the status of a WorkflowRun as OpenChoreo's controller does, and reads it.
package runstatus

import (
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Types of conditions (docs/contract.md section 2).
const (
	completed = "WorkflowCompleted"
	running   = "WorkflowRunning"
	succeeded = "WorkflowSucceeded"
	failed    = "WorkflowFailed"
)

// Phases of tasks.
const (
	TaskPending   = "Pending"
	TaskRunning   = "Running"
	TaskSucceeded = "Succeeded"
	TaskFailed    = "Failed"
	TaskError     = "Error"
)

// Completed tells whether a run has ended.
func Completed(run *v1alpha1.WorkflowRun) bool {
	return meta.IsStatusConditionTrue(run.Status.Conditions, completed)
}

// Phase is a run's state in one word, as the conditions say it.
func Phase(run *v1alpha1.WorkflowRun) string {
	switch conditions := run.Status.Conditions; {
	case meta.IsStatusConditionTrue(conditions, succeeded):
		return TaskSucceeded
	case meta.IsStatusConditionTrue(conditions, failed):
		return TaskFailed
	case meta.IsStatusConditionTrue(conditions, running):
		return TaskRunning
	}
	return TaskPending
}

// condition sets one, with the words of OpenChoreo v1.2.0's controller.
func condition(run *v1alpha1.WorkflowRun, name string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&run.Status.Conditions, metav1.Condition{
		Type: name, Status: status, Reason: reason, Message: message, ObservedGeneration: run.Generation,
	})
}

// Pending writes the controller's conditions for a run before its Argo Workflow runs.
func Pending(run *v1alpha1.WorkflowRun) {
	condition(run, completed, metav1.ConditionFalse, "WorkflowPending", "Workflow has not completed yet")
}

// Started writes its conditions while the Argo Workflow runs.
func Started(run *v1alpha1.WorkflowRun) {
	condition(run, running, metav1.ConditionTrue, "WorkflowRunning", "Argo Workflow is running")
}

// End writes its conditions once the Argo Workflow has ended, well or not.
func End(run *v1alpha1.WorkflowRun, well bool) {
	condition(run, running, metav1.ConditionFalse, "WorkflowRunning", "Argo Workflow running has completed")
	if well {
		condition(run, succeeded, metav1.ConditionTrue, "WorkflowSucceeded", "Workflow completed successfully")
		condition(run, completed, metav1.ConditionTrue, "WorkflowSucceeded", "Workflow has completed successfully")
		return
	}
	condition(run, failed, metav1.ConditionTrue, "WorkflowFailed", "Workflow execution failed")
	condition(run, completed, metav1.ConditionTrue, "WorkflowFailed", "Workflow has completed with failure")
}

// Gone writes the controller's conditions for a run whose Argo Workflow has disappeared.
func Gone(run *v1alpha1.WorkflowRun) {
	const message = "Workflow is not found in the cluster"
	condition(run, running, metav1.ConditionFalse, "WorkflowRunning", message)
	condition(run, failed, metav1.ConditionTrue, "WorkflowFailed", message)
	condition(run, completed, metav1.ConditionTrue, "WorkflowFailed", message)
}
