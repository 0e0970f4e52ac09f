package main

import (
	_ "embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"sigs.k8s.io/yaml"
)

// builders is images/builders.yaml: all in which the templates for buildpacks differ.
type builders struct {
	Builders []builder `json:"builders"`
}

type builder struct {
	Name      string    `json:"name"`     // gcp
	Template  string    `json:"template"` // of the ClusterWorkflowTemplate
	Workflow  string    `json:"workflow"` // of the ClusterWorkflow, and its schema
	Title     string    `json:"title"`
	Languages string    `json:"languages"`
	User      int       `json:"user"`
	Group     int       `json:"group"`
	Folders   []string  `json:"writable"`
	Builder   reference `json:"builder"`
	Run       reference `json:"run"`
}

// reference is an image, and what is known of it.
type reference struct {
	Name      string   `json:"name"`
	Tag       string   `json:"tag"` // that the digest had when it was chosen; empty when that is not known
	Digest    string   `json:"digest"`
	Platforms []string `json:"platforms"`
	Source    string   `json:"source"`
}

// Reference is how the image is pulled.
func (r reference) Reference() string { return r.Name + "@" + r.Digest }

type writable struct{ Name, Path string }

// Writable are the folders that the builder's buildpacks write to besides those of every builder, with the name of a
// volume for each.
func (b builder) Writable() []writable {
	var all []writable
	for _, folder := range b.Folders {
		all = append(all, writable{path.Base(folder), folder})
	}
	return all
}

func readBuilders(root string) ([]builder, error) {
	file := filepath.Join(root, "images", "builders.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all builders
	if err := yaml.UnmarshalStrict(raw, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return all.Builders, nil
}

//go:embed buildpacks-build.yaml.tmpl
var buildpacksBuild string

// buildpacksTemplate is the file of a builder's ClusterWorkflowTemplate.
func buildpacksTemplate(b builder) (string, error) {
	t, err := template.New("buildpacks-build.yaml").Delims("<<", ">>").Option("missingkey=error").Parse(buildpacksBuild)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = t.Execute(&text, b)
	return text.String(), err
}

// buildpacksWorkflow is the file of a builder's ClusterWorkflow: that of dockerfile-builder, but for its name, the
// build, and what developers set.
func buildpacksWorkflow(dockerfile string, b builder) (string, error) {
	text := dockerfile
	var err error
	between := func(from, to, replacement string) {
		before, rest, found := strings.Cut(text, from)
		_, after, ends := strings.Cut(rest, to)
		if err == nil && (!found || !ends) {
			err = fmt.Errorf("%s.yaml: nothing is between %q and %q", dockerfileBuilder, from, to)
		}
		text = before + from + replacement + to + after
	}
	between(
		"    openchoreo.dev/description: ", "\n",
		fmt.Sprintf("Build %s without a Dockerfile, with %s", b.Languages, b.Title),
	)
	between("          steps:\n", "            - - name: publish-image\n", `            - - name: checkout-source
`+middle(dockerfile, "            - - name: checkout-source\n", "            - - name: containerfile-build\n")+
		fmt.Sprintf(`            - - name: %[1]s
                templateRef:
                  name: %[1]s
                  clusterScope: true
                  template: build-image
                arguments:
                  parameters:
                    - name: git-revision
                      value: '{{steps.checkout-source.outputs.parameters.git-revision}}'
`, b.Template))
	if err != nil {
		return "", err
	}
	text = strings.ReplaceAll(text, dockerfileBuilder, b.Workflow)
	text, err = generateParts(b.Workflow+".yaml", text, b.Workflow)
	return fmt.Sprintf(
		"# Made from %s.yaml and images/builders.yaml by go run ./ci/generate. Do not edit.\n#\n", dockerfileBuilder,
	) + text, err
}

// middle is what is between two texts.
func middle(text, from, to string) string {
	_, rest, _ := strings.Cut(text, from)
	between, _, _ := strings.Cut(rest, to)
	return between
}
