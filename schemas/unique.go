package schemas

import (
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

// uniqueKeyword says of an array of objects which of their properties no two may have in common. JSON Schema's own
// uniqueItems compares objects as a whole.
const uniqueKeyword = "x-unique"

// unique is the keyword's compiler.
type unique struct{}

// Compile implements jsonschema.ExtCompiler.
func (unique) Compile(_ jsonschema.CompilerContext, schema map[string]any) (jsonschema.ExtSchema, error) {
	value, given := schema[uniqueKeyword]
	if !given {
		return nil, nil
	}
	property, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("%s: is no name of a property", uniqueKeyword)
	}
	return uniqueBy(property), nil
}

// uniqueBy is the keyword's value.
type uniqueBy string

// Validate implements jsonschema.ExtSchema. Each item that repeats one before it is a fault of its own.
func (u uniqueBy) Validate(ctx jsonschema.ValidationContext, value any) error {
	items, _ := value.([]any)
	first := map[string]int{}
	var repeated []error
	for i, item := range items {
		object, _ := item.(map[string]any)
		name, ok := object[string(u)].(string)
		if !ok {
			continue // which is another fault, or none
		}
		before, again := first[name]
		if !again {
			first[name] = i
			continue
		}
		fault := ctx.Error(uniqueKeyword, "%q is also the %s of [%d]", name, u, before)
		fault.InstanceLocation += fmt.Sprintf("/%d/%s", i, u)
		repeated = append(repeated, fault)
	}
	if len(repeated) == 0 {
		return nil
	}
	return jsonschema.ValidationError{}.Group(ctx.Error(uniqueKeyword, "items repeat each other"), repeated...)
}
