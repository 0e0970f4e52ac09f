package cli

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
)

func listCommand() *cobra.Command {
	var o runsOptions
	return o.flags(&cobra.Command{
		Use:   "list",
		Short: "List the runs of this machine, or of a cluster, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, _, err := o.source()
			if err != nil {
				return err
			}
			all, err := from.List(cmd.Context(), o.namespace)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "NAMESPACE\tNAME\tCOMPONENT\tPHASE\tSTARTED\tTOOK")
			for _, run := range all {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", cell(run.Namespace), cell(run.Name),
					cell(run.Labels[workflowrun.ComponentLabel]),
					cell(runstatus.Phase(run)),
					run.CreationTimestamp.Local().Format(time.DateTime),
					took(run.Status.StartedAt, run.Status.CompletedAt))
			}
			return table.Flush()
		},
	})
}
