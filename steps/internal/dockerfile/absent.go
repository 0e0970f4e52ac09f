package dockerfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	continuity "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/stepwright/stepwright/internal/outcome"
)

// absent explains why an instruction does not find a file that it takes. The builder says no more than that. nil: what
// it takes is there, or the instruction takes nothing.
func (b *build) absent(first, last int, err error) *outcome.Error {
	if first == 0 {
		return nil
	}
	seen := b.source.views[0]
	for i := range b.source.stages {
		for _, command := range b.source.commands(i, seen.inherits) {
			at := command.at
			if len(at) == 0 || at[0].Start.Line > last || at[len(at)-1].End.Line < first {
				continue
			}
			env := b.source.environment(b.in, seen.args, seen.inherits, i, command.Command)
			for _, taken := range b.source.takes(command.Command, env) {
				if failure := b.whyAbsent(taken, err); failure != nil {
					return failure
				}
			}
		}
	}
	return nil
}

// taken is a file that an instruction takes.
type taken struct {
	from string // stage or image; empty for the context
	path string // as it is written, with its variables replaced
}

// takes returns the files that an instruction takes by names that can be known.
func (s *source) takes(command instructions.Command, env values) []taken {
	var all []taken
	add := func(from string, paths ...string) {
		for _, path := range paths {
			word, err := s.lex.ProcessWordWithMatches(path, env)
			remote := strings.Contains(word.Result, "://") || strings.HasPrefix(word.Result, "git@")
			if err == nil && len(word.Unmatched) == 0 && !remote {
				all = append(all, taken{from, word.Result})
			}
		}
	}
	switch c := command.(type) {
	case *instructions.CopyCommand:
		add(c.From, c.SourcePaths...)
	case *instructions.AddCommand:
		add("", c.SourcePaths...)
	case *instructions.RunCommand:
		// Before, all that is known of a mount is the image.
		if c.Expand(func(word string) (string, error) {
			result, err := s.lex.ProcessWordWithMatches(word, env)
			return result.Result, err
		}) != nil {
			return nil
		}
		for _, m := range instructions.GetMounts(c) {
			if m.Type == instructions.MountTypeBind {
				add(m.From, m.Source)
			}
		}
	}
	return all
}

// whyAbsent explains why a file is not found; nil when it is there.
func (b *build) whyAbsent(t taken, cause error) *outcome.Error {
	local := strings.TrimPrefix(path.Join("/", t.path), "/")
	if t.from != "" {
		if local == "" {
			return nil
		}
		where, hint := "image "+t.from, "Look into the image for the path; it is there from the image's root."
		if i := b.source.stage(t.from); i >= 0 {
			where = fmt.Sprintf("stage %q", t.from)
			hint = fmt.Sprintf("The path is from the root of the stage's file system, as its last instruction leaves "+
				"it; the stage begins in line %d.", line(b.source.stages[i].Location))
		}
		return b.absentError(cause, hint, "%q: no such file in %s", "/"+local, where)
	}
	if local = fixed(local); local == "" {
		return nil
	}
	context := b.contextName()
	real, err := continuity.RootPath(b.source.context, local)
	if err == nil {
		_, err = os.Lstat(real)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return b.notThere(t.path, local, cause)
	}
	for _, name := range []string{local, b.source.inContext(real)} {
		if slices.Contains(strings.Split(name, "/"), ".git") && !keepsGit(b.in.BuildArgs) {
			return b.absentError(cause, "Set the build argument BUILDKIT_CONTEXT_KEEP_GIT_DIR to 1, which keeps it; "+
				"the image then differs between two clones of one commit.",
				"%q: not found: .git is left out of every context", "/"+local)
		}
		if rule := b.source.ignore.leavesOut(name); rule != nil && !b.source.keepsBelow(name) {
			return b.absentError(
				cause, fmt.Sprintf("Remove the line, or take the file back by a later line: !%s.", name),
				"%q: not found, since line %d of %s, %q, leaves it out of %s", "/"+local, rule.line,
				b.source.ignore.name, rule.text, context,
			)
		}
	}
	return nil
}

// keepsBelow tells whether the ignore file takes back a file in a folder that it leaves out: the folder is there then.
func (s *source) keepsBelow(name string) bool {
	if !slices.ContainsFunc(s.ignore.rules, func(r ignoreRule) bool { return r.keeps }) {
		return false
	}
	entries, kept := 0, false
	filepath.WalkDir(filepath.Join(s.context, name), func(at string, d fs.DirEntry, err error) error {
		if entries++; err != nil || entries > entryLimit {
			return errEnough
		}
		if kept = !d.IsDir() && s.ignore.leavesOut(s.inContext(at)) == nil; kept {
			return errEnough
		}
		return nil
	})
	return kept
}

// notThere explains why a file is not in the context.
func (b *build) notThere(written, local string, cause error) *outcome.Error {
	context := b.contextName()
	what := fmt.Sprintf("%q: not found in %s", "/"+local, context)
	hint := "Paths are relative to the context, docker.context, whichever folder the Dockerfile is in."
	if link, to := b.source.leaves(local); link != "" {
		return b.absentError(cause, "Copy the file itself, not a link to it.",
			"%s: the link %q leads out of it, to %q", what, link, to)
	}
	if !utf8.ValidString(written) || strings.ContainsRune(written, utf8.RuneError) {
		return b.absentError(cause, "Name it by a pattern: a ? stands for each character that is no UTF-8.",
			"%s: the name in the Dockerfile is no UTF-8, which the frontend cannot read", what)
	}
	if outside := path.Join(b.source.below, written); strings.HasPrefix(path.Clean(written), "..") &&
		b.source.has(outside) {
		return b.absentError(cause, fmt.Sprintf("Set docker.context to a folder that has it, such as %q.",
			folderName(path.Dir(outside))),
			"%s, and %q cannot lead out of it", what, written)
	}
	inside, elsewhere := b.source.near(local)
	if len(inside) > 0 {
		what += "; there is " + quoted(inside)
	}
	if len(elsewhere) > 0 {
		if len(inside) > 0 {
			what += ";"
		} else {
			what += ", but"
		}
		what += " the repository has " + quoted(elsewhere)
		hint += " Is it the right one?"
	}
	if len(inside)+len(elsewhere) == 0 {
		if folder, names := b.source.beside(local); len(names) > 0 {
			what += fmt.Sprintf("; %s has %s", folder, quoted(names))
		}
	}
	return b.absentError(cause, hint, "%s", what)
}

// absentError is a failure by a cause whose own words say less.
func (b *build) absentError(cause error, hint, format string, args ...any) *outcome.Error {
	failure := outcome.Errorf(outcome.BuildFailed, format, args...).WithHint(hint)
	failure.Cause = cause
	return failure
}

// contextName names the context for a message.
func (b *build) contextName() string {
	if b.source.below == "" {
		return "the context, which is the whole repository"
	}
	return fmt.Sprintf("the context %q", b.source.below)
}

func folderName(name string) string {
	if name == "" {
		return "."
	}
	return name
}

func quoted(names []string) string {
	var all []string
	for _, name := range names {
		all = append(all, fmt.Sprintf("%q", outcome.Clip(name, nameLimit)))
	}
	return strings.Join(all, ", ")
}

// fixed is the part of a path before its first pattern: a pattern stands for any number of files, none included, in a
// folder that must be there.
func fixed(name string) string {
	var parts []string
	for _, part := range strings.Split(name, "/") {
		if strings.ContainsAny(part, `*?[\`) {
			break
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "/")
}

// has tells whether the repository has a file or folder.
func (s *source) has(name string) bool {
	root, err := os.OpenRoot(s.root())
	if err != nil {
		return false
	}
	defer root.Close()
	_, err = root.Lstat(name)
	return err == nil
}

// root is the folder of the whole source.
func (s *source) root() string {
	root := s.context
	if s.below != "" {
		root = strings.TrimSuffix(root, string(filepath.Separator)+filepath.FromSlash(s.below))
	}
	return root
}

// inContext is the path in the context of a real file.
func (s *source) inContext(real string) string {
	name, err := filepath.Rel(s.context, real)
	if err != nil {
		return ""
	}
	return filepath.ToSlash(name)
}

// leaves returns the first link on the way to a file of the context that leads out of it, and where it leads.
func (s *source) leaves(name string) (link, to string) {
	root, err := os.OpenRoot(s.context)
	if err != nil {
		return "", ""
	}
	defer root.Close()
	at := ""
	for _, part := range strings.Split(name, "/") {
		at = path.Join(at, part)
		target, err := root.Readlink(at)
		if err == nil && (filepath.IsAbs(target) || !filepath.IsLocal(path.Join(path.Dir(at), target))) {
			return at, target
		}
	}
	return "", ""
}

// Bounds of what a message tells of what is near: how many names, and how much of each, in bytes.
const (
	nearLimit = 4
	nameLimit = 120
)

// near returns files and folders that may be meant by a path that is not in the context: some of the context, by their
// paths in it, and some of the repository besides.
func (s *source) near(name string) (inside, elsewhere []string) {
	base := path.Base(name)
	entries := 0
	filepath.WalkDir(s.root(), func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if entries++; entries > entryLimit {
			return errEnough
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		local, err := filepath.Rel(s.root(), at)
		if err != nil || local == "." {
			return nil
		}
		local = filepath.ToSlash(local)
		below, within := local, true
		if s.below != "" {
			below, within = strings.CutPrefix(local, s.below+"/")
		}
		alike := strings.EqualFold(d.Name(), base)
		if within && path.Dir(below) == path.Dir(name) {
			alike = isSimilar(d.Name(), base)
		}
		switch {
		case !alike:
		case within:
			inside = append(inside, below)
		default:
			elsewhere = append(elsewhere, local)
		}
		return nil
	})
	// The same folder first, then the nearest to the root.
	order := func(a, b string) int {
		if here := path.Dir(name); (path.Dir(a) == here) != (path.Dir(b) == here) {
			if path.Dir(a) == here {
				return -1
			}
			return 1
		}
		return strings.Count(a, "/") - strings.Count(b, "/")
	}
	slices.SortStableFunc(inside, order)
	slices.SortStableFunc(elsewhere, order)
	return inside[:min(len(inside), nearLimit)], elsewhere[:min(len(elsewhere), nearLimit)]
}

// beside returns the nearest folder of the context on the way to a file, and some of what is in it.
func (s *source) beside(name string) (folder string, names []string) {
	// No link leads further: what else this process can see is nobody's business.
	root, err := os.OpenRoot(s.context)
	if err != nil {
		return "", nil
	}
	defer root.Close()
	for at := path.Dir(name); ; at = path.Dir(at) {
		entries, err := fs.ReadDir(root.FS(), at)
		if err != nil && at != "." {
			continue
		}
		for _, e := range entries {
			if e.Name() != ".git" && len(names) < candidateLimit {
				names = append(names, e.Name())
			}
		}
		if at == "." {
			return "it", names
		}
		return fmt.Sprintf("%q", at), names
	}
}
