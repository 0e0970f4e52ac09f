package dockerfile

import (
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/command"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Bounds of what variables expand to, in bytes. A few lines, each of which names the variable of the line before twice,
// are gigabytes otherwise, in the memory of all that reads the Dockerfile.
const (
	expandedLimit    = 1 << 20  // of an instruction; a process cannot even be given a variable of 128 KiB
	expandedAllLimit = 64 << 20 // of all instructions
	unknownSize      = 64       // a variable of the base image, whose value is not known yet, counts as so much
)

// sizes tell by name how long the longest value is that a variable has anywhere in a Dockerfile, or more.
type sizes map[string]int

var (
	reference = regexp.MustCompile(`\$\{?([A-Za-z_][A-Za-z0-9_]*)`)
	// replacement is ${name/pattern/text}: each match of the pattern becomes the text.
	replacement = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)//?[^/}]*/([^}]*)`)
)

// bound is what a text with variables expands to at most.
func (s sizes) bound(text string) int {
	size := len(text)
	for _, found := range reference.FindAllStringSubmatch(text, -1) {
		size += s.of(found[1]) - len(found[0])
	}
	for _, found := range replacement.FindAllStringSubmatch(text, -1) {
		by := len(found[2])
		for _, inside := range reference.FindAllStringSubmatch(found[2], -1) {
			by += s.of(inside[1])
		}
		if by > 1 {
			size += min(s.of(found[1])+1, expandedLimit) * min(by, expandedLimit)
		}
	}
	return size
}

func (s sizes) of(name string) int {
	if size, ok := s[name]; ok {
		return size
	}
	return unknownSize
}

// set keeps the size of the longest value.
func (s sizes) set(name string, size int) { s[name] = max(s[name], size) }

// checkExpansion refuses a Dockerfile whose variables would expand to immense texts. It expands none: it counts.
func (s *source) checkExpansion(in Parameters) error {
	known := sizes{}
	for _, v := range in.BuildArgs {
		known.set(v.Name, len(v.Value))
	}
	for _, v := range in.BuildEnv {
		known.set(v.Name, len(v.Value))
	}
	all := 0
	for _, node := range s.parsed.AST.Children {
		size := known.instruction(node)
		const hint = "Look for variables that contain others, which contain others, many times."
		if all += size; size > expandedLimit {
			return s.at(node.Location(), "its variables expand to more than %d MiB", expandedLimit>>20).WithHint(hint)
		}
		if all > expandedAllLimit {
			return s.at(
				node.Location(), "variables up to here expand to more than %d MiB", expandedAllLimit>>20,
			).WithHint(hint)
		}
	}
	return nil
}

// instruction returns the bound of an instruction, and takes notice of the variables that it sets.
func (s sizes) instruction(node *parser.Node) int {
	for strings.ToLower(node.Value) == command.Onbuild && node.Next != nil && len(node.Next.Children) > 0 {
		node = node.Next.Children[0] // which a later stage does
	}
	var texts []string
	switch strings.ToLower(node.Value) {
	case command.Run:
		texts = node.Flags // the rest is for its shell
	case command.Arg, command.Env:
		return s.variables(node)
	default:
		texts = append(texts, node.Original)
		for _, document := range node.Heredocs {
			texts = append(texts, document.Content)
		}
	}
	size := 0
	for _, text := range texts {
		size += s.bound(text)
	}
	return size
}

// variables is instruction for ARG and ENV.
func (s sizes) variables(node *parser.Node) (size int) {
	set := map[string]int{} // an ENV does not see what it sets
	keep := func(name, value string) {
		bound := s.bound(value)
		set[name] = max(set[name], bound)
		size += bound
	}
	parsed, err := instructions.ParseInstruction(node)
	if err != nil {
		return 0 // the frontend does not take it either
	}
	switch c := parsed.(type) {
	case *instructions.ArgCommand:
		for _, arg := range c.Args {
			if arg.Value != nil {
				keep(arg.Key, *arg.Value)
				s.set(arg.Key, set[arg.Key]) // an ARG does
			}
		}
	case *instructions.EnvCommand:
		for _, v := range c.Env {
			keep(v.Key, v.Value)
		}
	}
	for name, bound := range set {
		s.set(name, bound)
	}
	return size
}
