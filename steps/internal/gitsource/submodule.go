package gitsource

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/go-git/go-git/v5/plumbing/format/config"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

const (
	deepestSubmodule = 10  // levels of submodules within submodules
	mostSubmodules   = 500 // in all
	largestModules   = 1 << 20
)

// submodules checks out those of a tree, each at the commit that the tree names.
func (j *job) submodules(ctx context.Context, t *tree, parent Remote, level int) error {
	if len(t.submodules) == 0 {
		return nil
	}
	urls, err := readModules(t.root)
	if err != nil {
		return outcome.Errorf(outcome.RepositoryInvalid, "%s.gitmodules: %w", t.dir, err)
	}
	for _, s := range t.submodules {
		at := t.dir + s.path
		raw, ok := urls[s.path]
		if !ok {
			j.env.Log.Warn("A submodule has no entry in .gitmodules and stays empty", "path", at)
			continue
		}
		remote, err := parent.submodule(raw)
		if err != nil {
			return outcome.Errorf(
				outcome.RepositoryInvalid, "the URL of submodule %s, %s, %w", at, redact.URL(raw), err,
			).
				WithHint("Submodules need an https, http or ssh URL, or one relative to the repository's, beginning " +
					"with ./ or ../.")
		}
		if j.modules++; level >= deepestSubmodule || j.modules > mostSubmodules {
			return outcome.Errorf(
				outcome.RepositoryInvalid, "submodule %s is one too many: %d levels and %d submodules are allowed",
				at, deepestSubmodule, mostSubmodules,
			)
		}
		root, err := t.root.OpenRoot(s.path)
		if err != nil {
			return err
		}
		_, err = j.clone(ctx, root, at+"/", remote, revision{commit: s.hash.String()}, level+1)
		if err := errors.Join(err, root.Close()); err != nil {
			return wrap(err, "submodule %s", at)
		}
	}
	return nil
}

// readModules returns the URL of each submodule by its path.
func readModules(root *os.Root) (map[string]string, error) {
	f, err := root.Open(".gitmodules")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, largestModules))
	if err != nil {
		return nil, err
	}
	parsed := config.New()
	if err := config.NewDecoder(bytes.NewReader(raw)).Decode(parsed); err != nil {
		return nil, err
	}
	urls := map[string]string{}
	for _, s := range parsed.Section("submodule").Subsections {
		urls[path.Clean(s.Option("path"))] = s.Option("url")
	}
	return urls, nil
}
