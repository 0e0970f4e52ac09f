package runstatus

import (
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// What a real Argo keeps of tasks, one of which has failed.
func TestDetails(t *testing.T) {
	workflow := workflowplanetest.Workflow(t, "cart-2")
	for id, node := range workflow.Status.Nodes {
		if node.DisplayName == "containerfile-build" {
			node.Outputs.Parameters = append(node.Outputs.Parameters, wfv1.Parameter{
				Name: "build-report", Value: wfv1.AnyStringPtr("{}"),
			}, wfv1.Parameter{Name: "none"})
			workflow.Status.Nodes[id] = node
		}
	}
	details := Details(workflow)
	good, bad := details["checkout-source"], details["containerfile-build"]
	if len(details) != 2 || good.Reason != outcome.Succeeded || good.StartedAt.IsZero() || good.DurationMs < 1_000 {
		t.Errorf("%+v", details)
	}
	if bad.Reason != outcome.BuildFailed || bad.Message != "exit code: 1. See the log." ||
		len(bad.Outputs) != 1 || bad.Outputs["build-report"] != "{}" {
		t.Errorf("%+v", bad)
	}
}

// A pod that is gone, as TestFaults of ci/e2e has it.
func TestDetailOfLostPod(t *testing.T) {
	workflow := workflowplanetest.Workflow(t, "cart-2")
	for id, node := range workflow.Status.Nodes {
		if node.DisplayName == "containerfile-build" {
			node.Phase, node.Message, node.Outputs = wfv1.NodeError, "pod deleted", nil
			workflow.Status.Nodes[id] = node
		}
	}
	lost := Details(workflow)["containerfile-build"]
	if lost.Reason != outcome.Failed || lost.Message != "pod deleted" || lost.Hint != hintOfArgo {
		t.Errorf("%+v", lost)
	}
}

func TestDivide(t *testing.T) {
	hint := outcome.OutOfSpace.Hint()
	for _, test := range []struct{ name, message, text, hint string }{
		{"of Argo", "main: Error (exit code 30): OutOfSpace: the disk is full. " + hint, "the disk is full.", hint},
		{"several lines", "OutOfSpace: full:\n  /tmp\n" + hint, "full:\n  /tmp", hint},
		{"another hint", "OutOfSpace: full. Buy a disk.", "full. Buy a disk.", ""},
		{"of the kubelet", "OOMKilled (exit code 137)", "OOMKilled (exit code 137)", ""},
		{"nothing", "", "", ""},
	} {
		if text, hint := divide(test.message, outcome.OutOfSpace); text != test.text || hint != test.hint {
			t.Errorf("%s: %q, %q", test.name, text, hint)
		}
	}
}
