package schemas

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

// Fault is one thing that is wrong with a value.
type Fault struct {
	Path    []string // where, from the root: repository, url
	Message string   // the fault and the allowed values
}

// Parameter names the place as a person would write it: repository.url, buildEnv[0].name.
func (f Fault) Parameter() string {
	var b strings.Builder
	for _, p := range f.Path {
		if _, err := strconv.Atoi(p); err == nil {
			fmt.Fprintf(&b, "[%s]", p)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(p)
	}
	return b.String()
}

const empty = "must not be empty"

// weight puts the plainest word for a fault first: a text that is empty also lacks the right form.
func (f Fault) weight() int {
	if strings.HasPrefix(f.Message, empty) {
		return 1
	}
	return 0
}

func (f Fault) String() string {
	if len(f.Path) == 0 {
		return f.Message
	}
	return f.Parameter() + ": " + f.Message
}

// Validate checks a value, made of what encoding/json decodes to, and lists every fault, in the order of the schema's
// properties.
func (s *Schema) Validate(value any) []Fault {
	err := s.compiled.Validate(value)
	if err == nil {
		return nil
	}
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return []Fault{{Message: err.Error()}} // a value that is not JSON at all
	}
	var faults []Fault
	s.collect(invalid, &faults)
	slices.SortStableFunc(faults, func(a, b Fault) int {
		return cmp.Or(
			slices.Compare(s.rank(a.Path), s.rank(b.Path)), b.weight()-a.weight(),
			strings.Compare(a.Message, b.Message),
		)
	})
	// One fault a place.
	seen := map[string]bool{}
	return slices.DeleteFunc(faults, func(f Fault) bool {
		again := seen[f.Parameter()]
		seen[f.Parameter()] = true
		return again
	})
}

var quoted = regexp.MustCompile(`'([^']*)'`)

func (s *Schema) collect(e *jsonschema.ValidationError, faults *[]Fault) {
	if len(e.Causes) > 0 {
		for _, c := range e.Causes {
			s.collect(c, faults)
		}
		return
	}
	var path []string
	for _, token := range strings.Split(strings.TrimPrefix(e.InstanceLocation, "/"), "/") {
		if token != "" {
			path = append(path, strings.NewReplacer("~1", "/", "~0", "~").Replace(token))
		}
	}
	keyword := e.KeywordLocation[strings.LastIndex(e.KeywordLocation, "/")+1:]
	p := s.at(path)
	switch keyword {
	case "required":
		for _, m := range quoted.FindAllStringSubmatch(e.Message, -1) {
			at := append(slices.Clone(path), m[1])
			*faults = append(*faults, Fault{at, "is required" + s.at(at).allowed()})
		}
	case "additionalProperties", "unevaluatedProperties":
		for _, m := range quoted.FindAllStringSubmatch(e.Message, -1) {
			*faults = append(*faults, Fault{append(slices.Clone(path), m[1]), "is not a parameter" + s.siblings(path)})
		}
	case "minLength":
		*faults = append(*faults, Fault{path, empty + p.allowed()})
	case "pattern":
		*faults = append(*faults, Fault{path, "does not have the right form" + p.allowed()})
	case uniqueKeyword:
		*faults = append(*faults, Fault{path, e.Message})
	default:
		*faults = append(*faults, Fault{path, e.Message + p.allowed()})
	}
}

// at finds the property that a path leads to; nil when the schema does not know it.
func (s *Schema) at(path []string) *Property {
	p := &Property{Properties: s.Properties}
	for _, token := range path {
		if _, err := strconv.Atoi(token); err == nil && p.Items != nil {
			p = p.Items
			continue
		}
		i := slices.IndexFunc(p.Properties, func(q *Property) bool { return q.Name == token })
		if i < 0 {
			return nil
		}
		p = p.Properties[i]
	}
	return p
}

// rank is the place of a path in the schema's order, level by level. An unknown path comes last.
func (s *Schema) rank(path []string) []int {
	var rank []int
	for i, token := range path {
		siblings := s.at(path[:i])
		if siblings == nil {
			break
		}
		at, err := strconv.Atoi(token)
		if err != nil {
			at = slices.IndexFunc(siblings.Properties, func(p *Property) bool { return p.Name == token })
		}
		if at < 0 {
			at = len(siblings.Properties)
		}
		rank = append(rank, at)
	}
	return rank
}

// allowed tells, in a parenthesis, what a property may be.
func (p *Property) allowed() string {
	if p == nil {
		return ""
	}
	var about []string
	if p.Description != "" {
		about = append(about, strings.TrimSuffix(p.Description, "."))
	}
	if len(p.Enum) > 0 {
		about = append(about, "one of "+strings.Join(p.Enum, ", "))
	} else if len(p.Examples) > 0 {
		about = append(about, "for example "+Text(p.Examples[0]))
	}
	if len(about) == 0 {
		return ""
	}
	return " (" + strings.Join(about, "; ") + ")"
}

func (s *Schema) siblings(path []string) string {
	p := s.at(path)
	if p == nil || len(p.Properties) == 0 {
		return ""
	}
	var names []string
	for _, q := range p.Properties {
		names = append(names, q.Name)
	}
	return " (there are " + strings.Join(names, ", ") + ")"
}
