// Command stepwright drives Stepwright's steps: on this machine, without a cluster, the way a WorkflowPlane would.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/pipeline"
	"github.com/stepwright/stepwright/ci/workflowrun"
	"github.com/stepwright/stepwright/schemas"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "stepwright",
		Short:         "Turns a Git revision into a container image and an OpenChoreo Workload",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), devAPICommand())
	if err := root.ExecuteContext(ctx); err != nil {
		reason := reasonOf(ctx, err)
		fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", reason.Name, err, reason.Hint)
		os.Exit(reason.ExitCode)
	}
}

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
	return schemas.ReasonNamed("Failed")
}
