package workspace

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/regularfile"
)

// checkedOut is a workspace with the files of repository, Git's own, an empty folder and names that sort oddly, and its
// digest.
func checkedOut(t *testing.T) (Workspace, string) {
	t.Helper()
	w, _ := repository(t)
	for path, content := range map[string]string{
		".git/config":     "[extraheader]\n",
		"app/.git":        "gitdir: ../.git/modules/app\n",
		"app-a":           "before app/\n",
		"app.txt":         "before app/, too\n",
		"app0":            "after app/\n",
		"with\ttab\nline": "",
	} {
		put(t, w, path, content)
	}
	for _, dir := range []string{"../tree", "empty", "sub/m"} {
		dir = filepath.Join(w.Source(), dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, w, "sub/m/.git", "gitdir: x\n")
	digest, err := w.WriteTree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w, digest
}

// put writes a file of the source.
func put(t *testing.T, w Workspace, path, content string) {
	t.Helper()
	path = filepath.Join(w.Source(), path)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

// reason fails the test unless an error has this reason.
func reason(t *testing.T, err error, want outcome.Reason) {
	t.Helper()
	if err == nil || outcome.Of(err).Reason != want {
		t.Errorf("got %v, want a %s", err, want)
	}
}

func TestManifest(t *testing.T) {
	t.Parallel()
	w := Workspace(t.TempDir())
	put(t, w, "b", "x")
	put(t, w, "a/run", "")
	put(t, w, "a-b", "y")
	put(t, w, ".git/HEAD", "ref")
	if err := errors.Join(
		os.Chmod(filepath.Join(w.Source(), "a/run"), 0o755), os.Symlink("b", filepath.Join(w.Source(), "c")),
		os.Mkdir(filepath.Join(w.Source(), "d"), 0o755), os.Mkdir(w.TreeFolder(), 0o755),
	); err != nil {
		t.Fatal(err)
	}
	digest, err := w.WriteTree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(w.manifest())
	const want = "100644 1 a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa\ta-b\x00" +
		"100755 0 " + hashOfNothing + "\ta/run\x00" +
		"100644 1 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881\tb\x00" +
		"120000 1 3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d\tc\x00" +
		"040000 0 " + hashOfNothing + "\td/\x00"
	if err != nil || string(raw) != want {
		t.Errorf("got %q, %v, want %q", raw, err, want)
	}
	if again, err := w.WriteTree(t.Context()); err != nil || again != digest {
		t.Errorf("got %s, %v, then %s", digest, err, again)
	}
	if left, err := os.ReadDir(w.TreeFolder()); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tamper func(source string) error
		words  string // of the message; empty when nothing has changed for a build
	}{
		"nothing": {func(string) error { return nil }, ""},
		"Git's own": {func(source string) error {
			return os.WriteFile(filepath.Join(source, ".git/config"), []byte("other"), 0o644)
		}, ""},
		"times and the group's rights": {func(source string) error {
			file := filepath.Join(source, "Dockerfile")
			return errors.Join(os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)), os.Chmod(file, 0o674))
		}, ""},
		"content of the same length": {func(source string) error {
			return os.WriteFile(filepath.Join(source, "Dockerfile"), []byte("FROM scratcH\n"), 0o644)
		}, `"Dockerfile" has another content`},
		"longer content": {func(source string) error {
			return os.WriteFile(filepath.Join(source, "Dockerfile"), []byte("FROM scratch\n\n"), 0o644)
		}, `"Dockerfile" has 14 bytes instead of 13`},
		"a sparse file of a terabyte": {func(source string) error {
			return os.Truncate(filepath.Join(source, "Dockerfile"), 1<<40)
		}, `"Dockerfile"`},
		"a file added first": {func(source string) error {
			return os.WriteFile(filepath.Join(source, ".dockerignore"), nil, 0o644)
		}, `".dockerignore" was added`},
		"a file added last": {func(source string) error {
			return os.WriteFile(filepath.Join(source, "zzz"), nil, 0o644)
		}, `"zzz" was added`},
		"a file gone": {func(source string) error { return os.Remove(filepath.Join(source, "Dockerfile")) },
			`"Dockerfile" is not there any more`},
		"the last file gone": {func(source string) error { return os.Remove(filepath.Join(source, "with\ttab\nline")) },
			`is not there any more`},
		"an empty folder gone": {func(source string) error { return os.Remove(filepath.Join(source, "empty")) },
			`"empty/" is not there any more`},
		"a folder added": {func(source string) error { return os.Mkdir(filepath.Join(source, "node_modules"), 0o755) },
			`the folder "node_modules" was added`},
		"something in an empty folder": {func(source string) error {
			return os.WriteFile(filepath.Join(source, "empty/x"), nil, 0o644)
		}, `"empty/" is not there any more`},
		"a folder with nothing but .git": {func(source string) error {
			return os.MkdirAll(filepath.Join(source, "evil/.git"), 0o755)
		}, `the folder "evil" was added`},
		"swapped files": {func(source string) error {
			one, other := filepath.Join(source, "Dockerfile"), filepath.Join(source, "app/schema.yml")
			return errors.Join(os.Rename(one, one+".t"), os.Rename(other, one), os.Rename(one+".t", other))
		}, `"Dockerfile"`},
		"a link instead of its target": {func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "inside")),
				os.WriteFile(filepath.Join(source, "inside"), []byte("app/schema.yml"), 0o644))
		}, `"inside" has the mode 100644 instead of 120000`},
		"another target": {func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "inside")),
				os.Symlink("app/schema.ymL", filepath.Join(source, "inside")))
		}, `"inside" has another content`},
		"a link instead of a file": {func(source string) error {
			return errors.Join(os.Rename(filepath.Join(source, "Dockerfile"), filepath.Join(source, "..", "d")),
				os.Symlink("../d", filepath.Join(source, "Dockerfile")))
		}, `"Dockerfile" has the mode 120000 instead of 100644`},
		"a link instead of a folder": {func(source string) error {
			return errors.Join(os.Rename(filepath.Join(source, "app"), filepath.Join(source, "..", "app")),
				os.Symlink("../app", filepath.Join(source, "app")))
		}, `was added`},
		"a pipe instead of a file": {func(source string) error {
			file := filepath.Join(source, "Dockerfile")
			return errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o644))
		}, `"Dockerfile" is neither a file nor a folder`},
		"a program": {func(source string) error { return os.Chmod(filepath.Join(source, "Dockerfile"), 0o755) },
			`"Dockerfile" has the mode 100755 instead of 100644`},
		"another spelling of .git": {func(source string) error {
			return os.Mkdir(filepath.Join(source, ".GIT"), 0o755)
		}, `the folder ".GIT" was added`},
		"a folder of many": {func(source string) error {
			for i := range 100 {
				if err := os.WriteFile(filepath.Join(source, fmt.Sprint("empty/", i)), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		}, `entries`},
		"all gone": {os.RemoveAll, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, digest := checkedOut(t)
			if err := test.tamper(w.Source()); err != nil {
				t.Fatal(err)
			}
			tree, err := w.OpenTree(digest)
			if err != nil {
				t.Fatal(err)
			}
			err = tree.Verify(t.Context())
			if test.words == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			reason(t, err, outcome.SourceChanged)
			if err != nil && !strings.Contains(err.Error(), test.words) {
				t.Errorf("the message %q lacks %q", err, test.words)
			}
		})
	}
}

func TestOpenTree(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tamper func(w Workspace, digest *string) error
		want   outcome.Reason
	}{
		"a list of one's own": {func(w Workspace, _ *string) error {
			if err := os.WriteFile(filepath.Join(w.Source(), "Dockerfile"), []byte("FROM evil"), 0o644); err != nil {
				return err
			}
			_, err := w.WriteTree(context.Background())
			return err
		}, outcome.SourceChanged},
		"none": {func(w Workspace, _ *string) error { return os.Remove(w.manifest()) }, outcome.SourceChanged},
		"a pipe": {func(w Workspace, _ *string) error {
			return errors.Join(os.Remove(w.manifest()), syscall.Mkfifo(w.manifest(), 0o644))
		}, outcome.SourceChanged},
		"a link to a device": {func(w Workspace, _ *string) error {
			return errors.Join(os.Remove(w.manifest()), os.Symlink("/dev/zero", w.manifest()))
		}, outcome.SourceChanged},
		"a folder": {func(w Workspace, _ *string) error {
			return errors.Join(os.Remove(w.manifest()), os.Mkdir(w.manifest(), 0o755))
		}, outcome.SourceChanged},
		"a terabyte": {func(w Workspace, _ *string) error { return os.Truncate(w.manifest(), 1<<40) },
			outcome.SourceChanged},
		"another digest": {func(_ Workspace, digest *string) error {
			*digest = "sha256:" + strings.Repeat("a", 64)
			return nil
		}, outcome.SourceChanged},
		"no digest": {func(_ Workspace, digest *string) error { *digest = "latest"; return nil },
			outcome.InvalidParameters},
		"a short digest": {func(_ Workspace, digest *string) error { *digest = (*digest)[:20]; return nil },
			outcome.InvalidParameters},
		"in capitals": {func(_ Workspace, digest *string) error { *digest = strings.ToUpper(*digest); return nil },
			outcome.InvalidParameters},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, digest := checkedOut(t)
			if err := test.tamper(w, &digest); err != nil {
				t.Fatal(err)
			}
			_, err := w.OpenTree(digest)
			reason(t, err, test.want)
		})
	}
}

func TestTreeReadFile(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		path   string
		tamper func(source string) error
		want   string
		reason outcome.Reason // Failed: any that has no reason
		absent bool
	}{
		"a file":           {path: "Dockerfile", want: "FROM scratch\n"},
		"a slash before":   {path: "//app/schema.yml", want: "openapi: 3.0.0\n"},
		"dots":             {path: "app/.././app/schema.yml", want: "openapi: 3.0.0\n"},
		"a link":           {path: "inside", want: "openapi: 3.0.0\n"},
		"a link upwards":   {path: "app/up", want: "FROM scratch\n"},
		"nothing":          {path: "nothing", absent: true},
		"below a file":     {path: "Dockerfile/x", absent: true},
		"a dangling link":  {path: "dangling-in", absent: true},
		"a folder":         {path: "app", reason: outcome.Failed},
		"a loop":           {path: "loop", reason: outcome.Failed},
		"out":              {path: "../outside/secret", reason: outcome.PathEscapesRepository},
		"a link out":       {path: "out", reason: outcome.PathEscapesRepository},
		"an absolute link": {path: "absolute", reason: outcome.PathEscapesRepository},
		"a folder's link":  {path: "dir/secret", reason: outcome.PathEscapesRepository},
		"links out":        {path: "chain/secret", reason: outcome.PathEscapesRepository},
		"dangling outside": {path: "dangling-out", reason: outcome.PathEscapesRepository},
		"Git's own":        {path: ".git/config", reason: outcome.PathEscapesRepository},
		"added": {path: "workload.yaml", absent: true, tamper: func(source string) error {
			return os.WriteFile(filepath.Join(source, "workload.yaml"), []byte("endpoints: []"), 0o644)
		}},
		"changed": {path: "Dockerfile", reason: outcome.SourceChanged, tamper: func(source string) error {
			return os.WriteFile(filepath.Join(source, "Dockerfile"), []byte("FROM scratcH\n"), 0o644)
		}},
		"gone": {path: "Dockerfile", reason: outcome.SourceChanged, tamper: func(source string) error {
			return os.Remove(filepath.Join(source, "Dockerfile"))
		}},
		"another file's link": {path: "Dockerfile", reason: outcome.SourceChanged, tamper: func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "Dockerfile")),
				os.Symlink("app/schema.yml", filepath.Join(source, "Dockerfile")))
		}},
		"a pipe": {path: "Dockerfile", reason: outcome.SourceChanged, tamper: func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "Dockerfile")),
				syscall.Mkfifo(filepath.Join(source, "Dockerfile"), 0o644))
		}},
		"a target changed": {path: "inside", reason: outcome.SourceChanged, tamper: func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "inside")),
				os.Symlink("Dockerfile", filepath.Join(source, "inside")))
		}},
		"a folder led out": {path: "app/schema.yml", reason: outcome.SourceChanged, tamper: func(source string) error {
			return errors.Join(os.Rename(filepath.Join(source, "app"), filepath.Join(source, "../evil")),
				os.Symlink("../evil", filepath.Join(source, "app")))
		}},
		"a hard link": {path: "Dockerfile", reason: outcome.SourceChanged, tamper: func(source string) error {
			return errors.Join(os.Remove(filepath.Join(source, "Dockerfile")),
				os.Link(filepath.Join(source, "../../outside/secret"), filepath.Join(source, "Dockerfile")))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, digest := checkedOut(t)
			tree, err := w.OpenTree(digest)
			if err != nil {
				t.Fatal(err)
			}
			if test.tamper != nil {
				if err := test.tamper(w.Source()); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := tree.ReadFile(test.path, 100)
			switch {
			case test.absent:
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("got %q, %v", raw, err)
				}
			case test.reason != "":
				if reason(t, err, test.reason); errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v reads as if the repository had no such file", err)
				}
			case err != nil || string(raw) != test.want:
				t.Errorf("got %q, %v", raw, err)
			}
		})
	}
	w, digest := checkedOut(t)
	tree, err := w.OpenTree(digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.ReadFile("Dockerfile", 3); err == nil {
		t.Error("a file over the limit was read")
	}
	for path, want := range map[string]bool{"": true, "app": true, "empty": true, "sub": true, "inside": false} {
		if is, err := tree.IsFolder(path); err != nil || is != want {
			t.Errorf("%q: got %t, %v", path, is, err)
		}
	}
}

func TestTreeStopsWithItsContext(t *testing.T) {
	t.Parallel()
	w, digest := checkedOut(t)
	tree, err := w.OpenTree(digest)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.WriteTree(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteTree: %v", err)
	}
	if err := tree.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify: %v", err)
	}
	if _, err := w.OpenTree(digest); err != nil {
		t.Errorf("the manifest is lost: %v", err)
	}
}

func TestGitIsNotInTheRepository(t *testing.T) {
	t.Parallel()
	w, _ := checkedOut(t)
	separate := filepath.Join(w.Source(), "meta") // git init --separate-git-dir
	for path, content := range map[string]string{
		".GIT/config": "x", "git~1/config": "x", ".git./config": "x", ".g\u200cit/config": "x", ".github/x": "x",
		".gitignore": "x", "meta/config": "x", "meta/HEAD": "ref: refs/heads/main\n",
	} {
		put(t, w, path, content)
	}
	if err := errors.Join(
		os.MkdirAll(filepath.Join(separate, "objects"), 0o755), os.MkdirAll(filepath.Join(separate, "refs"), 0o755),
		os.Symlink(".git", filepath.Join(w.Source(), "x")),
		os.Symlink("../.git/config", filepath.Join(w.Source(), "app/deep")),
		os.Symlink("x", filepath.Join(w.Source(), "y")),
	); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		".git", ".git/config", "/.git/config", "./.git/config", "app/../.git/config", ".git/../.git/config",
		".git/../Dockerfile", ".GIT/config", "git~1/config", ".git./config", ".g\u200cit/config", "app/.git", "x",
		"x/config", "y/config", "app/deep", "meta/config", "meta", "sub/m/.git",
	} {
		_, err := w.Resolve(path)
		reason(t, err, outcome.PathEscapesRepository)
		_, err = w.ReadFile(path, 100)
		reason(t, err, outcome.PathEscapesRepository)
	}
	for _, path := range []string{".github/x", ".gitignore"} {
		if _, err := w.ReadFile(path, 100); err != nil {
			t.Error(err)
		}
	}
}

func TestReadsWaitForNothing(t *testing.T) {
	t.Parallel()
	w, _ := repository(t)
	for name, make := range map[string]func(path string) error{
		"pipe":           func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"link to device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"folder":         func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if _, err := regularfile.Read(path, 10); !errors.Is(err, regularfile.ErrNotRegular) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(w.Source(), "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadFile("pipe", 10); !errors.Is(err, regularfile.ErrNotRegular) {
		t.Errorf("got %v", err)
	}
	if err := syscall.Mkfifo(w.revision(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadRevision(); !errors.Is(err, regularfile.ErrNotRegular) {
		t.Errorf("got %v", err)
	}
}

// FuzzManifest: The list of files that checkout leaves: it is in order, and no path leads out.
func FuzzManifest(f *testing.F) {
	f.Add("100644 0 " + hashOfNothing + "\ta\x00040000 0 " + hashOfNothing + "\tb/\x00")
	f.Add(fuzztest.Long("100644 0 " + hashOfNothing + "\ta\x00"))
	f.Add("120000 1 " + hashOfNothing + "\ta/b\x00")
	f.Add("100644 0 x\t../a\x00")
	f.Fuzz(func(t *testing.T, text string) {
		var m manifest
		var err error
		fuzztest.Small.Bound(t, len(text), func() { m, err = parseManifest(text) })
		if err != nil {
			return
		}
		var again strings.Builder
		before := ""
		for i := range m.len() {
			r := m.record(i)
			again.Write(r.append(nil))
			if !filepath.IsLocal(r.path) || r.path <= before {
				t.Errorf("%q after %q", r.path, before)
			}
			if found, ok := m.find(r.path); !ok || found != r {
				t.Errorf("%q is not found", r.path)
			}
			if dir, _, below := strings.Cut(r.path, "/"); below && !m.isFolder(dir) {
				if _, file := m.find(dir); !file {
					t.Errorf("%q is no folder", dir)
				}
			}
			before = r.path
		}
		if again.String() != text {
			t.Errorf("%q became %q", text, again.String())
		}
	})
}

// Of a checkout of ten thousand files, as a build, and generate-workload-cr, verify it.
func BenchmarkTree(b *testing.B) {
	w := Workspace(b.TempDir())
	content := []byte(strings.Repeat("// A line of a source file, as there are many.\n", 100))
	for i := range 10_000 {
		path := filepath.Join(w.Source(), fmt.Sprintf("services/part%02d/package%02d/file%05d.go", i%20, i%97, i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.Mkdir(w.TreeFolder(), 0o755); err != nil {
		b.Fatal(err)
	}
	digest, err := w.WriteTree(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(w.manifest())
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("the manifest has %d bytes", info.Size())
	b.Run("WriteTree", func(b *testing.B) {
		for b.Loop() {
			if _, err := w.WriteTree(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Verify", func(b *testing.B) {
		for b.Loop() {
			tree, err := w.OpenTree(digest)
			if err == nil {
				err = tree.Verify(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadFile", func(b *testing.B) {
		for b.Loop() {
			tree, err := w.OpenTree(digest)
			if err == nil {
				_, err = tree.ReadFile("services/part00/package00/file00000.go", 1<<20)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestChained(t *testing.T) {
	t.Parallel()
	w, digest := checkedOut(t)
	told := Revision{URL: "https://git.example.com/cart.git", AuthorName: "{{x}}$(y)\n"}
	code, err := told.Encode()
	if err != nil || strings.ContainsAny(code, "{}$()\n ") {
		t.Fatalf("%q, %v", code, err)
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(code, "base64:"))
	if err != nil {
		t.Fatal(err)
	}
	left := Revision{URL: "https://git.example.com/left.git"}
	if err := w.WriteRevision(left); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		digest, revision string
		want             Revision
		tree             bool
		reason           outcome.Reason
	}{
		"neither":               {want: left},
		"both":                  {digest: digest, revision: string(text), want: told, tree: true},
		"no revision":           {digest: digest, tree: true},
		"no digest":             {revision: string(text), want: told},
		"a revision of nothing": {digest: digest, revision: "main", reason: outcome.InvalidParameters},
		"two revisions":         {revision: string(text) + string(text), reason: outcome.InvalidParameters},
		"another digest":        {digest: "sha256:" + hashOfNothing, reason: outcome.SourceChanged},
	} {
		tree, got, err := w.Chained(test.digest, test.revision)
		if test.reason != "" {
			reason(t, err, test.reason)
		} else if err != nil || got != test.want || (tree != nil) != test.tree {
			t.Errorf("%s: got %+v, %t, %v", name, got, tree != nil, err)
		}
	}
	if _, got, err := Workspace(t.TempDir()).Chained("", ""); err != nil || got != (Revision{}) {
		t.Errorf("without anything: %+v, %v", got, err)
	}
}
