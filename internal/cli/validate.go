package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/portal"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
)

// validateOptions are the flags of stepwright validate.
type validateOptions struct {
	templates templates
	partial   bool
	callback  string
	output    string
}

// findings are what stepwright validate prints.
type findings struct {
	Objects []checked       `json:"objects"`
	Faults  []objects.Fault `json:"faults"`
}

// checked is an object that was looked at.
type checked struct {
	objects.Position
	Object string `json:"object"`
	Note   string `json:"note,omitempty"`
}

func validateCommand() *cobra.Command {
	var o validateOptions
	cmd := &cobra.Command{
		Use:   "validate [flags] FILE|FOLDER...",
		Short: "Find faults of WorkflowRuns and Components before OpenChoreo or a step does",
		Long: `Find faults of WorkflowRuns and Components before OpenChoreo or a step does.

The files count as a whole cluster, which has nothing else but the ClusterWorkflows of the
templates, which count where no file has one of that name. Of a folder, every YAML file is read.
Found are, each with file and line:

  - what is not YAML, keys that stand twice, and what the API server would refuse, by OpenChoreo's own definitions;
  - every fault of the parameters of WorkflowRuns and Components, which OpenChoreo does not look
    for: a step would fail of it, minutes later;
  - of each WorkflowRun the component check at which OpenChoreo's controller stops, with the reason
    and the message of its condition;
  - what keeps a Component from being ready, or a run pending for ever: a workflow that is not
    allowed, an expression that fails;
  - what keeps the portal from showing the builds of Jenkins or GitHub Actions: annotations of
    Components, and Helm values under backstage, of another form than the portal reads, or that do
    not fit together.

A WorkflowRun with neither label, openchoreo.dev/project nor openchoreo.dev/component, is
standalone: the component checks are skipped.

The exit code is 0, or 2 when there are faults.`,
		Example: `  stepwright validate --partial examples/greeting-service
  stepwright validate app/ platform/component-types platform/workflows
  stepwright validate --partial values.yaml \
      --github-callback-url https://portal.example.com/api/auth/github/handler/frame
  stepwright validate app/ -o json | jq -r '.faults[] | "\(.file):\(.line): \(.message)"'`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	o.templates.addTo(f)
	f.BoolVar(
		&o.partial, "partial", false,
		"the cluster holds more than the files: a Component, component type or workflow that they lack is no fault",
	)
	f.StringVar(
		&o.callback, "github-callback-url", "",
		"authorization callback URL that the GitHub OAuth App has, to hold against the Helm values",
	)
	f.StringVarP(&o.output, "output", "o", "text", "text, yaml or json")
	return cmd
}

func (o *validateOptions) run(out io.Writer, paths []string) error {
	set, err := o.templates.objects(paths)
	if err != nil {
		return err
	}
	result := findings{
		Objects: []checked{},
		Faults:  append(workflowrun.Check(set, o.partial), portal.Check(set, o.callback)...),
	}
	for _, object := range set.Objects {
		c := checked{Position: object.At(), Object: object.String()}
		if object.Kind == "WorkflowRun" && workflowrun.Standalone(object) {
			c.Note = "standalone: it has no labels of a component, so the component checks are skipped"
		}
		result.Objects = append(result.Objects, c)
	}
	for _, values := range set.Values {
		c := checked{Position: values.At(), Object: values.String()}
		if callback := portal.CallbackURL(values); callback != "" {
			c.Note = "the GitHub OAuth App needs the authorization callback URL " + callback
		}
		result.Objects = append(result.Objects, c)
	}
	if err := o.print(out, result); err != nil {
		return err
	}
	switch n := len(result.Faults); {
	case n > 0:
		return outcome.Invalid(fmt.Sprintf("%d %s", n, plural(n, "fault")))
	case len(result.Objects) == 0:
		return outcome.Invalid("there is no object of OpenChoreo's in " + strings.Join(paths, ", "))
	}
	return nil
}

func (o *validateOptions) print(out io.Writer, result findings) error {
	switch o.output {
	case "json":
		return printJSON(out, result)
	case "yaml":
		text, err := yaml.Marshal(result)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	case "text":
		for _, c := range result.Objects {
			if c.Note != "" {
				fmt.Fprintf(out, "%s: %s: %s\n", c.Position, c.Object, c.Note)
			}
		}
		for _, f := range result.Faults {
			fmt.Fprintln(out, f)
		}
		if n := len(result.Objects); n > 0 && len(result.Faults) == 0 {
			fmt.Fprintf(out, "%d %s, no fault\n", n, plural(n, "object"))
		}
		return nil
	}
	return misuse(fmt.Sprintf("--output: %q is none of text, yaml, json", o.output))
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
