package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/ci/history"
)

// runsOptions are the flags of the commands that look at runs.
type runsOptions struct {
	state     string
	namespace string
}

func (o *runsOptions) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&o.state, "state", defaultState(), "folder that stepwright run keeps its state in")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of the run (default: the one that has it)")
	return cmd
}

func (o *runsOptions) store() history.Store {
	return history.Store{Dir: filepath.Join(o.state, "runs")}
}

func listCommand() *cobra.Command {
	var o runsOptions
	return o.flags(&cobra.Command{
		Use:   "list",
		Short: "List the runs of this machine, the newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := o.store().List()
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "NAMESPACE\tNAME\tCOMPONENT\tPHASE\tSTARTED\tTOOK")
			for _, run := range all {
				if o.namespace == "" || run.Namespace == o.namespace {
					fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", run.Namespace, run.Name, run.Labels["openchoreo.dev/component"], history.Phase(run),
						run.CreationTimestamp.Local().Format(time.DateTime), took(run.Status.StartedAt, run.Status.CompletedAt))
				}
			}
			return table.Flush()
		},
	})
}

func getCommand() *cobra.Command {
	var o runsOptions
	var format string
	cmd := o.flags(&cobra.Command{
		Use:   "get [flags] NAME",
		Short: "Show a run of this machine and its tasks",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run, err := o.store().Get(o.namespace, args[0])
			if err != nil {
				return err
			}
			if format != "" {
				return printObject(cmd.OutOrStdout(), format, run)
			}
			return describe(cmd.OutOrStdout(), run)
		},
	})
	cmd.Flags().StringVarP(&format, "output", "o", "", "print the WorkflowRun with its status: yaml or json")
	return cmd
}

func describe(out io.Writer, run *v1alpha1.WorkflowRun) error {
	fmt.Fprintf(out, "WorkflowRun %s/%s: %s\n\n", run.Namespace, run.Name, history.Phase(run))
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TASK\tPHASE\tTOOK\tMESSAGE")
	for _, task := range run.Status.Tasks {
		first, _, _ := strings.Cut(task.Message, "\n")
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", task.Name, task.Phase, took(task.StartedAt, task.CompletedAt), first)
	}
	return table.Flush()
}

// took is how long something took; empty while it has not ended.
func took(start, end *metav1.Time) string {
	if start == nil || end == nil {
		return ""
	}
	return end.Sub(start.Time).String()
}

// printObject prints an object as YAML or JSON.
func printObject(out io.Writer, format string, object any) error {
	switch format {
	case "yaml":
		raw, err := yaml.Marshal(object)
		if err == nil {
			_, err = out.Write(raw)
		}
		return err
	case "json":
		return printJSON(out, object)
	}
	return fmt.Errorf("--output: %q is neither yaml nor json", format)
}

func logsCommand() *cobra.Command {
	var o runsOptions
	var follow bool
	cmd := o.flags(&cobra.Command{
		Use:   "logs [flags] NAME [TASK]",
		Short: "Print what a run's tasks wrote",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l := logs{store: o.store(), namespace: o.namespace, name: args[0], follow: follow, out: cmd.OutOrStdout()}
			if len(args) == 2 {
				l.only = args[1]
			}
			return l.print(cmd.Context())
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	return cmd
}

// logs prints the logs of a run.
type logs struct {
	store           history.Store
	namespace, name string
	only            string // one task; empty: all
	follow          bool
	out             io.Writer
}

// pollTime is how often a log that is followed is looked at.
const pollTime = 200 * time.Millisecond

func (l *logs) print(ctx context.Context) error {
	tick := time.NewTicker(pollTime)
	defer tick.Stop()
	files := map[string]*bufio.Reader{}
	for {
		// The run is read before its logs: what a completed run has written is all there.
		run, err := l.store.Get(l.namespace, l.name)
		if err != nil {
			return err
		}
		last := !l.follow || history.Completed(run)
		if last && l.only != "" && !slices.ContainsFunc(run.Status.Tasks, func(t v1alpha1.WorkflowTask) bool { return t.Name == l.only }) {
			return fmt.Errorf("run %s has no task %q; it has %s", l.name, l.only, taskNames(run))
		}
		for _, task := range run.Status.Tasks {
			if l.only != "" && l.only != task.Name {
				continue
			}
			if files[task.Name] == nil {
				f, err := os.Open(l.store.Log(run, task.Name))
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				defer f.Close()
				files[task.Name] = bufio.NewReader(f)
			}
			if err := l.copy(task.Name, files[task.Name]); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// copy prints the lines there are; each was written at once.
func (l *logs) copy(task string, log *bufio.Reader) error {
	for {
		line, err := log.ReadString('\n')
		if line != "" && l.only == "" {
			line = fmt.Sprintf("%s │ %s", task, line)
		}
		if _, err := io.WriteString(l.out, line); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func taskNames(run *v1alpha1.WorkflowRun) string {
	var names []string
	for _, task := range run.Status.Tasks {
		names = append(names, task.Name)
	}
	return strings.Join(names, ", ")
}
