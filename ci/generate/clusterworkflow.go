package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/templates"
)

// workflowParameters are the parameters of the Argo Workflow (docs/contract.md section 1) that a developer sets, by
// their path in the schema.
var workflowParameters = []struct{ path, name string }{
	{"repository.url", "git-repo"},
	{"repository.revision.branch", "branch"},
	{"repository.revision.commit", "commit"},
	{"repository.appPath", "app-path"},
	{"docker.context", "docker-context"},
	{"docker.filePath", "dockerfile-path"},
	{"docker.platforms", "platforms"},
	{"buildEnv", "build-env"},
	{"buildArgs", "build-args"},
	{"timestamps", "timestamps"},
	{"repository.submodules", "submodules"},
	{"repository.lfs", "lfs"},
	{"docker.target", "docker-target"},
	{buildSecretsParameter, "build-secrets"},
	{"labels", "labels"},
	{"noCache", "no-cache"},
}

// Parameters that name a SecretReference.
const (
	secretRef         = "repository.secretRef"
	bindingsSecretRef = "bindings.secretRef"
)

// dockerfileWorkflow returns the file of the ClusterWorkflow dockerfile-builder, which others are made from, with its
// generated sections made anew.
func dockerfileWorkflow(path string) (string, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	schema, err := schemas.Source(templates.DockerfileBuilder)
	if err != nil {
		return "", err
	}
	return workflowSections(path, string(file), templates.DockerfileBuilder, schema)
}

// workflowSections makes the generated sections of a ClusterWorkflow's file anew, from the text of its schema.
func workflowSections(path, file, name string, source []byte) (string, error) {
	parsed, err := schemas.Parse(name, source)
	if err != nil {
		return "", err
	}
	schema, err := openAPISchema(name, source)
	if err != nil {
		return "", err
	}
	leaves := leaves("", parsed.Properties)
	find := func(path string) (*schemas.Property, error) {
		i := slices.IndexFunc(leaves, func(p *schemas.Property) bool { return p.Name == path })
		if i < 0 {
			return nil, fmt.Errorf("schema %s has no %s", name, path)
		}
		return leaves[i], nil
	}
	var arguments strings.Builder
	for _, w := range workflowParameters {
		p, err := find(w.path)
		if err != nil {
			continue // nothing for this builder's developers
		}
		as := asText
		if p.Type == "array" {
			as = asList
		}
		arguments.WriteString("- name: " + w.name + "\n" + indented("  ", field("value", lookup(w.path)+as+"[0]")))
	}
	reference, err := find(secretRef)
	if err != nil {
		return "", err
	}
	secret := secretReference{secretRef, reference.Pattern}
	texts := []string{
		schema, runMetrics(name), arguments.String(), secret.required(), secret.name(), secret.includeWhen(),
	}
	secrets, err := buildSecretsOf(leaves)
	if err != nil {
		return "", fmt.Errorf("schema %s: %w", name, err)
	}
	if secrets != nil {
		texts = slices.Insert(texts, len(texts)-1, secrets.references())
		texts = append(texts, secrets.includeWhen(), secrets.data())
	}
	return withSections(path, file, texts...)
}

// secretReference is a parameter that names a SecretReference: its path, and the pattern of names. Each method writes a
// field of the ClusterWorkflow that depends on it.
type secretReference struct{ path, pattern string }

func (s secretReference) isName() string {
	return `type(v) == string && v != "" && v.matches(` + strconv.Quote(s.pattern) + `)`
}

// required is the value of a step's parameter, whether it has to wait for the Secret. Whatever is there, even what is
// no name, means that there is to be one.
func (s secretReference) required() string {
	return field(
		"value", lookup(s.path)+"\n.map(v, v == null || type(v) == string && v == \"\" ? \"false\" : \"true\")[0]",
	)
}

func (s secretReference) name() string {
	return field("name", lookup(s.path)+"\n.map(v, "+s.isName()+` ? v : "")[0]`)
}

func (s secretReference) includeWhen() string {
	return field("includeWhen", lookup(s.path)+"\n.exists(v, "+s.isName()+")")
}

// field writes a field whose value is one CEL expression of several lines.
func field(name, expression string) string {
	return name + ": |-\n" + indented("  ", "${"+expression+"}\n")
}

// lookup is a list of the one value at a path of the developer's parameters: null when it is absent, or when its parent
// is no object.
func lookup(path string) string {
	expression := "[parameters]"
	for name := range strings.SplitSeq(path, ".") {
		expression += fmt.Sprintf("\n.map(o, type(o) == map && %[1]q in o ? o[%[1]q] : null)", name)
	}
	return expression
}

const (
	// encode is a text v in which neither Argo finds anything to expand, nor Kubernetes, to which $(NAME) and $$ in a
	// variable mean something.
	encode = `v.matches("[{][{]|[$][$(]|^base64:") ? "base64:" + base64.encode(bytes(v)) : v`
	// scalar is v where a text is wanted: numbers and booleans become texts on the way, but an element of a list or
	// object would not be encoded.
	scalar = `type(v) == string ? (` + encode +
		`) : v == null ? "" : type(v) in [list, map] ? "(a list or object where a text is wanted)" : v`

	asText = "\n.map(v, " + scalar + ")"
	// asList is a list of objects with each of their texts encoded, keys included. A value that is no list becomes a
	// text, and a field of an object that is neither text, number nor boolean is left out, for the step to refuse:
	// OpenChoreo would turn null into 0.
	asList = `
.map(v, type(v) != list ? (v == null ? [] : [v].map(v, ` + scalar + `)[0])
  : v.map(e, type(e) == map
    ? e.transformMapEntry(key, inner, [[key, inner].map(v, type(v) == string ? (` + encode +
		`) : v == null || type(v) in [list, map] ? oc_omit() : v)].map(pair, {pair[0]: pair[1]})[0])
    : [e].map(v, type(v) == string ? (` + encode + `) : v == null || type(v) == list ? "(no object)" : v)[0]))`
)

// openAPISchema writes a schema the way OpenChoreo takes it: self-contained, without keywords that OpenAPI v3 lacks.
func openAPISchema(name string, source []byte) (string, error) {
	node, err := schemaNode(name, source)
	if err != nil {
		return "", err
	}
	if err := inline(node); err != nil {
		return "", fmt.Errorf("schema %s: %w", name, err)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(node); err != nil {
		return "", err
	}
	return b.String(), nil
}

// schemaNode reads a schema as YAML, which JSON is, too: this keeps the order of its author.
func schemaNode(name string, source []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(source, &document); err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	return document.Content[0], nil
}

// omitted are keywords that OpenChoreo's structural schemas do not know, or that its user interface has no use for.
var omitted = []string{"$schema", "$id", "$comment", "$defs", "examples", "additionalProperties", "x-unique"}

// inline replaces $ref by the schema that it names and drops omitted keywords, in place.
func inline(node *yaml.Node) error {
	node.Style = 0
	if node.Kind == yaml.ScalarNode && node.Tag == "!!str" {
		node.Style = yaml.DoubleQuotedStyle
	}
	if node.Kind == yaml.MappingNode {
		var kept []*yaml.Node
		for i := 0; i < len(node.Content); i += 2 {
			key, value := node.Content[i], node.Content[i+1]
			switch {
			case slices.Contains(omitted, key.Value):
			case key.Value == "$ref":
				target, err := resolve(value.Value)
				if err != nil {
					return err
				}
				kept = append(kept, target.Content...)
			default:
				kept = append(kept, key, value)
			}
		}
		node.Content = kept
		for i := 0; i < len(kept); i += 2 {
			kept[i].Style = 0
			if err := inline(kept[i+1]); err != nil {
				return err
			}
		}
		// An inlined schema may bring omitted keywords with it.
		node.Content = slices.Clone(node.Content[:0])
		for i := 0; i < len(kept); i += 2 {
			if !slices.Contains(omitted, kept[i].Value) {
				node.Content = append(node.Content, kept[i], kept[i+1])
			}
		}
		return nil
	}
	for _, child := range node.Content {
		if err := inline(child); err != nil {
			return err
		}
	}
	return nil
}

// resolve finds the node that a reference names: file#/pointer.
func resolve(reference string) (*yaml.Node, error) {
	file, pointer, _ := strings.Cut(reference, "#")
	name := strings.TrimSuffix(file, ".schema.json")
	source, err := schemas.Source(name)
	if err != nil {
		return nil, err
	}
	node, err := schemaNode(name, source)
	if err != nil {
		return nil, err
	}
	for token := range strings.SplitSeq(strings.Trim(pointer, "/"), "/") {
		i := slices.IndexFunc(node.Content, func(n *yaml.Node) bool { return n.Value == token })
		if i < 0 || i%2 != 0 {
			return nil, fmt.Errorf("%s names nothing", reference)
		}
		node = node.Content[i+1]
	}
	return node, nil
}
