package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

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

Each finding says what is wrong, where, and what to do. With --templates, the folder of your overlay,
it also finds templates in the cluster that differ from those. The exit code is 1 if there is a
problem, by which runs fail; warnings and unknowns do not count.`,
		Example: `  stepwright doctor
  stepwright doctor --kubeconfig ~/.kube/workflow-plane --plane workflow --templates my-overlay
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
