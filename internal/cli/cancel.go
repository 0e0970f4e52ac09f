package cli

import (
	"context"
	"fmt"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
)

func cancelCommand() *cobra.Command {
	var o runsOptions
	cmd := o.flags(&cobra.Command{
		Use:   "cancel [flags] NAME",
		Short: "End a run before it is done",
		Long: `The step that runs is told to stop, and reports Cancelled; nothing is published after that. In a
cluster Argo stops the Workflow and runs its exit handlers. What an earlier step has pushed stays.`,
		Example: `  stepwright cancel cart-build-1767225600000
  stepwright cancel --cluster --component cart`,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, _, run, err := o.find(cmd.Context(), args)
			if err != nil {
				return err
			}
			if runstatus.Completed(run) {
				return outcome.Misuse(fmt.Sprintf(
					"run %s/%s has ended already: %s", run.Namespace, run.Name, runstatus.Phase(run),
				))
			}
			if err := from.Cancel(cmd.Context(), run); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is told to stop\n", cell("WorkflowRun "+run.Namespace+"/"+run.Name))
			return nil
		},
	})
	o.componentFlag(cmd, "cancel this component's latest run, instead of NAME")
	cmd.ValidArgsFunction = o.completeRuns(1)
	return cmd
}

// Cancel implements source.
func (m machine) Cancel(_ context.Context, run *v1alpha1.WorkflowRun) error {
	return m.store.Cancel(run)
}
