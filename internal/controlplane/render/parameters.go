package render

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
)

// schemaPath is where a workflow describes its parameters.
var schemaPath = []string{"spec", "parameters", "openAPIV3Schema"}

// parameters are the run's, with the defaults of the workflow's schema. Nothing validates them by that schema.
func parameters(in Input) (map[string]any, error) {
	given := map[string]any{}
	if raw := in.Run.Spec.Workflow.Parameters; raw != nil && raw.Raw != nil {
		if err := json.Unmarshal(raw.Raw, &given); err != nil {
			return nil, fail(nil, "spec.workflow.parameters: %w", err)
		}
	}
	props, err := Schema(in.Workflow.Parameters)
	if err != nil || props == nil {
		return given, err
	}
	structural, err := schema.NewStructural(props)
	if err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	if given == nil { // parameters: null
		given = map[string]any{}
	}
	defaulting.Default(given, structural)
	return given, nil
}

// Schema is the schema of a workflow's parameters as the API server takes it: references resolved, vendors' extensions
// left out. It is nil when the workflow has none. Its errors are of type *Error.
func Schema(section *v1alpha1.SchemaSection) (*apiextensions.JSONSchemaProps, error) {
	if section == nil || section.OpenAPIV3Schema == nil || len(section.OpenAPIV3Schema.Raw) == 0 {
		return nil, nil
	}
	var source map[string]any
	if err := json.Unmarshal(section.OpenAPIV3Schema.Raw, &source); err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	if source == nil {
		return nil, nil
	}
	definitions, _ := source["$defs"].(map[string]any)
	resolved, err := resolve(source, definitions, nil)
	if err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	plain, err := json.Marshal(withoutExtensions(resolved))
	if err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	var v1 apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(plain, &v1); err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		&v1, &props, nil,
	); err != nil {
		return nil, fail(schemaPath, "%w", err)
	}
	return &props, nil
}

// subschemas are the keywords under which schemas stand, alone or in a list.
var subschemas = []string{"items", "additionalProperties", "not", "if", "then", "else", "allOf", "oneOf", "anyOf"}

// resolve puts definitions where a $ref names them. What stands beside a $ref wins over the definition. open are the
// definitions we are in.
func resolve(node any, definitions map[string]any, open []string) (any, error) {
	if list, ok := node.([]any); ok {
		out := make([]any, len(list))
		for i, item := range list {
			inner, err := resolve(item, definitions, open)
			if err != nil {
				return nil, err
			}
			out[i] = inner
		}
		return out, nil
	}
	object, ok := node.(map[string]any)
	if !ok {
		return node, nil
	}
	out := maps.Clone(object)
	delete(out, "$defs")
	if reference, found := out["$ref"]; found {
		name, ok := strings.CutPrefix(fmt.Sprint(reference), "#/$defs/")
		definition, known := definitions[name].(map[string]any)
		switch {
		case !ok || name == "" || strings.Contains(name, "/"):
			return nil, fmt.Errorf("$ref %q: only #/$defs/<name> is supported", reference)
		case slices.Contains(open, name):
			return nil, fmt.Errorf("$ref %q leads in a circle: %s", reference, strings.Join(append(open, name), " → "))
		case !known:
			return nil, fmt.Errorf("$ref %q: there is no such definition", reference)
		}
		delete(out, "$ref")
		inner, err := resolve(definition, definitions, append(slices.Clip(open), name))
		if err != nil {
			return nil, err
		}
		merged := maps.Clone(inner.(map[string]any))
		maps.Copy(merged, out)
		return resolve(merged, definitions, open)
	}
	for _, keyword := range subschemas {
		if _, given := out[keyword]; !given {
			continue
		}
		inner, err := resolve(out[keyword], definitions, open)
		if err != nil {
			return nil, err
		}
		out[keyword] = inner
	}
	for _, keyword := range []string{"properties", "patternProperties"} {
		named, ok := out[keyword].(map[string]any)
		if !ok {
			continue
		}
		named = maps.Clone(named)
		for name, property := range named {
			inner, err := resolve(property, definitions, open)
			if err != nil {
				return nil, err
			}
			named[name] = inner
		}
		out[keyword] = named
	}
	return out, nil
}

// withoutExtensions leaves out every key x-…: Kubernetes knows only its own.
func withoutExtensions(node any) any {
	switch node := node.(type) {
	case map[string]any:
		out := make(map[string]any, len(node))
		for key, value := range node {
			if len(key) > 2 && strings.HasPrefix(key, "x-") && !strings.HasPrefix(key, "x-kubernetes-") {
				continue
			}
			out[key] = withoutExtensions(value)
		}
		return out
	case []any:
		out := make([]any, len(node))
		for i, item := range node {
			out[i] = withoutExtensions(item)
		}
		return out
	}
	return node
}
