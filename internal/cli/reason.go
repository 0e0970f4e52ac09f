package cli

import (
	"context"

	"github.com/stepwright/stepwright/internal/outcome"
)

// outcomeOf is how a command that returned err ended. Its exit code is the exit code of the step that failed, or of the
// command's own failure.
func outcomeOf(ctx context.Context, err error) outcome.Report {
	failure := outcome.Of(err)
	if ctx.Err() != nil {
		failure = outcome.Errorf(outcome.Cancelled, "%s", failure.Message)
	}
	return outcome.Report{}.FailedBy(failure)
}
