package cli

import (
	"context"
	"slices"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
)

// completionPatience is how long somebody waits for the names that a key offers.
const completionPatience = 3 * time.Second

// complete offers fixed values of a flag.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails for flags that do not exist, which a test would see.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// completeRuns offers the names of runs as the first of at most that many arguments, and its tasks as the second.
func (o *runsOptions) completeRuns(arguments int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		switch {
		case len(args) >= arguments:
		case len(args) == 0:
			names = o.offer(cmd, func(run *v1alpha1.WorkflowRun) []string {
				if o.component != "" && run.Labels[workflowrun.ComponentLabel] != o.component {
					return nil
				}
				return []string{run.Name}
			})
		default:
			names = o.offer(cmd, func(run *v1alpha1.WorkflowRun) []string {
				if run.Name != args[0] {
					return nil
				}
				var tasks []string
				for _, task := range run.Status.Tasks {
					tasks = append(tasks, task.Name)
				}
				return tasks
			})
		}
		return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeFlag offers for a flag what runs have.
func (o *runsOptions) completeFlag(cmd *cobra.Command, flag string, of func(*v1alpha1.WorkflowRun) string) {
	_ = cmd.RegisterFlagCompletionFunc(
		flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			names := o.offer(cmd, func(run *v1alpha1.WorkflowRun) []string { return []string{of(run)} })
			slices.Sort(names)
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	)
}

// offer lists what runs have, each once, in the order of the runs. What cannot be listed is offered by nobody.
func (o *runsOptions) offer(cmd *cobra.Command, of func(*v1alpha1.WorkflowRun) []string) (names []string) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionPatience)
	defer cancel()
	from, _, err := o.source()
	if err != nil {
		return nil
	}
	runs, err := from.List(ctx, o.namespace)
	if err != nil {
		return nil
	}
	for _, run := range runs {
		for _, name := range of(run) {
			if name = cell(name); name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}
