package cli

import (
	"cmp"
	"context"
	"errors"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/internal/workflowplane"
	"github.com/stepwright/stepwright/schemas"
)

// reasonOf finds the reason whose exit code the process ends with: that of the step that failed, or of the command's
// own failure.
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
	if missing, ok := errors.AsType[*history.NotFoundError](err); ok {
		reason := schemas.ReasonNamed("NotFound")
		reason.Hint = "stepwright list shows the runs; --state says where they are kept, --kubeconfig looks in a " +
			"cluster."
		if missing.Where != "" {
			reason.Hint = "stepwright list with the same --kubeconfig shows the runs; " +
				"a run goes some time after its end."
		}
		return reason
	}
	if refused, ok := errors.AsType[*workflowplane.Error](err); ok {
		reason := schemas.ReasonNamed(refused.Reason)
		reason.Hint = cmp.Or(refused.Hint, reason.Hint)
		return reason
	}
	return schemas.ReasonNamed("Failed")
}
