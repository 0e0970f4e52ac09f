// Command generate writes the files, and sections of files, that follow from the JSON Schemas, the templates,
// templates/builders.yaml and templates/VERSION: docs/reference/parameters.md, docs/reference/outcomes.md, the
// developers' parameters in the ClusterWorkflows, the READMEs of templates, every file and entry of a builder of
// buildpacks, and the version wherever it is. It removes the files of a builder that is no longer there:
// go run ./ci/generate
package main

import (
	"fmt"
	"log"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/templates"
)

func main() {
	log.SetFlags(0)
	if err := write("."); err != nil {
		log.Fatal(err)
	}
}

func write(root string) error {
	files, err := generate(root, templates.Builders())
	if err != nil {
		return err
	}
	old, err := leftovers(root, files)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, name := range old {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

const generated = "<!-- Generated from schemas/ by go run ./ci/generate. Do not edit. -->\n\n"

// actionFile is the composite action for GitHub.
const actionFile = "examples/external-ci/github-actions/register-workload/action.yml"

// stepFiles are the ClusterWorkflowTemplates in the order of a run. Those of builders, which are generated, are second.
var stepFiles = [][]string{
	{"checkout-source", "containerfile-build"}, {"scan-gate", "publish-image", "generate-workload", "commit-status"},
}

// generate returns the files that are generated, wholly or in part, for the project in root with these builders: path
// from there, with slashes, to text.
func generate(root string, builders []templates.Builder) (map[string]string, error) {
	read := func(name string) (string, error) {
		raw, err := os.ReadFile(filepath.Join(root, name))
		return string(raw), err
	}
	dockerfile, err := dockerfileWorkflow(filepath.Join(root, dockerfileBuilderFile))
	if err != nil {
		return nil, err
	}
	files := map[string]string{dockerfileBuilderFile: dockerfile, "docs/reference/outcomes.md": outcomes()}
	workflows := []workflow{{dockerfile, schemas.MustLoad(templates.DockerfileBuilder)}}
	var builds []string
	for _, b := range builders {
		w, err := builderFiles(files, b)
		if err != nil {
			return nil, fmt.Errorf("builder %s: %w", b.Name, err)
		}
		workflows = append(workflows, w)
		builds = append(builds, files[templateFile(b)])
	}
	for name, text := range builderSections(builders) {
		file, err := read(name)
		if err != nil {
			return nil, err
		}
		if files[name], err = withSections(name, file, text...); err != nil {
			return nil, err
		}
	}
	if files[actionFile], err = action(filepath.Join(root, actionFile)); err != nil {
		return nil, err
	}
	var steps []string
	for i, names := range stepFiles {
		for _, name := range names {
			file := workflowPlane + "/" + name + ".yaml"
			text, err := read(file)
			if err != nil {
				return nil, err
			}
			if files[file], err = withMetrics(file, withRetries(text)); err != nil {
				return nil, err
			}
			steps = append(steps, files[file])
		}
		if i == 0 {
			steps = append(steps, builds...)
		}
	}
	files["docs/reference/parameters.md"] = parameters(workflows)
	templatesText, err := templatesPage(steps)
	if err != nil {
		return nil, err
	}
	workflowsText, err := workflowsPage(workflows)
	if err != nil {
		return nil, err
	}
	for dir, text := range map[string]string{workflowPlane: templatesText, controlPlane: workflowsText} {
		readme := dir + "/README.md"
		if files[readme], err = withPage(filepath.Join(root, readme), text); err != nil {
			return nil, err
		}
	}
	version, err := readVersion(root)
	if err != nil {
		return nil, err
	}
	return files, stamp(root, version, files)
}

// workflow is the text of a ClusterWorkflow's file, and the schema of its developers' parameters.
type workflow struct {
	text   string
	schema *schemas.Schema
}

// builderFiles adds the files that a builder has to itself, and returns its ClusterWorkflow.
func builderFiles(files map[string]string, b templates.Builder) (workflow, error) {
	template, err := execute(buildpacksBuild, b)
	if err != nil {
		return workflow{}, err
	}
	text, err := execute(buildpacksBuilder, b)
	if err != nil {
		return workflow{}, err
	}
	schema, err := schemas.Parse(b.Workflow, []byte(text))
	if err != nil {
		return workflow{}, err
	}
	w, err := buildpacksWorkflow(files[dockerfileBuilderFile], b, text)
	if err != nil {
		return workflow{}, err
	}
	files[schemaFile(b)], files[workflowFile(b)] = text, w
	files[templateFile(b)], err = withMetrics(templateFile(b), withRetries(template))
	return workflow{w, schema}, err
}

// leftovers returns the generated files that are not among files, sorted: they belong to a builder that is no longer
// there.
func leftovers(root string, files map[string]string) ([]string, error) {
	dirs := map[string]bool{"schemas": true}
	for name := range files {
		dirs[path.Dir(name)] = true
	}
	var left []string
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			name := path.Join(dir, entry.Name())
			if _, current := files[name]; current || !entry.Type().IsRegular() {
				continue
			}
			text, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return nil, err
			}
			if whole.Match(text) {
				left = append(left, name)
			}
		}
	}
	return left, nil
}

func parameters(workflows []workflow) string {
	var b strings.Builder
	b.WriteString(generated + "# Parameters\n\nThe property `git-repo` is the flag `--git-repo` and the variable " +
		"`GIT_REPO`. A flag wins over the variable, the variable over the\n" +
		"default; what is empty counts as not given. Lists are JSON.\n")
	for _, name := range []string{
		"checkout-source", "containerfile-build", "buildpacks-build", "scan-gate", "publish-image",
		"generate-workload-cr", "commit-status",
	} {
		s := schemas.MustLoad(name)
		own := s.Properties[:len(s.Properties)-len(schemas.MustLoad("step").Properties)]
		parametersTable(&b, s.Name, s.Description, own)
	}
	common := schemas.MustLoad("step")
	parametersTable(&b, "Every step", common.Description, common.Properties)
	for _, w := range workflows {
		parametersTable(&b, w.schema.Name, w.schema.Description, leaves("", w.schema.Properties))
	}
	return b.String()
}

func parametersTable(b *strings.Builder, title, about string, properties []*schemas.Property) {
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
	report := schemas.MustLoad("build-report")
	fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| property | type | meaning |\n|---|---|---|\n", report.Name, report.Description)
	for _, p := range elements("", report.Properties) {
		about := p.Description
		if len(p.Enum) > 0 {
			about += " One of `" + strings.Join(p.Enum, "`, `") + "`."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.Name, p.Type, cell(about))
	}
	return b.String()
}

// elements lists properties, and after each list those of its elements, by their dotted names.
func elements(prefix string, properties []*schemas.Property) []*schemas.Property {
	var all []*schemas.Property
	for _, p := range properties {
		named := *p
		named.Name = prefix + p.Name
		all = append(all, &named)
		if p.Items != nil {
			all = append(all, elements(named.Name+"[].", p.Items.Properties)...)
		}
	}
	return all
}
