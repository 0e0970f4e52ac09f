package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/workflowplane"
	installed "github.com/stepwright/stepwright/templates"
)

// onlyForCluster refuses the flags that are about this machine.
func onlyForCluster(flags *pflag.FlagSet) error {
	var faults []string
	flags.Visit(func(f *pflag.Flag) {
		if !slices.Contains([]string{
			"cluster", "kubeconfig", "context", "secret-store", "name", "templates", "output",
		}, f.Name) {
			faults = append(
				faults,
				fmt.Sprintf("--%s: is about runs on this machine, and cannot be given with --cluster", f.Name),
			)
		}
	})
	if len(faults) > 0 {
		return &workflowrun.InvalidError{Faults: faults}
	}
	return nil
}

// submit has a cluster run the WorkflowRun, and shows its logs until it ends.
func (o *runOptions) submit(ctx context.Context, out io.Writer, files []string) error {
	if !slices.Contains([]string{"", "yaml", "json"}, o.output) {
		return &workflowrun.InvalidError{
			Faults: []string{fmt.Sprintf("--output: %q is neither yaml nor json", o.output)},
		}
	}
	run, err := workflowrun.Load(o.name, files...) // every fault, before anything is asked of the cluster
	if err != nil {
		return err
	}
	plane, err := workflowplane.Open(o.kubeconfig, o.context)
	if err != nil {
		return err
	}
	create := o.createWorkflow
	openChoreo, err := plane.OpenChoreo(ctx)
	if err != nil {
		return err
	}
	if openChoreo {
		create = createRun
	}
	set, err := o.objects(files)
	if err != nil {
		return err
	}
	object, err := workflowrun.Pick(set, run.Name)
	if err != nil {
		return err
	}
	// An interrupt in the middle of it would leave open whether there is a run.
	creating, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := create(creating, plane, set, object); err != nil {
		return err
	}
	ended, err := follow(ctx, plane, run.Namespace, run.Name)
	if ctx.Err() != nil {
		fmt.Fprintf(
			os.Stderr,
			"\nRun %[1]s/%[2]s goes on in the cluster: stepwright logs -f -n %[1]s %[2]s --kubeconfig %[3]s shows "+
				"it.\n",
			run.Namespace, run.Name, o.kubeconfig,
		)
	}
	if err != nil {
		return err
	}
	if o.output != "" {
		err = printObject(out, o.output, ended)
	} else {
		err = describe(out, ended)
	}
	return errors.Join(err, plane.Outcome(ctx, ended))
}

// objects are those of the files, and of the templates.
func (o *runOptions) objects(files []string) (*objects.Set, error) {
	if o.templates != "" {
		return templates{dir: o.templates, required: true}.load(files)
	}
	set, err := objects.Load(files...)
	if err != nil {
		return nil, err
	}
	names, err := fs.Glob(installed.Files, "control-plane/*-builder.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		raw, err := fs.ReadFile(installed.Files, name)
		if err != nil {
			return nil, err
		}
		set.Add(objects.Read(name, raw))
	}
	return set, nil
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
func (o *runOptions) createWorkflow(
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

// patience is how long OpenChoreo may take to begin with a run before this program says so.
const patience = 30 * time.Second

// follow shows the logs of a run until it ends.
func follow(ctx context.Context, plane *workflowplane.Plane, namespace, name string) (*v1alpha1.WorkflowRun, error) {
	l := logs{
		from:      plane,
		interval:  workflowplane.Interval,
		namespace: namespace,
		name:      name,
		follow:    true,
		out:       os.Stderr,
	}
	late := time.AfterFunc(patience, func() {
		run, err := plane.Get(ctx, namespace, name)
		if err == nil && len(run.Status.Tasks) == 0 && !runstatus.Completed(run) {
			fmt.Fprintf(
				os.Stderr,
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
