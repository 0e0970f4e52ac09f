package workflowrun

import (
	"encoding/json"
	"maps"
	"slices"
)

// RepositoryField is what a parameter says of the source.
type RepositoryField string

// The fields that OpenChoreo finds in any workflow, by extensions of its schema (docs/contract.md section 1).
const (
	RepositoryURL    RepositoryField = "url"
	RepositoryBranch RepositoryField = "branch"
	RepositoryCommit RepositoryField = "commit"
	AppPath          RepositoryField = "app-path"
	SecretRef        RepositoryField = "secret-ref"
)

// ourPaths are the fields' places in our own workflows.
var ourPaths = map[RepositoryField][]string{
	RepositoryURL:    {"repository", "url"},
	RepositoryBranch: {"repository", "revision", "branch"},
	RepositoryCommit: {"repository", "revision", "commit"},
	AppPath:          {"repository", "appPath"},
	SecretRef:        {"repository", "secretRef"},
}

// RepositoryPath leads to the parameter that is a field of the source; nil when the workflow has none.
func (r *Run) RepositoryPath(field RepositoryField) []string {
	w := r.Spec.Workflow
	if r.Workflow == nil || isOurs(w.Kind, w.Name) {
		return ourPaths[field]
	}
	var schema map[string]any
	if p := r.Workflow.Parameters; p == nil || p.OpenAPIV3Schema == nil ||
		json.Unmarshal(p.OpenAPIV3Schema.Raw, &schema) != nil {
		return nil
	}
	return marked(schema, "x-openchoreo-component-parameter-repository-"+string(field), nil)
}

// marked leads to the property of a schema that has an extension.
func marked(schema map[string]any, extension string, path []string) []string {
	if is, _ := schema[extension].(bool); is {
		return path
	}
	properties, _ := schema["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if inner, ok := properties[name].(map[string]any); ok {
			if found := marked(inner, extension, append(slices.Clip(path), name)); found != nil {
				return found
			}
		}
	}
	return nil
}

// Repository returns a field of the source; empty when the run or its workflow has none.
func (r *Run) Repository(field RepositoryField) string {
	path := r.RepositoryPath(field)
	if path == nil || r.Parameters == nil {
		return ""
	}
	var value any = r.Parameters
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	text, _ := value.(string)
	return text
}
