// Package quote shows texts of strangers: what descriptors, Git servers, registries, images, APIs and builds say. What
// a terminal, a log or a CI would obey, or a person would not see, is shown as an escape, as in Go: an ESC becomes
// \x1b, a change of direction \u202e, a byte that is no UTF-8 \xff. All takes time in proportion to what is shown.
//
// A text that is quoted already stays as it is, so that every door may quote what passes it.
package quote

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line shows a text in one line of at most limit bytes, and an ellipsis when there was more; 0 is no limit. It is what
// one word or sentence of a stranger goes through before it becomes part of a text of our own.
func Line(text string, limit int) string { return show(text, limit, false, false) }

// Text shows a text of several lines, at most limit bytes, and an ellipsis when there was more; 0 is no limit. Only the
// ends of lines and tabs are kept as they are.
func Text(text string, limit int) string { return show(text, limit, true, false) }

// Output shows a line of a program's output, whole. Tabs stay. What sets colours (SGR) stays on a terminal, where it
// ends with the line; elsewhere it is left out, since programs write it without being asked.
func Output(line string, terminal bool) string {
	line = strings.TrimRight(line, "\r\n")
	if !terminal {
		return Text(Uncoloured(line), 0)
	}
	shown := show(line, 0, true, true)
	if strings.IndexByte(shown, esc) >= 0 {
		shown += reset
	}
	return shown
}

// Uncoloured leaves out what sets colours, and nothing else.
func Uncoloured(text string) string {
	if strings.IndexByte(text, esc) < 0 {
		return text
	}
	var b strings.Builder
	for {
		before, _, found := strings.Cut(text, string(rune(esc)))
		b.WriteString(before)
		if !found {
			return b.String()
		}
		text = text[len(before):]
		if n := colour(text); n > 0 {
			text = text[n:]
			continue
		}
		b.WriteByte(esc)
		text = text[1:]
	}
}

const (
	esc      = '\x1b'
	reset    = "\x1b[0m"
	ellipsis = "…"
)

// longestColour bounds a sequence that sets colours: the longest in use sets foreground, background and a style.
const longestColour = 64

// colour is the length of the sequence that sets colours at the beginning of a text; 0 when there is none.
func colour(text string) int {
	if !strings.HasPrefix(text, "\x1b[") {
		return 0
	}
	for i := 2; i < min(len(text), longestColour); i++ {
		switch c := text[i]; {
		case c == 'm':
			return i + 1
		case c != ';' && c != ':' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

// show is the filter.
func show(text string, limit int, lines, colours bool) string {
	if limit <= 0 {
		limit = len(text) * longestEscape
	}
	if len(text) <= limit && plain(text) {
		return text
	}
	var b strings.Builder
	b.Grow(min(len(text), limit) + len(ellipsis))
	begins := true // nothing but blanks stands in the line before this
	for i := 0; i < len(text); {
		size, escape := next(text[i:], begins, lines, colours)
		piece := text[i : i+size]
		if escape != "" {
			piece = escape
		}
		if piece == drop {
			i += size
			continue
		}
		if b.Len()+len(piece) > limit {
			b.WriteString(ellipsis)
			break
		}
		b.WriteString(piece)
		begins = piece == "\n" || begins && strings.TrimSpace(piece) == ""
		i += size
	}
	return b.String()
}

// longestEscape is how much longer than a byte its escape can be.
const longestEscape = 4

// plain tells whether nothing in a text can need an escape.
func plain(text string) bool {
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c >= 0x7f || (c == ':' || c == '#') && i+1 < len(text) && text[i+1] == c {
			return false
		}
	}
	return true
}

// drop stands for what is left out.
const drop = "\x00"

// next is the size of the next piece of a text and, unless it is shown as it is, what is shown for it.
func next(text string, begins, lines, colours bool) (size int, escape string) {
	c := text[0]
	switch {
	case c == ':' && begins && workflowCommand(text):
		return 1, `\x3a`
	case c == '#' && loggingCommand(text):
		return 1, `\x23`
	case c >= ' ' && c < 0x7f:
		return 1, ""
	case lines && (c == '\n' || c == '\t'):
		return 1, ""
	case lines && strings.HasPrefix(text, "\r\n"):
		return 1, drop
	case c == '\n':
		return 1, `\n`
	case c == '\r':
		return 1, `\r`
	case c == '\t':
		return 1, `\t`
	case colours && c == esc:
		if n := colour(text); n > 0 {
			return n, ""
		}
	}
	r, size := utf8.DecodeRuneInString(text)
	switch {
	case r == utf8.RuneError && size == 1, r < utf8.RuneSelf:
		return 1, fmt.Sprintf(`\x%02x`, c)
	case !Visible(r) && r > 0xffff:
		return size, fmt.Sprintf(`\U%08x`, r)
	case !Visible(r):
		return size, fmt.Sprintf(`\u%04x`, r)
	}
	return size, ""
}

// workflowCommand tells whether a line begins with a command of GitHub or Gitea: ::error::, ::set-output name=x::.
func workflowCommand(text string) bool {
	return len(text) > 2 && strings.HasPrefix(text, "::") && letter(text[2])
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// longestCommand bounds the name of a logging command.
const longestCommand = 64

// loggingCommand tells whether a text begins with a logging command: ##[error], ##vso[task.setvariable …],
// ##teamcity[…. A CI obeys them wherever in a line they are.
func loggingCommand(text string) bool {
	if !strings.HasPrefix(text, "##") {
		return false
	}
	for i := 2; i < min(len(text), longestCommand); i++ {
		switch c := text[i]; {
		case c == '[':
			return true
		case !letter(c):
			return false
		}
	}
	return false
}

// Visible tells whether a rune is shown as it is: it has a form, and changes neither lines nor the direction of others.
// A blank and other spaces are visible.
func Visible(r rune) bool {
	return !unicode.In(r, unicode.C, unicode.Zl, unicode.Zp, fillers) && r&0xfffe != 0xfffe
}

// fillers are letters and marks without a form.
var fillers = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1},
		{Lo: 0x115f, Hi: 0x1160, Stride: 1},
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1},
		{Lo: 0x2800, Hi: 0x2800, Stride: 1},
		{Lo: 0x3164, Hi: 0x3164, Stride: 1},
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1},
	},
}
