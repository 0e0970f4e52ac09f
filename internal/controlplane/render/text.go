package render

import (
	"encoding/json"
	"fmt"
)

// Argo wants text where templates have lists. The controller passes over every rendered object twice, and over the Argo
// Workflow a third time.

// valuesToText makes JSON text of lists and objects that stand under a key named value.
func valuesToText(data any) any {
	switch data := data.(type) {
	case map[string]any:
		out := make(map[string]any, len(data))
		for key, value := range data {
			if key == "value" {
				out[key] = asJSON(value)
			} else {
				out[key] = valuesToText(value)
			}
		}
		return out
	case []any:
		out := make([]any, len(data))
		for i, item := range data {
			out[i] = valuesToText(item)
		}
		return out
	}
	return data
}

// asJSON makes JSON text of a list or an object, and leaves all else.
func asJSON(value any) any {
	switch value.(type) {
	case []any, map[string]any:
		if text, err := json.Marshal(value); err == nil {
			return string(text)
		}
	}
	return value
}

// textToLists turns every text that is a JSON list into a list, wherever it stands.
func textToLists(data any) any {
	switch data := data.(type) {
	case map[string]any:
		out := make(map[string]any, len(data))
		for key, value := range data {
			out[key] = textToLists(value)
		}
		return out
	case []any:
		out := make([]any, len(data))
		for i, item := range data {
			out[i] = textToLists(item)
		}
		return out
	case string:
		var list []any
		if len(data) > 0 && data[0] == '[' && json.Unmarshal([]byte(data), &list) == nil {
			return list
		}
	}
	return data
}

// parametersToText makes text of the values of spec.arguments.parameters, and only of those.
func parametersToText(workflow map[string]any) {
	spec, _ := workflow["spec"].(map[string]any)
	arguments, _ := spec["arguments"].(map[string]any)
	parameters, _ := arguments["parameters"].([]any)
	for _, p := range parameters {
		if p, ok := p.(map[string]any); ok {
			if value, given := p["value"]; given {
				p["value"] = fmt.Sprint(asJSON(value))
			}
		}
	}
}
