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

// EnvName is the environment variable of a property: GIT_REPO of git-repo.
func EnvName(property string) string { return strings.ToUpper(strings.ReplaceAll(property, "-", "_")) }

// WithDefaults returns a copy of an object in which absent fields have the schema's default, at every depth, as
// OpenChoreo applies defaults before it renders a run (docs/contract.md section 2).
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

// Soften returns a value in which numbers and booleans are text where the schema wants text, at every depth: developers
// write `value: 8080` in a list of variables, and OpenChoreo lets it through (docs/contract.md section 2). It may
// change the value it is given.
func (p *Property) Soften(value any) any {
	switch v := value.(type) {
	case []any:
		if p.Items != nil {
			for i := range v {
				v[i] = p.Items.Soften(v[i])
			}
		}
	case map[string]any:
		for _, q := range p.Properties {
			if inner, ok := v[q.Name]; ok {
				v[q.Name] = q.Soften(inner)
			}
		}
	case json.Number, float64, int64, bool:
		if p.Type == "string" {
			return fmt.Sprint(v)
		}
	}
	return value
}

// Soften is Property.Soften for a whole object.
func (s *Schema) Soften(object map[string]any) {
	(&Property{Properties: s.Properties}).Soften(object)
}
