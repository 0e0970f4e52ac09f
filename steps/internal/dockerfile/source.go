package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// source is the Dockerfile and its context.
type source struct {
	name    string      // the Dockerfile's path in the repository
	context string      // the context's real path
	below   string      // where the context is in the source, with slashes; empty for all of it
	ignore  *ignoreFile // says what of the context stays out; nil when there is none

	tree *workspace.Tree // what the source must be; nil when it is believed

	mu    sync.Mutex
	wrong error // the first thing in the context that is not what it must be

	original []byte // the Dockerfile as it is in the repository
	recipe
	views []view // one for each platform; at least one

	text            []byte            // the Dockerfile as the builder gets it: with the build environment
	lines           lineMap           // from lines of text to lines of original
	environmentArgs map[string]string // build arguments that text needs besides the user's
}

// dockerfileLimit is how large a Dockerfile may be, in bytes.
const dockerfileLimit = 1 << 20

// findSource reads the Dockerfile and finds the context. Both must be inside the repository, also after symbolic links.
// With a tree, they are read as it has them.
func findSource(in Parameters, tree *workspace.Tree) (*source, error) {
	w := in.Workspace
	if _, err := os.Stat(w.Source()); err != nil {
		return nil, outcome.Errorf(outcome.DockerfileNotFound, "there is no source to build: %w", err).WithHint(
			"The checkout step must run first.",
		)
	}
	var err error
	read := w.ReadFile
	if tree != nil {
		read = tree.ReadFile
	}
	s := &source{tree: tree, name: strings.TrimLeft(filepath.Clean("/"+in.DockerfilePath), "/")}
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
	if s.below, err = relative(w.Source(), s.context); err != nil {
		return nil, err
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
	if s.original, err = read(in.DockerfilePath, dockerfileLimit); err != nil {
		if outcome.Of(err).Reason == outcome.SourceChanged {
			return nil, err
		}
		return nil, outcome.Errorf(outcome.DockerfileInvalid, "dockerfile-path: %w", err)
	}
	if s.ignore, err = findIgnore(read, in.DockerfilePath, s.below); err != nil {
		return nil, err
	}
	if err := s.parse(in); err != nil {
		return nil, err
	}
	return s, nil
}

// relative is the path of a real folder below the source, which may be reached by links itself.
func relative(source, folder string) (string, error) {
	source, err := filepath.EvalSymlinks(source)
	if err == nil {
		source, err = filepath.Abs(source)
	}
	if err != nil {
		return "", err
	}
	local, err := filepath.Rel(source, folder)
	if local == "." {
		local = ""
	}
	return filepath.ToSlash(local), err
}

// changed is the first thing in the context that was not what it must be, when the builder got it.
func (s *source) changed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wrong
}

// note keeps the first failure, and returns what it is given.
func (s *source) note(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if failure, ok := errors.AsType[*outcome.Error](err); ok && s.wrong == nil &&
		failure.Reason == outcome.SourceChanged {
		s.wrong = err
	}
	return err
}

// verifiedFS is the build context, compared with the source's manifest while the builder reads it: between that and the
// verification of the whole source there may be a while.
type verifiedFS struct {
	fsutil.FS
	source *source
}

// Walk implements fsutil.FS.
func (v *verifiedFS) Walk(ctx context.Context, target string, visit fs.WalkDirFunc) error {
	return v.FS.Walk(ctx, target, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry != nil {
			err = v.source.note(v.check(name, entry))
		}
		return visit(name, entry, err)
	})
}

func (v *verifiedFS) check(name string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	if stat, ok := info.Sys().(*types.Stat); ok {
		target = stat.Linkname
	}
	return v.source.tree.Check(v.path(name), info.Mode(), target)
}

// Open implements fsutil.FS.
func (v *verifiedFS) Open(name string) (io.ReadCloser, error) {
	content, err := v.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &noted{v.source.tree.Guard(v.path(name), content), v.source}, nil
}

func (v *verifiedFS) path(name string) string {
	return path.Join(v.source.below, filepath.ToSlash(name))
}

// noted tells the source of a failure to read it, which comes back from the builder as a text only.
type noted struct {
	io.ReadCloser
	source *source
}

func (n *noted) Read(p []byte) (int, error) {
	read, err := n.ReadCloser.Read(p)
	return read, n.source.note(err)
}

// parse finds faults of the Dockerfile before a builder is started, and puts the build environment into it.
func (s *source) parse(in Parameters) error {
	tree, err := parser.Parse(bytes.NewReader(s.original))
	if err != nil {
		return s.invalid(err)
	}
	s.recipe = recipe{parsed: tree, lex: shell.NewLex(tree.EscapeToken)}
	if s.stages, s.global, err = instructions.Parse(tree.AST, nil); err != nil {
		return s.invalid(err)
	}
	if err := s.checkExpansion(in); err != nil {
		return err
	}
	s.setTriggers()
	if err := s.check(in); err != nil {
		return err
	}
	if err := s.setEnvironment(in, machine()); err != nil {
		return err
	}
	return s.checkRun(in)
}

// setEnvironment puts the build environment into the Dockerfile. Which stage starts from which can depend on machine,
// the platform of the builder, and on the platform that is built for: there is one text for all of them.
func (s *source) setEnvironment(in Parameters, machine ocispec.Platform) error {
	s.views = s.recipe.views(in, machine)
	if at := s.differing(); at > 0 && len(in.BuildEnv) > 0 {
		return outcome.Errorf(
			outcome.DockerfileInvalid, "%s line %d: %s: it starts from a stage for one platform and from an image for "+
				"another, so the build environment cannot be set for both", s.name, at, excerpt(s.original, at, at),
		).WithHint("Begin a stage of its own from the image, or leave out buildEnv.")
	}
	s.text, s.lines, s.environmentArgs = addEnvironment(s.original, s.parsed, s.views[0].inherits, in.BuildEnv)
	if in.SBOM == attestation.SBOMAll {
		s.text, s.lines.scan = addScan(s.text, s.parsed)
	}
	return nil
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
			if name == kind || strings.HasPrefix(name, kind+".") && !strings.HasSuffix(name, "ignore") ||
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
