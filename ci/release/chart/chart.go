// Package chart makes the Helm chart of the kustomizations in templates. It builds them once for each component, with
// marks in place of settings, and writes what differs as choices: nothing is said twice, and what the chart renders by
// its default values is what kubectl apply -k of both planes installs.
package chart

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/kustomization"
	installed "github.com/stepwright/stepwright/templates"
)

// Name is the name of the chart.
const Name = "stepwright"

// Components are the components of templates that the chart has. It has not those for BuildKit daemons: daemons are an
// overlay's own, with replicas, volumes and certificates.
var Components = []string{
	"network-policies", "anonymous-pull", "anonymous-push", "client-assertion", "signing-key", "signing-keyless",
	"scan-gate", "annotate-failures", "commit-status", "observability", "builder-resources", "plain-image-names",
	"seccomp-profile", "user-namespaces", "registry-cache",
}

// planes are the folders of templates with their settings.
var planes = []string{"workflow-plane", "control-plane"}

//go:embed helpers.tpl
var helpers []byte

//go:embed README.md
var readme string

// Files returns the files of the chart by their paths: of the folder templates of the project, as a version, with the
// digests of images by the names of steps. A step without a digest has its image by tag.
func Files(templates, version string, digests map[string]string) (map[string][]byte, error) {
	values, names, err := settings(templates)
	if err != nil {
		return nil, err
	}
	documents, order, err := documents(templates, names)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"Chart.yaml": fmt.Appendf(nil, `apiVersion: v2
name: %s
description: Builds OpenChoreo components, from a Git revision to a container image and a Workload
type: application
version: %[2]s
appVersion: %[2]q
home: https://github.com/stepwright/stepwright
sources: [https://github.com/stepwright/stepwright]
`, Name, version),
		"README.md":              []byte(readme),
		"templates/_helpers.tpl": helpers,
	}
	for plane, keys := range order {
		w := &writer{version: version}
		fmt.Fprintf(w, "{{- if .Values.planes.%s }}\n", plane)
		for _, key := range keys {
			w.chosen(documents[key], func(t tree) {
				w.WriteString("---\n")
				w.mapping(t.(mapping), "")
			})
		}
		w.WriteString("{{- end }}\n")
		files["templates/"+plane+"-plane.yaml"] = w.Bytes()
	}
	files["values.yaml"], err = valuesFile(values, digests)
	if err != nil {
		return nil, err
	}
	files["values.schema.json"], err = schema(names)
	return files, err
}

// documents returns the objects of all planes and components as trees, and their order by the plane that they are for.
func documents(templates string, names map[string]any) (map[string]tree, map[string][]string, error) {
	base, order, err := objects(templates, names, "")
	if err != nil {
		return nil, nil, err
	}
	all := maps.Clone(base)
	for _, component := range Components {
		with, more, err := objects(templates, names, component)
		if err != nil {
			return nil, nil, err
		}
		merged, err := mergeMappings(all, base, with, component)
		if err != nil {
			return nil, nil, fmt.Errorf("component %s: %w", component, err)
		}
		all = merged.(mapping)
		for plane, keys := range more {
			for _, key := range keys {
				if !slices.Contains(order[plane], key) {
					order[plane] = append(order[plane], key)
				}
			}
		}
	}
	return all, order, nil
}

// objects builds both planes with a component, or with none, and returns each object as a tree.
func objects(templates string, names map[string]any, component string) (mapping, map[string][]string, error) {
	values, _, err := build(templates, nil, component)
	if err != nil {
		return nil, nil, err
	}
	marked, order, err := build(templates, names, component)
	if err != nil {
		return nil, nil, err
	}
	all := mapping{}
	for key, value := range values {
		if all[key], err = treeOf(value, marked[key]); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	return all, order, nil
}

// build builds both planes with a component, or with none, and with marks in place of the settings of these names. The
// keys of objects say what they are.
func build(templates string, names map[string]any, component string) (
	objects map[string]any, order map[string][]string, err error,
) {
	dir, err := os.MkdirTemp("", "stepwright-chart-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	var chosen []string
	if component != "" {
		chosen = []string{component}
	}
	if err := writeOverlay(dir, templates, names, chosen...); err != nil {
		return nil, nil, err
	}
	built, err := kustomization.Build(dir)
	if err != nil {
		return nil, nil, err
	}
	objects, order = map[string]any{}, map[string][]string{}
	for _, r := range built.Resources() {
		key := path.Join(r.GetKind(), r.GetNamespace(), r.GetName())
		plane := r.GetLabels()[installed.PlaneLabel]
		if plane == "" {
			return nil, nil, fmt.Errorf("%s lacks the label %s", key, installed.PlaneLabel)
		}
		if objects[key], err = r.Map(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
		order[plane] = append(order[plane], key)
	}
	return objects, order, nil
}

// writeOverlay writes a kustomization like that of templates/overlays.
func writeOverlay(dir, templates string, names map[string]any, chosen ...string) error {
	absolute, err := filepath.Abs(templates)
	if err != nil {
		return err
	}
	absolute, err = filepath.EvalSymlinks(absolute)
	if err != nil {
		return err
	}
	here, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	to, err := filepath.Rel(here, absolute) // kustomize takes no other paths
	if err != nil {
		return err
	}
	var resources, components []string
	var generators []any
	var env strings.Builder
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&env, "%s=%s\n", name, mark(name))
	}
	for _, plane := range planes {
		resources = append(resources, path.Join(filepath.ToSlash(to), plane))
		components = append(components, path.Join(filepath.ToSlash(to), "components", plane+"-settings"))
		generators = append(generators, map[string]any{
			"name": plane + "-settings", "behavior": "merge", "envs": []string{"settings.env"},
			"options": map[string]any{"disableNameSuffixHash": true},
		})
	}
	for _, component := range chosen {
		components = append(components, path.Join(filepath.ToSlash(to), "components", component))
	}
	raw, err := yaml.Marshal(map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
		"resources": resources, "configMapGenerator": generators, "components": components,
	})
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "settings.env"), []byte(env.String()), 0o644),
		os.WriteFile(filepath.Join(dir, "kustomization.yaml"), raw, 0o644),
	)
}

// settings reads the settings of both planes: as a piece of values.yaml with the comments that they have, and by their
// names.
func settings(templates string) (string, map[string]any, error) {
	var text strings.Builder
	names := map[string]any{}
	for _, plane := range planes {
		raw, err := os.ReadFile(filepath.Join(templates, plane, "settings.env"))
		if err != nil {
			return "", nil, err
		}
		_, rest, _ := strings.Cut(string(raw), "\n") // what the first line says is of overlays
		for line := range strings.Lines(rest) {
			line = strings.TrimSpace(line)
			name, value, isSetting := strings.Cut(line, "=")
			switch {
			case strings.HasPrefix(line, "# Generated from "), line == "# End of what is generated.":
			case strings.HasPrefix(line, "#"):
				text.WriteString("  " + line + "\n")
			case isSetting:
				var read any
				if err := yaml.Unmarshal([]byte(value), &read); err != nil || read == nil {
					read = value
				}
				if _, isMapping := read.(map[string]any); isMapping {
					read = value
				}
				names[name] = read
				fmt.Fprintf(&text, "  %s: %s\n", name, scalar(read))
			case text.Len() > 0:
				text.WriteString("\n")
			}
		}
		text.WriteString("\n")
	}
	return strings.TrimRight(text.String(), "\n") + "\n", names, nil
}

func valuesFile(settings string, digests map[string]string) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(`# Which clusters this one is: where builds run, where developers choose them, or both.
planes:
  workflow: true
  control: true

# Where the images of the steps are. With a tag of your own, digests do not count.
images:
  registry: ghcr.io/stepwright
  tag: ""
  digests: `)
	raw, err := json.Marshal(digests)
	if err != nil {
		return nil, err
	}
	if len(digests) == 0 {
		raw = []byte("{}")
	}
	b.Write(raw)
	b.WriteString(`

# The components of the same names in templates/components; templates/README.md says what each is for.
components:
`)
	for _, component := range Components {
		fmt.Fprintf(&b, "  %s: false\n", component)
	}
	b.WriteString("\n# The settings of the same names in settings.env of the planes.\nsettings:\n" + settings)
	return b.Bytes(), nil
}

// schema has Helm refuse a value that nothing reads, and one that would end the line that it is put into.
func schema(names map[string]any) ([]byte, error) {
	type object = map[string]any
	closed := func(properties object) object {
		return object{"type": "object", "additionalProperties": false, "properties": properties}
	}
	line := object{"type": "string", "pattern": "^[^\n]*$"}
	settings, components := object{}, object{}
	for name, value := range names {
		kind := object{"type": []string{"string", "integer", "boolean"}, "pattern": "^[^\n]*$"}
		if _, isList := value.([]any); isList {
			kind = object{"type": []string{"array", "string"}, "pattern": "^[^\n]*$"}
		}
		settings[name] = kind
	}
	for _, component := range Components {
		components[component] = object{"type": "boolean"}
	}
	top := closed(object{
		"global":     object{"type": "object"}, // Helm's own
		"planes":     closed(object{"workflow": object{"type": "boolean"}, "control": object{"type": "boolean"}}),
		"images":     closed(object{"registry": line, "tag": line, "digests": object{"type": "object"}}),
		"components": closed(components),
		"settings":   closed(settings),
	})
	top["$schema"] = "https://json-schema.org/draft-07/schema#"
	raw, err := json.MarshalIndent(top, "", "  ")
	return append(raw, '\n'), err
}
