package cli

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"

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
	// does so with follow. An absent log, or one that is not there yet, is an fs.ErrNotExist, of Log or of the reader.
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
		return nil, 0, misuse("--context: needs --kubeconfig, whose context it is")
	}
	return machine{runsOf(o.state)}, pollTime, nil
}
