package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
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
from the folder of --templates.

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
			o.templates.required = cmd.Flags().Changed("templates")
			return o.run(cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "WorkflowRun to render, where the files hold several")
	f.StringVar(&o.templates.dir, "templates", "templates", templatesUsage)
	f.StringVar(
		&o.secretStore, "secret-store", "default",
		"ClusterSecretStore of the workflow plane, where no file holds the plane",
	)
	f.StringVarP(&o.output, "output", "o", "yaml", "yaml (documents) or json (a List)")
	return cmd
}

func (o *renderOptions) run(out io.Writer, paths []string) error {
	if o.output != "yaml" && o.output != "json" {
		return &workflowrun.InvalidError{Faults: []string{fmt.Sprintf("--output: %q is none of yaml, json", o.output)}}
	}
	set, err := o.templates.load(paths)
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
		text, err := yaml.Marshal(object)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(out io.Writer, value any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

const templatesUsage = "folder of the ClusterWorkflows, built if it has a kustomization, or the one above its folder " +
	"control-plane; the files win over it"

// templates is the folder that the platform's objects come from.
type templates struct {
	dir      string
	required bool // somebody named it
}

// load reads files and, after them, the templates.
func (t templates) load(paths []string) (*objects.Set, error) {
	set, err := objects.Load(paths...)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(t.dir, "control-plane")
	if _, err := os.Stat(dir); err != nil {
		dir = t.dir
	}
	more, err := loadFolder(dir)
	if errors.Is(err, fs.ErrNotExist) && !t.required {
		return set, nil
	}
	if err != nil {
		return nil, err
	}
	set.Add(more)
	return set, nil
}

// loadFolder reads a folder as kubectl applies it: one with a kustomization is built. Lines then are those of what
// kubectl kustomize prints.
func loadFolder(dir string) (*objects.Set, error) {
	if !customized(dir) {
		return objects.Load(dir)
	}
	text, err := kustomize(dir)
	if err != nil {
		return nil, err
	}
	return objects.Read("kubectl kustomize "+dir, text), nil
}

// customized tells whether a folder is one for kubectl apply -k.
func customized(dir string) bool {
	return slices.ContainsFunc(konfig.RecognizedKustomizationFileNames(), func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// kustomize builds a folder, as kubectl kustomize does.
func kustomize(dir string) ([]byte, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", dir, err)
	}
	return text, nil
}
