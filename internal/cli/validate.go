package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/portal"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
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
	Objects  []checked       `json:"objects"`
	Faults   []objects.Fault `json:"faults"`
	Warnings []objects.Fault `json:"warnings,omitempty"` // of descriptors: what has no effect
	Files    []objects.File  `json:"files"`              // that were read
	Left     []string        `json:"left,omitempty"`     // folders that were not entered
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
templates, which count where no file has one of that name. Of a folder every YAML file is read, and
of the folders in it, but for hidden ones and node_modules; at the end it says what was read. Found
are, each with file and line:

  - what is not YAML, keys that stand twice, and what the API server would refuse, by OpenChoreo's own definitions;
  - every fault of the parameters of WorkflowRuns and Components, which OpenChoreo does not look
    for: a step would fail of it, minutes later;
  - of each WorkflowRun the component check at which OpenChoreo's controller stops, with the reason
    and the message of its condition;
  - what keeps a Component from being ready, or a run pending for ever: a workflow that is not
    allowed, an expression that fails;
  - of each workload.yaml, the descriptor of an application, what generate-workload-cr would refuse;
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
	set, err := o.templates.with(objects.LoadAll(paths...))
	if err != nil {
		return err
	}
	result := findings{
		Objects: []checked{}, Files: set.Files, Left: set.Left,
		Faults: append(workflowrun.Check(set, o.partial), portal.Check(set, o.callback)...),
	}
	for _, object := range set.Objects {
		c := checked{Position: object.At(), Object: object.String()}
		if object.Kind == "WorkflowRun" && workflowrun.Standalone(object) {
			c.Note = "standalone: it has no labels of a component, so the component checks are skipped"
		}
		if object.Kind == "Workload" && filepath.Base(c.File) == descriptor.Name {
			c.Note = "it is no descriptor: generate-workload-cr refuses a Workload custom resource as an " +
				"application's " + descriptor.Name
		}
		result.Objects = append(result.Objects, c)
	}
	for _, d := range set.Descriptors {
		at := objects.Position{File: d.File, Line: 1}
		result.Objects = append(result.Objects, checked{Position: at, Object: "descriptor"})
		for _, w := range d.Warnings {
			at.Line = max(w.Line, 1)
			result.Warnings = append(result.Warnings, objects.Fault{Position: at, Field: w.Field, Message: w.Text})
		}
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
	case held(result.Files) == 0:
		return outcome.Invalid(fmt.Sprintf(
			"there is no object of OpenChoreo's in %s: %s", strings.Join(paths, ", "), readOf(result),
		))
	}
	return nil
}

func (o *validateOptions) print(out io.Writer, result findings) error {
	switch o.output {
	case "json":
		return printJSON(out, result)
	case "yaml":
		return printYAML(out, result)
	case "text":
		for _, c := range result.Objects {
			if c.Note != "" {
				fmt.Fprintln(out, quote.Line(fmt.Sprintf("%s: %s: %s", c.Position, c.Object, c.Note), 0))
			}
		}
		for _, w := range result.Warnings {
			fmt.Fprintf(out, "%s: no fault, but %s\n", w.Position, objects.Fault{Field: w.Field, Message: w.Message})
		}
		for _, f := range result.Faults {
			fmt.Fprintln(out, quote.Text(fmt.Sprint(f), 0))
		}
		fmt.Fprintln(out, readOf(result))
		if n := held(result.Files); n > 0 && len(result.Faults) == 0 {
			fmt.Fprintf(out, "%d %s, no fault\n", n, plural(n, "object"))
		}
		return nil
	}
	return outcome.Misuse(fmt.Sprintf("--output: %q is none of text, yaml, json", o.output))
}

// held is how many objects the files hold, without those of the templates.
func held(files []objects.File) (n int) {
	for _, f := range files {
		n += f.Holds
	}
	return n
}

// passedOver bounds how many files are named that hold nothing.
const passedOver = 5

// readOf tells what was read.
func readOf(result findings) string {
	folders := map[string]bool{}
	var nothing []string
	for _, f := range result.Files {
		folders[filepath.Dir(f.Name)] = true
		if f.Holds == 0 {
			nothing = append(nothing, f.Name)
		}
	}
	text := fmt.Sprintf(
		"Read %d %s in %d %s", len(result.Files), plural(len(result.Files), "file"), len(folders),
		plural(len(folders), "folder"),
	)
	if n := len(nothing); n > 0 {
		text += "; nothing to check is in " + strings.Join(nothing[:min(n, passedOver)], ", ")
		if n > passedOver {
			text += fmt.Sprintf(" and %d more", n-passedOver)
		}
	}
	if len(result.Left) > 0 {
		text += "; not looked into: " + strings.Join(result.Left, ", ")
	}
	return text
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
