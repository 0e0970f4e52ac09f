package gitsource

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/gittest"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// checkout is one run of the step, and what became of it.
type checkout struct {
	Parameters
	results step.Results
	err     error
	log     string
}

// newCheckout is a run of the step that would check out branch main of url.
func newCheckout(t *testing.T, url string) *checkout {
	return &checkout{Parameters: Parameters{
		Common:     step.Common{Workspace: workspace.Workspace(t.TempDir())},
		GitRepo:    url,
		Branch:     "main",
		Submodules: yes, LFS: yes, GitTimeout: 30, GitSecretHosts: "127.0.0.1:*,localhost:*,[::1]:*",
	}}
}

func (c *checkout) run(t *testing.T) *checkout {
	t.Helper()
	return c.runContext(t.Context())
}

func (c *checkout) runContext(ctx context.Context) *checkout {
	var log bytes.Buffer
	secrets := &redact.Secrets{}
	out := secrets.Writer(&log)
	logger := slog.New(slog.NewTextHandler(out, nil))
	env := step.Environment{Log: logger, Stdout: &log, Stderr: out, Secrets: secrets,
		Retry: outcome.Retry{Attempts: 3, Base: time.Millisecond, Log: logger}}
	c.results, c.err = Run(ctx, c.Parameters, env)
	out.Close()
	c.log = log.String()
	return c
}

// want checks the reason it ended for, and that the message has these parts. Whatever failed leaves nothing behind.
func (c *checkout) want(t *testing.T, reason outcome.Reason, parts ...string) {
	t.Helper()
	if c.err == nil {
		t.Fatalf("succeeded; want %s", reason)
	}
	got := outcome.Of(c.err)
	if got.Reason != reason {
		t.Fatalf("reason %s, want %s: %v", got.Reason, reason, c.err)
	}
	for _, part := range parts {
		if !strings.Contains(got.Message+" "+got.Hint, part) {
			t.Errorf("the message lacks %q: %s. %s", part, got.Message, got.Hint)
		}
	}
	later := []string{"cache", "image", "sbom"} // of an earlier run, for later steps
	if left := names(t, string(c.Workspace)); len(left) > 0 && !cmp.Equal(left, later) {
		t.Errorf("a failed checkout leaves %v", left)
	}
}

// ok checks that it checked out that commit.
func (c *checkout) ok(t *testing.T, commit string) *checkout {
	t.Helper()
	if c.err != nil {
		t.Fatalf("%v\n%s", c.err, c.log)
	}
	if c.results["git-commit"] != commit {
		t.Fatalf("checked out %s, want %s", c.results["git-commit"], commit)
	}
	want := []string{"cache", "image", "revision.json", "sbom", "source", "tree"}
	if left := names(t, string(c.Workspace)); !cmp.Equal(left, want) {
		t.Errorf("the workspace holds %v", left)
	}
	tree, err := c.Workspace.OpenTree(c.results["source-digest"])
	if err == nil {
		err = tree.Verify(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	return c
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// files are the source's files without Git's: path to mode and content.
func (c *checkout) files(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(c.Workspace.Source(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" && d.IsDir() {
			return fs.SkipDir
		}
		if d.Name() == ".git" {
			return nil // a submodule's
		}
		name, _ := filepath.Rel(c.Workspace.Source(), path)
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir():
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			files[name] = "-> " + target
			return err
		default:
			raw, err := os.ReadFile(path)
			files[name] = fmt.Sprintf("%o %s", info.Mode().Perm(), raw)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (c *checkout) wantFiles(t *testing.T, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, c.files(t)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// git asks git about the checked-out source.
func (c *checkout) git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := devgit.Git(t.Context(), c.Workspace.Source(), nil, nil, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// secret makes a Git secret of these keys and values.
func secretDir(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, pairs[i]), []byte(pairs[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// greeting is a repository with two commits on main, another branch, a tag of each kind, and every kind of file.
type greeting struct {
	*gittest.Repo
	first, second, dev string
}

func newGreeting(t *testing.T, r *gittest.Repo) greeting {
	g := greeting{Repo: r}
	g.first = r.Commit("main", "first", gittest.File("README.md", "one\n"))
	g.second = r.Commit("main", "second", gittest.File("README.md", "two\n"), gittest.Executable("run", "#!/bin/sh\n"),
		gittest.File("empty", ""),
		gittest.Dir(
			"a", gittest.File("copy", "two\n"),
			gittest.Dir(
				"b", gittest.File("c", strings.Repeat("content\n", 10_000)), gittest.Symlink("up", "../../README.md"),
			),
		))
	g.dev = r.Commit("dev", "on dev", gittest.File("dev", "dev"))
	r.Git(nil, "tag", "v1.0.0", g.first)
	r.Git(nil, "tag", "-a", "-m", "annotated", "v2.0.0", g.second)
	r.Git(nil, "tag", "-a", "-m", "tag of a tag", "v2.0.0-again", "v2.0.0")
	return g
}

// second's files.
var secondFiles = map[string]string{
	"README.md": "644 two\n", "run": "755 #!/bin/sh\n", "empty": "644 ", "a/copy": "644 two\n",
	"a/b/c": "644 " + strings.Repeat("content\n", 10_000), "a/b/up": "-> ../../README.md",
}

func TestRevisions(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	forge := newGreeting(t, server.Repo(t, "team/forge.git"))
	strict := newGreeting(t, server.Repo(t, "team/strict.git")) // gives out only what it advertises
	strict.Configure("uploadpack.allowReachableSHA1InWant", "false")
	strict.Configure("uploadpack.allowFilter", "false")
	for _, g := range []greeting{forge, strict} {
		for name, c := range map[string]struct{ branch, commit, want string }{
			"branch":                       {branch: "main", want: g.second},
			"other branch":                 {branch: "dev", want: g.dev},
			"full name":                    {branch: "refs/heads/dev", want: g.dev},
			"tag":                          {branch: "v1.0.0", want: g.first},
			"annotated tag":                {branch: "v2.0.0", want: g.second},
			"tag of a tag":                 {branch: "v2.0.0-again", want: g.second},
			"commit at a branch":           {commit: g.second, want: g.second},
			"commit in the history":        {commit: g.first, want: g.first},
			"abbreviated, at a branch":     {commit: g.second[:8], want: g.second},
			"abbreviated, in the history":  {commit: g.first[:7], want: g.first},
			"four characters":              {commit: g.first[:4], want: g.first},
			"capitals":                     {commit: strings.ToUpper(g.second), want: g.second},
			"commit wins over branch":      {branch: "dev", commit: g.first, want: g.first},
			"commit wins over what is not": {branch: "absent", commit: g.first, want: g.first},
		} {
			t.Run(filepath.Base(g.Dir)+"/"+name, func(t *testing.T) {
				t.Parallel()
				run := newCheckout(t, g.URL)
				run.CABundle, run.Branch, run.Commit = server.CABundle, c.branch, c.commit
				run.run(t).ok(t, c.want)
				if c.want == g.second {
					run.wantFiles(t, secondFiles)
				}
				if got := run.git(t, "rev-parse", "HEAD"); got != c.want {
					t.Errorf("HEAD is %s", got)
				}
				if got := run.git(t, "status", "--porcelain"); got != "" {
					t.Errorf("git status says\n%s", got)
				}
				if got := run.git(t, "rev-list", "--count", "HEAD"); got != "1" {
					t.Errorf("%s commits are there, want 1", got)
				}
			})
		}
	}
}

func TestResults(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	g := newGreeting(t, server.Repo(t, "app.git"))
	run := newCheckout(t, strings.Replace(g.URL, "https://", "https://someone@", 1))
	run.CABundle = server.CABundle
	run.run(t).ok(t, g.second)
	const digest = "sha256:7b60836c89be49ea5b48828c1c71e1bea283d9114e2159be09d740c300067bd7" // of secondFiles
	want := step.Results{
		"git-revision": g.second[:8], "git-commit": g.second, "git-commit-time": "1700000000",
		"git-author": "Dev Git <devgit@example.com>", "source-digest": digest,
		"revision": "base64:" + base64.StdEncoding.EncodeToString([]byte(
			`{"url":"`+g.URL+`","branch":"main","commit":"`+g.second+
				`","authorName":"Dev Git","authorEmail":"devgit@example.com","time":"2023-11-14T22:13:20Z"}`)),
	}
	if diff := cmp.Diff(want, run.results); diff != "" {
		t.Error(diff)
	}
	revision, err := run.Workspace.ReadRevision()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(workspace.Revision{
		URL:         g.URL,
		Branch:      "main",
		Commit:      g.second,
		AuthorName:  "Dev Git",
		AuthorEmail: "devgit@example.com",
		Time:        gittest.When,
	}, revision); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"Cloning", g.URL, g.second, "files=6", "took="} {
		if !strings.Contains(run.log, part) {
			t.Errorf("the log lacks %q:\n%s", part, run.log)
		}
	}
}

// Which server gets which requests.
func TestChoose(t *testing.T) {
	t.Parallel()
	hash := func(digit string) plumbing.Hash { return plumbing.NewHash(strings.Repeat(digit, 40)) }
	main, dev, tag, tagged, old := hash("a"), hash("b"), hash("c"), hash("d"), hash("e")
	refs := []ref{
		{name: "HEAD", hash: main},
		{name: "refs/heads/dev", hash: dev},
		{name: "refs/heads/main", hash: main},
		{name: "refs/pull/1/head", hash: hash("9")},
		{name: "refs/tags/v1", hash: tag, peeled: tagged},
	}
	everything := []plumbing.Hash{main, dev, tag}
	for name, c := range map[string]struct {
		rev          revision
		capabilities string
		want         request
	}{
		"branch": {
			revision{branch: "dev"},
			"shallow",
			request{wants: []plumbing.Hash{dev}, depth: 1},
		},
		"branch, server cannot be shallow": {revision{branch: "dev"}, "", request{wants: []plumbing.Hash{dev}}},
		"annotated tag": {
			revision{branch: "v1"},
			"shallow",
			request{wants: []plumbing.Hash{tag}, depth: 1},
		},
		"commit of a tag": {
			revision{commit: tagged.String()},
			"shallow",
			request{wants: []plumbing.Hash{tag}, depth: 1},
		},
		"commit of a pull request": {
			revision{commit: hash("9").String()},
			"shallow",
			request{wants: []plumbing.Hash{hash("9")}, depth: 1},
		},
		"old commit, any is given": {revision{commit: old.String()}, "shallow allow-reachable-sha1-in-want",
			request{wants: []plumbing.Hash{old}, depth: 1}},
		"old commit, strict": {revision{commit: old.String()}, "shallow", request{wants: everything}},
		"abbreviated, at a branch": {
			revision{commit: "bbbbbbb"},
			"shallow",
			request{wants: []plumbing.Hash{dev}, depth: 1},
		},
		"too short to trust the branch": {revision{commit: "bbbbbb"}, "shallow", request{wants: everything}},
		"abbreviated, any is given, filter": {revision{commit: "eeeeeeee"}, "shallow filter allow-any-sha1-in-want",
			request{wants: everything, commitsOnly: true}},
		"abbreviated, filter only": {revision{commit: "eeeeeeee"}, "shallow filter", request{wants: everything}},
	} {
		adv := &advertisement{refs: refs, capabilities: map[string]string{}}
		for capability := range strings.FieldsSeq(c.capabilities) {
			adv.capabilities[capability] = ""
		}
		got, err := c.rev.choose(adv)
		if diff := cmp.Diff(c.want, got.request, cmp.AllowUnexported(request{})); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
}

// .git is what git clone --depth 1 --branch leaves, and no git command needs the server or its credentials afterwards.
func TestDotGit(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "alice", canary)
	repo := server.Repo(t, "app.git")
	var items []gittest.Item
	for i := range 50 {
		items = append(items, gittest.File(fmt.Sprintf("text-%d", i), strings.Repeat("line\n", i)))
	}
	repo.Commit("main", "first", items...)
	commit := repo.Commit("main", "second", append(items, gittest.File(".gitattributes", "* text=auto\n"),
		gittest.Dir("a", gittest.File("f", "x"), gittest.Symlink("l", "f")),
		gittest.Executable("run", "#!/bin/sh\n"))...)
	repo.Git(nil, "tag", "light", commit)
	repo.Git(nil, "tag", "-a", "-m", "annotated", "v1.0.0", commit)
	repo.Git(nil, "tag", "-a", "-m", "of a tag", "v1.0.0-again", "v1.0.0")
	repo.Git(nil, "tag", "old", commit+"~1")
	repo.Git(nil, "branch", "other/one", commit)
	repo.Git(nil, "repack", "-a", "-d", "-f", "--quiet")
	for _, c := range []struct{ branch, commit string }{
		{branch: "main"}, {branch: "other/one"}, {branch: "v1.0.0"}, {branch: "light"}, {commit: commit},
	} {
		t.Run(c.branch+c.commit, func(t *testing.T) {
			t.Parallel()
			run := newCheckout(t, repo.URL)
			run.CABundle, run.GitSecretDir = server.CABundle, secretDir(t, "username", "alice", "password", canary)
			run.Branch, run.Commit = c.branch, c.commit
			run.run(t).ok(t, commit)

			same := [][]string{
				{"rev-parse", "HEAD"}, {"rev-list", "--count", "HEAD"}, {"ls-files", "--stage"},
				{"log", "-1", "--format=%H %an %s"}, {"describe", "--tags", "--dirty"}, {"cat-file", "--batch-check",
					"--batch-all-objects", "--unordered"}, {"for-each-ref"}, {"status", "--porcelain=v2", "--branch"},
				{"branch", "--show-current"},
			}
			clone := filepath.Join(t.TempDir(), "clone")
			args := []string{"clone", "--quiet", "--depth=1"}
			if c.branch != "" {
				args = append(args, "--branch="+c.branch)
			} else {
				same = same[:5] // the branch that git is on, and no other
			}
			if _, err := devgit.Git(t.Context(), "", nil, nil, append(args, "file://"+repo.Dir, clone)...); err != nil {
				t.Fatal(err)
			}
			settings := []string{"config", "--get-regexp", "^(remote|branch)[.].*"}
			if c.branch != "" {
				same = append([][]string{settings}, same...)
			}
			for i, args := range same {
				if i == 1 { // nobody is there whom git could ask for what it lacks
					run.git(t, "config", "remote.origin.url", "https://127.0.0.1:1/x")
				}
				want, err := devgit.Git(t.Context(), clone, nil, nil, args...)
				if err != nil {
					t.Fatal(err)
				}
				want = strings.ReplaceAll(want, "file://"+repo.Dir, repo.URL)
				got := run.git(t, args...)
				if args[0] == "cat-file" {
					got, want = sortedLines(got), sortedLines(want)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("git %s differs (-git +step):\n%s", strings.Join(args, " "), diff)
				}
			}
			// Those do not look at a file whose size and time the index knows.
			run.git(t, "diff-index", "--quiet", "HEAD")
			run.git(t, "diff-files", "--quiet")
			if got := run.git(t, "fsck", "--full", "--strict", "--no-dangling"); got != "" {
				t.Errorf("git fsck says %q", got)
			}
			if got := run.git(t, "status", "--porcelain"); got != "" {
				t.Errorf("git status says %q", got)
			}
			readme := filepath.Join(run.Workspace.Source(), "text-7")
			if err := os.WriteFile(readme, []byte("changed\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := run.git(t, "diff", "--stat"); !strings.Contains(got, "text-7") {
				t.Errorf("git diff says %q after a change", got)
			}
			if got := run.git(t, "describe", "--tags", "--dirty"); !strings.HasSuffix(got, "-dirty") {
				t.Errorf("git describe says %q after a change", got)
			}
			run.git(t, "-c", "user.name=x", "-c", "user.email=x@y", "stash", "--quiet")
			if got := run.git(t, "status", "--porcelain"); got != "" {
				t.Errorf("git status says %q after git stash", got)
			}
			opened, err := git.PlainOpen(run.Workspace.Source())
			if err != nil {
				t.Fatal(err)
			}
			head, err := opened.Head()
			if err != nil || head.Hash().String() != commit {
				t.Errorf("go-git: HEAD is %v, %v", head, err)
			}
		})
	}
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// No secret appears in anything a run of the step leaves: log, results, message, workspace.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	key := string(gittest.NewKey(t, ""))
	for name, c := range map[string]struct {
		password  string // the server's
		secretDir []string
		code      int
	}{
		"accepted": {canary, []string{"username", "alice", "password", canary}, 0},
		"refused": {
			"another",
			[]string{"username", "alice", "password", canary},
			outcome.AuthenticationFailed.ExitCode(),
		},
		"unusable key": {canary, []string{"ssh-privatekey", strings.Replace(key, "PRIVATE KEY", "PUBLIC KEY", 1)},
			outcome.AuthenticationFailed.ExitCode()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := gittest.NewServer(t, "alice", c.password)
			repo := server.Repo(t, "app.git")
			repo.Commit("main", "the password is "+canary, gittest.File("x", "x"))
			repo.Commit("main", "x", gittest.File("x", "x"))
			dir := t.TempDir()
			termination := filepath.Join(dir, "termination-log")
			if err := os.WriteFile(termination, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			var out, log bytes.Buffer
			code := step.Run(t.Context(), "checkout-source", nil, []string{
				"GIT_REPO=" + repo.URL, "BRANCH=main", "GIT_SECRET_DIR=" + secretDir(t, c.secretDir...),
				"CA_BUNDLE=" + server.CABundle, "MAX_ATTEMPTS=1", "GIT_SECRET_HOSTS=127.0.0.1:*",
				"WORKSPACE=" + filepath.Join(dir, "workspace"), "RESULTS_DIR=" + filepath.Join(dir, "results"),
				"TERMINATION_MESSAGE_PATH=" + termination,
			}, step.Streams{Stdout: &out, Stderr: &log}, Run)
			if code != c.code {
				t.Fatalf("exit code %d, want %d\n%s", code, c.code, log.String())
			}
			forbidden := []string{
				canary, base64.StdEncoding.EncodeToString([]byte("alice:" + canary)), strings.Split(key, "\n")[1],
			}
			check := func(where, text string) {
				for _, f := range forbidden {
					if strings.Contains(text, f) {
						t.Errorf("%s has a secret: %s", where, text)
					}
				}
			}
			check("standard output", out.String())
			check("log", log.String())
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				raw, err := os.ReadFile(path)
				check(path, string(raw))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Every property of the schema has a field.
func TestParametersMatchTheSchema(t *testing.T) {
	t.Parallel()
	fields := map[string]bool{}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Parameters]()) {
		fields[f.Tag.Get("json")] = true
	}
	for _, p := range schemas.MustLoad("checkout-source").Properties {
		if !fields[p.Name] {
			t.Errorf("%s has no field", p.Name)
		}
	}
}
