package quote_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/quote"
)

func TestQuote(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		line string
		many string // as several lines; empty: as the line
	}{
		"plain":          {text: "café 日本 €", line: "café 日本 €"},
		"nothing":        {},
		"an address":     {text: "::1 and a::b ##", line: "::1 and a::b ##"},
		"lines":          {text: "a\nb\tc\r\nd", line: `a\nb\tc\r\nd`, many: "a\nb\tc\nd"},
		"overwritten":    {text: "good\revil", line: `good\revil`},
		"rubbed out":     {text: "good\b\b\x7f", line: `good\x08\x08\x7f`},
		"NUL, BEL":       {text: "a\x00b\a", line: `a\x00b\x07`},
		"screen cleared": {text: "\x1b[2Jx", line: `\x1b[2Jx`},
		"colours":        {text: "\x1b[31mred\x1b[m", line: `\x1b[31mred\x1b[m`},
		"a link": {
			text: "\x1b]8;;http://x\x1b\\here\x1b]8;;\a",
			line: `\x1b]8;;http://x\x1b\here\x1b]8;;\x07`,
		},
		"C1 as runes":            {text: "\u009b31m\u0085", line: `\u009b31m\u0085`},
		"C1 as bytes":            {text: "\x9b31m", line: `\x9b31m`},
		"no UTF-8":               {text: "caf\xe9", line: `caf\xe9`},
		"a surrogate":            {text: "\xed\xa0\x80", line: `\xed\xa0\x80`},
		"an overlong slash":      {text: "\xc0\xaf", line: `\xc0\xaf`},
		"replaced before":        {text: "caf\uFFFD", line: "caf\uFFFD"},
		"directions":             {text: "a\u202etxt\u2066\u200f\u061c", line: `a\u202etxt\u2066\u200f\u061c`},
		"without width":          {text: "a\u200b\u200d\ufeff\u00ad\u2060", line: `a\u200b\u200d\ufeff\u00ad\u2060`},
		"separators":             {text: "a\u2028b\u2029", line: `a\u2028b\u2029`},
		"tags":                   {text: "a\U000E0041", line: `a\U000e0041`},
		"fillers":                {text: "\u3164\u115f\uffa0", line: `\u3164\u115f\uffa0`},
		"noncharacters":          {text: "\ufffe\U0010ffff", line: `\ufffe\U0010ffff`},
		"a command":              {text: "::error::x", line: `\x3a:error::x`},
		"a command in a line":    {text: "a ::error::x", line: "a ::error::x"},
		"a command after blanks": {text: " \u3000::Set-Output name=x::y", line: " \u3000\\x3a:Set-Output name=x::y"},
		"a command in lines": {
			text: "a\n\t::add-mask::x", line: `a\n\t::add-mask::x`, many: "a\n\t\\x3a:add-mask::x",
		},
		"an old command":          {text: "x ##[error]y", line: `x \x23#[error]y`},
		"commands of Azure":       {text: "##vso[task.x]##[group]", line: `\x23#vso[task.x]\x23#[group]`},
		"a command of TeamCity":   {text: "###teamcity[x", line: `#\x23#teamcity[x`},
		"a heading":               {text: "## [a](b)", line: "## [a](b)"},
		"a section of GitLab":     {text: "section_start:1:x\r\x1b[0K", line: `section_start:1:x\r\x1b[0K`},
		"a backslash stays as is": {text: `C:\new`, line: `C:\new`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := quote.Line(test.text, 0); got != test.line {
				t.Errorf("a line: got %q, want %q", got, test.line)
			}
			if test.many == "" {
				test.many = test.line
			}
			if got := quote.Text(test.text, 0); got != test.many {
				t.Errorf("lines: got %q, want %q", got, test.many)
			}
			if got := quote.Line(test.line, 0); got != test.line {
				t.Errorf("quoted again, %q becomes %q", test.line, got)
			}
			if got := quote.Text(test.many, 0); got != test.many {
				t.Errorf("quoted again, %q becomes %q", test.many, got)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text  string
		limit int
		want  string
	}{
		"shorter":                    {"abc", 4, "abc"},
		"as long":                    {"abcd", 4, "abcd"},
		"longer":                     {"abcde", 4, "abcd…"},
		"in the middle of a rune":    {"abcé", 4, "abc…"},
		"in the middle of an escape": {"ab\x1b", 4, "ab…"},
		"escapes count":              {"\x1b\x1b", 8, `\x1b\x1b`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := quote.Line(test.text, test.limit); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestColours(t *testing.T) {
	t.Parallel()
	endless := "[" + strings.Repeat("1", 99) + "m"
	for text, want := range map[string][2]string{
		"plain":               {"plain", "plain"},
		"\x1b[1;31mred\x1b[m": {"\x1b[1;31mred\x1b[m\x1b[0m", "red"},
		"\x1b[38:2::1:2:3mx":  {"\x1b[38:2::1:2:3mx\x1b[0m", "x"},
		"\x1b[2J\x1b[H":       {`\x1b[2J\x1b[H`, "\x1b[2J\x1b[H"},
		"\x1b[?25lx":          {`\x1b[?25lx`, "\x1b[?25lx"},
		"\x1b" + endless:      {`\x1b` + endless, "\x1b" + endless},
		"\x1b[\x1b[31mx\x1b":  {"\\x1b[\x1b[31mx\\x1b\x1b[0m", "\x1b[x\x1b"},
		"a\rb":                {`a\rb`, "a\rb"},
	} {
		if got := quote.Output(text, true); got != want[0] {
			t.Errorf("%q for a terminal: got %q, want %q", text, got, want[0])
		}
		if got := quote.Uncoloured(text); got != want[1] {
			t.Errorf("%q without colours: got %q, want %q", text, got, want[1])
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", quote.LineLimit)
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"nothing":                       {"", nil},
		"lines":                         {"a\nb\r\n\nc", []string{"a", "b", "", "c"}},
		"as long as allowed":            {long + "\na\n", []string{long, "a"}},
		"longer":                        {long + "yy\na\n", []string{long, "yy", "a"}},
		"twice as long":                 {long + long + "\n\na", []string{long, long, "", "a"}},
		"a rune on the border is whole": {long[1:] + "éy\n", []string{long[1:], "éy"}},
		"no rune on the border":         {long[1:] + "\xff\xffy\n", []string{long[1:] + "\xff", "\xffy"}},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var got []string
				w := quote.Lines(func(line string) error {
					got = append(got, line)
					return nil
				})
				for text := test.text; text != ""; {
					n, err := w.Write([]byte(text[:min(size, len(text))]))
					if err != nil {
						t.Fatal(err)
					}
					text = text[n:]
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				if strings.Join(got, "|") != strings.Join(test.want, "|") {
					t.Errorf("%d bytes at a time: got %.80q", size, got)
				}
			})
		}
	}
}

// FuzzText: Any text: what is shown of it has nothing that a terminal or a CI obeys.
func FuzzText(f *testing.F) {
	f.Add(fuzztest.Long("\x1b[2J\u202e\xff::error::"), 10)
	f.Add("a\x1b[2J\n::error::\u202e\xff##[x]", 10)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		fuzztest.Small.Bound(t, len(text), func() {
			quote.Line(text, limit)
			quote.Text(text, limit)
		})
		for _, show := range []func(string, int) string{quote.Line, quote.Text} {
			got := show(text, limit)
			if !utf8.ValidString(got) || show(got, 0) != got || limit > 0 && len(got) > limit+len("…") {
				t.Errorf("%q becomes %q", text, got)
			}
			if i := strings.IndexFunc(got, func(r rune) bool {
				return !quote.Visible(r) && r != '\n' && r != '\t'
			}); i >= 0 {
				t.Errorf("%q becomes %q", text, got)
			}
		}
		if strings.ContainsAny(quote.Line(text, limit), "\n\t") {
			t.Errorf("%q is no line", text)
		}
	})
}
