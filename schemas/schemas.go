// Package schemas holds the JSON Schemas of Stepwright: the one description of what steps take, what developers may
// set, and how a step can end. Flags, environment names, help, documentation and templates are made from them.
package schemas

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

//go:embed *.schema.json
var files embed.FS

const (
	base   = "https://stepwright.dev/schemas/"
	suffix = ".schema.json"
)

// Schema is one JSON Schema, compiled.
type Schema struct {
	Name        string // checkout-source, dockerfile-builder, …
	Title       string
	Description string
	Properties  []*Property // in the order of the file; those of allOf references last

	compiled *jsonschema.Schema
}

// Property is one parameter as its schema describes it.
type Property struct {
	Name        string
	Type        string // string, integer, number, boolean, array or object
	Title       string
	Description string
	Default     any // nil when the property has none
	Examples    []any
	Enum        []string
	Pattern     string
	Required    bool
	WriteOnly   bool        // its value is a secret and is never printed
	Items       *Property   // of an array
	MaxItems    int         // of an array; -1: any number
	Properties  []*Property // of an object
}

// Names lists the schemas there are, sorted.
func Names() []string {
	paths, err := fs.Glob(files, "*"+suffix)
	if err != nil {
		panic(err) // the pattern is constant
	}
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(p, suffix)
	}
	return paths
}

// newCompiler knows the texts of schemas by their names: all that are embedded, but for those that are given.
func newCompiler(given map[string][]byte) (*jsonschema.Compiler, error) {
	c := jsonschema.NewCompiler()
	c.ExtractAnnotations = true
	c.RegisterExtension(uniqueKeyword, nil, unique{})
	for _, name := range Names() {
		if given[name] != nil {
			continue
		}
		raw, err := Source(name)
		if err != nil {
			return nil, err
		}
		if err := c.AddResource(base+name+suffix, bytes.NewReader(raw)); err != nil {
			return nil, fmt.Errorf("schemas: %s: %w", name, err)
		}
	}
	for name, raw := range given {
		if err := c.AddResource(base+name+suffix, bytes.NewReader(raw)); err != nil {
			return nil, fmt.Errorf("schemas: %s: %w", name, err)
		}
	}
	return c, nil
}

var embedded = sync.OnceValue(func() *jsonschema.Compiler {
	c, err := newCompiler(nil)
	if err != nil {
		panic(err)
	}
	return c
})

// Source returns the text of a schema.
func Source(name string) ([]byte, error) {
	raw, err := files.ReadFile(name + suffix)
	if err != nil {
		return nil, fmt.Errorf("schemas: there is no schema %q; there are %s", name, strings.Join(Names(), ", "))
	}
	return raw, nil
}

// loaded are the schemas that Load has returned.
var loaded = struct {
	sync.Mutex // the compiler is for one goroutine at a time
	byName     map[string]*Schema
}{byName: map[string]*Schema{}}

// Load returns the schema of that name. It is the same for all callers, who do not change it.
func Load(name string) (*Schema, error) {
	if _, err := Source(name); err != nil {
		return nil, err
	}
	loaded.Lock()
	defer loaded.Unlock()
	if s := loaded.byName[name]; s != nil {
		return s, nil
	}
	s, err := compile(embedded(), name, Source)
	if err != nil {
		return nil, err
	}
	loaded.byName[name] = s
	return s, nil
}

// Parse returns the schema of a text that need not be one of this package's, and may refer to those that are. name is
// what its file would be called, without the suffix.
func Parse(name string, text []byte) (*Schema, error) {
	c, err := newCompiler(map[string][]byte{name: text})
	if err != nil {
		return nil, err
	}
	return compile(c, name, func(other string) ([]byte, error) {
		if other == name {
			return text, nil
		}
		return Source(other)
	})
}

// source finds the text of a schema by its name.
type source func(name string) ([]byte, error)

func compile(c *jsonschema.Compiler, name string, texts source) (*Schema, error) {
	compiled, err := c.Compile(base + name + suffix)
	if err != nil {
		return nil, fmt.Errorf("schemas: %s: %w", name, err)
	}
	s := &Schema{Name: name, Title: compiled.Title, Description: compiled.Description, compiled: compiled}
	s.Properties, err = properties(compiled, texts)
	return s, err
}

// MustLoad is Load for the names that are constants.
func MustLoad(name string) *Schema {
	s, err := Load(name)
	if err != nil {
		panic(err)
	}
	return s
}

func properties(s *jsonschema.Schema, texts source) ([]*Property, error) {
	order, err := propertyOrder(s, texts)
	if err != nil {
		return nil, err
	}
	var ps []*Property
	for _, name := range order {
		p, err := property(name, s.Properties[name], texts)
		if err != nil {
			return nil, err
		}
		p.Required = slices.Contains(s.Required, name)
		ps = append(ps, p)
	}
	for _, part := range s.AllOf {
		if part.Ref != nil {
			part = part.Ref
		}
		if len(part.Properties) == 0 {
			continue // a condition on properties that are described elsewhere
		}
		more, err := properties(part, texts)
		if err != nil {
			return nil, err
		}
		ps = append(ps, more...)
	}
	return ps, nil
}

func property(name string, s *jsonschema.Schema, texts source) (*Property, error) {
	p := &Property{
		Name: name, Title: s.Title, Description: s.Description,
		Default: s.Default, Examples: s.Examples, WriteOnly: s.WriteOnly, MaxItems: s.MaxItems,
	}
	if s.Ref != nil { // what stands beside a $ref adds to it
		q, err := property(name, s.Ref, texts)
		if err != nil {
			return nil, err
		}
		p.Title, p.Description = cmp.Or(p.Title, q.Title), cmp.Or(p.Description, q.Description)
		if p.Default == nil {
			p.Default = q.Default
		}
		if len(p.Examples) == 0 {
			p.Examples = q.Examples
		}
		p.Type, p.Enum, p.Pattern, p.Properties = q.Type, q.Enum, q.Pattern, q.Properties
		p.Items, p.MaxItems = q.Items, q.MaxItems
	}
	if len(s.Types) > 0 {
		p.Type = s.Types[0]
	}
	if s.Pattern != nil {
		p.Pattern = s.Pattern.String()
	}
	for _, v := range s.Enum {
		p.Enum = append(p.Enum, fmt.Sprint(v))
	}
	if s.Items2020 != nil {
		items, err := property("", s.Items2020, texts)
		if err != nil {
			return nil, err
		}
		p.Items = items
	}
	if len(s.Properties) > 0 {
		var err error
		p.Properties, err = properties(s, texts)
		return p, err
	}
	return p, nil
}

// propertyOrder finds the order in which a schema's author wrote its properties: the parser's map has lost it.
func propertyOrder(s *jsonschema.Schema, texts source) ([]string, error) {
	file, pointer, _ := strings.Cut(strings.TrimPrefix(s.Location, base), "#")
	raw, err := texts(strings.TrimSuffix(file, suffix))
	if err != nil {
		return nil, err
	}
	for _, token := range append(strings.Split(strings.Trim(pointer, "/"), "/"), "properties") {
		if token == "" {
			continue
		}
		var object map[string]json.RawMessage
		if err := json.Unmarshal(raw, &object); err != nil {
			return nil, fmt.Errorf("schemas: %s: %w", file, err)
		}
		if raw = object[token]; raw == nil {
			return nil, nil
		}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("schemas: %s: %w", file, err)
	}
	var names []string
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("schemas: %s: %w", file, err)
		}
		names = append(names, name.(string))
		var skip json.RawMessage
		if err := dec.Decode(&skip); err != nil {
			return nil, fmt.Errorf("schemas: %s: %w", file, err)
		}
	}
	return names, nil
}
