package outcome

import (
	"strconv"
	"testing"
)

func TestFirstFailure(t *testing.T) {
	t.Parallel()
	const gate = `{"displayName":"scan-gate","templateName":"scan-gate",` +
		`"message":"main: Error (exit code 37): VulnerabilitiesFound: 1 critical. Update it {{x}}"}`
	const other = `{"displayName":"commit-status","templateName":"commit-status",` +
		`"message":"Error (exit code 15): GitServerUnavailable: nobody there"}`
	failed := FailedStep{Step: "scan-gate", Reason: VulnerabilitiesFound, Message: "1 critical. Update it {{x}}"}
	for name, test := range map[string]struct {
		failures string
		want     FailedStep
	}{
		"a step of ours":              {"[" + gate + "]", failed},
		"in quotes of Go's":           {strconv.Quote("[" + gate + "]"), failed},
		"behind one that counts not":  {"[" + other + "," + gate + "]", failed},
		"one that counts not, alone":  {"[" + other + "]", FailedStep{Reason: Failed}},
		"nothing":                     {"null", FailedStep{Reason: Failed}},
		"behind a node without words": {`[{"displayName":"cart-1","message":"child failed"},` + gate + `]`, failed},
		"a pod that took too long": {
			`[{"displayName":"a","message":"Pod was active on the node too long"},{"displayName":"b","message":"x"}]`,
			FailedStep{Step: "a", Reason: Failed, Message: "Pod was active on the node too long"},
		},
		"a container that was killed, without words": {`[{"displayName":"b","message":"OOMKilled (exit code 137)"}]`,
			FailedStep{Step: "b", Reason: Killed}},
		"a workflow that was stopped": {
			`[{"displayName":"b","message":"workflow shutdown with strategy:  Stop"}]`,
			FailedStep{
				Step: "b", Reason: Failed, Message: "workflow shutdown with strategy:  Stop", Stopped: true,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got, err := FirstFailure(test.failures); err != nil || got != test.want {
				t.Errorf("%+v, %v, want %+v", got, err, test.want)
			}
		})
	}
	if _, err := FirstFailure("{{workflow.failures}}"); Of(err) == nil || Of(err).Reason != InvalidParameters {
		t.Errorf("%v", err)
	}
}
