package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane"
)

// submitOptions are the flags of a run in a cluster.
type submitOptions struct {
	*whichOptions
	cluster     bool
	kubeconfig  string
	context     string
	secretStore string
}

func (o *submitOptions) addTo(f *pflag.FlagSet) {
	f.BoolVar(&o.cluster, "cluster", false, "run it in a cluster instead of on this machine")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file of the cluster (default: as for kubectl)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(
		&o.secretStore, "secret-store", "default",
		"ClusterSecretStore of the workflow plane, for a cluster without OpenChoreo, where no file holds the plane",
	)
}

// unneeded are the faults of flags about a cluster that were given for a run on this machine.
func (o *submitOptions) unneeded() (faults []string) {
	for _, given := range []struct{ flag, value string }{{"kubeconfig", o.kubeconfig}, {"context", o.context}} {
		if given.value != "" {
			faults = append(faults, "--"+given.flag+": is about a run in a cluster, and needs --cluster")
		}
	}
	return faults
}

// refuse refuses those flags that were given of a set that is about runs on this machine.
func refuse(local *pflag.FlagSet) error {
	var faults []string
	local.VisitAll(func(f *pflag.Flag) {
		if f.Changed {
			faults = append(
				faults,
				fmt.Sprintf("--%s: is about runs on this machine, and cannot be given with --cluster", f.Name),
			)
		}
	})
	if len(faults) > 0 {
		return outcome.Misuse(faults...)
	}
	return nil
}

// submit has a cluster run the WorkflowRun, and shows its logs until it ends.
func (o *submitOptions) submit(ctx context.Context, to streams, files []string) error {
	if faults := o.faults(); len(faults) > 0 {
		return outcome.Misuse(faults...)
	}
	set, err := o.templates.with(objects.Load(files...))
	if err != nil {
		return err
	}
	var plane *workflowplane.Plane
	if o.component != "" && len(set.OfKind("Component")) == 0 {
		if plane, err = workflowplane.Open(o.kubeconfig, o.context); err != nil {
			return err
		}
		if err := o.fetch(ctx, plane, set); err != nil {
			return err
		}
	}
	object, err := o.pick(set)
	if err != nil {
		return err
	}
	run, err := workflowrun.Of(set, object.Name, true) // every fault, before anything is created in the cluster
	if err != nil {
		return err
	}
	if plane == nil {
		if plane, err = workflowplane.Open(o.kubeconfig, o.context); err != nil {
			return err
		}
	}
	create := o.createWorkflow
	openChoreo, err := plane.OpenChoreo(ctx)
	if err != nil {
		return err
	}
	if openChoreo {
		create = createRun
	}
	// An interrupt in the middle of it would leave open whether there is a run.
	creating, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := create(creating, plane, set, object); err != nil {
		return err
	}
	ended, err := follow(ctx, to.err, plane, run.Namespace, run.Name)
	if ctx.Err() != nil {
		fmt.Fprintf(
			to.err,
			"\nRun %[1]s/%[2]s goes on in the cluster: stepwright logs -f -n %[1]s %[2]s%[3]s shows it.\n",
			run.Namespace, run.Name, o.where(),
		)
	}
	if err != nil {
		return err
	}
	if o.output != "" {
		err = printObject(to.out, o.output, ended)
	} else {
		err = describe(to.out, ended)
	}
	return errors.Join(err, plane.Outcome(ctx, ended))
}

// where are the flags that lead to the cluster again.
func (o *submitOptions) where() string {
	flags := " --cluster"
	if o.kubeconfig != "" {
		flags = " --kubeconfig " + o.kubeconfig
	}
	if o.context != "" {
		flags += " --context " + o.context
	}
	return flags
}

// fetch adds the Component of --component to the set, as the cluster has it.
func (o *submitOptions) fetch(ctx context.Context, plane *workflowplane.Plane, set *objects.Set) error {
	component, err := plane.Component(ctx, cmp.Or(o.namespace, metav1.NamespaceDefault), o.component)
	if err != nil {
		return err
	}
	return set.ReadObject("Component "+component.Namespace+"/"+component.Name+" of the cluster", component)
}

// createRun leaves the rest to OpenChoreo.
func createRun(ctx context.Context, plane *workflowplane.Plane, _ *objects.Set, object *objects.Object) error {
	run, err := objects.Decode[v1alpha1.WorkflowRun](object)
	if err != nil {
		return err
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(run)
	if err != nil {
		return err
	}
	return plane.Create(ctx, fields)
}

// createWorkflow does what OpenChoreo's controller does, but for the namespace: that is a platform engineer's.
func (o *submitOptions) createWorkflow(
	ctx context.Context, plane *workflowplane.Plane, set *objects.Set, object *objects.Object,
) error {
	rendered, err := workflowrun.Render(set, object, o.secretStore)
	if err != nil {
		return err
	}
	for _, object := range slices.Concat(rendered.Prerequisites, rendered.Resources) {
		if object["kind"] == "Namespace" {
			continue
		}
		if err := plane.Apply(ctx, object); err != nil {
			return err
		}
	}
	return plane.Create(ctx, rendered.Workflow)
}

// patience is how long OpenChoreo may take to start a run before this program says so.
const patience = 30 * time.Second

// follow shows the logs of a run until it ends.
func follow(
	ctx context.Context, out io.Writer, plane *workflowplane.Plane, namespace, name string,
) (*v1alpha1.WorkflowRun, error) {
	l := logs{
		from:      plane,
		interval:  workflowplane.Interval,
		namespace: namespace,
		name:      name,
		follow:    true,
		out:       out,
	}
	late := time.AfterFunc(patience, func() {
		run, err := plane.Get(ctx, namespace, name)
		if err == nil && len(run.Status.Tasks) == 0 && !runstatus.Completed(run) {
			fmt.Fprintf(
				out,
				"Nothing runs after %s. The controllers of OpenChoreo and Argo say why: stepwright validate finds "+
					"what only their logs tell.\n",
				patience,
			)
		}
	})
	defer late.Stop()
	if err := l.print(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return plane.Get(ctx, namespace, name)
}
