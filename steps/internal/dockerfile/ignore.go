package dockerfile

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/stepwright/stepwright/internal/outcome"
)

// ignoreFile says which files of the context stay out of the build. Docker and podman read the same patterns from files
// of different names, and each would find its own: see ignoreFiles.
type ignoreFile struct {
	name     string // its path in the repository
	text     []byte
	patterns []string
	rules    []ignoreRule // one for each pattern
}

// ignoreRule is a line of an ignore file.
type ignoreRule struct {
	line    int
	text    string // as it is written
	keeps   bool   // whether it takes back what an earlier line leaves out
	pattern *patternmatcher.PatternMatcher
}

// ignoreLimit is how large an ignore file may be, in bytes: as large as the frontend reads.
const ignoreLimit = 16 << 20

// ignoreFiles names the files that may be the ignore file of a Dockerfile, in the order in which they are looked for.
// The first one that is there counts alone. Docker reads only the names with docker in them. podman prefers
// .containerignore to .dockerignore in the context, and where both stand next to the Dockerfile, takes the first.
func ignoreFiles(dockerfile, context string) []string {
	return []string{
		dockerfile + ".dockerignore", dockerfile + ".containerignore",
		path.Join(context, ".containerignore"), path.Join(context, ".dockerignore"),
	}
}

// findIgnore reads the ignore file of a Dockerfile and a context, both of them paths in the repository. It returns nil
// when there is none.
func findIgnore(read func(path string, limit int64) ([]byte, error), dockerfile, context string) (*ignoreFile, error) {
	for _, name := range ignoreFiles(dockerfile, context) {
		text, err := read(name, ignoreLimit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if reason := outcome.Of(err); err != nil && reason.Reason != outcome.Failed {
			return nil, err
		}
		if err != nil {
			return nil, outcome.Errorf(outcome.DockerfileInvalid, "ignore file: %w", err)
		}
		return parseIgnore(strings.TrimLeft(path.Clean("/"+name), "/"), text)
	}
	return nil, nil
}

func parseIgnore(name string, text []byte) (*ignoreFile, error) {
	f := &ignoreFile{name: name, text: text}
	for i, line := range bytes.Split(text, []byte("\n")) {
		one := line
		if i > 0 {
			one = slices.Concat([]byte("\n"), line) // only a first line may begin with a byte order mark
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(one))
		if err == nil {
			// Before the exclamation mark is taken off: alone, it is a fault.
			_, err = patternmatcher.New(patterns)
		}
		if err != nil {
			return nil, outcome.Errorf(
				outcome.DockerfileInvalid, "%s line %d: %w: %s", name, i+1, err, excerpt(line, 1, 1),
			).WithHint("Correct the pattern; a special character is taken for itself after a backslash.")
		}
		for _, pattern := range patterns {
			rule := ignoreRule{line: i + 1, text: strings.TrimSpace(string(line))}
			f.patterns = append(f.patterns, pattern)
			pattern, rule.keeps = strings.CutPrefix(pattern, "!")
			if rule.pattern, err = patternmatcher.New([]string{pattern}); err != nil {
				return nil, err
			}
			f.rules = append(f.rules, rule)
		}
	}
	return f, nil
}

// leavesOut returns the line that leaves a file out, given by its path in the context; nil when none does.
func (f *ignoreFile) leavesOut(file string) *ignoreRule {
	if f == nil {
		return nil
	}
	var by *ignoreRule
	for i, rule := range f.rules {
		if rule.keeps != (by != nil) {
			continue
		}
		if match, err := rule.pattern.MatchesOrParentMatches(file); err != nil || !match {
			continue
		}
		if by = nil; !rule.keeps {
			by = &f.rules[i]
		}
	}
	return by
}
