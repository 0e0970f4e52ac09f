package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
)

func watchCommand() *cobra.Command {
	var o runsOptions
	cmd := o.flags(&cobra.Command{
		Use:   "watch [flags] NAME",
		Short: "Show how a run goes on, until it has ended",
		Long: `A line tells of each task that starts or ends. The exit code is the run's: that of the step that
failed, where it is known.`,
		Example: `  stepwright watch cart-build-1767225600000
  stepwright watch --cluster --component cart`,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, interval, run, err := o.find(cmd.Context(), args)
			if err != nil {
				return err
			}
			return watch(cmd.Context(), cmd.OutOrStdout(), from, interval, run)
		},
	})
	o.componentFlag(cmd, "watch this component's latest run, instead of NAME")
	cmd.ValidArgsFunction = o.completeRuns(1)
	return cmd
}

// watch tells of a run's tasks until it has ended, and returns the run's failure.
func watch(
	ctx context.Context, out io.Writer, from source, interval time.Duration, run *v1alpha1.WorkflowRun,
) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	fmt.Fprintln(out, cell("WorkflowRun "+run.Namespace+"/"+run.Name))
	told := map[string]string{}
	for {
		for _, task := range run.Status.Tasks {
			if task.Phase == "" || told[task.Name] == task.Phase {
				continue
			}
			told[task.Name] = task.Phase
			when, message := task.StartedAt, ""
			if task.CompletedAt != nil {
				when = task.CompletedAt
				message, _, _ = strings.Cut(task.Message, "\n")
			}
			at := time.Now()
			if when != nil {
				at = when.Time
			}
			fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf(
				"%s   %s   %s   %s   %s", at.Local().Format(time.TimeOnly), cell(task.Name), cell(task.Phase),
				took(task.StartedAt, task.CompletedAt), cell(message),
			), " "))
		}
		if runstatus.Completed(run) {
			fmt.Fprintf(out, "%s\n", cell(runstatus.Phase(run)))
			return from.Outcome(ctx, run)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var err error
		if run, err = from.Get(ctx, run.Namespace, run.Name); err != nil {
			return err
		}
	}
}

// Outcome implements source.
func (m machine) Outcome(_ context.Context, run *v1alpha1.WorkflowRun) error {
	if why := runstatus.Failure(run); why != "" {
		return outcome.Errorf(outcome.Failed, "%s: %s", run.Name, strings.TrimRight(why, ".\n"))
	}
	return nil
}
