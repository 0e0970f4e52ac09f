package gitsource

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing/filemode"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/stepwright/stepwright/internal/outcome"
)

// gitattributes(5): what a repository says of its files. Only what changes a file on its way to the disk counts here:
// eol, ident, working-tree-encoding, and the filter of Git LFS. Filters that are programs are not run; git, too, runs
// only those that the machine's settings name.

const attributesName = ".gitattributes"

const (
	largestAttributes = 4 << 20  // bytes of all files with attributes in a repository, which are held in memory
	longestAttributes = 2048     // bytes of a line; git ignores longer ones
	largestConverted  = 32 << 20 // bytes of the files that are converted at once, in memory
)

// state is what an attribute is in: unspecified, set, unset, or a value.
type state string

const (
	unspecified state = ""
	set         state = "\x00set"
	unset       state = "\x00unset"
)

// assignment gives an attribute its state.
type assignment struct {
	name  string
	state state
}

// rule gives attributes to the paths that match.
type rule struct {
	base     string // the directory of its file, with a final slash; empty at the top
	pattern  string
	nameOnly bool // the pattern is compared with the last part of a path
	assigned []assignment
}

// attributes are the rules of a tree, by the directory of their file, and its macros.
type attributes struct {
	rules  map[string][]rule
	macros map[string][]assignment
}

// readAttributes reads the rules of a tree whose files are written. It returns nil if they change no file.
func readAttributes(t *tree) (*attributes, error) {
	a := &attributes{
		rules:  map[string][]rule{},
		macros: map[string][]assignment{"binary": {{"diff", unset}, {"merge", unset}, {"text", unset}}},
	}
	matters := false
	var total int64
	for _, f := range t.files {
		if path.Base(f.path) != attributesName || f.mode == filemode.Symlink {
			continue
		}
		if total += f.size; total > largestAttributes {
			return nil, outcome.Errorf(
				outcome.RepositoryInvalid, "its files %s have more than %d bytes in all", attributesName,
				largestAttributes,
			)
		}
		raw, err := t.root.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		base := strings.TrimSuffix(f.path, attributesName)
		for line := range strings.Lines(string(raw)) {
			if r, ok := a.parse(base, line); ok {
				a.rules[base] = append(a.rules[base], r)
			}
			matters = matters || strings.Contains(line, "eol") || strings.Contains(line, "ident") ||
				strings.Contains(line, "filter") || strings.Contains(line, "working-tree-encoding")
		}
	}
	if !matters {
		return nil, nil
	}
	return a, nil
}

// parse reads one line. A macro is noted.
func (a *attributes) parse(base, line string) (rule, bool) {
	line = strings.Trim(line, " \t\r\n")
	if line == "" || line[0] == '#' || len(line) >= longestAttributes {
		return rule{}, false
	}
	pattern, rest := line, ""
	if i := strings.IndexAny(line, " \t\r"); i >= 0 {
		pattern, rest = line[:i], line[i:]
	}
	if line[0] == '"' {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return rule{}, false
		}
		if pattern, err = strconv.Unquote(quoted); err != nil {
			return rule{}, false
		}
		rest = line[len(quoted):]
	}
	assigned, ok := parseAssignments(rest)
	if macro, is := strings.CutPrefix(pattern, "[attr]"); is {
		if macro == "" { // [attr] NAME
			macro, rest, _ = strings.Cut(strings.TrimLeft(rest, " \t"), " ")
			assigned, ok = parseAssignments(rest)
		}
		if ok && base == "" && validAttribute(macro) {
			a.macros[macro] = assigned
		}
		return rule{}, false
	}
	if !ok || strings.HasPrefix(pattern, "!") || strings.HasSuffix(pattern, "/") {
		return rule{}, false // no file matches a directory's pattern
	}
	r := rule{base: base, pattern: pattern, nameOnly: !strings.Contains(pattern, "/"), assigned: assigned}
	r.pattern = strings.TrimPrefix(r.pattern, "/")
	return r, true
}

func parseAssignments(text string) ([]assignment, bool) {
	var out []assignment
	for word := range strings.FieldsSeq(text) {
		s := assignment{name: word, state: set}
		switch {
		case strings.HasPrefix(word, "-"):
			s = assignment{word[1:], unset}
		case strings.HasPrefix(word, "!"):
			s = assignment{word[1:], unspecified}
		default:
			if name, value, ok := strings.Cut(word, "="); ok {
				s = assignment{name, state(value)}
			}
		}
		if !validAttribute(s.name) {
			return nil, false
		}
		out = append(out, s)
	}
	return out, true
}

func validAttribute(name string) bool {
	return name != "" && name[0] != '-' && strings.Trim(
		name, "-._0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
	) == ""
}

func (r rule) matches(file string) bool {
	if r.nameOnly {
		return wildmatch(r.pattern, path.Base(file), false)
	}
	return wildmatch(r.pattern, file[len(r.base):], true)
}

// of returns the attributes of a file: what comes later wins, and what is nearer to the file.
func (a *attributes) of(file string) map[string]state {
	found := map[string]state{}
	for dir := file; dir != ""; {
		dir = dir[:strings.LastIndexByte(strings.TrimSuffix(dir, "/"), '/')+1]
		for _, r := range slices.Backward(a.rules[dir]) {
			if r.matches(file) {
				a.assign(found, r.assigned)
			}
		}
	}
	return found
}

// assign gives the attributes that have no state yet theirs, last ones first.
func (a *attributes) assign(found map[string]state, assigned []assignment) {
	for _, s := range slices.Backward(assigned) {
		if _, ok := found[s.name]; ok {
			continue
		}
		found[s.name] = s.state
		if s.state == set {
			a.assign(found, a.macros[s.name])
		}
	}
}

// conversion is what changes a file on its way to the disk.
type conversion struct {
	ident    bool
	crlf     bool // line ends become CRLF
	auto     bool // only in a file that looks like text without them
	encoding string
	lfs      bool
}

// conversionOf follows convert_attrs of git's convert.c, for a machine whose own line end is LF.
func conversionOf(found map[string]state) conversion {
	c := conversion{ident: found["ident"] == set, lfs: found["filter"] == "lfs"}
	if e := found["working-tree-encoding"]; e != unspecified && e != set && e != unset {
		c.encoding = string(e)
	}
	text := found["text"]
	if text != set && text != unset && text != "auto" && text != "input" {
		text = found["crlf"]
	}
	if text == unset {
		return c
	}
	c.crlf = found["eol"] == "crlf"
	c.auto = text == "auto"
	return c
}

// convert changes the files that their attributes say to. It comes after all files are written and before any link is,
// so that it goes through none. Those of Git LFS stay pointers, and are returned.
func (t *tree) convert(ctx context.Context, warn func(msg string, args ...any)) ([]*file, error) {
	a, err := readAttributes(t)
	if a == nil || err != nil {
		return nil, err
	}
	var inLFS []*file
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(writers())
	room := semaphore.NewWeighted(largestConverted)
	for _, f := range t.files {
		if running.Err() != nil {
			break
		}
		if f.mode == filemode.Symlink {
			continue
		}
		c := conversionOf(a.of(f.path))
		switch {
		case c.lfs:
			inLFS = append(inLFS, f)
		case f.size > 0 && (c.ident || c.crlf || c.encoding != ""):
			size := min(f.size, largestConverted)
			if err := room.Acquire(running, size); err != nil {
				break // the context has ended
			}
			group.Go(func() error {
				defer room.Release(size)
				return t.rewrite(f, c, warn)
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return inLFS, context.Cause(ctx)
}

// rewrite converts one file.
func (t *tree) rewrite(f *file, c conversion, warn func(msg string, args ...any)) error {
	if f.size > largestConverted {
		warn("A file is too large to be converted as .gitattributes says", "path", t.dir+f.path, "bytes", f.size)
		return nil
	}
	before, err := t.root.ReadFile(f.path)
	if err != nil {
		return err
	}
	after := before
	switch {
	case c.ident && (c.auto || c.encoding != ""):
		after = expandIdent(after, f.hash.String())
	case c.ident:
		after = streamIdent(after, f.hash.String())
	}
	if c.crlf && (!c.auto || plainText(after)) {
		after = toCRLF(after)
	}
	if c.encoding != "" {
		encoded, ok := encode(after, c.encoding)
		if !ok {
			warn("A file cannot be written in the encoding that .gitattributes says, and stays UTF-8", "path",
				t.dir+f.path, "encoding", c.encoding)
		} else {
			after = encoded
		}
	}
	if bytes.Equal(before, after) {
		return nil
	}
	return t.overwrite(f, func(to io.Writer) error {
		_, err := to.Write(after)
		return err
	})
}

// overwrite gives a file that is written another content.
func (t *tree) overwrite(f *file, write func(io.Writer) error) error {
	to, err := t.root.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	if err = write(to); err == nil {
		err = f.changed(to.Stat())
	}
	return errors.Join(err, to.Close())
}

// expandIdent writes the file's name as an object into each $Id$, as ident_to_worktree of git's convert.c does. What
// looks like another system's is kept.
func expandIdent(in []byte, name string) []byte {
	var out []byte
	for {
		i := bytes.IndexByte(in, '$')
		if i < 0 || len(in) < i+4 {
			return append(out, in...)
		}
		out, in = append(out, in[:i+1]...), in[i+1:]
		if string(in[:2]) != "Id" {
			continue
		}
		switch in[2] {
		case '$':
			in = in[3:]
		case ':':
			end := bytes.IndexByte(in[3:], '$')
			if end < 0 {
				return append(out, in...)
			}
			end += 3
			if bytes.IndexByte(in[3:end], '\n') >= 0 {
				continue
			}
			if space := bytes.IndexByte(in[min(4, end):end], ' '); space >= 0 && space+4 < end-1 {
				continue
			}
			in = in[end+1:]
		default:
			continue
		}
		out = append(out, "Id: "+name+" $"...)
	}
}

// streamIdent is expandIdent for files that git need not hold as a whole. There it uses another algorithm,
// ident_filter_fn of convert.c, which does not see a $ that comes right after another one.
func streamIdent(in []byte, name string) []byte {
	const head = "$Id"
	out := make([]byte, 0, len(in))
	matched := 0
	for i := 0; i < len(in); i++ {
		c := in[i]
		if matched < len(head) && head[matched] == c {
			matched++
			continue
		}
		out = append(out, head[:matched]...)
		switch {
		case matched == len(head) && c == '$':
			out = append(out, ": "+name+" $"...)
		case matched == len(head) && c == ':':
			end := bytes.IndexAny(in[i:], "$\n")
			if end < 0 {
				return append(out, in[i:]...)
			}
			found := in[i : i+end+1]
			if in[i+end] == '$' && !foreign(found) {
				found = []byte(": " + name + " $")
			}
			out = append(out, found...)
			i += end
		default:
			out = append(out, c)
		}
		matched = 0
	}
	return append(out, head[:matched]...)
}

// foreign tells another system's text after $Id, is_foreign_ident of git's convert.c.
func foreign(text []byte) bool {
	text, ok := bytes.CutPrefix(text, []byte(": "))
	text, _, _ = bytes.Cut(text, []byte{0})
	for i, c := range text {
		if ok && strings.IndexByte(" \t\n\v\f\r", c) >= 0 && (i+1 == len(text) || text[i+1] != '$') {
			return true
		}
	}
	return false
}

// toCRLF makes every line end CRLF.
func toCRLF(in []byte) []byte {
	out := make([]byte, 0, len(in)+bytes.Count(in, []byte("\n")))
	for i, b := range in {
		if b == '\n' && (i == 0 || in[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, b)
	}
	return out
}

// plainText tells text without carriage returns from all else, as will_convert_lf_to_crlf of git's convert.c does.
func plainText(in []byte) bool {
	printable, other := 0, 0
	for i, b := range in {
		switch {
		case b == '\r', b == 0:
			return false
		case b == '\n':
		case b == '\b', b == '\t', b == 0x1b, b == '\f', b >= ' ' && b != 0x7f:
			printable++
		case b == 0x1a && i == len(in)-1:
		default:
			other++
		}
	}
	return printable>>7 >= other
}

// encode writes UTF-8 in another encoding, if it can be.
func encode(in []byte, name string) ([]byte, bool) {
	e, ok := encodingOf(name)
	if !ok || !utf8.Valid(in) {
		return nil, false
	}
	if e == nil {
		return in, true
	}
	out, err := e.NewEncoder().Bytes(in)
	return out, err == nil
}
