// Package steps_test tests the rules that every step follows.
package steps_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/commitstatus"
	"github.com/stepwright/stepwright/steps/internal/dockerfile"
	"github.com/stepwright/stepwright/steps/internal/gate"
	"github.com/stepwright/stepwright/steps/internal/gitsource"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/workload"
)

// A step's parameters are its schema's properties, no more and no less, and of their types.
func TestParametersAreThoseOfTheSchemas(t *testing.T) {
	for name, parameters := range map[string]any{
		"checkout-source":      gitsource.Parameters{},
		"containerfile-build":  dockerfile.Parameters{},
		"scan-gate":            gate.Parameters{},
		"publish-image":        publish.Parameters{},
		"commit-status":        commitstatus.Parameters{},
		"generate-workload-cr": workload.Parameters{},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, "", schemas.MustLoad(name).Properties, reflect.TypeOf(parameters))
		})
	}
}

// kinds are the kinds of Go values that hold a type of JSON Schema.
var kinds = map[string][]reflect.Kind{
	"string": {reflect.String}, "integer": {reflect.Int, reflect.Int64}, "boolean": {reflect.Bool},
	"array": {reflect.Slice}, "object": {reflect.Struct},
}

func check(t *testing.T, at string, properties []*schemas.Property, parameters reflect.Type) {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(parameters) {
		if !f.Anonymous {
			fields[strings.Split(f.Tag.Get("json"), ",")[0]] = f.Type
		}
	}
	for _, p := range properties {
		field, ok := fields[p.Name]
		if !ok {
			t.Errorf("%s%s: has no field", at, p.Name)
			continue
		}
		delete(fields, p.Name)
		if !slices.Contains(kinds[p.Type], field.Kind()) {
			t.Errorf("%s%s: is a %s, its field a %s", at, p.Name, p.Type, field)
			continue
		}
		if p.Items != nil && len(p.Items.Properties) > 0 {
			check(t, at+p.Name+"[].", p.Items.Properties, field.Elem())
		}
	}
	for name := range fields {
		t.Errorf("%s%s: is not in the schema", at, name)
	}
}
