package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane"
)

// source is where runs are kept.
type source interface {
	// List returns the runs of a namespace, or of all when it is empty, the newest first.
	List(ctx context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error)

	// Get returns a run. The namespace may be empty where only one has a run of that name.
	Get(ctx context.Context, namespace, name string) (*v1alpha1.WorkflowRun, error)

	// Log opens what a task wrote, in whole lines. EOF says that there is no more now; a source that can wait for more
	// does so with follow. An absent log, or one that is not there yet, is an fs.ErrNotExist, of Log or of the reader.
	Log(ctx context.Context, run *v1alpha1.WorkflowRun, task string, follow bool) (io.ReadCloser, error)

	// Details tells what is known of a run's tasks besides its status, by their names.
	Details(ctx context.Context, run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error)

	// Outcome is the failure of a run that has ended; nil if it has ended well.
	Outcome(ctx context.Context, run *v1alpha1.WorkflowRun) error

	// Cancel has a run end that goes on. It does not wait for the end.
	Cancel(ctx context.Context, run *v1alpha1.WorkflowRun) error
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

// Details implements source.
func (m machine) Details(_ context.Context, run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error) {
	return m.store.Details(run)
}

// runsOptions are the flags of the commands that look at runs.
type runsOptions struct {
	state      string
	cluster    bool
	kubeconfig string
	context    string
	namespace  string
	component  string

	stateGiven func() bool // whether --state is; nil: no
}

const runsUsage = `
The runs are those that stepwright run has run on this machine. With --cluster they are those of the
cluster that kubectl uses, and with --kubeconfig those of another: Argo Workflows, each shown as
OpenChoreo shows it in its WorkflowRun. A namespace is that of the WorkflowRun in both: in a cluster,
the Argo Workflows of namespace acme are looked for in the namespaces workflows-acme, where OpenChoreo
has them, and acme.`

func (o *runsOptions) flags(cmd *cobra.Command) *cobra.Command {
	if cmd.Long != "" {
		cmd.Long = "\n" + cmd.Long + "\n"
	}
	cmd.Long = cmd.Short + ".\n" + cmd.Long + runsUsage
	f := cmd.Flags()
	f.StringVar(&o.state, "state", defaultState(), "folder that stepwright run keeps its state in")
	f.BoolVar(&o.cluster, "cluster", false, "the runs of a cluster instead of those of this machine")
	f.StringVar(
		&o.kubeconfig, "kubeconfig", "", "kubeconfig file of that cluster (default with --cluster: as for kubectl)",
	)
	f.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of the run (default: the one that has it)")
	cmd.MarkFlagsMutuallyExclusive("state", "kubeconfig")
	cmd.MarkFlagsMutuallyExclusive("state", "cluster")
	o.stateGiven = func() bool { return f.Changed("state") }
	o.completeFlag(cmd, "namespace", func(run *v1alpha1.WorkflowRun) string { return run.Namespace })
	return cmd
}

// componentFlag adds the flag that chooses runs by their component.
func (o *runsOptions) componentFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&o.component, "component", "", usage)
	o.completeFlag(cmd, "component", func(run *v1alpha1.WorkflowRun) string {
		return run.Labels[workflowrun.ComponentLabel]
	})
}

// list returns the runs of the namespace and the component, the newest first.
func (o *runsOptions) list(ctx context.Context, from source) ([]*v1alpha1.WorkflowRun, error) {
	all, err := from.List(ctx, o.namespace)
	return slices.DeleteFunc(all, func(run *v1alpha1.WorkflowRun) bool {
		return o.component != "" && run.Labels[workflowrun.ComponentLabel] != o.component
	}), err
}

// find opens the source, and finds there the run that the arguments and flags say. The time is how often it may be
// looked at.
func (o *runsOptions) find(ctx context.Context, args []string) (source, time.Duration, *v1alpha1.WorkflowRun, error) {
	from, interval, err := o.source()
	if err != nil {
		return nil, 0, nil, err
	}
	run, err := o.one(ctx, from, args)
	return from, interval, run, err
}

// one is the run that the first argument names, or the latest of --component.
func (o *runsOptions) one(ctx context.Context, from source, args []string) (*v1alpha1.WorkflowRun, error) {
	switch {
	case o.component == "" && len(args) == 1:
		return from.Get(ctx, o.namespace, args[0])
	case o.component != "" && len(args) == 0:
	default:
		return nil, outcome.Misuse("give either the NAME of a run, or --component for its latest")
	}
	all, err := o.list(ctx, from)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, outcome.Errorf(outcome.NotFound, "component %q has no run", o.component).WithHint(
			"stepwright list shows all runs; --namespace, --state and --kubeconfig say whose.",
		)
	}
	for _, run := range all {
		if run.Namespace != all[0].Namespace {
			return nil, outcome.Misuse(fmt.Sprintf(
				"--component: there is a component %q in each of the namespaces %s and %s: choose one with --namespace",
				o.component, all[0].Namespace, run.Namespace,
			))
		}
	}
	return from.Get(ctx, all[0].Namespace, all[0].Name)
}

// source is where to look for runs, and how often a run that is followed may be looked at.
func (o *runsOptions) source() (source, time.Duration, error) {
	// Of a plugin of kubectl the cluster is the default.
	cluster := o.cluster && (o.stateGiven == nil || !o.stateGiven())
	switch {
	case o.kubeconfig != "" || cluster:
		plane, err := workflowplane.Open(o.kubeconfig, o.context)
		return plane, workflowplane.Interval, err
	case o.context != "":
		return nil, 0, outcome.Misuse("--context: needs --cluster or --kubeconfig, whose context it is")
	}
	return machine{runsOf(o.state)}, pollTime, nil
}
