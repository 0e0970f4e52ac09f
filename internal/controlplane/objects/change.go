package objects

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	goyaml "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime"
)

// Value is what somebody gave for one field of an object, besides the object's file.
type Value struct {
	Path  []string // names, and indices of lists
	Value any      // as a decoder of JSON returns it, with int64 for whole numbers
	Given string   // where it was given, for people, such as --set repository.url
}

// Change puts an object in the place of o that has these values, and returns it. A value replaces what is at its path.
// What its path leads through is made where it is absent, and a list grows by one item at its end. Faults of the
// object, such as a field that does not exist, are in the set. The error lists paths that lead nowhere; the set is as
// it was then.
func (s *Set) Change(o *Object, values ...Value) (*Object, error) {
	changed := &Object{
		Kind: o.Kind, fields: runtime.DeepCopyJSON(o.fields), file: o.file, node: o.node, offset: o.offset,
		given: maps.Clone(o.given),
	}
	if changed.given == nil {
		changed.given = map[*goyaml.Node]string{}
	}
	var faults []error
	for _, v := range values {
		fields, err := put(changed.fields, v.Path, v.Value)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", v.Given, err))
			continue
		}
		changed.fields = fields.(map[string]any)
		// Text in quotes: nothing of it is read in another way than it was given.
		leaf := &goyaml.Node{Kind: goyaml.ScalarNode, Style: goyaml.DoubleQuotedStyle}
		changed.given[leaf] = v.Given
		changed.node = grown(changed.node, v.Path, leaf)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	s.Objects = slices.DeleteFunc(s.Objects, func(other *Object) bool { return other == o })
	s.readObject(changed)
	return changed, nil
}

// Make adds an object to the set, and returns it. What it has at the paths is taken from the object from, which has it
// at the same place, and is in that one's file. fields is all else of it.
func (s *Set) Make(from *Object, fields map[string]any, taken ...[]string) *Object {
	made := &Object{
		fields: runtime.DeepCopyJSON(fields), file: from.file, offset: from.offset, given: maps.Clone(from.given),
		node: &goyaml.Node{Kind: goyaml.MappingNode, Line: from.node.Line},
	}
	for _, path := range taken {
		value, node := any(from.fields), from.node
		for _, step := range path {
			if value = within(value, step); node != nil {
				node = descend(node, step)
			}
		}
		if value == nil {
			continue
		}
		if changed, err := put(made.fields, path, runtime.DeepCopyJSONValue(value)); err == nil {
			made.fields = changed.(map[string]any)
		}
		if node != nil { // else it is a default, which no file has
			made.node = grown(made.node, path, node)
		}
	}
	s.readObject(made)
	return made
}

// put returns a value with another one at a path in it. It changes maps and lists in place.
func put(in any, path []string, value any) (any, error) {
	if len(path) == 0 {
		return value, nil
	}
	step := path[0]
	index, err := strconv.Atoi(step)
	switch in := in.(type) {
	case []any:
		if err != nil || index < 0 || index > len(in) {
			return nil, fmt.Errorf("a list of %d has no place %q; [%d] adds one", len(in), step, len(in))
		}
		if index == len(in) {
			in = append(in, nil)
		}
		in[index], err = put(in[index], path[1:], value)
		return in, err
	case map[string]any:
		inner, err := put(in[step], path[1:], value)
		if err == nil {
			in[step] = inner
		}
		return in, err
	case nil:
		if err == nil {
			return put([]any{}, path, value)
		}
		return put(map[string]any{}, path, value)
	}
	return nil, fmt.Errorf("%q is below a value that is neither an object nor a list", step)
}

// grown is a tree with a leaf at a path. It shares with the other tree what is not on the path.
func grown(node *goyaml.Node, path []string, leaf *goyaml.Node) *goyaml.Node {
	if len(path) == 0 {
		return leaf
	}
	if node != nil && node.Kind == goyaml.AliasNode {
		node = node.Alias
	}
	step := path[0]
	index, err := strconv.Atoi(step)
	if node == nil || node.Kind != goyaml.MappingNode && node.Kind != goyaml.SequenceNode {
		node = &goyaml.Node{Kind: goyaml.MappingNode, Line: leaf.Line}
		if err == nil {
			node.Kind = goyaml.SequenceNode
		}
	}
	copied := *node
	copied.Content = slices.Clone(node.Content)
	if copied.Kind == goyaml.SequenceNode {
		if index == len(copied.Content) {
			copied.Content = append(copied.Content, nil)
		}
		if err == nil && index >= 0 && index < len(copied.Content) {
			copied.Content[index] = grown(copied.Content[index], path[1:], leaf)
		}
		return &copied
	}
	for i := 0; i+1 < len(copied.Content); i += 2 {
		if copied.Content[i].Value == step {
			copied.Content[i+1] = grown(copied.Content[i+1], path[1:], leaf)
			return &copied
		}
	}
	key := &goyaml.Node{Kind: goyaml.ScalarNode, Value: step, Line: leaf.Line}
	copied.Content = append(copied.Content, key, grown(nil, path[1:], leaf))
	return &copied
}
