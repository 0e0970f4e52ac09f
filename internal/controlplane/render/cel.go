package render

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"reflect"
	"strings"
	"unicode"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/parser"
)

// newEnv declares variables of any type, cel-go's extensions and OpenChoreo's functions.
func newEnv(variables []string) (*cel.Env, error) {
	options := append([]cel.EnvOption{
		cel.OptionalTypes(), ext.Strings(), ext.Encoders(), ext.Math(), ext.Lists(), ext.Sets(),
		ext.TwoVarComprehensions(),
	}, functions...)
	for _, name := range variables {
		options = append(options, cel.Variable(name, cel.DynType))
	}
	return cel.NewEnv(options...)
}

var (
	textMap  = cel.MapType(cel.StringType, cel.DynType)
	textList = cel.ListType(cel.StringType)
)

var functions = []cel.EnvOption{
	cel.Macros(
		cel.GlobalVarArgMacro("oc_merge", expandMerge),
		cel.GlobalVarArgMacro("oc_generate_name", expandToList("oc_generate_name")),
		cel.GlobalVarArgMacro("oc_dns_label", expandToList("oc_dns_label")),
	),
	cel.Function("oc_omit", cel.Overload("oc_omit", nil, cel.DynType,
		cel.FunctionBinding(func(...ref.Val) ref.Val { return omit{} }))),
	cel.Function("oc_merge", cel.Overload("oc_merge_map_map", []*cel.Type{
		textMap, textMap,
	}, textMap, cel.BinaryBinding(merge))),
	cel.Function("oc_hash", cel.Overload("oc_hash_string", []*cel.Type{
		cel.StringType,
	}, cel.StringType, cel.UnaryBinding(hash))),
	nameFunction("oc_generate_name", 253), // a DNS subdomain, as most names in Kubernetes
	nameFunction("oc_dns_label", 63),
}

// omitted stands for what oc_omit() takes out of an object or a list.
var omitted = &struct{ _ byte }{}

// omit is omitted as a value of CEL.
type omit struct{}

func (omit) ConvertToNative(reflect.Type) (any, error) { return omitted, nil }
func (o omit) ConvertToType(ref.Type) ref.Val          { return o }
func (omit) Type() ref.Type                            { return cel.ObjectType("omit") }
func (omit) Value() any                                { return omitted }
func (omit) Equal(other ref.Val) ref.Val {
	_, same := other.(omit)
	return types.Bool(same)
}

// native turns a value of CEL into Go's types. Values that came from the context pass as they are.
func native(v ref.Val) any {
	value := v.Value()
	switch v.Type() {
	case types.ListType:
		return nativeList(value)
	case types.MapType:
		return nativeMap(value)
	}
	if inner, ok := value.(ref.Val); ok {
		return native(inner)
	}
	return value
}

func nativeList(value any) any {
	var items []any
	switch list := value.(type) {
	case []ref.Val:
		for _, item := range list {
			items = append(items, item)
		}
	case []any:
		items = list
	default: // a function's []string
		return value
	}
	out := make([]any, 0, len(items))
	for _, item := range items {
		switch inner := item.(type) {
		case ref.Val:
			item = native(inner)
		case map[ref.Val]ref.Val:
			item = nativeMap(inner)
		}
		if item != omitted {
			out = append(out, item)
		}
	}
	return out
}

func nativeMap(value any) any {
	out := map[string]any{}
	switch object := value.(type) {
	case map[ref.Val]ref.Val:
		for key, inner := range object {
			out[fmt.Sprint(key.Value())] = native(inner)
		}
	case map[string]any:
		for key, inner := range object {
			if v, ok := inner.(ref.Val); ok {
				inner = native(v)
			}
			out[key] = inner
		}
	default: // the run's labels
		return value
	}
	for key, inner := range out {
		if inner == omitted {
			delete(out, key)
		}
	}
	return out
}

// merge is oc_merge of two objects: keys of the second win, and nested objects are replaced. The run's labels count as
// empty: so it is in the controller.
func merge(a, b ref.Val) ref.Val {
	out := map[ref.Val]ref.Val{}
	for _, v := range []ref.Val{a, b} {
		switch object := v.Value().(type) {
		case map[string]any:
			for key, value := range object {
				out[types.String(key)] = types.DefaultTypeAdapter.NativeToValue(value)
			}
		case map[ref.Val]ref.Val:
			for key, value := range object {
				if _, ok := key.(types.String); !ok {
					return types.NewErr("oc_merge: the key %v is no text", key.Value())
				}
				out[key] = types.DefaultTypeAdapter.NativeToValue(value.Value())
			}
		}
	}
	return types.NewDynamicMap(types.DefaultTypeAdapter, out)
}

func expandMerge(h parser.ExprHelper, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
	switch len(args) {
	case 0, 1:
		return nil, &common.Error{Message: "oc_merge requires at least 2 arguments"}
	case 2:
		return nil, nil
	}
	merged := args[0]
	for _, arg := range args[1:] {
		merged = h.NewCall("oc_merge", merged, arg)
	}
	return merged, nil
}

// expandToList lets a function that takes one text or one list take any number of texts.
func expandToList(function string) parser.MacroExpander {
	return func(h parser.ExprHelper, _ ast.Expr, args []ast.Expr) (ast.Expr, *common.Error) {
		if len(args) == 1 {
			return nil, nil
		}
		return h.NewCall(function, h.NewList(args...)), nil
	}
}

func hash(v ref.Val) ref.Val {
	h := fnv.New32a()
	h.Write([]byte(v.Value().(string)))
	return types.String(fmt.Sprintf("%08x", h.Sum32()))
}

// nameFunction declares a function that makes a Kubernetes name of texts.
func nameFunction(function string, limit int) cel.EnvOption {
	bind := cel.UnaryBinding(func(v ref.Val) ref.Val {
		var parts []string
		switch list := v.Value().(type) {
		case string:
			parts = []string{list}
		case []ref.Val:
			for _, item := range list {
				if text, ok := item.Value().(string); ok {
					parts = append(parts, text)
				}
			}
		case []any:
			for _, item := range list {
				if text, ok := item.(string); ok {
					parts = append(parts, text)
				}
			}
		}
		name, err := kubernetesName(limit, parts)
		if err != nil {
			return types.NewErr("%s: %w", function, err)
		}
		return types.String(name)
	})
	return cel.Function(function,
		cel.Overload(function+"_string", []*cel.Type{cel.StringType}, cel.StringType, bind),
		cel.Overload(function+"_list", []*cel.Type{textList}, cel.StringType, bind))
}

// kubernetesName joins parts to a name of at most limit characters that ends in a hash of all of them. Each part has
// its share of the room.
func kubernetesName(limit int, parts []string) (string, error) {
	if len(parts) == 0 {
		return "", errors.New("there is no text to make a name of")
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "-")))
	suffix := hex.EncodeToString(sum[:])[:8]
	room := max(0, limit-len(suffix)-len(parts)) // a hyphen follows each part
	var name strings.Builder
	for i, part := range parts {
		share := room / len(parts)
		if i < room%len(parts) {
			share++
		}
		part = sanitized(part)
		name.WriteString(part[:min(len(part), share)] + "-")
	}
	return strings.TrimFunc(name.String()+suffix, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsNumber(r)
	}), nil
}

func sanitized(part string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsNumber(r) || r == '-' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(part)), "-.")
}
