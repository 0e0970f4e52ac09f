package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/annotation"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
)

func listCommand() *cobra.Command {
	var o runsOptions
	var format string
	cmd := o.flags(&cobra.Command{
		Use:   "list",
		Short: "List the runs of this machine, or of a cluster, the newest first",
		Example: `  stepwright list
  stepwright list --component cart -o wide
  stepwright list --cluster -n acme -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"", "wide", "name", "yaml", "json"}, format) {
				return outcome.Misuse(fmt.Sprintf("--output: %q is none of wide, name, yaml and json", format))
			}
			from, _, err := o.source()
			if err != nil {
				return err
			}
			all, err := o.list(cmd.Context(), from)
			if err != nil {
				return err
			}
			switch format {
			case "yaml", "json":
				return printObject(cmd.OutOrStdout(), format, map[string]any{
					"apiVersion": "v1", "kind": "List", "items": append([]*v1alpha1.WorkflowRun{}, all...),
				})
			case "name":
				for _, run := range all {
					fmt.Fprintln(cmd.OutOrStdout(), cell(run.Name))
				}
				return nil
			}
			return printRuns(cmd.OutOrStdout(), all, format == "wide")
		},
	})
	o.componentFlag(cmd, "only the runs of this component")
	cmd.Flags().StringVarP(
		&format, "output", "o", "", "wide: with commit, image and reason; name; or the WorkflowRuns as yaml or json",
	)
	complete(cmd, "output", "wide", "name", "yaml", "json")
	return cmd
}

// printRuns prints runs for people. wide adds what their annotations tell.
func printRuns(out io.Writer, runs []*v1alpha1.WorkflowRun, wide bool) error {
	columns := []string{"NAMESPACE", "NAME", "COMPONENT", "PHASE", "STARTED", "TOOK"}
	annotations := []string{annotation.Commit, annotation.Image, annotation.Reason}
	if wide {
		columns = append(columns, "COMMIT", "IMAGE", "REASON")
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for _, run := range runs {
		cells := []string{
			run.Namespace, run.Name, run.Labels[workflowrun.ComponentLabel], runstatus.Phase(run),
			run.CreationTimestamp.Local().Format(time.DateTime), took(run.Status.StartedAt, run.Status.CompletedAt),
		}
		if wide {
			for _, annotation := range annotations {
				cells = append(cells, run.Annotations[annotation])
			}
		}
		for i := range cells {
			cells[i] = cell(cells[i])
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	return table.Flush()
}
