package workflowrun

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/schemas"
)

// unquoted returns the faults of parameters that are text by our schema, but that YAML does not read as text, and so
// reach a step as another one than the file has.
func unquoted(o *objects.Object, properties []*schemas.Property) (faults []objects.Fault) {
	for _, scalar := range o.Scalars(parametersPath...) {
		path := scalar.Path[len(parametersPath):]
		if !isText(properties, path) {
			continue
		}
		if text := arrives(path, scalar.Value); text != scalar.Written {
			faults = append(faults, o.Fault(scalar.Path, "", scalar.Quote(text)))
		}
	}
	return faults
}

// isText tells whether a schema wants text at a path.
func isText(properties []*schemas.Property, path []string) bool {
	at := &schemas.Property{Properties: properties}
	for _, step := range path {
		if _, err := strconv.Atoi(step); err == nil && at.Items != nil {
			at = at.Items
			continue
		}
		i := slices.IndexFunc(at.Properties, func(p *schemas.Property) bool { return p.Name == step })
		if i < 0 {
			return false
		}
		at = at.Properties[i]
	}
	return at.Type == "string"
}

// arrives is the text into which OpenChoreo's controller turns a value: a list becomes JSON, and everything else is
// printed as Go does (docs/contract.md section 2). The controller has read every number as a float64.
func arrives(path []string, value any) string {
	if whole, ok := value.(int64); ok {
		value = float64(whole)
	}
	if slices.ContainsFunc(path, func(step string) bool { _, err := strconv.Atoi(step); return err == nil }) {
		if raw, err := json.Marshal(value); err == nil {
			return string(raw)
		}
	}
	return fmt.Sprint(value)
}
