package runstatus

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Detail is what is known of a task that its status does not hold.
type Detail struct {
	StartedAt  time.Time         `json:"startedAt"`            // to the millisecond where that is known
	DurationMs int64             `json:"durationMs,omitempty"` // 0: it has not ended, or that is not known
	Reason     outcome.Reason    `json:"reason,omitempty"`     // empty: it has not ended, or that is not known
	Message    string            `json:"message,omitempty"`
	Hint       string            `json:"hint,omitempty"`
	PeakMemory int64             `json:"peakMemoryBytes,omitempty"` // bytes; 0: not known
	Outputs    map[string]string `json:"outputs,omitempty"`         // output parameters by name
}

// Details tells of the tasks of a workflow, by their names.
func Details(workflow *wfv1.Workflow) map[string]Detail {
	all := map[string]Detail{}
	for _, node := range Pods(workflow.Status.Nodes) {
		d := Detail{StartedAt: node.StartedAt.Time}
		if !node.FinishedAt.IsZero() {
			d.DurationMs = node.FinishedAt.Sub(node.StartedAt.Time).Milliseconds()
		}
		switch node.Phase {
		case wfv1.NodeSucceeded:
			d.Reason = outcome.Succeeded
		case wfv1.NodeFailed, wfv1.NodeError:
			d.Reason = ExitReason(node)
			d.Message, d.Hint = divide(node.Message, d.Reason)
			if node.Phase == wfv1.NodeError && !exited(node) {
				d.Hint = cmp.Or(d.Hint, hintOfArgo)
			}
		}
		if node.Outputs != nil {
			d.Outputs = map[string]string{}
			for _, p := range node.Outputs.Parameters {
				if p.Value != nil {
					d.Outputs[p.Name] = p.Value.String()
				}
			}
		}
		all[TaskName(&node)] = d
	}
	return all
}

// hintOfArgo is for what Argo says where no container of the step has ended, such as "pod deleted".
const hintOfArgo = "It was not the step that failed: Argo could not make its pod, or has lost it, as with a node " +
	"that is gone. Run it again; if that fails, too, look at the events of the run's namespace."

// divide takes apart a node's message, in which a step's termination message stands behind Argo's own words:
// `main: Error (exit code 22): reason: message. hint`. A hint of the step's own remains in the message.
func divide(message string, reason outcome.Reason) (text, hint string) {
	text = message
	if _, after, found := strings.Cut(message, string(reason)+": "); found {
		text = after
	}
	if general := reason.Hint(); general != "" {
		if before, found := strings.CutSuffix(text, general); found {
			return strings.TrimRight(before, " \n"), general
		}
	}
	return text, ""
}

// ExitReason is the reason that the exit code of a failed node's container says; Failed where it says none.
func ExitReason(node wfv1.NodeStatus) outcome.Reason {
	if !exited(node) {
		return outcome.Failed
	}
	code, err := strconv.Atoi(*node.Outputs.ExitCode)
	reason, known := outcome.OfExitCode(code)
	if err != nil || !known || reason == outcome.Succeeded {
		return outcome.Failed
	}
	return reason
}

// exited tells whether the container of a node's step has ended by itself, so that there is an exit code.
func exited(node wfv1.NodeStatus) bool { return node.Outputs != nil && node.Outputs.ExitCode != nil }
