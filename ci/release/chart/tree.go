package chart

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// A tree is what a template of the chart is made of: a mapping, a sequence, a leaf, or a choice between two of them.
type tree any

type (
	mapping  map[string]tree
	sequence []tree

	// A leaf is a scalar. Its text has marks where settings go; it is empty for what is no text.
	leaf struct {
		value any // by default
		text  string
	}

	// A choice is one of two trees, by whether a component is there. One of them may be nil, which is for nothing: the
	// key of a mapping, or the element of a sequence, is not there then.
	choice struct {
		component     string
		with, without tree
	}
)

// treeOf makes a tree of an object with the default settings, and of the same object with marks for settings.
func treeOf(value, marked any) (tree, error) {
	switch value := value.(type) {
	case map[string]any:
		other, ok := marked.(map[string]any)
		if !ok || len(other) != len(value) {
			return nil, fmt.Errorf("settings change the shape of %v", slices.Sorted(maps.Keys(value)))
		}
		all := mapping{}
		for key := range value {
			inner, err := treeOf(value[key], other[key])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			all[key] = inner
		}
		return all, nil
	case []any:
		other, ok := marked.([]any)
		if !ok || len(other) != len(value) {
			return nil, fmt.Errorf("settings change the length of a list of %d", len(value))
		}
		all := sequence{}
		for i := range value {
			inner, err := treeOf(value[i], other[i])
			if err != nil {
				return nil, fmt.Errorf("%d: %w", i, err)
			}
			all = append(all, inner)
		}
		return all, nil
	}
	text, isText := marked.(string)
	if !isText {
		return leaf{value: value}, nil
	}
	return leaf{value, text}, nil
}

// instead are components that are not for use together: where one changes what the other one, which comes first in
// Components, has changed, it counts, as with kustomize.
var instead = map[string]string{"signing-keyless": "signing-key"}

// merge adds to a tree what a component changes: base is without it and with no other component, with is with it. Two
// components that change one place are an error, unless they are not for use together.
func merge(into, base, with tree, component string) (tree, error) {
	if reflect.DeepEqual(base, with) {
		return into, nil
	}
	if other, taken := into.(choice); taken {
		if instead[component] == other.component {
			return choice{component, with, into}, nil
		}
		return nil, fmt.Errorf("the components %s and %s change it", other.component, component)
	}
	switch base := base.(type) {
	case mapping:
		if with, same := with.(mapping); same {
			return mergeMappings(into.(mapping), base, with, component)
		}
	case sequence:
		if with, same := with.(sequence); same && len(with) >= len(base) {
			return mergeSequences(into.(sequence), base, with, component)
		}
	}
	if !reflect.DeepEqual(into, base) {
		return nil, fmt.Errorf("the component %s replaces what another one changes", component)
	}
	return choice{component, with, base}, nil
}

func mergeMappings(into, base, with mapping, component string) (tree, error) {
	all := maps.Clone(into)
	for _, key := range slices.Sorted(maps.Keys(base)) {
		var err error
		if inner, there := with[key]; there {
			all[key], err = merge(into[key], base[key], inner, component)
		} else {
			all[key], err = merge(into[key], base[key], nil, component)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	for key, inner := range with {
		if _, there := base[key]; there {
			continue
		}
		// The exit handler, say, to which each of them adds a step.
		if other, taken := into[key].(choice); taken && !reflect.DeepEqual(other.with, inner) {
			return nil, fmt.Errorf("%s: two components add it, one of them is %s", key, component)
		}
		all[key] = choice{component, inner, into[key]}
	}
	return all, nil
}

// A component adds to the end of a sequence: those of different components do not meet.
func mergeSequences(into, base, with sequence, component string) (tree, error) {
	all := slices.Clone(into)
	for i := range base {
		var err error
		if all[i], err = merge(into[i], base[i], with[i], component); err != nil {
			return nil, fmt.Errorf("%d: %w", i, err)
		}
	}
	for _, inner := range with[len(base):] {
		all = append(all, choice{component, inner, nil})
	}
	return all, nil
}
