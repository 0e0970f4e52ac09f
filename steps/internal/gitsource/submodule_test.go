package gitsource

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		both := filepath.Join(t.TempDir(), "both.crt")
		var bundle []byte
		for _, s := range []*gittest.Server{server, other} {
			raw, err := os.ReadFile(s.CABundle)
			if err != nil {
				t.Fatal(err)
			}
			bundle = append(bundle, raw...)
		}
		if err := os.WriteFile(both, bundle, 0o644); err != nil {
			t.Fatal(err)
		}
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
