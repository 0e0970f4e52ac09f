package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// source is the Dockerfile and its context.
type source struct {
	name    string            // the Dockerfile's path in the repository
	context string            // the context's real path
	text    []byte            // the Dockerfile as the builder gets it: with the build environment
	ignore  []byte            // its own ignore file; nil when there is none
	args    map[string]string // build arguments that text needs besides the user's

	original []byte  // the Dockerfile as it is in the repository
	lines    lineMap // from lines of text to lines of original
	stages   []instructions.Stage
}

// dockerfileLimit is how large a Dockerfile may be, in bytes.
const dockerfileLimit = 1 << 20

// findSource reads the Dockerfile and finds the context. Both must be inside the repository, also after symbolic links.
func findSource(in Parameters) (*source, error) {
	w := in.Workspace
	if _, err := os.Stat(w.Source()); err != nil {
		return nil, outcome.Errorf(outcome.DockerfileNotFound, "there is no source to build: %w", err).WithHint(
			"The checkout step must run first.",
		)
	}
	var err error
	s := &source{name: strings.TrimLeft(filepath.Clean("/"+in.DockerfilePath), "/")}
	if s.context, err = w.Resolve(in.DockerContext); err != nil {
		return nil, missing(w, "docker-context", in.DockerContext, err)
	}
	if info, err := os.Stat(s.context); err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, outcome.Errorf(
			outcome.DockerfileNotFound, "docker-context: %q is not a directory", in.DockerContext,
		)
	}
	real, err := w.Resolve(in.DockerfilePath)
	if err != nil {
		return nil, missing(w, "dockerfile-path", in.DockerfilePath, err)
	}
	if info, err := os.Stat(real); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, missing(w, "dockerfile-path", in.DockerfilePath, errors.New("not a file"))
	}
	if s.original, err = w.ReadFile(in.DockerfilePath, dockerfileLimit); err != nil {
		return nil, outcome.Errorf(outcome.DockerfileInvalid, "dockerfile-path: %w", err)
	}
	switch s.ignore, err = w.ReadFile(in.DockerfilePath+".dockerignore", dockerfileLimit); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s.dockerignore: %w", in.DockerfilePath, err)
	case s.ignore == nil:
		s.ignore = []byte{}
	}
	if err := s.parse(in); err != nil {
		return nil, err
	}
	return s, nil
}

// parse finds faults of the Dockerfile before a builder is started, and puts the build environment into it.
func (s *source) parse(in Parameters) error {
	tree, err := parser.Parse(bytes.NewReader(s.original))
	if err != nil {
		return s.invalid(err)
	}
	if s.stages, _, err = instructions.Parse(tree.AST, nil); err != nil {
		return s.invalid(err)
	}
	if in.Target != "" && !hasStage(s.stages, in.Target) {
		return outcome.Errorf(
			outcome.DockerfileInvalid, "target: %s has no stage %q; there is %s", s.name, in.Target,
			stageNames(s.stages),
		).
			WithHint("Name a stage of the Dockerfile (FROM … AS name) in target, or leave it empty for the last one.")
	}
	s.text, s.lines, s.args = addEnvironment(s.original, tree, s.stages, in.BuildEnv)
	return nil
}

func (s *source) invalid(err error) error {
	var at *parser.LocationError
	if errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0 {
		line := at.Locations[0][0].Start.Line
		return outcome.Errorf(
			outcome.DockerfileInvalid, "%s line %d: %w: %s", s.name, line, err, excerpt(s.original, line, line),
		)
	}
	return outcome.Errorf(outcome.DockerfileInvalid, "%s: %w", s.name, err)
}

func hasStage(stages []instructions.Stage, target string) bool {
	if i, ok := instructions.HasStage(stages, target); ok && i >= 0 {
		return true
	}
	for i := range stages {
		if target == fmt.Sprint(i) {
			return true
		}
	}
	return false
}

func stageNames(stages []instructions.Stage) string {
	var names []string
	for _, stage := range stages {
		if stage.Name != "" {
			names = append(names, fmt.Sprintf("%q", stage.Name))
		}
	}
	if len(names) == 0 {
		return "none that has a name"
	}
	return strings.Join(names, ", ")
}

// missing says that a path is not there, and what is. Other errors it leaves as they are.
func missing(w workspace.Workspace, parameter, path string, err error) error {
	if outcome.Of(err).Reason == outcome.PathEscapesRepository {
		return outcome.Errorf(outcome.PathEscapesRepository, "%s: %w", parameter, err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%s: %w", parameter, err)
	}
	what := fmt.Sprintf("%s: %q is not in the repository", parameter, path)
	if !errors.Is(err, fs.ErrNotExist) {
		what = fmt.Sprintf("%s: %q is %v", parameter, path, err)
	}
	found := candidates(w.Source())
	if len(found) == 0 {
		return outcome.Errorf(
			outcome.DockerfileNotFound, "%s, and no Dockerfile or Containerfile was found in it", what,
		)
	}
	return outcome.Errorf(outcome.DockerfileNotFound, "%s; there is %s", what, strings.Join(found, ", "))
}

// Bounds of the search for Dockerfiles: a message needs a few names, and a repository may be large.
const (
	candidateLimit = 8
	candidateDepth = 4
	entryLimit     = 20000
)

var errEnough = errors.New("enough")

// candidates lists some Dockerfiles under root, those nearest to it first.
func candidates(root string) []string {
	var found []string
	entries := 0
	filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if entries++; entries > entryLimit {
			return errEnough
		}
		local, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if d.Name() == ".git" || d.Name() == "node_modules" || strings.Count(local, "/") >= candidateDepth {
				return fs.SkipDir
			}
			return nil
		}
		name := strings.ToLower(d.Name())
		for _, kind := range []string{"dockerfile", "containerfile"} {
			if name == kind || strings.HasPrefix(name, kind+".") && name != kind+".dockerignore" ||
				strings.HasSuffix(name, "."+kind) {
				found = append(found, local)
			}
		}
		return nil
	})
	slices.SortStableFunc(found, func(a, b string) int { return strings.Count(a, "/") - strings.Count(b, "/") })
	return found[:min(len(found), candidateLimit)]
}

// excerpt returns lines first to last of a text, counted from 1, as one.
func excerpt(text []byte, first, last int) string {
	lines := strings.Split(string(text), "\n")
	first, last = max(first, 1), min(max(first, last), len(lines))
	if first > last {
		return ""
	}
	parts := make([]string, 0, last-first+1)
	for _, line := range lines[first-1 : last] {
		parts = append(parts, strings.TrimSpace(line))
	}
	return outcome.Clip(strings.Join(parts, " "), 300)
}
