package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane"
	"github.com/stepwright/stepwright/internal/workflowplane/diagnosis"
	installed "github.com/stepwright/stepwright/templates"
)

// doctorOptions are the flags of stepwright doctor.
type doctorOptions struct {
	kubeconfig string
	context    string
	namespace  string
	planes     []string
	templates  templates
	output     string
	all        bool
	probe      bool
}

func doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [flags]",
		Short: "Look whether a cluster has all that runs need, before one fails",
		Long: `Look whether a cluster has all that runs need, before one fails.

It looks at the kinds and controllers of Argo Workflows, External Secrets and OpenChoreo, at the
templates and their settings, at the secret store, and in each namespace of runs at Secrets that do
not come, pods that do not start, the rights of the runs' service account and the level of Pod
Security; at the storage class and the nodes. It reads, and changes nothing. What the user of the
kubeconfig may not see is unknown, and told.

With --probe it also makes what a run would: Secrets, a volume and a pod for each of three steps, in
the namespace of runs of --namespace, as the runs' service account and with the images and settings of
the templates. From there the steps look whether a build could begin on the node, what the registry
lets them do (push, pull, list what refers to an image, delete), and whether the OAuth client gets a
token that the API takes, with the role that it needs. It takes about a minute, and all of it is
removed, also when it is interrupted; only a registry that lets nobody delete keeps a few bytes, and
that is told.

Each finding says what is wrong, where, and what to do. With --templates, the folder of your overlay,
it also finds templates in the cluster that differ from those. The exit code is 1 if there is a
problem, by which runs fail; warnings and unknowns do not count.`,
		Example: `  stepwright doctor
  stepwright doctor --kubeconfig ~/.kube/workflow-plane --plane workflow --templates my-overlay
  stepwright doctor -n acme --probe
  stepwright doctor -n acme -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file of the cluster (default: as for kubectl)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVarP(&o.namespace, "namespace", "n", "", "OpenChoreo namespace whose runs to look at (default: all)")
	f.StringSliceVar(
		&o.planes, "plane", nil,
		"what the cluster should be: workflow, control, or workflow,control (default: what it is)",
	)
	o.templates.addTo(f)
	f.StringVarP(&o.output, "output", "o", "", "yaml or json: all findings, as a list")
	f.BoolVar(&o.probe, "probe", false, "make what a run would, look from inside a pod, and remove it")
	f.BoolVar(&o.all, "all", false, "show also what is as it should be")
	complete(cmd, "output", "yaml", "json")
	complete(cmd, "plane", string(diagnosis.WorkflowPlane), string(diagnosis.ControlPlane))
	return cmd
}

func (o *doctorOptions) run(ctx context.Context, out io.Writer) error {
	if !slices.Contains([]string{"", "yaml", "json"}, o.output) {
		return outcome.Misuse(notAForm(o.output))
	}
	var planes []diagnosis.Plane
	for _, plane := range o.planes {
		p := diagnosis.Plane(plane)
		if p != diagnosis.WorkflowPlane && p != diagnosis.ControlPlane {
			return outcome.Misuse(fmt.Sprintf("--plane: %q is neither workflow nor control", plane))
		}
		planes = append(planes, p)
	}
	if o.probe && o.namespace == "" {
		return outcome.Misuse("--probe: make it in which namespace? Give --namespace")
	}
	wanted, err := o.wanted()
	if err != nil {
		return err
	}
	plane, err := workflowplane.Open(o.kubeconfig, o.context)
	if err != nil {
		return err
	}
	findings, err := diagnosis.Of(ctx, plane, wanted, o.namespace, planes...)
	if err != nil {
		return err
	}
	if o.probe {
		more, err := o.look(ctx, plane)
		if err = cmp.Or(err, ctx.Err()); err != nil {
			return err
		}
		findings = append(findings, more...)
	}
	if o.output != "" {
		err = printObject(out, o.output, findings)
	} else {
		err = o.table(out, findings)
	}
	if err != nil || diagnosis.Worst(findings) != diagnosis.Problem {
		return err
	}
	problems := 0
	for _, f := range findings {
		if f.State == diagnosis.Problem {
			problems++
		}
	}
	return outcome.Errorf(outcome.Failed, "doctor: %d of %d findings are problems", problems, len(findings)).WithHint(
		"Mend what is listed as a problem, and look again.",
	)
}

// look has the steps look from inside pods, which are like those of a run of dockerfile-builder. Other builders have
// the same Secrets and settings.
func (o *doctorOptions) look(ctx context.Context, plane *workflowplane.Plane) ([]diagnosis.Finding, error) {
	set, store, err := o.control(ctx, plane)
	if err != nil {
		return nil, err
	}
	name := "stepwright-doctor-" + strings.ToLower(rand.Text()[:6])
	if err := set.ReadObject("the probe", map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "WorkflowRun",
		"metadata": map[string]any{"name": name, "namespace": o.namespace},
		"spec": map[string]any{"workflow": map[string]any{
			"kind": "ClusterWorkflow", "name": installed.DockerfileBuilder,
			"parameters": map[string]any{"repository": map[string]any{"url": "https://probe.invalid/none.git"}},
		}},
	}); err != nil {
		return nil, err
	}
	rendered, err := workflowrun.Render(set, set.Find("WorkflowRun", o.namespace, name), store)
	if err != nil {
		return nil, err
	}
	return diagnosis.Probe(ctx, plane, diagnosis.Run{Workflow: rendered.Workflow, Resources: rendered.Resources}), nil
}

// control returns what a control plane knows of builds: of the cluster, or where it is a WorkflowPlane alone, of the
// folder of templates, with the only secret store that there is.
func (o *doctorOptions) control(ctx context.Context, plane *workflowplane.Plane) (*objects.Set, string, error) {
	set, version := new(objects.Set), v1alpha1.GroupVersion.String()
	const builder = installed.DockerfileBuilder
	var workflow map[string]any
	err := plane.Read(ctx, "ClusterWorkflow "+builder, "/apis/"+version+"/clusterworkflows/"+builder, nil, &workflow)
	if failed, ok := errors.AsType[*outcome.Error](err); ok && failed.Reason == outcome.NotFound {
		if o.templates.dir == "" {
			failed.Hint = "Install the templates; or where OpenChoreo's control plane is another cluster, give the " +
				"folder of your overlay with --templates."
			return nil, "", err
		}
		store, err := onlyStore(ctx, plane)
		if err != nil {
			return nil, "", err
		}
		set, err = o.templates.with(set, nil)
		return set, store, err
	}
	if err != nil {
		return nil, "", err
	}
	var planes struct {
		Items []map[string]any `json:"items"`
	}
	err = plane.Read(ctx, "ClusterWorkflowPlanes", "/apis/"+version+"/clusterworkflowplanes", nil, &planes)
	if err != nil {
		return nil, "", err
	}
	for _, object := range append(planes.Items, workflow) {
		if object["kind"] == nil { // as in lists
			object["apiVersion"], object["kind"] = version, "ClusterWorkflowPlane"
		}
		if err := set.ReadObject("the cluster", object); err != nil {
			return nil, "", err
		}
	}
	return set, "", nil
}

// onlyStore is the name of the cluster's ClusterSecretStore.
func onlyStore(ctx context.Context, plane *workflowplane.Plane) (string, error) {
	var stores struct {
		Items []struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
		} `json:"items"`
	}
	err := plane.Read(ctx, "ClusterSecretStores", "/apis/external-secrets.io/v1/clustersecretstores", nil, &stores)
	if err == nil && len(stores.Items) == 1 {
		return stores.Items[0].Metadata.Name, nil
	}
	return "default", err
}

// wanted are the templates that should be installed.
func (o *doctorOptions) wanted() ([]diagnosis.Template, error) {
	files, err := o.templates.files()
	if err != nil {
		return nil, unreadable(err)
	}
	var wanted []diagnosis.Template
	for _, file := range files {
		for documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(file.text))); ; {
			raw, err := documents.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			var object struct {
				Kind     string            `json:"kind"`
				Metadata metav1.ObjectMeta `json:"metadata"`
				Spec     any               `json:"spec"`
			}
			if err == nil {
				err = yaml.Unmarshal(raw, &object)
			}
			if err != nil {
				return nil, outcome.Errorf(outcome.InvalidParameters, "%s: %w", file.name, err).WithHint(
					"Correct the template: kubectl apply --server-side --dry-run=server says the same.",
				)
			}
			t := diagnosis.Template{Kind: object.Kind, Name: object.Metadata.Name, Version: installed.Version()}
			if o.templates.dir != "" {
				t.Spec = object.Spec
			}
			wanted = append(wanted, t)
		}
	}
	return wanted, nil
}

// table prints findings for people: the worst first.
func (o *doctorOptions) table(out io.Writer, findings []diagnosis.Finding) error {
	counts := map[diagnosis.State]int{}
	for _, state := range []diagnosis.State{diagnosis.Problem, diagnosis.Warning, diagnosis.Unknown, diagnosis.OK} {
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, f := range findings {
			if f.State != state {
				continue
			}
			counts[state]++
			if state == diagnosis.OK && !o.all {
				continue
			}
			fmt.Fprintf(table, "%s\t%s\t%s: %s\n", state, f.Check, cell(f.Where), cell(f.What))
			if f.Mend != "" {
				fmt.Fprintf(table, "\t\t%s\n", cell(f.Mend))
			}
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(
		out, "%d ok, %d unknown, %d warnings, %d problems\n", counts[diagnosis.OK], counts[diagnosis.Unknown],
		counts[diagnosis.Warning], counts[diagnosis.Problem],
	)
	return err
}
