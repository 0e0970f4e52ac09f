// Package yamlline tells in which line of a file, as editors and grep count them, something is that a YAML parser has
// found. YAML ends a line also by a carriage return alone and, up to version 1.1, by the characters NEL, LS and PS
// (YAML 1.1, section 4.1.4), and its parsers count those.
package yamlline

import (
	"bytes"

	goyaml "go.yaml.in/yaml/v3"
)

// Lines says where the lines of a text are.
type Lines struct {
	last int
	of   []int // the file's line of each of the parser's; empty: they are the same
}

// Of counts the lines of a text.
func Of(text []byte) Lines {
	l := Lines{last: bytes.Count(text, []byte("\n")) + 1}
	line, other := 1, false
	of := []int{line}
	for i := 0; i < len(text); i++ {
		ends, newline := breaks(text[i:])
		if ends == 0 {
			continue
		}
		if newline {
			line++
		} else {
			other = true
		}
		of = append(of, line)
		i += ends - 1
	}
	if other {
		l.of = of
	}
	return l
}

// breaks returns how many bytes of a line break a text begins with, and whether a newline is among them.
func breaks(text []byte) (ends int, newline bool) {
	switch text[0] {
	case '\n':
		return 1, true
	case '\r':
		if len(text) > 1 && text[1] == '\n' {
			return 2, true
		}
		return 1, false
	case 0xC2, 0xE2:
		for _, mark := range []string{"\u0085", "\u2028", "\u2029"} {
			if bytes.HasPrefix(text, []byte(mark)) {
				return len(mark), false
			}
		}
	}
	return 0, false
}

// Line returns the file's line of one of the parser's, both from 1. 0, no line, stays so. A parser can mean the line
// behind the last one, where it misses something: that is the last one.
func (l Lines) Line(parsers int) int {
	if parsers > 0 && len(l.of) > 0 {
		parsers = l.of[min(parsers, len(l.of))-1]
	}
	return min(parsers, l.last)
}

// Number gives a node, and all below it, the file's lines in place of the parser's.
func (l Lines) Number(n *goyaml.Node) {
	n.Line = l.Line(n.Line)
	for _, below := range n.Content {
		l.Number(below)
	}
}
