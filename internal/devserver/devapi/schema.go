package devapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/crds"
)

// schema is as much of a structural schema as OpenChoreo's definitions use.
type schema struct {
	Type                 string             `json:"type"`
	Properties           map[string]*schema `json:"properties"`
	AdditionalProperties *schema            `json:"additionalProperties"`
	Items                *schema            `json:"items"`
	Required             []string           `json:"required"`
	Enum                 []string           `json:"enum"`
	Pattern              string             `json:"pattern"`
	MinLength            *int               `json:"minLength"`
	MaxLength            *int               `json:"maxLength"`
	MaxItems             *int               `json:"maxItems"`
	MaxProperties        *int               `json:"maxProperties"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`
	Default              any                `json:"default"`
	Preserve             bool               `json:"x-kubernetes-preserve-unknown-fields"`
	ListType             string             `json:"x-kubernetes-list-type"`
	ListMapKeys          []string           `json:"x-kubernetes-list-map-keys"`
	Validations          []celRule          `json:"x-kubernetes-validations"`

	Description string `json:"description"`
	Format      string `json:"format"` // integers are bounded by minimum and maximum anyway
}

// celRule is a rule in CEL, the Common Expression Language.
type celRule struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
}

// rules are the CEL rules of the definitions, written in Go: an interpreter would be most of this package. A rule holds
// when its function returns true; old is nil for what is new.
var rules = map[string]func(self, old any) bool{
	"self == oldSelf": func(self, old any) bool { return old == nil || reflect.DeepEqual(self, old) },
	"!(has(self.value) && has(self.valueFrom))": func(self, _ any) bool {
		o := object(self)
		value, _ := o["value"].(string) // an empty one is dropped on the way to Kubernetes
		return value == "" || o["valueFrom"] == nil
	},
	"self.all(k, k.size() > 0 && self[k].size() > 0)": func(self, _ any) bool {
		for k, v := range object(self) {
			if k == "" || v == "" {
				return false
			}
		}
		return true
	},
}

// schemas are the definitions by plural name.
var schemas = sync.OnceValue(func() map[Kind]*schema {
	all := map[Kind]*schema{}
	for _, kind := range kinds {
		raw, err := crds.Files.ReadFile(string(kind) + ".yaml")
		if err != nil {
			panic(err) // embedded
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct {
						OpenAPIV3Schema json.RawMessage `json:"openAPIV3Schema"`
					} `json:"schema"`
				} `json:"versions"`
			} `json:"spec"`
		}
		s := &schema{}
		if err := yaml.Unmarshal(raw, &crd); err != nil {
			panic(err)
		}
		// Strict: a keyword that nothing here enforces must not go unnoticed.
		if err := yaml.UnmarshalStrict(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, s); err != nil {
			panic(fmt.Sprintf("devapi: %s: %v", kind, err))
		}
		all[kind] = s
	}
	return all
})

// fault is what is wrong with a field.
type fault struct {
	path, message string
	mistyped      bool // the API's decoder refuses it, before Kubernetes sees it
}

func (f fault) String() string { return f.path + ": " + f.message }

// admit checks a value, drops what the schema does not know, fills in defaults, and compares with the old value where a
// rule asks for it.
func (s *schema) admit(path string, self, old any, faults *[]fault) {
	add := func(format string, args ...any) {
		*faults = append(*faults, fault{path: path, message: fmt.Sprintf(format, args...)})
	}
	if got := typeOf(self); s.Type != "" && got != s.Type && !(s.Type == "number" && got == "integer") {
		*faults = append(*faults, fault{
			path, fmt.Sprintf("Invalid value: %q: %s in body must be of type %s: %q", got, path, s.Type, got), true,
		})
		return
	}
	before := len(*faults)
	switch self := self.(type) {
	case map[string]any:
		s.admitObject(path, self, object(old), faults)
	case []any:
		s.admitList(path, self, faults)
	case string:
		n := utf8.RuneCountInString(self)
		switch {
		case s.MinLength != nil && n < *s.MinLength:
			add("Invalid value: %q: %s in body should be at least %d chars long", self, path, *s.MinLength)
		case s.MaxLength != nil && n > *s.MaxLength:
			add("Too long: may not be more than %d bytes", *s.MaxLength)
		case s.Enum != nil && !slices.Contains(s.Enum, self):
			add("Unsupported value: %q: supported values: %q", self, s.Enum)
		case s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(self):
			add("Invalid value: %q: %s in body should match '%s'", self, path, s.Pattern)
		}
	case json.Number:
		n, _ := self.Float64()
		switch {
		case s.Minimum != nil && n < *s.Minimum:
			add("Invalid value: %s: %s in body should be greater than or equal to %v", self, path, *s.Minimum)
		case s.Maximum != nil && n > *s.Maximum:
			add("Invalid value: %s: %s in body should be less than or equal to %v", self, path, *s.Maximum)
		}
	}
	if len(*faults) > before {
		return // rules are only asked about values that have the right form
	}
	for _, v := range s.Validations {
		if !rules[v.Rule](self, old) {
			add("Invalid value: %s", v.Message)
		}
	}
}

func (s *schema) admitObject(path string, self, old map[string]any, faults *[]fault) {
	if s.MaxProperties != nil && len(self) > *s.MaxProperties {
		*faults = append(*faults, fault{
			path:    path,
			message: fmt.Sprintf("Too many: %d: must have at most %d items", len(self), *s.MaxProperties),
		})
	}
	for name, p := range s.Properties {
		if self[name] == nil && p.Default != nil {
			self[name] = p.Default
		}
	}
	for _, name := range s.Required {
		if self[name] == nil {
			*faults = append(*faults, fault{path: join(path, name), message: "Required value"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(self)) {
		p := s.Properties[name]
		if p == nil {
			p = s.AdditionalProperties
		}
		switch {
		case p == nil && !s.Preserve, self[name] == nil:
			delete(self, name)
		case p != nil:
			p.admit(join(path, name), self[name], old[name], faults)
		}
	}
}

func (s *schema) admitList(path string, self []any, faults *[]fault) {
	if s.MaxItems != nil && len(self) > *s.MaxItems {
		*faults = append(*faults, fault{
			path:    path,
			message: fmt.Sprintf("Too many: %d: must have at most %d items", len(self), *s.MaxItems),
		})
	}
	seen := map[string]bool{}
	for i, item := range self {
		at := path + "[" + strconv.Itoa(i) + "]"
		if s.Items != nil {
			s.Items.admit(at, item, nil, faults)
		}
		key := fmt.Sprint(item)
		if s.ListType == "map" {
			parts := make([]string, len(s.ListMapKeys))
			for j, k := range s.ListMapKeys {
				parts[j] = fmt.Sprint(object(item)[k])
			}
			key = strings.Join(parts, "/")
		}
		if (s.ListType == "map" || s.ListType == "set") && seen[key] {
			*faults = append(*faults, fault{path: at, message: fmt.Sprintf("Duplicate value: %q", key)})
		}
		seen[key] = true
	}
}

func typeOf(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return "integer"
		}
		return "number"
	}
	return "null"
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// object is a value as an object; nil, which can be read, when it is none.
func object(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}
