package cli

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

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/workflowplane"
)

// source is where runs are kept.
type source interface {
	// List returns the runs of a namespace, or of all when it is empty, the newest first.
	List(ctx context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error)

	// Get returns a run. The namespace may be empty where only one has a run of that name.
	Get(ctx context.Context, namespace, name string) (*v1alpha1.WorkflowRun, error)

	// Log opens what a task wrote, in whole lines. EOF says that there is no more now; a source that can wait for more
	// does so with follow. What is not there, or not there yet, is an fs.ErrNotExist, of Log or of the reader.
	Log(ctx context.Context, run *v1alpha1.WorkflowRun, task string, follow bool) (io.ReadCloser, error)
}

// machine are the runs of this machine.
type machine struct{ store history.Store }

// List implements source.
func (m machine) List(_ context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error) {
	all, err := m.store.List()
	return slices.DeleteFunc(all, func(run *v1alpha1.WorkflowRun) bool {
		return namespace != "" && run.Namespace != namespace
	}), err
}

// Get implements source.
func (m machine) Get(_ context.Context, namespace, name string) (*v1alpha1.WorkflowRun, error) {
	return m.store.Get(namespace, name)
}

// Log implements source.
func (m machine) Log(_ context.Context, run *v1alpha1.WorkflowRun, task string, _ bool) (io.ReadCloser, error) {
	return os.Open(m.store.Log(run, task))
}

// runsOptions are the flags of the commands that look at runs.
type runsOptions struct {
	state      string
	kubeconfig string
	context    string
	namespace  string
}

const runsUsage = `
Without --kubeconfig the runs are those that stepwright run has run on this machine. With it they
are the Argo Workflows of that cluster, each shown as OpenChoreo shows it in its WorkflowRun. A
namespace is that of the WorkflowRun in both: in a cluster, the Argo Workflows of namespace acme are
looked for in the namespaces workflows-acme, where OpenChoreo has them, and acme.`

func (o *runsOptions) flags(cmd *cobra.Command) *cobra.Command {
	cmd.Long = cmd.Short + ".\n" + runsUsage
	f := cmd.Flags()
	f.StringVar(&o.state, "state", defaultState(), "folder that stepwright run keeps its state in")
	f.StringVar(
		&o.kubeconfig, "kubeconfig", "",
		"kubeconfig file of the cluster whose runs to look at (default: the runs of this machine)",
	)
	f.StringVar(&o.context, "context", "", "context of --kubeconfig (default: its current one)")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the run (default: the one that has it)")
	cmd.MarkFlagsMutuallyExclusive("state", "kubeconfig")
	return cmd
}

// source is where to look for runs, and how often a run that is followed may be looked at.
func (o *runsOptions) source() (source, time.Duration, error) {
	switch {
	case o.kubeconfig != "":
		plane, err := workflowplane.Open(o.kubeconfig, o.context)
		return plane, workflowplane.Interval, err
	case o.context != "":
		return nil, 0, &workflowrun.InvalidError{Faults: []string{"--context: needs --kubeconfig, whose context it is"}}
	}
	return machine{history.Store{Dir: filepath.Join(o.state, "runs")}}, pollTime, nil
}

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
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", run.Namespace, run.Name,
					run.Labels[workflowrun.ComponentLabel],
					runstatus.Phase(run),
					run.CreationTimestamp.Local().Format(time.DateTime),
					took(run.Status.StartedAt, run.Status.CompletedAt))
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
		Short: "Show a run of this machine, or of a cluster, and its tasks",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, _, err := o.source()
			if err != nil {
				return err
			}
			run, err := from.Get(cmd.Context(), o.namespace, args[0])
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
	fmt.Fprintf(out, "WorkflowRun %s/%s: %s\n\n", run.Namespace, run.Name, runstatus.Phase(run))
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "TASK\tPHASE\tTOOK\tMESSAGE")
	for _, task := range run.Status.Tasks {
		first, _, _ := strings.Cut(task.Message, "\n")
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", task.Name, task.Phase, took(task.StartedAt, task.CompletedAt), first)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	// A task that failed says why itself; what no task says stands here.
	if why := runstatus.Failure(run); why != "" &&
		!slices.ContainsFunc(run.Status.Tasks, func(t v1alpha1.WorkflowTask) bool {
			return t.Message != ""
		}) {
		fmt.Fprintf(out, "\n%s\n", why)
	}
	return nil
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
			from, interval, err := o.source()
			if err != nil {
				return err
			}
			l := logs{from: from, interval: interval, namespace: o.namespace, name: args[0], follow: follow,
				out: cmd.OutOrStdout()}
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
	from            source
	interval        time.Duration // how often to look whether the run has gone on
	namespace, name string
	only            string // one task; empty: all
	follow          bool
	out             io.Writer

	open map[string]*taskLog
}

// taskLog is the log of one task, as far as it was read.
type taskLog struct {
	io.Closer
	lines *bufio.Reader
}

// pollTime is how often a log of this machine that is followed is looked at.
const pollTime = 200 * time.Millisecond

func (l *logs) print(ctx context.Context) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	l.open = map[string]*taskLog{}
	defer func() {
		for _, log := range l.open {
			log.Close()
		}
	}()
	for {
		// The run is read before its logs: what a completed run has written is all there.
		run, err := l.from.Get(ctx, l.namespace, l.name)
		if err != nil {
			return err
		}
		last := !l.follow || runstatus.Completed(run)
		if last && l.only != "" && !slices.ContainsFunc(run.Status.Tasks, func(t v1alpha1.WorkflowTask) bool {
			return t.Name == l.only
		}) {
			return fmt.Errorf("run %s has no task %q; it has %s", l.name, l.only, taskNames(run))
		}
		var gone error
		for _, task := range run.Status.Tasks {
			if l.only != "" && l.only != task.Name {
				continue
			}
			switch err := l.copy(ctx, run, task.Name); {
			case errors.Is(err, fs.ErrNotExist):
				if task.CompletedAt != nil {
					gone = errors.Join(gone, err)
				}
			case err != nil:
				return err
			}
		}
		if last {
			return gone
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// copy prints the lines there are; a source hands on whole ones.
func (l *logs) copy(ctx context.Context, run *v1alpha1.WorkflowRun, task string) error {
	log := l.open[task]
	if log == nil {
		body, err := l.from.Log(ctx, run, task, l.follow)
		if err != nil {
			return err
		}
		log = &taskLog{body, bufio.NewReader(body)}
		l.open[task] = log
	}
	for {
		line, err := log.lines.ReadString('\n')
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
