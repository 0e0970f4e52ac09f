package lint

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
)

// What a WorkflowRun becomes, as OpenChoreo's controller makes it (contract section 2): no more of it than the ClusterWorkflows here use.

// run is what the controller knows of a WorkflowRun.
type run struct {
	labels       map[string]string
	parameters   any            // as decoded from JSON
	externalRefs map[string]any // by id, {"spec": …}
}

type omission struct{}

var (
	omitted  = omission{}
	omitType = cel.ObjectType("omit")
)

func (omission) ConvertToNative(reflect.Type) (any, error) { return omitted, nil }
func (omission) ConvertToType(ref.Type) ref.Val            { return omitted }
func (omission) Equal(other ref.Val) ref.Val               { _, same := other.(omission); return types.Bool(same) }
func (omission) Type() ref.Type                            { return omitType }
func (omission) Value() any                                { return omitted }

// environment returns the CEL environment of OpenChoreo with these variables declared.
func environment(variables map[string]any) (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.OptionalTypes(), ext.Strings(), ext.Encoders(), ext.Math(), ext.Lists(), ext.Sets(), ext.TwoVarComprehensions(),
		cel.Function("oc_omit", cel.Overload("oc_omit", nil, cel.DynType, cel.FunctionBinding(func(...ref.Val) ref.Val { return omitted }))),
	}
	for name := range variables {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	return cel.NewEnv(options...)
}

// programs are compiled once for all tests.
var programs sync.Map

func evaluate(expression string, variables map[string]any) (any, error) {
	key := fmt.Sprint(len(variables), expression)
	program, ok := programs.Load(key)
	if !ok {
		env, err := environment(variables)
		if err != nil {
			return nil, err
		}
		ast, issues := env.Compile(expression)
		if err := issues.Err(); err != nil {
			return nil, err
		}
		if program, err = env.Program(ast); err != nil {
			return nil, err
		}
		programs.Store(key, program)
	}
	v, _, err := program.(cel.Program).Eval(variables)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expression, err)
	}
	return native(v), nil
}

// native turns a CEL value into what encoding/json takes. A null becomes the number 0, as in OpenChoreo.
func native(v ref.Val) any {
	switch value := v.Value().(type) {
	case []ref.Val:
		var list []any
		for _, item := range value {
			if n := native(item); n != omitted {
				list = append(list, n)
			}
		}
		return list
	case map[ref.Val]ref.Val:
		object := map[string]any{}
		for k, inner := range value {
			if n := native(inner); n != omitted {
				object[fmt.Sprint(k.Value())] = n
			}
		}
		return object
	default:
		return value
	}
}

// render evaluates every ${…} of a template.
func render(template any, variables map[string]any) (any, error) {
	switch v := template.(type) {
	case string:
		return renderText(v, variables)
	case []any:
		list := []any{}
		for _, item := range v {
			rendered, err := render(item, variables)
			if err != nil {
				return nil, err
			}
			if rendered != any(omitted) {
				list = append(list, rendered)
			}
		}
		return list, nil
	case map[string]any:
		object := map[string]any{}
		for k, inner := range v {
			rendered, err := render(inner, variables)
			if err != nil {
				return nil, err
			}
			if rendered != any(omitted) {
				object[k] = rendered
			}
		}
		return object, nil
	default:
		return v, nil
	}
}

func renderText(text string, variables map[string]any) (any, error) {
	var b strings.Builder
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "${")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		end := closing(after)
		if end < 0 {
			return nil, fmt.Errorf("%q: ${ without its }", text)
		}
		v, err := evaluate(after[:end], variables)
		if err != nil {
			return nil, err
		}
		rest = after[end+1:]
		if before == "" && b.Len() == 0 && strings.TrimSpace(rest) == "" {
			return v, nil // one expression keeps its type
		}
		fmt.Fprint(&b, v)
	}
}

// closing finds the } that ends an expression: one outside of quotes, to which no { belongs.
func closing(expression string) int {
	depth, quote := 0, byte(0)
	for i := 0; i < len(expression); i++ {
		switch c := expression[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '{':
			depth++
		case c == '}' && depth == 0:
			return i
		case c == '}':
			depth--
		}
	}
	return -1
}

// finish makes the passes that come after CEL: lists and objects under "value" become JSON, texts that are JSON lists become lists, and the
// arguments of the Workflow texts.
func finish(v any) any {
	switch v := v.(type) {
	case string:
		var list []any
		if strings.HasPrefix(v, "[") && json.Unmarshal([]byte(v), &list) == nil {
			return list
		}
	case []any:
		for i := range v {
			v[i] = finish(v[i])
		}
	case map[string]any:
		for k, inner := range v {
			if k == "value" {
				switch inner.(type) {
				case []any, map[string]any:
					inner, _ = toJSON(inner)
				}
			}
			v[k] = finish(inner)
		}
	}
	return v
}

func toJSON(v any) (any, error) {
	raw, err := json.Marshal(v)
	return string(raw), err
}

// renderRun makes the Argo Workflow and the other resources of a run.
func renderRun(clusterWorkflow map[string]any, r run) (workflow map[string]any, resources map[string]map[string]any, err error) {
	spec := at(clusterWorkflow, "spec").(map[string]any)
	parameters, _ := clone(r.parameters).(map[string]any)
	if parameters == nil {
		parameters = map[string]any{}
	}
	schema, err := structuralSchema(at(spec, "parameters", "openAPIV3Schema"))
	if err != nil {
		return nil, nil, err
	}
	defaulting.Default(parameters, schema)
	labels := r.labels
	if labels == nil {
		labels = map[string]string{}
	}
	variables := map[string]any{
		"metadata":      map[string]any{"namespaceName": "acme", "workflowRunName": "cart-1", "namespace": "workflows-acme", "labels": labels},
		"parameters":    parameters,
		"workflowplane": map[string]any{"secretStore": "openbao"},
	}
	for _, reference := range at(spec, "externalRefs").([]any) {
		name, err := render(at(reference, "name"), variables)
		if err != nil {
			return nil, nil, err
		}
		text, ok := name.(string)
		if !ok {
			return nil, nil, fmt.Errorf("the name of an externalRef is %T", name)
		}
		id := at(reference, "id").(string)
		if text == "" {
			continue
		}
		if r.externalRefs[id] == nil {
			return nil, nil, fmt.Errorf("SecretReference %q is not there", text)
		}
		variables["externalRefs"] = map[string]any{id: r.externalRefs[id]}
	}
	rendered, err := render(at(spec, "runTemplate"), variables)
	if err != nil {
		return nil, nil, fmt.Errorf("runTemplate: %w", err)
	}
	workflow = finish(rendered).(map[string]any)
	for _, p := range at(workflow, "spec", "arguments", "parameters").([]any) {
		switch p := p.(map[string]any); v := p["value"].(type) {
		case string:
		case []any:
			p["value"], _ = toJSON(v)
		default:
			p["value"] = fmt.Sprint(v)
		}
	}
	resources = map[string]map[string]any{}
	for _, resource := range at(spec, "resources").([]any) {
		if when := at(resource, "includeWhen"); when != nil {
			include, err := render(when, variables)
			if err != nil {
				return nil, nil, fmt.Errorf("includeWhen: %w", err)
			}
			if b, ok := include.(bool); !ok {
				return nil, nil, fmt.Errorf("includeWhen is %T", include)
			} else if !b {
				continue
			}
		}
		id := at(resource, "id").(string)
		rendered, err := render(at(resource, "template"), variables)
		if err != nil {
			return nil, nil, fmt.Errorf("resource %s: %w", id, err)
		}
		resources[id] = finish(rendered).(map[string]any)
	}
	return workflow, resources, nil
}

// structuralSchema reads an openAPIV3Schema the way OpenChoreo does: the API server's schema, without extensions.
func structuralSchema(schema any) (*structural.Structural, error) {
	raw, err := json.Marshal(withoutExtensions(schema))
	if err != nil {
		return nil, err
	}
	var v1 apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(raw, &v1); err != nil {
		return nil, err
	}
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(&v1, &props, nil); err != nil {
		return nil, err
	}
	return structural.NewStructural(&props)
}

func withoutExtensions(v any) any {
	switch v := v.(type) {
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = withoutExtensions(v[i])
		}
		return list
	case map[string]any:
		object := map[string]any{}
		for k, inner := range v {
			if !strings.HasPrefix(k, "x-openchoreo-") {
				object[k] = withoutExtensions(inner)
			}
		}
		return object
	}
	return v
}

// at finds a value by keys and indices; nil when it is absent.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			object, _ := v.(map[string]any)
			v = object[p]
		case int:
			list, _ := v.([]any)
			if p >= len(list) {
				return nil
			}
			v = list[p]
		}
	}
	return v
}

func clone(v any) any {
	switch v := v.(type) {
	case []any:
		v = slices.Clone(v)
		for i := range v {
			v[i] = clone(v[i])
		}
		return v
	case map[string]any:
		object := make(map[string]any, len(v))
		for k, inner := range v {
			object[k] = clone(inner)
		}
		return object
	}
	return v
}

// set puts a value at a path that is there but for its last name, and returns v.
func set(t *testing.T, v any, value any, path ...any) {
	t.Helper()
	switch holder := at(v, path[:len(path)-1]...).(type) {
	case map[string]any:
		holder[path[len(path)-1].(string)] = value
	case []any:
		holder[path[len(path)-1].(int)] = value
	default:
		t.Fatalf("there is nothing at %v", path[:len(path)-1])
	}
}
