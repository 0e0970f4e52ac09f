package descriptor

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	goyaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/yamlline"
)

// outline holds the places of a descriptor's values, and the faults of its shape. Values themselves are read by
// sigs.k8s.io/yaml, which is what the reference uses and the only way to read them alike; it forgets lines and stops at
// the first fault, so a second parser of the same family supplies those.
type outline struct {
	lines    map[string]int  // by path, such as endpoints[0].port
	broken   map[string]bool // paths that have a fault already
	faults   []Note
	warnings []Note
	budget   int               // nodes still to visit: aliases can make a small text a huge tree
	top      map[string]string // keys of the whole, and those of their values that are scalars
	foreign  []string          // keys of the whole that are not known, in their order
}

// newOutline compares a descriptor with the shape of t. It expects a text that sigs.k8s.io/yaml can read.
func newOutline(raw []byte, t reflect.Type) *outline {
	o := &outline{lines: map[string]int{}, broken: map[string]bool{}, budget: 1_000_000}
	documents := goyaml.NewDecoder(strings.NewReader(string(raw)))
	var first, second goyaml.Node
	if documents.Decode(&first) != nil || len(first.Content) == 0 {
		return o // empty, or only the other parser can read it: then there are no lines to tell
	}
	lines := yamlline.Of(raw)
	lines.Number(&first)
	o.head(first.Content[0], t)
	o.walk(first.Content[0], t, "")
	if err := documents.Decode(&second); !errors.Is(err, io.EOF) {
		if first.Content[0].ShortTag() == "!!null" {
			o.fault("", "the first YAML document is empty, and no other counts")
		}
		o.warnings = append(o.warnings, Note{
			lines.Line(second.Line), "", "only the first YAML document counts; what follows is ignored",
		})
	}
	return o
}

// head notes what the text has at its top.
func (o *outline) head(n *goyaml.Node, t reflect.Type) {
	if n.Kind != goyaml.MappingNode {
		return
	}
	o.top = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			continue
		}
		if field, known := fieldNamed(t, key.Value); known {
			o.top[nameOf(field)] = value.Value
			continue
		}
		o.top[key.Value] = value.Value
		o.foreign = append(o.foreign, key.Value)
	}
}

func (o *outline) walk(n *goyaml.Node, t reflect.Type, path string) {
	if o.budget--; o.budget < 0 {
		return
	}
	if n.Kind == goyaml.AliasNode {
		n = n.Alias
	}
	o.lines[path] = n.Line
	if n.ShortTag() == "!!null" {
		return // as if absent
	}
	switch t.Kind() {
	case reflect.Pointer:
		o.walk(n, t.Elem(), path)
	case reflect.Struct:
		o.mapping(n, path, func(key *goyaml.Node, value *goyaml.Node) string {
			field, ok := fieldNamed(t, key.Value)
			if !ok {
				o.warnings = append(o.warnings, Note{key.Line, "",
					fmt.Sprintf(
						"%s is not known here and is ignored (known: %s)", within(path, key.Value),
						strings.Join(fieldNames(t), ", "),
					)})
				return ""
			}
			o.walk(value, field.Type, within(path, nameOf(field)))
			return nameOf(field)
		})
	case reflect.Map:
		o.mapping(n, path, func(key *goyaml.Node, value *goyaml.Node) string {
			o.walk(value, t.Elem(), within(path, key.Value))
			return key.Value
		})
	case reflect.Slice:
		if n.Kind != goyaml.SequenceNode {
			o.fault(path, "must be a list, is %s", kindOf(n))
			return
		}
		for i, item := range n.Content {
			o.walk(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case reflect.Int32:
		var v int32
		switch {
		case n.Kind != goyaml.ScalarNode:
			o.fault(path, "must be a number, is %s", kindOf(n))
		case n.Style&(goyaml.SingleQuotedStyle|goyaml.DoubleQuotedStyle) != 0 && n.Style&goyaml.TaggedStyle == 0:
			o.fault(path, "must be a number, without quotes; is %q", n.Value)
		case n.Style&goyaml.TaggedStyle == 0 && yaml.Unmarshal([]byte(n.Value), &v) != nil:
			o.fault(path, "must be a whole number; is %s", n.Value)
		}
	case reflect.String:
		if n.Kind != goyaml.ScalarNode {
			o.fault(path, "must be a text, is %s", kindOf(n))
			return
		}
		o.coerced(n, path)
	}
}

// mapping visits the entries of a mapping and of the mappings merged into it. The visitor returns the name under which
// an entry counts.
func (o *outline) mapping(n *goyaml.Node, path string, visit func(key, value *goyaml.Node) string) {
	if n.Kind != goyaml.MappingNode {
		o.fault(path, "must be a mapping, is %s", kindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content) && o.budget > 0; i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.ShortTag() == "!!merge" {
			o.merged(value, path, visit)
			continue
		}
		name := visit(key, value)
		if name != "" && seen[name] {
			o.warnings = append(o.warnings, Note{
				key.Line, "", within(path, name) + " is given twice; only one of them counts",
			})
		}
		seen[name] = true
	}
}

func (o *outline) merged(n *goyaml.Node, path string, visit func(key, value *goyaml.Node) string) {
	if o.budget--; o.budget < 0 {
		return
	}
	switch n.Kind {
	case goyaml.AliasNode:
		o.merged(n.Alias, path, visit)
	case goyaml.SequenceNode:
		for _, item := range n.Content {
			o.merged(item, path, visit)
		}
	case goyaml.MappingNode:
		o.mapping(n, path, visit)
	}
}

// coerced warns of a scalar that becomes another text than the one written: version 1.10 arrives as 1.1, and yes as
// true.
func (o *outline) coerced(n *goyaml.Node, path string) {
	if n.Style != 0 || len(n.Value) > 64 {
		return
	}
	var as struct {
		Text string `json:"text"`
	}
	if yaml.Unmarshal([]byte("text: "+n.Value), &as) == nil && as.Text != n.Value {
		o.warnings = append(o.warnings, Note{n.Line, path,
			fmt.Sprintf(
				"%s is read as %q, as YAML 1.1 does; put it in quotes to keep it as written", n.Value, as.Text,
			)})
	}
}

// noteLimit is how long a note is at most, in bytes.
const noteLimit = 2000

// fault adds a fault of the value at a path, unless that value has one already.
func (o *outline) fault(path, format string, args ...any) {
	if o.broken[path] {
		return
	}
	o.broken[path] = true
	o.faults = append(o.faults, Note{o.line(path), quote.Line(path, noteLimit), quoted(format, args...)})
}

func (o *outline) warn(path, format string, args ...any) {
	o.warnings = append(o.warnings, Note{o.line(path), quote.Line(path, noteLimit), quoted(format, args...)})
}

// quoted is the text of a note.
func quoted(format string, args ...any) string {
	return quote.Line(fmt.Sprintf(format, args...), noteLimit)
}

// line is the line of a value, or for an absent one the line of the nearest value around it.
func (o *outline) line(path string) int {
	for {
		if line, ok := o.lines[path]; ok {
			return line
		}
		if path == "" {
			return 0
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

func kindOf(n *goyaml.Node) string {
	switch n.Kind {
	case goyaml.MappingNode:
		return "a mapping"
	case goyaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%q", n.Value)
}

func within(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fieldNamed finds a field as encoding/json does: by its name, whatever the case.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	return t.FieldByNameFunc(func(field string) bool {
		f, _ := t.FieldByName(field)
		return strings.EqualFold(nameOf(f), name)
	})
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		names = append(names, nameOf(f))
	}
	return names
}

func nameOf(f reflect.StructField) string { return f.Tag.Get("json") }
