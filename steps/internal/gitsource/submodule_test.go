package gitsource

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func modules(pairs ...string) gittest.Item {
	var text strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(&text, "[submodule %q]\n\tpath = %s\n\turl = %s\n", pairs[i], pairs[i], pairs[i+1])
	}
	return gittest.File(".gitmodules", text.String())
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "git", canary)
	library := newGreeting(t, server.Repo(t, "team/library.git"))
	inner := server.Repo(t, "team/inner.git")
	innerCommit := inner.Commit("main", "inner", gittest.File("inner", "x"), modules(
		"deep/library", "./../library.git",
	),
		gittest.Dir("deep", gittest.Submodule("library", library.first)))
	app := server.Repo(t, "team/app.git")
	commit := app.Commit("main", "app", gittest.File("app", "x"), gittest.Submodule("inner", innerCommit),
		gittest.Submodule(
			"empty", library.first,
		),
		gittest.Dir("third", gittest.Submodule("library", library.second)),
		gittest.Symlink("to", "third/library/README.md"),
		modules("inner", "../inner.git", "third/library", server.URL+"/team/library.git"))

	start := func(t *testing.T) *checkout {
		run := newCheckout(t, app.URL)
		run.CABundle, run.GitSecretDir = server.CABundle, secretDir(t, "password", canary)
		return run
	}
	t.Run("recursive", func(t *testing.T) {
		t.Parallel()
		run := start(t).run(t).ok(t, commit)
		want := map[string]string{
			"app": "644 x", "inner/inner": "644 x", "inner/deep/library/README.md": "644 one\n",
			"to":          "-> third/library/README.md",
			".gitmodules": "", "inner/.gitmodules": "",
		}
		for name, content := range secondFiles {
			want["third/library/"+name] = content
		}
		got := run.files(t)
		for name, content := range got {
			if _, ok := want[name]; !ok || want[name] != "" && want[name] != content {
				t.Errorf("%s is %.40q, want %.40q", name, content, want[name])
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d files, want %d", len(got), len(want))
		}
		if got := run.git(t, "status", "--porcelain"); got != "" {
			t.Errorf("git status says\n%s", got)
		}
		if got := run.git(t, "-C", "inner/deep/library", "rev-parse", "HEAD"); got != library.first {
			t.Errorf("the innermost is at %s", got)
		}
		if !strings.Contains(run.log, "no entry in .gitmodules") || !strings.Contains(run.log, "path=empty") {
			t.Errorf("no warning about the submodule without an entry:\n%s", run.log)
		}
	})
	t.Run("not wanted", func(t *testing.T) {
		t.Parallel()
		run := start(t)
		run.Submodules = no
		run.run(t).ok(t, commit)
		if got := names(t, filepath.Join(run.Workspace.Source(), "inner")); len(got) > 0 {
			t.Errorf("inner holds %v", got)
		}
	})
	t.Run("the developer's word", func(t *testing.T) {
		t.Parallel()
		run := start(t)
		run.RepositorySubmodules = no
		run.run(t).ok(t, commit)
		if got := names(t, filepath.Join(run.Workspace.Source(), "inner")); len(got) > 0 {
			t.Errorf("false wins over the platform's true: inner holds %v", got)
		}
		run = start(t)
		run.Submodules, run.RepositorySubmodules = no, yes
		run.run(t).ok(t, commit)
		if got := names(t, filepath.Join(run.Workspace.Source(), "inner")); len(got) == 0 {
			t.Error("true wins over the platform's false: inner is empty")
		}
	})
	t.Run("commit that is gone", func(t *testing.T) {
		t.Parallel()
		repo := server.Repo(t, "gone.git")
		repo.Commit(
			"main", "x", modules("a/b", "../team/library.git"),
			gittest.Dir("a", gittest.Submodule("b", strings.Repeat("ab", 20))),
		)
		run := start(t)
		run.GitRepo = repo.URL
		run.run(t).want(t, outcome.RevisionNotFound, "submodule a/b", "abab")
	})
	t.Run("repository that is gone", func(t *testing.T) {
		t.Parallel()
		repo := server.Repo(t, "gone-repo.git")
		repo.Commit("main", "x", modules("b", "../nothing.git"), gittest.Submodule("b", library.first))
		run := start(t)
		run.GitRepo = repo.URL
		run.run(t).want(t, outcome.RepositoryNotFound, "submodule b", "nothing.git")
	})
	for name, url := range map[string]string{
		"file": "file:///etc", "path": "/etc", "ext": "ext::sh -c id", "git": "git://host/x",
		"option": "--upload-pack=touch", "above": "../../../../../x", "password": "https://u:" + canary + "@host/x",
	} {
		t.Run("URL/"+name, func(t *testing.T) {
			t.Parallel()
			repo := server.Repo(t, "bad-"+name+".git")
			repo.Commit("main", "x", modules("b", url), gittest.Submodule("b", library.first))
			run := start(t)
			run.GitRepo = repo.URL
			run.run(t).want(t, outcome.RepositoryInvalid, "submodule b")
			if strings.Contains(run.err.Error(), canary) {
				t.Errorf("the password is in %v", run.err)
			}
		})
	}
	t.Run("credentials stay with their server", func(t *testing.T) {
		t.Parallel()
		other := gittest.NewServer(t, "", "")
		theirs := newGreeting(t, other.Repo(t, "library.git"))
		repo := server.Repo(t, "elsewhere.git")
		c := repo.Commit("main", "x", modules("b", theirs.URL), gittest.Submodule("b", theirs.first))
		both := filepath.Join(secretDir(t, "both.crt", caOf(t, server, other)), "both.crt")
		run := start(t)
		run.GitRepo, run.CABundle = repo.URL, both
		run.run(t).ok(t, c)
		if len(other.Requests()) == 0 {
			t.Fatal("the other server was not asked")
		}
		for _, r := range other.Requests() {
			if r.Header.Get("Authorization") != "" {
				t.Error("the other server was given the credentials")
			}
		}
	})
}

// A submodule that is named by https beside a repository that is named by SSH, on another port: git asks by https.
func TestSubmoduleByHTTPBesideSSH(t *testing.T) {
	t.Parallel()
	parent, server := gittest.NewSSHServer(t), gittest.NewServer(t, "", "")
	library := newGreeting(t, server.Repo(t, "library.git"))
	app := parent.Repo(t, "app.git")
	commit := app.Commit(
		"main", "app", modules("lib", server.URL+"/library.git"), gittest.Submodule("lib", library.second),
	)
	run := newCheckout(t, app.URL)
	run.CABundle = server.CABundle
	run.GitSecretDir = secretDir(
		t, "ssh-privatekey", string(parent.Key), "known_hosts", string(parent.KnownHosts(parent.Host.Ed25519)),
	)
	run.run(t).ok(t, commit)
	if got := run.files(t)["lib/README.md"]; got != "644 two\n" {
		t.Errorf("the submodule has %q\n%s", got, run.log)
	}
}

// What may be public is tried first as it is; then the key, at the port of the repository's own URL.
func TestWays(t *testing.T) {
	t.Parallel()
	key, err := parseKey(testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		owner, to string
		want      []string
	}{
		"itself":              {"ssh://git@h:7999/a", "ssh://git@h:7999/a", []string{"ssh://h:7999/a key"}},
		"https beside SSH":    {"ssh://git@h:7999/a", "https://h/b", []string{"https://h/b", "ssh://h:7999/b.git key"}},
		"http beside SSH":     {"ssh://git@h:7999/a", "http://h/b", []string{"http://h/b"}},
		"https beside https":  {"https://h/a", "https://h/b", []string{"ssh://h/b.git key"}},
		"https elsewhere":     {"ssh://git@h/a", "https://g/b", []string{"https://g/b"}},
		"SSH, another port":   {"ssh://git@h:7999/a", "ssh://git@h/b", []string{"ssh://h/b key"}},
		"scp-like beside SSH": {"git@h:a", "https://h/b.git", []string{"https://h/b.git", "ssh://h/b.git key"}},
	} {
		owner, err := ParseRemote(c.owner)
		if err != nil {
			t.Fatal(err)
		}
		to, err := ParseRemote(c.to)
		if err != nil {
			t.Fatal(err)
		}
		ways, err := (&client{owner: owner, credentials: credentials{key: key}}).ways(to)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var got []string
		for _, w := range ways {
			text := w.Remote.String()
			if w.key != nil {
				text += " key"
			}
			got = append(got, text)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A submodule that git skips is skipped, and one that cannot be had fails the step, or not, as the parameter says.
func TestSubmodulesThatAreNotThere(t *testing.T) {
	t.Parallel()
	server, private := gittest.NewServer(t, "", ""), gittest.NewServer(t, "git", canary)
	library := newGreeting(t, server.Repo(t, "library.git"))
	locked := newGreeting(t, private.Repo(t, "locked.git"))
	bundle := filepath.Join(secretDir(t, "ca.crt", caOf(t, server, private)), "ca.crt")
	broken := server.Repo(t, "broken.git")
	brokenCommit := broken.Commit("main", "x", gittest.File("f", "x"), modules("in", "../nothing.git"),
		gittest.Submodule("in", library.first))
	for name, c := range map[string]struct {
		url, more string
		commit    string
		reason    outcome.Reason // when it is wanted; empty: git skips it
	}{
		"update = none": {url: private.URL + "/locked.git", more: "\tupdate = none\n"},
		"update = NONE": {
			url: private.URL + "/locked.git", more: "\tupdate = None\n", reason: outcome.RepositoryInvalid,
		},
		"a command": {url: "../library.git", more: "\tupdate = !touch x\n", reason: outcome.RepositoryInvalid},
		"no URL":    {url: "", reason: outcome.RepositoryInvalid},
		"private": {
			url: private.URL + "/locked.git", commit: locked.first, reason: outcome.AuthenticationFailed,
		},
		"private by SSH": {url: "git@example.com:x.git", reason: outcome.AuthenticationFailed},
		"gone":           {url: "../nothing.git", reason: outcome.RepositoryNotFound},
		"dead server":    {url: "https://127.0.0.1:1/x.git", reason: outcome.GitServerUnavailable},
		"a local path":   {url: "/srv/git/x.git", reason: outcome.RepositoryInvalid},
		"commit is gone": {url: "../library.git", commit: strings.Repeat("ab", 20), reason: outcome.RevisionNotFound},
		"one within it":  {url: "../broken.git", commit: brokenCommit, reason: outcome.RepositoryNotFound},
	} {
		repo := server.Repo(t, fmt.Sprintf("%x.git", name))
		if c.commit == "" {
			c.commit = library.first
		}
		text := fmt.Sprintf("[submodule \"extra\"]\n\tpath = sub/one\n\turl = %s\n%s", c.url, c.more) +
			"[submodule \"good\"]\n\tpath = good\n\turl = ../library.git\n"
		commit := repo.Commit("main", "x", gittest.File(".gitmodules", text), gittest.File("f", "x"),
			gittest.Dir("sub", gittest.Submodule("one", c.commit)), gittest.Submodule("good", library.second))
		for _, wanted := range []string{yes, no, try} {
			t.Run(name+"/"+wanted, func(t *testing.T) {
				t.Parallel()
				run := newCheckout(t, repo.URL)
				run.CABundle, run.Submodules = bundle, wanted
				if run.run(t); wanted == yes && c.reason != "" {
					run.want(t, c.reason, "submodule sub/one")
					return
				}
				run.ok(t, commit)
				left := names(t, filepath.Join(run.Workspace.Source(), "sub/one"))
				if want := c.reason == outcome.RepositoryNotFound && c.commit == brokenCommit && wanted == try; want {
					if !slices.Contains(left, "f") {
						t.Errorf("what is around the absent one is not there: %v", left)
					}
				} else if len(left) > 0 {
					t.Errorf("it holds %v", left)
				}
				_, err := os.Stat(filepath.Join(run.Workspace.Source(), "good/README.md"))
				if (err == nil) != (wanted != no) {
					t.Errorf("the other submodule: %v", err)
				}
				if wanted == try && c.reason != "" && (!strings.Contains(run.log, "cannot be had and stays empty") ||
					!strings.Contains(run.log, "sub/one")) {
					t.Errorf("no warning:\n%s", run.log)
				}
				if strings.HasPrefix(c.more, "\tupdate") && c.reason != "" {
					return // git itself cannot work with it
				}
				if got := run.git(t, "status", "--porcelain"); got != "" {
					t.Errorf("git status says %q", got)
				}
			})
		}
	}
}

// caOf is a bundle of several servers' authorities.
func caOf(t *testing.T, servers ...*gittest.Server) string {
	t.Helper()
	var bundle []byte
	for _, s := range servers {
		raw, err := os.ReadFile(s.CABundle)
		if err != nil {
			t.Fatal(err)
		}
		bundle = append(bundle, raw...)
	}
	return string(bundle)
}

// The Git directory of a submodule is in its parent's, as git has it.
func TestSubmoduleLayout(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	library := newGreeting(t, server.Repo(t, "library.git"))
	inner := server.Repo(t, "inner.git")
	innerCommit := inner.Commit("main", "inner", gittest.File("f", "x"), gittest.File(".gitmodules",
		"[submodule \"library\"]\n\tpath = deep/lib\n\turl = ../library.git\n"),
		gittest.Dir("deep", gittest.Submodule("lib", library.first)))
	app := server.Repo(t, "app.git")
	commit := app.Commit("main", "app", gittest.File(".gitmodules",
		"[submodule \"a/b\"]\n\tpath = x/inner\n\turl = ../inner.git\n[submodule \"a/c d\"]\n\tpath = x y\n"+
			"\turl = ../library.git\n"),
		gittest.Dir("x", gittest.Submodule("inner", innerCommit)), gittest.Submodule("x y", library.second))
	run := newCheckout(t, app.URL)
	run.CABundle = server.CABundle
	run.run(t).ok(t, commit)
	clone := filepath.Join(t.TempDir(), "clone")
	git := func(dir string, args ...string) string {
		out, err := devgit.Git(t.Context(), dir, []string{"GIT_SSL_CAINFO=" + server.CABundle}, nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	git("", "clone", "--quiet", "--depth=1", "--recurse-submodules", "--shallow-submodules", app.URL, clone)
	for _, at := range []string{"x/inner", "x/inner/deep/lib", "x y"} {
		want, err := os.ReadFile(filepath.Join(clone, at, ".git"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(run.Workspace.Source(), at, ".git"))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s/.git is %q, %v; git's is %q", at, got, err, want)
		}
		for _, args := range [][]string{
			{"status", "--porcelain"}, {"rev-parse", "HEAD", "--show-toplevel", "--git-dir"}, {"log", "--format=%H"},
			{"config", "core.worktree"}, {"fsck", "--full"}, {"diff-index", "HEAD"},
		} {
			args = append([]string{"-C", at}, args...)
			want := strings.ReplaceAll(git(clone, args...), clone, run.Workspace.Source())
			if got := git(run.Workspace.Source(), args...); got != want {
				t.Errorf("git %s says %q, in git's clone %q", args, got, want)
			}
		}
	}
	for _, args := range [][]string{
		{"submodule", "--quiet", "foreach", "--recursive", "echo $displaypath $sm_path $sha1"},
		{"submodule", "foreach", "--recursive", "git status --porcelain"},
		{"config", "--get-regexp", "^submodule[.].*[.]url"}, {"status", "--porcelain"},
		{"submodule", "update", "--init", "--recursive"},
	} {
		if want, got := git(clone, args...), git(run.Workspace.Source(), args...); got != want {
			t.Errorf("git %s says\n%s\nin git's clone\n%s", args, got, want)
		}
	}
}

// No name of a submodule puts its Git directory elsewhere.
func TestSubmoduleNames(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	library := newGreeting(t, server.Repo(t, "library.git"))
	entry := func(name, at string) string {
		return fmt.Sprintf("[submodule \"%s\"]\n\tpath = %s\n\turl = ../library.git\n", name, at)
	}
	for name, c := range map[string]struct {
		text string
		want []string // that are checked out
	}{
		"above":          {entry("../../escaped", "a") + entry("b", "b"), []string{"b"}},
		"within a name":  {entry("x/../../../escaped", "a") + entry("b", "b"), []string{"b"}},
		"backslash":      {entry(`..\\..\\escaped`, "a") + entry("b", "b"), []string{"b"}},
		"absolute":       {entry("/escaped", "a") + entry("b", "b"), []string{"a", "b"}},
		"option":         {entry("-x", "a") + entry("b", "b"), []string{"a", "b"}},
		"within another": {entry("b/objects/a", "a") + entry("b", "b"), []string{"a", "b"}},
		"of another":     {entry("b", "b") + entry("b/refs", "c"), []string{"b", "c"}},
		"around another": {entry("x/y", "a") + entry("x", "b"), []string{"a", "b"}},
		"unclean":        {entry("b/.", "a") + entry("b", "b"), []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := server.Repo(t, fmt.Sprintf("%x.git", name))
			commit := repo.Commit(
				"main", "x", gittest.File(".gitmodules", c.text), gittest.Submodule("a", library.second),
				gittest.Submodule("b", library.second), gittest.Submodule("c", library.second),
			)
			run := newCheckout(t, repo.URL)
			run.CABundle, run.Submodules = server.CABundle, try
			run.run(t).ok(t, commit)
			source := run.Workspace.Source()
			for _, at := range []string{"a", "b", "c"} {
				_, err := os.Stat(filepath.Join(source, at, "README.md"))
				if (err == nil) != slices.Contains(c.want, at) {
					t.Errorf("%s: %v\n%s", at, err, run.log)
				}
				if err == nil {
					run.git(t, "-C", at, "fsck", "--full")
					if got := run.git(t, "-C", at, "status", "--porcelain"); got != "" {
						t.Errorf("git status in %s says %q", at, got)
					}
				}
			}
			found, err := filepath.Glob(filepath.Join(string(run.Workspace), "*escaped*"))
			if err != nil || len(found) > 0 {
				t.Errorf("%v %v", found, err)
			}
		})
	}
}
