package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Text writes a JSON value the way it is given on a command line: strings bare, everything else as JSON.
func Text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// WithDefaults returns a copy of an object in which what is absent has the schema's default, at every depth, as OpenChoreo applies
// defaults before it renders a run (contract section 2).
func (s *Schema) WithDefaults(object map[string]any) map[string]any {
	return withDefaults(s.Properties, object)
}

func withDefaults(ps []*Property, object map[string]any) map[string]any {
	out := make(map[string]any, len(object))
	for k, v := range object {
		out[k] = v
	}
	for _, p := range ps {
		v, given := out[p.Name]
		if !given {
			if p.Default == nil {
				continue
			}
			v = p.Default
		}
		if inner, ok := v.(map[string]any); ok && len(p.Properties) > 0 {
			v = withDefaults(p.Properties, inner)
		}
		out[p.Name] = v
	}
	return out
}
