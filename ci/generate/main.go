// Command docs writes what is made from the JSON Schemas and the templates: docs/parameters.md, docs/outcomes.md, what
// developers may set in the ClusterWorkflow, and a section of the README of each folder of templates: go run
// ./ci/generate
package main

import (
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepwright/stepwright/schemas"
)

func main() {
	log.SetFlags(0)
	pages, err := pages(".")
	if err != nil {
		log.Fatal(err)
	}
	for name, text := range pages {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

const generated = "<!-- Generated from schemas/ by go run ./ci/generate. Do not edit. -->\n\n"

// pages are the files that are generated, wholly or in part, for the project in root: path from there to text.
func pages(root string) (map[string]string, error) {
	const (
		workflowPlane = "templates/workflow-plane"
		controlPlane  = "templates/control-plane"
		workflowFile  = controlPlane + "/" + dockerfileBuilder + ".yaml"
		actionFile    = "examples/external-ci/github-actions/register-workload/action.yml"
	)
	builders, err := readBuilders(root)
	if err != nil {
		return nil, err
	}
	all := map[string]string{"docs/parameters.md": parameters(builders), "docs/outcomes.md": outcomes()}
	if all[workflowFile], err = clusterWorkflow(filepath.Join(root, workflowFile)); err != nil {
		return nil, err
	}
	templates := []string{all[workflowFile]}
	for _, b := range builders {
		file := workflowPlane + "/" + b.Template + ".yaml"
		if all[file], err = buildpacksTemplate(b); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		file = controlPlane + "/" + b.Workflow + ".yaml"
		if all[file], err = buildpacksWorkflow(all[workflowFile], b); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		templates = append(templates, all[file])
	}
	if all[actionFile], err = action(filepath.Join(root, actionFile)); err != nil {
		return nil, err
	}
	sections := map[string]func() (string, error){
		workflowPlane: func() (string, error) { return templatesSection(filepath.Join(root, workflowPlane), all) },
		controlPlane: func() (string, error) {
			var b strings.Builder
			for _, text := range templates {
				if err := clusterWorkflowSection(&b, text); err != nil {
					return "", err
				}
			}
			return b.String(), nil
		},
	}
	for dir, section := range sections {
		text, err := section()
		if err != nil {
			return nil, err
		}
		path := dir + "/README.md"
		if all[path], err = withSection(filepath.Join(root, path), text); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func parameters(builders []builder) string {
	var b strings.Builder
	b.WriteString(generated + "# Parameters\n\nThe property `git-repo` is the flag `--git-repo` and the variable " +
		"`GIT_REPO`. A flag wins over the variable, the variable over the\n" +
		"default; what is empty counts as not given. Lists are JSON.\n")
	for _, name := range []string{
		"checkout-source", "containerfile-build", "buildpacks-build", "publish-image", "generate-workload-cr",
	} {
		s := schemas.MustLoad(name)
		own := s.Properties[:len(s.Properties)-len(schemas.MustLoad("step").Properties)]
		section(&b, s.Name, s.Description, own)
	}
	common := schemas.MustLoad("step")
	section(&b, "Every step", common.Description, common.Properties)
	for _, name := range append([]string{dockerfileBuilder}, workflows(builders)...) {
		s := schemas.MustLoad(name)
		section(&b, s.Name, s.Description, leaves("", s.Properties))
	}
	return b.String()
}

func workflows(builders []builder) []string {
	var names []string
	for _, b := range builders {
		names = append(names, b.Workflow)
	}
	return names
}

func section(b *strings.Builder, title, about string, properties []*schemas.Property) {
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| parameter | type | default | meaning |\n|---|---|---|---|\n", title, about)
	for _, p := range properties {
		value := "–"
		switch {
		case p.Required:
			value = "required"
		case p.Default != nil && schemas.Text(p.Default) != "":
			value = "`" + schemas.Text(p.Default) + "`"
		}
		about := p.Description
		if len(p.Enum) > 0 {
			about += " One of `" + strings.Join(p.Enum, "`, `") + "`."
		} else if len(p.Examples) > 0 {
			about += " Example: `" + schemas.Text(p.Examples[0]) + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", p.Name, p.Type, value, cell(about))
	}
}

// leaves lists nested properties by their dotted names.
func leaves(prefix string, properties []*schemas.Property) []*schemas.Property {
	var all []*schemas.Property
	for _, p := range properties {
		if len(p.Properties) > 0 {
			all = append(all, leaves(prefix+p.Name+".", p.Properties)...)
			continue
		}
		leaf := *p
		leaf.Name = prefix + p.Name
		all = append(all, &leaf)
	}
	return all
}

func outcomes() string {
	var b strings.Builder
	b.WriteString(generated + "# Outcomes\n\nEvery step ends with one of these reasons, on every exit path: in " +
		"`outcome.json` of the results directory, as `reason: message. hint` in the\n" +
		"pod's termination message, and as the exit code of its process. Only class `transient` is tried again, by " +
		"the step itself.\n\n" +
		"| reason | exit code | class | what happened | what to do |\n|---|---|---|---|---|\n")
	for _, r := range schemas.Reasons() {
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s | %s |\n", r.Name, r.ExitCode, r.Class, r.Summary, r.Hint)
	}
	return b.String()
}
