package dockerfile

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/gittest"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// bareMachine is where a build has the programs that the step's image has, and no other: no shell, Git or xz.
type bareMachine struct{ dir string }

func newBareMachine(t *testing.T) bareMachine {
	t.Helper()
	dir := openDir(t)
	for _, step := range []string{"containerfile-build", "checkout-source"} {
		content := must(os.ReadFile(program(t, path.Join(path.Dir(stepPackage), step))))
		if err := os.WriteFile(filepath.Join(dir, step), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(must(exec.LookPath("runc")), filepath.Join(dir, "runc")); err != nil {
		t.Fatal(err)
	}
	setCapabilities(t, filepath.Join(dir, "containerfile-build"))
	return bareMachine{dir}
}

// build builds these files there, by a user.
func (m bareMachine) build(
	t *testing.T, r *registrytest.Registry, files map[string]string, args ...string,
) (report outcome.Report, out string, w workspace.Workspace) {
	t.Helper()
	in := parameters(sharedProject(t, files), r)
	exchange(t, &in, r)
	results := filepath.Join(string(in.Workspace), "results")
	cmd := asUser(filepath.Join(m.dir, "containerfile-build"), append(arguments(t, in, results), args...))
	cmd.Env = []string{"PATH=" + m.dir}
	raw, err := cmd.CombinedOutput()
	report = reported(t, results)
	if (err == nil) != (report.Reason == outcome.Succeeded) {
		t.Errorf("%v, outcome %s", err, report.Reason)
	}
	if left := leftovers(t, in.Workspace); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return report, string(raw), in.Workspace
}

// The image of the step has no program but its own, and reads every archive that Docker reads.
func TestAddArchives(t *testing.T) {
	t.Parallel()
	r, machine := newRegistry(t), newBareMachine(t)
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	const content = "hello\n"
	if err := w.WriteHeader(
		&tar.Header{Name: "dir/f", Mode: 0o640, Uid: 7, Gid: 8, Size: int64(len(content))},
	); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(content))
	w.Close()
	packed := func(program string, args ...string) string {
		cmd := exec.Command(program, args...)
		cmd.Stdin = bytes.NewReader(plain.Bytes())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s is in the Debian package of its name: %v", program, err)
		}
		return string(out)
	}
	half := plain.Len() / 2
	joined := func(part []byte) string {
		cmd := exec.Command("xz", "--check=sha256")
		cmd.Stdin = bytes.NewReader(part)
		return string(must(cmd.Output()))
	}
	files := map[string]string{
		"plain.tar": plain.String(), "gz.tar": packed("gzip"), "bz2.tar": packed("bzip2"),
		"xz.tar": packed("xz"), "blocks.tar": packed("xz", "-9e", "--block-size=512"),
		"none.tar":    packed("xz", "--check=none"),
		"streams.tar": joined(plain.Bytes()[:half]) + "\x00\x00\x00\x00" + joined(plain.Bytes()[half:]),
		"zst.tar":     packed("zstd"), "lzma.tar": packed("xz", "--format=lzma"),
	}
	dockerfile := "FROM scratch\n"
	for name := range files {
		dockerfile += fmt.Sprintf("ADD %s /%s/\n", name, name)
	}
	files["Dockerfile"] = dockerfile
	report, out, volume := machine.build(t, r, files)
	if report.Reason != outcome.Succeeded {
		t.Fatalf("%s: %s\n%s", report.Reason, report.Message, out)
	}
	image := open1(t, volume)
	delete(files, "Dockerfile")
	for name := range files {
		at := name + "/dir/f"
		if name == "lzma.tar" { // for Docker, too, it is a file like any other
			if _, ok := image.files["lzma.tar/lzma.tar"]; !ok {
				t.Errorf("%s was unpacked", name)
			}
			continue
		}
		if image.files[at] != content || image.headers[at] == nil || image.headers[at].Uid != 7 ||
			image.headers[at].Mode != 0o640 {
			t.Errorf("%s: %q, %+v", at, image.files[at], image.headers[at])
		}
	}
}

// A repository is added as BuildKit adds it, without Git.
func TestAddRepositories(t *testing.T) {
	t.Parallel()
	r, machine := newRegistry(t), newBareMachine(t)
	server := gittest.NewPlainServer(t)
	lib := server.Repo(t, "team/lib.git")
	libCommit := lib.Commit("main", "lib", gittest.File("l", "lib\n"))
	app := server.Repo(t, "team/app.git")
	first := app.Commit(
		"main", "first", gittest.File("a", "first\n"), gittest.Executable("x", "x\n"), gittest.Symlink("s", "a"),
		gittest.Dir("sub", gittest.File("b", "b\n")), gittest.Submodule("lib", libCommit),
		gittest.File(".gitmodules", "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n"),
	)
	app.Git(nil, "tag", "-a", "-m", "one", "v1", first)
	second := app.Commit("main", "second", gittest.File("a", "second\n"))
	app.Git(nil, "symbolic-ref", "HEAD", "refs/heads/main")

	report, out, volume := machine.build(t, r, map[string]string{"Dockerfile": strings.NewReplacer(
		"URL", app.URL, "FIRST", first, "SECOND", second,
	).Replace(`FROM scratch
ADD URL /default/
ADD URL#v1 /tag/
ADD URL#refs/tags/v1:sub /sub/
ADD URL#FIRST /commit/
ADD --checksum=SECOND URL#main /sum/
ADD --keep-git-dir=true URL#main /kept/
ADD --chown=5:6 URL#main /owned/
`)})
	if report.Reason != outcome.Succeeded {
		t.Fatalf("%s: %s\n%s", report.Reason, report.Message, out)
	}
	image := open1(t, volume)
	for path, want := range map[string]string{
		"default/a": "second\n", "tag/a": "first\n", "tag/x": "x\n", "tag/lib/l": "lib\n", "sub/b": "b\n",
		"commit/a": "first\n", "sum/a": "second\n", "kept/a": "second\n", "owned/a": "second\n",
	} {
		if got := image.files[path]; got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for path, mode := range map[string]int64{"tag/a": 0o644, "tag/x": 0o755, "tag/sub": 0o755, "sub": 0o755} {
		if h := image.headers[path]; h == nil || h.Mode != mode || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: %+v", path, h)
		}
	}
	if h := image.headers["owned/a"]; h == nil || h.Uid != 5 || h.Gid != 6 {
		t.Errorf("owned/a: %+v", h)
	}
	for path := range image.headers {
		if strings.Contains(path, ".git") && !strings.HasSuffix(path, ".gitmodules") &&
			!strings.HasPrefix(path, "kept/.git") ||
			strings.Contains(path, ".checkout") {
			t.Errorf("there is %s", path)
		}
	}
	kept := filepath.Join(t.TempDir(), "kept")
	for path, content := range image.files {
		if inside, ok := strings.CutPrefix(path, "kept/"); ok {
			at := filepath.Join(kept, inside)
			if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	os.MkdirAll(filepath.Join(kept, ".git", "refs"), 0o755)
	head, err := exec.Command("git", "-C", kept, "rev-parse", "HEAD").CombinedOutput()
	if err != nil || strings.TrimSpace(string(head)) != second {
		t.Errorf("git says of the kept one: %s, %v", head, err)
	}
}

// Of a repository that cannot be had, the message has the line and the reason.
func TestAddRepositoryFailures(t *testing.T) {
	t.Parallel()
	r, machine := newRegistry(t), newBareMachine(t)
	server := gittest.NewPlainServer(t)
	app := server.Repo(t, "app.git")
	commit := app.Commit("main", "first", gittest.File("a", "first\n"), gittest.Symlink("link", "/etc"))
	for _, test := range []struct {
		name, add string
		reason    outcome.Reason
		words     string
	}{
		{"no such branch", app.URL + "#none /", outcome.RevisionNotFound, "none"},
		{"no such repository", server.URL + "/other.git /", outcome.RepositoryNotFound, "other.git"},
		{"no such folder", app.URL + "#main:dir /", outcome.RevisionNotFound, `no folder "dir"`},
		{"a folder that is a link", app.URL + "#main:link /", outcome.RevisionNotFound, `no folder "link"`},
		{"another checksum", "--checksum=" + strings.Repeat("1", 40) + " " + app.URL + "#main /",
			outcome.RevisionNotFound,
			"the commit is " + commit},
		{"by SSH", "git@127.0.0.1:app.git /", outcome.AuthenticationFailed, "a build has none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			report, out, _ := machine.build(t, r, map[string]string{
				"Dockerfile": "FROM scratch\n\nADD " + test.add + "\n",
			})
			if report.Reason != test.reason || !strings.Contains(report.Message, test.words) ||
				!strings.Contains(report.Message, "Dockerfile line 3: ADD") {
				t.Errorf("%s: %s\n%s", report.Reason, report.Message, out)
			}
		})
	}
}

// A private repository is fetched with the token or header that the build was given, and by nobody without it.
func TestAddPrivateRepository(t *testing.T) {
	t.Parallel()
	r, machine := newRegistry(t), newBareMachine(t)
	const token = "token-of-a-robot"
	server := gittest.NewServer(t, "x-access-token", token)
	app := server.Repo(t, "app.git")
	app.Commit("main", "first", gittest.File("a", "first\n"))
	authorities := filepath.Join(openDir(t), "ca.crt")
	if err := os.WriteFile(authorities, must(os.ReadFile(server.CABundle)), 0o644); err != nil {
		t.Fatal(err)
	}
	header := "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+token))
	host := strings.TrimPrefix(server.URL, "https://")
	for _, test := range []struct {
		name, secret, content string
		reason                outcome.Reason
	}{
		{"a token", "GIT_AUTH_TOKEN", token, outcome.Succeeded},
		{"a token for the host", "GIT_AUTH_TOKEN." + host, token + "\n", outcome.Succeeded},
		{"a header", "GIT_AUTH_HEADER", header, outcome.Succeeded},
		{"another token", "GIT_AUTH_TOKEN", "another", outcome.AuthenticationFailed},
		{"a token for another host", "GIT_AUTH_TOKEN.git.example.com", token, outcome.AuthenticationFailed},
		{"a header of another kind", "GIT_AUTH_HEADER", "bearer x", outcome.AuthenticationFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			secrets := openDir(t)
			if err := os.WriteFile(filepath.Join(secrets, test.secret), []byte(test.content), 0o644); err != nil {
				t.Fatal(err)
			}
			report, out, volume := machine.build(t, r, map[string]string{
				"Dockerfile": "FROM scratch\nADD " + app.URL + "#main /\n",
			}, "--ca-bundle="+authorities, "--build-secrets-dir="+secrets)
			if report.Reason != test.reason {
				t.Fatalf("%s: %s\n%s", report.Reason, report.Message, out)
			}
			if strings.Contains(out, token) {
				t.Errorf("the log has the token:\n%s", out)
			}
			if test.reason == outcome.Succeeded && open1(t, volume).files["a"] != "first\n" {
				t.Error("the file is not there")
			}
		})
	}
}
