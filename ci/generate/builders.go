package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/templates"
)

const (
	workflowPlane = "templates/workflow-plane"
	controlPlane  = "templates/control-plane"

	dockerfileBuilderFile = controlPlane + "/" + templates.DockerfileBuilder + ".yaml"
)

// templateFile, workflowFile and schemaFile are the files that a builder has to itself.
func templateFile(b templates.Builder) string { return workflowPlane + "/" + b.Template + ".yaml" }
func workflowFile(b templates.Builder) string { return controlPlane + "/" + b.Workflow + ".yaml" }
func schemaFile(b templates.Builder) string   { return "schemas/" + b.Workflow + ".schema.json" }

var (
	//go:embed buildpacks-build.yaml.tmpl
	buildpacksBuild string

	//go:embed buildpacks-builder.schema.json.tmpl
	buildpacksBuilder string
)

// execute fills a template of text with a builder.
func execute(text string, b templates.Builder) (string, error) {
	t, err := template.New("").Delims("<<", ">>").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			var b strings.Builder
			encoder := json.NewEncoder(&b)
			encoder.SetEscapeHTML(false)
			err := encoder.Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"list": list,
	}).Parse(text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = t.Execute(&out, b)
	return out.String(), err
}

// list writes names as a sentence does: Go, Java and Python.
func list(names []string) string {
	last := len(names) - 1
	if last <= 0 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// buildpacksWorkflow returns the file of a builder's ClusterWorkflow, made from the file of dockerfile-builder: the
// name, the build and the developers' parameters differ. schema is the text of the builder's schema.
func buildpacksWorkflow(dockerfile string, b templates.Builder, schema string) (string, error) {
	text := dockerfile
	var err error
	between := func(from, to, replacement string) {
		first, rest, found := strings.Cut(text, from)
		_, last, ends := strings.Cut(rest, to)
		if err == nil && (!found || !ends) {
			err = fmt.Errorf("%s: nothing is between %q and %q", dockerfileBuilderFile, from, to)
		}
		text = first + from + replacement + to + last
	}
	between(
		"    openchoreo.dev/description: ", "\n",
		fmt.Sprintf("Build %s without a Dockerfile, with %s", list(b.Languages), b.Title),
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
                    - name: source-digest
                      value: '{{steps.checkout-source.outputs.parameters.source-digest}}'
                    - name: revision
                      value: '{{steps.checkout-source.outputs.parameters.revision}}'
                    - name: labels
                      value: '{{workflow.parameters.labels}}'
                    - name: rebuild
                      value: '{{workflow.parameters.no-cache}}'
                    - name: secret-keys
                      value: '{{workflow.parameters.secret-keys}}'
`, b.Template))
	text = head(text, "    - id: build-secrets\n") // the last of the resources
	references := fmt.Sprintf(
		"    # Generated from schemas/%s.schema.json by go run ./ci/generate. One", templates.DockerfileBuilder,
	)
	if err == nil && !strings.Contains(text, references) {
		err = fmt.Errorf("%s: lacks the references of build secrets", dockerfileBuilderFile)
	}
	if err != nil {
		return "", err
	}
	text = head(text, references) + "  resources:\n" + tail(text, "\n  resources:\n")
	text = strings.ReplaceAll(text, templates.DockerfileBuilder, b.Workflow)
	text = strings.ReplaceAll(text, "{{steps.containerfile-build.", "{{steps."+b.Template+".")
	if text, err = workflowSections(workflowFile(b), text, b.Workflow, []byte(schema)); err != nil {
		return "", err
	}
	text, err = withBindings(text, b.Workflow, schema)
	return fmt.Sprintf(
		"# Made from %s.yaml and templates/builders.yaml by go run ./ci/generate. Do not edit.\n#\n",
		templates.DockerfileBuilder,
	) + text, err
}

// withBindings adds the Secret of service bindings to a ClusterWorkflow, and what tells the build to wait for it.
func withBindings(text, name, schema string) (string, error) {
	parsed, err := schemas.Parse(name, []byte(schema))
	if err != nil {
		return "", err
	}
	properties := leaves("", parsed.Properties)
	i := slices.IndexFunc(properties, func(p *schemas.Property) bool { return p.Name == bindingsSecretRef })
	if i < 0 {
		return "", fmt.Errorf("schema %s has no %s", name, bindingsSecretRef)
	}
	secret := secretReference{bindingsSecretRef, properties[i].Pattern}
	insert := func(place, added string) {
		if err == nil && strings.Count(text, place) != 1 {
			err = fmt.Errorf("%s: %q is there %d times", dockerfileBuilderFile, place, strings.Count(text, place))
		}
		text = strings.Replace(text, place, added+place, 1)
	}
	insert("            - - name: publish-image\n", `                    # The step waits for the Secret.
                    - name: bindings-required
`+indented("                      ", secret.required()))
	insert("  resources:\n    - id: git-secret\n", `    - id: bindings-reference
      apiVersion: openchoreo.dev/v1alpha1
      kind: SecretReference
`+indented("      ", secret.name()))
	data := middle(text, "\n          data: |-\n", "    - id: registry-push-secret\n")
	data = strings.ReplaceAll(data, "git-secret-reference", "bindings-reference")
	const spec = `externalRefs["bindings-reference"].spec`
	const noData = "!has(" + spec + ".data) ? [] : "
	if err == nil && strings.Count(data, noData) != 1 {
		err = fmt.Errorf("%s: %q is there %d times", dockerfileBuilderFile, noData, strings.Count(data, noData))
	}
	annotated := indented("              ", "["+spec+"].exists(s, "+forBuild("stepwright.dev/bindings")+")")
	data = strings.Replace(
		data, noData, noData+"!"+strings.TrimSpace(annotated)+
			"\n              ? ["+refused("bindings-is-not-annotated")+"] : ", 1,
	)
	// The last one: components of operators find the others by their places.
	text += "    - id: bindings\n" + indented("      ", secret.includeWhen()) + `      template:
        apiVersion: external-secrets.io/v1
        kind: ExternalSecret
        metadata:
          name: ${metadata.workflowRunName}-bindings
          namespace: ${metadata.namespace}
        spec:
          refreshInterval: 5m
          secretStoreRef:
            kind: ClusterSecretStore
            name: ${workflowplane.secretStore}
          target:
            name: ${metadata.workflowRunName}-bindings
            creationPolicy: Owner
          # The code of a build reads its bindings, so a SecretReference has to say that it is for that: another
          # one, such as for Git, gives nothing: there is no such key.
          data: |-
` + data
	return text, err
}

// head and tail are the parts of a text around the first of another, which is in it.
func head(text, mark string) string {
	part, _, _ := strings.Cut(text, mark)
	return part
}

func tail(text, mark string) string {
	_, part, _ := strings.Cut(text, mark)
	return part
}

// middle returns the part of a text between two others.
func middle(text, from, to string) string { return head(tail(text, from), to) }

// builderSections are the sections of hand-written files that have an entry for every builder, by the file's path and
// in their order.
func builderSections(builders []templates.Builder) map[string][]string {
	var templateFiles, workflowFiles, settings, replacements, mirrored, standIns strings.Builder
	var amounts, others, resources strings.Builder
	for _, b := range builders {
		fmt.Fprintf(&templateFiles, "- %s.yaml\n", b.Template)
		fmt.Fprintf(&workflowFiles, "- %s.yaml\n", b.Workflow)
		images(&settings, b, b.Builder.Reference(), b.Run.Reference())
		images(&mirrored, b, "mirror.acme.example/builders/"+b.Name+"@"+b.Builder.Digest,
			"mirror.acme.example/run/"+b.Name+"@"+b.Run.Digest)
		replacement(&replacements, b, "builder-image", "spec.templates.0.container.image",
			"spec.templates.0.initContainers.[name=build].image",
			"spec.templates.0.inputs.parameters.[name=builder-image].default")
		replacement(&replacements, b, "run-image", "spec.templates.0.inputs.parameters.[name=run-image].default")
		for i, r := range builderResources {
			fmt.Fprintf(&amounts, "%s-%s=%s\n", b.Name, r.setting, r.value)
			fmt.Fprintf(&others, "%s-%s=%s\n", b.Name, r.setting, examplesOfResources[i])
			replacement(&resources, b, r.setting, "spec.templates.0.initContainers.[name=build].resources."+r.field)
		}
		if family, ok := testbuilders.StandIn(b); ok {
			images(&standIns, b, family.Builder, family.Run)
		}
	}
	const settingsFile, components = "/settings.env", "templates/components/"
	return map[string][]string{
		workflowPlane + "/kustomization.yaml":                     {templateFiles.String()},
		controlPlane + "/kustomization.yaml":                      {workflowFiles.String()},
		workflowPlane + settingsFile:                              {settings.String(), amounts.String()},
		components + "workflow-plane-settings/kustomization.yaml": {replacements.String()},
		components + "builder-resources/kustomization.yaml":       {resources.String()},
		"templates/overlays/example" + settingsFile:               {mirrored.String(), others.String()},
		"ci/e2e/overlays/default" + settingsFile:                  {standIns.String()},
	}
}

// builderResources are the settings of the component builder-resources that each builder has, with their defaults and
// the fields of a container's resources.
var builderResources = []struct{ setting, value, field string }{
	{"cpu-request", "500m", "requests.cpu"},
	{"memory-request", "512Mi", "requests.memory"},
	{"cpu", "4", "limits.cpu"},
	{"memory", "4Gi", "limits.memory"},
	{"storage", "24Gi", "limits.ephemeral-storage"},
}

// examplesOfResources are other values of them.
var examplesOfResources = []string{"1250m", "2Gi", "6", "12Gi", "48Gi"}

// images writes a builder's two settings.
func images(settings *strings.Builder, b templates.Builder, builder, run string) {
	fmt.Fprintf(settings, "%[1]s-builder-image=%[2]s\n%[1]s-run-image=%[3]s\n", b.Name, builder, run)
}

// replacement puts one of a builder's settings into its ClusterWorkflowTemplate.
func replacement(out *strings.Builder, b templates.Builder, setting string, paths ...string) {
	fmt.Fprintf(out, `- source: {kind: ConfigMap, name: workflow-plane-settings, fieldPath: data.%s-%s}
  targets:
    - select: {kind: ClusterWorkflowTemplate, name: %s}
      fieldPaths: ["%s"]
`, b.Name, setting, b.Template, strings.Join(paths, `", "`))
}
