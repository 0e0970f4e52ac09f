package gitsource

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

	"github.com/go-git/go-git/v5/plumbing/format/config"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

const (
	deepestSubmodule = 10        // levels of submodules within submodules
	mostSubmodules   = 500       // in all
	largestModules   = 256 << 10 // bytes of .gitmodules and .lfsconfig
)

// module is what .gitmodules says of a submodule.
type module struct {
	name, url, update string
}

// submodules checks out those of a tree, each at the commit that the tree names, but for those that git skips.
func (j *job) submodules(ctx context.Context, t *tree, repo *repository, parent Remote, level int) error {
	if len(t.submodules) == 0 {
		return nil
	}
	modules, err := readModules(t.root)
	if err != nil {
		err := outcome.Errorf(outcome.RepositoryInvalid, "%s.gitmodules: %w", t.dir, err)
		if j.submodulesWanted == try {
			j.env.Log.Warn("The submodules stay empty", "count", len(t.submodules), "because", err)
			return nil
		}
		return err
	}
	for _, s := range t.submodules {
		at := t.dir + s.path
		m, ok := modules[s.path]
		switch {
		case !ok:
			j.env.Log.Warn("A submodule has no entry in .gitmodules and stays empty", "path", at)
			continue
		case !m.safe():
			j.env.Log.Warn("A submodule has a name that git ignores, too, and stays empty", "path", at, "name", m.name)
			continue
		case m.update == "none":
			j.env.Log.Info("A submodule stays empty, as .gitmodules says: update = none", "path", at)
			continue
		}
		if j.modules++; level >= deepestSubmodule || j.modules > mostSubmodules {
			return outcome.Errorf(
				outcome.RepositoryInvalid, "submodule %s is one too many: %d levels and %d submodules are allowed",
				at, deepestSubmodule, mostSubmodules,
			)
		}
		listed := len(j.listed)
		m.url, err = j.submodule(ctx, t, repo, parent, s, m, level)
		if err == nil {
			repo.modules = append(repo.modules, m)
			if len(j.listed) > listed {
				t.folders.fill(s.dir)
			}
			continue
		}
		if j.submodulesWanted != try || !dispensable(ctx, err) {
			return wrap(err, "submodule %s", at)
		}
		j.listed = j.listed[:listed]
		failure := outcome.Of(err)
		j.env.Log.Warn(
			"A submodule cannot be had and stays empty", "path", at, "reason", failure.Reason, "because",
			failure.Message,
		)
		if err := errors.Join(t.root.RemoveAll(s.path), t.root.Mkdir(s.path, 0o755)); err != nil {
			return err
		}
	}
	return nil
}

// dispensable tells a submodule that cannot be had from a step that cannot go on.
func dispensable(ctx context.Context, err error) bool {
	switch outcome.Of(err).Reason {
	case outcome.AuthenticationFailed, outcome.HostKeyUnknown, outcome.RepositoryNotFound, outcome.RevisionNotFound,
		outcome.RepositoryInvalid, outcome.GitServerUnavailable:
		return ctx.Err() == nil
	}
	return false
}

// submodule checks out one of them, and returns its full URL.
func (j *job) submodule(
	ctx context.Context, t *tree, repo *repository, parent Remote, s *file, m module, level int,
) (string, error) {
	at := t.dir + s.path
	if !slices.Contains([]string{"", "checkout", "rebase", "merge"}, m.update) {
		return "", outcome.Errorf(outcome.RepositoryInvalid, ".gitmodules has update = %q, which git refuses", m.update)
	}
	remote, err := parent.submodule(m.url)
	if err != nil {
		return "", outcome.Errorf(outcome.RepositoryInvalid, "its URL, %s, %w", redact.URL(m.url), err).
			WithHint("Submodules need an https, http or ssh URL, or one relative to the repository's, beginning " +
				"with ./ or ../.")
	}
	root, err := t.root.OpenRoot(s.path)
	if err != nil {
		return "", err
	}
	defer root.Close()
	own, err := newRepository(root, repo, m.name, at)
	if err != nil {
		return "", err
	}
	_, err = j.clone(ctx, root, own, remote, revision{commit: s.hash.String()}, level+1)
	if err = errors.Join(err, own.root.Close()); err != nil {
		dir, _ := filepath.Rel(repo.place, own.place)
		return "", errors.Join(err, repo.root.RemoveAll(dir))
	}
	return remote.String(), nil
}

// safe tells whether git takes the name for a submodule's: its Git directory is at that path.
func (m module) safe() bool {
	parts := strings.FieldsFunc(m.name, func(r rune) bool { return r == '/' || r == '\\' })
	return len(parts) > 0 && !slices.Contains(parts, "..") && !strings.ContainsAny(m.name, "\x00\n") &&
		len(m.name) < longestPath/2
}

// readModules returns the submodules by their path.
func readModules(root *os.Root) (map[string]module, error) {
	f, err := root.Open(".gitmodules")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := readSettings(f)
	if err != nil {
		return nil, err
	}
	parsed := config.New()
	if err := config.NewDecoder(bytes.NewReader(raw)).Decode(parsed); err != nil {
		return nil, err
	}
	modules := map[string]module{}
	for _, s := range parsed.Section("submodule").Subsections {
		modules[path.Clean(s.Option("path"))] = module{
			name: s.Name, url: s.Option("url"), update: s.Option("update"),
		}
	}
	return modules, nil
}

// readSettings reads .gitmodules or .lfsconfig.
func readSettings(f io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(f, largestModules+1))
	if err == nil && len(raw) > largestModules {
		err = fmt.Errorf("it has more than %d bytes", largestModules)
	}
	return raw, err
}
