package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
)

// renderOptions are the flags of stepwright render.
type renderOptions struct {
	name        string
	templates   templates
	secretStore string
	output      string
}

func renderCommand() *cobra.Command {
	var o renderOptions
	cmd := &cobra.Command{
		Use:   "render [flags] FILE|FOLDER...",
		Short: "Print what OpenChoreo would make of a WorkflowRun: the Argo Workflow and what it needs",
		Long: `Print what OpenChoreo would make of a WorkflowRun: the Argo Workflow and what it needs.

The files hold the WorkflowRun and, where there are any, its Component, component type and
SecretReferences; of a folder, every YAML file is read. The ClusterWorkflow comes from them, or else
from the templates.

Everything is as OpenChoreo's controller makes it, in the order in which it creates it: the
namespace with its service account and Role, the workflow's resources, and the Argo Workflow. Its
ways with odd values show, too: parameters are filled up with defaults but not held against their
schema, 1000000 becomes 1e+06, and the text "[1, 2]" becomes the list [1,2]. Use stepwright validate
to find such values.`,
		Example: `  stepwright render examples/greeting-service
  stepwright render run.yaml component.yaml secret-reference.yaml -o json | jq '.items[-1].spec.arguments'
  stepwright render run.yaml --templates my-templates | kubectl apply --dry-run=server -f -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "WorkflowRun to render, where the files hold several")
	o.templates.addTo(f)
	f.StringVar(
		&o.secretStore, "secret-store", "default",
		"ClusterSecretStore of the workflow plane, where no file holds the plane",
	)
	f.StringVarP(&o.output, "output", "o", "yaml", "yaml (documents) or json (a List)")
	return cmd
}

func (o *renderOptions) run(out io.Writer, paths []string) error {
	if o.output != "yaml" && o.output != "json" {
		return outcome.Misuse(notAForm(o.output))
	}
	set, err := o.templates.with(objects.Load(paths...))
	if err != nil {
		return err
	}
	run, err := workflowrun.Pick(set, o.name)
	if err != nil {
		return err
	}
	rendered, err := workflowrun.Render(set, run, o.secretStore)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(out, map[string]any{"apiVersion": "v1", "kind": "List", "items": rendered.Objects()})
	}
	for _, object := range rendered.Objects() {
		if _, err := io.WriteString(out, "---\n"); err != nil {
			return err
		}
		if err := printYAML(out, object); err != nil {
			return err
		}
	}
	return nil
}
