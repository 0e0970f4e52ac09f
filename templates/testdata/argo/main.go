// Command argo prints the faults that its Argo's validator finds. It reads installations as JSON: they are
// ClusterWorkflowTemplates, and Workflows that refer to them.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
)

type installation struct {
	Name                 string
	Templates, Workflows []json.RawMessage
}

// getters hands the templates of an installation to the validator.
type getters map[string]*v1alpha1.ClusterWorkflowTemplate

func (g getters) Get(name string) (*v1alpha1.ClusterWorkflowTemplate, error) {
	if template := g[name]; template != nil {
		return template, nil
	}
	return nil, fmt.Errorf("there is no ClusterWorkflowTemplate %q", name)
}

func main() {
	var installations []installation
	if err := json.NewDecoder(os.Stdin).Decode(&installations); err != nil {
		fmt.Fprintln(os.Stderr, "argo:", err)
		os.Exit(1)
	}
	for _, i := range installations {
		i.validate()
	}
}

func (i installation) validate() {
	fault := func(name string, err error) {
		if err != nil {
			fmt.Printf("%s: %s: %v\n", i.Name, name, err)
		}
	}
	templates := getters{}
	for n, raw := range i.Templates {
		template := new(v1alpha1.ClusterWorkflowTemplate)
		fault(fmt.Sprintf("template %d", n), strictly(raw, template))
		templates[template.Name] = template
	}
	for name, template := range templates {
		fault(name, validTemplate(templates, template, validate.ValidateOpts{Lint: true}))
	}
	for n, raw := range i.Workflows {
		workflow := new(v1alpha1.Workflow)
		fault(fmt.Sprintf("Workflow %d", n), strictly(raw, workflow))
		fault("Workflow of "+workflow.Name, validWorkflow(templates, workflow, validate.ValidateOpts{}))
	}
}

// strictly decodes, and refuses a field that this Argo does not know.
func strictly(raw []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}
