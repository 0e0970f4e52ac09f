package gitsource

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

// Nothing that a repository holds may make the step write outside of its folder, or into .git.
func TestHostileTrees(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	file, link, dir := gittest.File, gittest.Symlink, gittest.Dir
	type tree []gittest.Item
	cases := map[string]struct {
		items  tree
		reason outcome.Reason
		parts  []string
	}{
		"file through a link": {tree{link("d", outside), dir("d", file("precious", "evil"))}, outcome.RepositoryInvalid,
			[]string{`"d" twice`}},
		"submodule through a link": {
			tree{link("d", outside), gittest.Submodule("d", strings.Repeat("ab", 20))},
			outcome.RepositoryInvalid,
			[]string{`"d" twice`},
		},
		"file through a local link": {
			tree{link("d", ".git"), dir("d", file("config", "evil"))},
			outcome.RepositoryInvalid,
			[]string{`"d" twice`},
		},
		"file twice": {
			tree{file("x", "1"), file("x", "2")},
			outcome.RepositoryInvalid,
			[]string{`"x" twice`},
		},
		"link twice": {
			tree{link("x", "a"), file("x", "2")},
			outcome.RepositoryInvalid,
			[]string{`"x" twice`},
		},
		"directory twice": {
			tree{dir("x", file("a", "")), dir("x", file("b", ""))},
			outcome.RepositoryInvalid,
			[]string{`"x" twice`},
		},
		"slash in a name": {
			tree{file("a/../../precious", "evil")},
			outcome.RepositoryInvalid,
			[]string{"a/../../precious"},
		},
		"absolute name": {tree{file(outside+"/precious", "evil")}, outcome.RepositoryInvalid, nil},
		"long path": {
			deep(30, strings.Repeat("x", 200)),
			outcome.RepositoryInvalid,
			[]string{"more than 4095 bytes"},
		},
		"long name": {
			tree{file(strings.Repeat("x", 300), "")},
			outcome.RepositoryInvalid,
			[]string{"longer"},
		},
		".gitmodules as a link": {tree{link(".gitmodules", "x")}, outcome.RepositoryInvalid, []string{".gitmodules"}},
		"link without a target": {tree{link("x", "")}, outcome.RepositoryInvalid, []string{"x"}},
		".gitmodules as a link, by its short name": {
			tree{link("GITMOD~1", "x")}, outcome.RepositoryInvalid, []string{"GITMOD~1"},
		},
		".gitmodules as a link, in capitals": {
			tree{link(".GitModules", "x")}, outcome.RepositoryInvalid, []string{".GitModules"},
		},
		"submodule named .git": {
			tree{gittest.Submodule(".git", strings.Repeat("ab", 20))},
			outcome.RepositoryInvalid,
			[]string{".git"},
		},
	}
	for _, name := range []string{
		".", "..", ".git", ".GIT", ".Git ", ".git.", "git~1", "GIT~1", ".git\u200c", ".g\u200cit",
		".git::$INDEX_ALLOCATION",
		`.git\config`,
	} {
		cases[fmt.Sprintf("directory %+q", name)] = struct {
			items  tree
			reason outcome.Reason
			parts  []string
		}{tree{dir(name, file("config", "[core]\n\tsshCommand = evil\n"))}, outcome.RepositoryInvalid, nil}
		cases[fmt.Sprintf("file %+q below", name)] = struct {
			items  tree
			reason outcome.Reason
			parts  []string
		}{tree{dir("a", file(name, "evil"))}, outcome.RepositoryInvalid, nil}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := server.Repo(t, fmt.Sprintf("%x.git", name))
			repo.Commit("main", "evil", append(c.items, file("innocent", "x"))...)
			run := newCheckout(t, repo.URL)
			run.CABundle = server.CABundle
			run.run(t).want(t, c.reason, c.parts...)
		})
	}
	t.Cleanup(func() {
		if raw, _ := os.ReadFile(filepath.Join(outside, "precious")); string(raw) != "precious" {
			t.Errorf("precious is now %q", raw)
		}
		if got := names(t, outside); !cmp.Equal(got, []string{"precious"}) {
			t.Errorf("outside holds %v", got)
		}
	})
}

// deep is that many directories in one another.
func deep(levels int, name string) []gittest.Item {
	items := []gittest.Item{gittest.File("bottom", "")}
	for range levels {
		items = []gittest.Item{gittest.Dir(name, items...)}
	}
	return items
}

// A few small objects can stand for more names than any disk has.
func TestTreeBomb(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	repo := server.Repo(t, "bomb.git")
	tree := repo.Tree()
	for range 10 {
		var items []gittest.Item
		for i := range 30 {
			items = append(items, gittest.Item{Mode: "40000", Name: fmt.Sprint(i), Hash: tree})
		}
		tree = repo.Tree(items...)
	}
	repo.CommitTree("main", "bomb", tree)
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(time.Second, func() { cancel(outcome.Errorf(outcome.Cancelled, "stopped")) })
	run.runContext(ctx).want(t, outcome.Cancelled)
}

func TestHarmlessTrees(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	repo := server.Repo(t, "harmless.git")
	commit := repo.Commit("main", "fine",
		gittest.File(".gitignore", "*.o\n"), gittest.File(".github", ""), gittest.File("-rf", ""),
		gittest.File("git", ""), gittest.File("new\nline", ""),
		gittest.File("a b", ""), gittest.File("\xff\xfe", "not UTF-8"), gittest.File("...", ""),
		gittest.Item{Mode: "100664", Name: "old", Content: ""},
		gittest.Symlink(".gitmodules.bak", "f"), gittest.Symlink(".gitmodulesx", "f"),
		gittest.Symlink("dangling", "nowhere"), gittest.Symlink("self", "self"), gittest.Symlink("here", "."),
		gittest.Dir("a", gittest.Symlink("up", ".."), gittest.Symlink("through", "up/a/b"), gittest.File("b", "")))
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	run.run(t).ok(t, commit).wantFiles(t, map[string]string{
		".gitignore": "644 *.o\n", ".github": "644 ", "-rf": "644 ", "git": "644 ", "new\nline": "644 ",
		".gitmodules.bak": "-> f", ".gitmodulesx": "-> f",
		"a b": "644 ", "\xff\xfe": "644 not UTF-8", "...": "644 ", "old": "644 ",
		"dangling": "-> nowhere", "self": "-> self", "here": "-> .", "a/up": "-> ..", "a/through": "-> up/a/b",
		"a/b": "644 ",
	})
}

// Symbolic links may lead anywhere: they are made as they are, named in the log, and not followed, neither by what is
// checked out after them nor by the next checkout, which removes them.
func TestLinksThatLeadOut(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	sub := server.Repo(t, "sub.git")
	subCommit := sub.Commit("main", "x", gittest.Symlink("l", "../../x"), gittest.File("f", ""))
	repo := server.Repo(t, "out.git")
	commit := repo.Commit("main", "links",
		gittest.Symlink("absolute", outside), gittest.Dir("a", gittest.Symlink("up", "../../x")),
		gittest.Symlink("around", "../source/f"),
		gittest.Dir("x", gittest.Dir("y", gittest.Symlink("top", "../.."))),
		gittest.Symlink("as-one", "x/y/top/../precious"),
		gittest.Symlink("inside", "f"), gittest.File("f", "1"),
		modules("b", "../sub.git"), gittest.Submodule("b", subCommit))
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	for range 2 {
		run.run(t).ok(t, commit).wantFiles(t, map[string]string{
			"absolute": "-> " + outside, "a/up": "-> ../../x", "around": "-> ../source/f", "x/y/top": "-> ../..",
			"as-one": "-> x/y/top/../precious", "inside": "-> f",
			"f": "644 1", ".gitmodules": "644 [submodule \"b\"]\n\tpath = b\n\turl = ../sub.git\n",
			"b/l": "-> ../../x", "b/f": "644 ",
		})
	}
	log := run.log
	for _, name := range []string{"absolute -> " + outside, "a/up -> ", "around -> ", "as-one -> ", "b/l -> "} {
		if !strings.Contains(log, name) {
			t.Errorf("%q is not in the log: %s", name, log)
		}
	}
	if strings.Contains(log, "inside -> ") || strings.Contains(log, "top -> ") {
		t.Errorf("a link that stays inside is in the log: %s", log)
	}
	if raw, err := os.ReadFile(filepath.Join(outside, "precious")); err != nil || string(raw) != "precious" {
		t.Errorf("precious is now %q, %v", raw, err)
	}
}

// A retried pod finds what its predecessor left.
func TestWorkspaceIsEmptiedFirst(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	g := newGreeting(t, server.Repo(t, "app.git"))
	start := func(t *testing.T) *checkout {
		run := newCheckout(t, g.URL)
		run.CABundle = server.CABundle
		return run
	}
	t.Run("half a source", func(t *testing.T) {
		run := start(t)
		for _, dir := range []string{"source/.git", ".checkout-123/source"} {
			if err := os.MkdirAll(filepath.Join(string(run.Workspace), dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(run.Workspace.Source(), "stale"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		run.run(t).ok(t, g.second).wantFiles(t, secondFiles)
	})
	t.Run("twice", func(t *testing.T) {
		run := start(t)
		run.run(t).ok(t, g.second)
		run.Branch = "v1.0.0"
		run.run(t).ok(t, g.first).wantFiles(t, map[string]string{"README.md": "644 one\n"})
		run.Branch = "absent"
		run.run(t).want(t, outcome.RevisionNotFound)
	})
	t.Run("source is a link", func(t *testing.T) {
		run := start(t)
		precious := t.TempDir()
		if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(precious, run.Workspace.Source()); err != nil {
			t.Fatal(err)
		}
		run.run(t).ok(t, g.second).wantFiles(t, secondFiles)
		if got := names(t, precious); !cmp.Equal(got, []string{"file"}) {
			t.Errorf("what the link led to holds %v", got)
		}
	})
}

// Only the type and the owner's right to execute count in a tree's modes, as in git.
func TestModes(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	repo := server.Repo(t, "modes.git")
	var items []gittest.Item
	want := map[string]string{}
	for mode, perm := range map[string]string{
		"100640": "644", "100600": "644", "100666": "644", "100664": "644", "100000": "644", "100644": "644",
		"100655": "644", "100775": "755", "100744": "755", "100777": "755", "104755": "755", "0100644": "644",
	} {
		items = append(items, gittest.Item{Mode: mode, Name: "file-" + mode, Content: "x"})
		want["file-"+mode] = perm + " x"
	}
	for _, mode := range []string{"120000", "120664", "120777"} {
		items = append(items, gittest.Item{Mode: mode, Name: "link-" + mode, Content: "x"})
		want["link-"+mode] = "-> x"
	}
	for _, mode := range []string{"40755", "40700", "040000"} {
		below := repo.Tree(gittest.File("f", "y"))
		items = append(items, gittest.Item{Mode: mode, Name: "dir-" + mode, Hash: below})
		want["dir-"+mode+"/f"] = "644 y"
	}
	commit := repo.Commit("main", "odd modes", items...)
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	run.run(t).ok(t, commit).wantFiles(t, want)
	if got := run.git(t, "status", "--porcelain"); got != "" {
		t.Errorf("git status says\n%s", got)
	}
}
