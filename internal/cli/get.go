package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/quote"
)

func getCommand() *cobra.Command {
	var o runsOptions
	var format string
	cmd := o.flags(&cobra.Command{
		Use:   "get [flags] NAME",
		Short: "Show a run of this machine, or of a cluster, and its tasks",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, _, run, err := o.find(cmd.Context(), args)
			if err != nil {
				return err
			}
			if format != "" {
				return printObject(cmd.OutOrStdout(), format, run)
			}
			return describe(cmd.OutOrStdout(), run)
		},
	})
	o.componentFlag(cmd, "show this component's latest run, instead of NAME")
	cmd.ValidArgsFunction = o.completeRuns(1)
	cmd.Flags().StringVarP(&format, "output", "o", "", "print the WorkflowRun with its status: yaml or json")
	complete(cmd, "output", "yaml", "json")
	return cmd
}

func describe(out io.Writer, run *v1alpha1.WorkflowRun) error {
	fmt.Fprintln(out, cell("WorkflowRun "+run.Namespace+"/"+run.Name+": "+runstatus.Phase(run))+"\n")
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TASK\tPHASE\tTOOK\tMESSAGE")
	for _, task := range run.Status.Tasks {
		first, _, _ := strings.Cut(task.Message, "\n")
		fmt.Fprintf(
			table, "%s\t%s\t%s\t%s\n",
			cell(task.Name), cell(task.Phase), took(task.StartedAt, task.CompletedAt), cell(first),
		)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	// A task that failed says why itself; other causes stand here.
	if why := runstatus.Failure(run); why != "" &&
		!slices.ContainsFunc(run.Status.Tasks, func(t v1alpha1.WorkflowTask) bool {
			return t.Message != ""
		}) {
		fmt.Fprintf(out, "\n%s\n", quote.Text(why, 0))
	}
	return nil
}

// cell is a text of a cluster or a file as a table shows it.
func cell(text string) string { return quote.Line(text, 4096) }

// took is how long something took; empty while it has not ended.
func took(start, end *metav1.Time) string {
	if start == nil || end == nil {
		return ""
	}
	return end.Sub(start.Time).String()
}
