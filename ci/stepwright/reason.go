package main

import (
	"context"
	"errors"

	"github.com/stepwright/stepwright/ci/history"
	"github.com/stepwright/stepwright/ci/pipeline"
	"github.com/stepwright/stepwright/ci/workflowrun"
	"github.com/stepwright/stepwright/schemas"
)

// reasonOf finds the reason whose exit code the process ends with: that of the step that failed, or of the command's own failure.
func reasonOf(ctx context.Context, err error) schemas.Reason {
	if ctx.Err() != nil {
		return schemas.ReasonNamed("Cancelled")
	}
	if failed, ok := errors.AsType[*pipeline.FailedError](err); ok {
		reason := schemas.ReasonNamed(failed.Reason)
		reason.Hint, reason.ExitCode = failed.Hint, failed.ExitCode
		return reason
	}
	if _, ok := errors.AsType[*workflowrun.InvalidError](err); ok {
		return schemas.ReasonNamed("InvalidParameters")
	}
	if _, ok := errors.AsType[*history.NotFoundError](err); ok {
		reason := schemas.ReasonNamed("NotFound")
		reason.Hint = "stepwright list shows the runs; --state says where they are kept."
		return reason
	}
	return schemas.ReasonNamed("Failed")
}
