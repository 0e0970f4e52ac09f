package gitsource

import (
	"bytes"
	"strings"
	"unicode"
)

// longestText is how much of a server's text is shown, in bytes.
const longestText = 1000

// clean makes a server's text fit to be shown in one line: without control characters and such as change the direction
// of what comes after them.
func clean(raw []byte) string {
	raw = raw[:min(len(raw), longestText)]
	text := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(raw), "\uFFFD"))
	return strings.Join(strings.Fields(text), " ")
}

// progress divides what a server says beside its answer into lines. A line that ends with a carriage return is one that
// the next replaces, so it is left out.
type progress struct {
	say   func(string)
	line  []byte
	lines int
}

// mostLines is how many lines of a server are shown.
const mostLines = 100

func (p *progress) hear(text []byte) {
	for _, b := range text {
		switch {
		case b == '\n':
			p.flush()
		case b == '\r':
			p.line = p.line[:0]
		case len(p.line) < longestText:
			p.line = append(p.line, b)
		}
	}
}

func (p *progress) flush() {
	text := clean(bytes.TrimSpace(p.line))
	p.line = p.line[:0]
	if text == "" || p.say == nil || p.lines >= mostLines {
		return
	}
	p.lines++
	p.say(text)
}
