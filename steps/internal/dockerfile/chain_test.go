package dockerfile

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tonistiigi/fsutil"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// chained is a project of which checkout-source told the digest, and the parameters with it.
func chained(t testing.TB, in Parameters) Parameters {
	t.Helper()
	if err := in.Workspace.MakeFolders(); err != nil {
		t.Fatal(err)
	}
	digest, err := in.Workspace.WriteTree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in.SourceDigest = digest
	in.Revision = `{"url":"https://git.example.com/acme/cart.git","commit":"` + strings.Repeat("c", 40) +
		`","time":"2026-01-02T03:04:05Z"}`
	return in
}

// The base images are those that BuildKit resolved, whatever provenance is asked for, and whatever the image says.
func TestBaseImages(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	base := must(busybox())
	digest := must(base.Digest()).String()
	r.Push(t, "acme/tools:v2", base)
	files := map[string]string{
		"base": "FROM busybox:1\n" +
			"LABEL org.opencontainers.image.base.name=registry.example.com/victim/private:1\n" +
			"COPY --from=acme/tools:v2 /etc /tools\n" +
			"RUN --mount=from=busybox:1,target=/m true\n",
		"pinned":  "FROM busybox:1@" + digest + "\nFROM busybox@" + digest + "\nCOPY --from=0 /etc /e\n",
		"scratch": "FROM scratch\nCOPY base /\n",
	}
	one, tools := "docker.io/library/busybox:1@"+digest, "docker.io/acme/tools:v2@"+digest
	images := map[string]string{}
	for _, mode := range []string{"none", "min", "max"} {
		for name, want := range map[string][]string{
			"base": {tools, one}, "pinned": {one, "docker.io/library/busybox@" + digest}, "scratch": {},
		} {
			in := parameters(project(t, files), r)
			in.DockerfilePath, in.Provenance = name, mode
			end := run(t, t.Context(), in)
			if end.err != nil {
				t.Fatalf("%s, %s: %v\n%s", name, mode, end.err, end.output)
			}
			var got []string
			if err := json.Unmarshal([]byte(end.results["base-images"]), &got); err != nil || got == nil {
				t.Fatalf("%s, %s: %q: %v", name, mode, end.results["base-images"], err)
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: got %v, want %v", name, mode, got, want)
			}
			image := must(open1(t, in.Workspace).image.Digest()).String()
			if before, known := images[name]; known && before != image {
				t.Errorf("%s, %s: the image is %s, with another provenance %s", name, mode, image, before)
			}
			images[name] = image
		}
	}
}

// A volume changes rights of what was checked out, as a pod's fsGroup does. The image has those that Git knows.
func TestModesOfAVolume(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	files := map[string]string{
		"Dockerfile": "FROM scratch\nCOPY . /src\nCOPY folder/program /\n", "folder/program": "#!/bin/sh\n",
		"folder/file": "content", "folder/link": "-> file",
	}
	digests := map[string]string{}
	for name, change := range map[string]func(mode fs.FileMode) fs.FileMode{
		"none":    func(mode fs.FileMode) fs.FileMode { return mode },
		"fsGroup": func(mode fs.FileMode) fs.FileMode { return mode | 0o060 | fs.ModeSetgid },
		"umask":   func(mode fs.FileMode) fs.FileMode { return mode &^ 0o077 },
	} {
		w := project(t, files)
		if err := os.Chmod(filepath.Join(w.Source(), "folder/program"), 0o755); err != nil {
			t.Fatal(err)
		}
		in := chained(t, parameters(w, r))
		if err := filepath.WalkDir(w.Source(), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Type() == fs.ModeSymlink {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			mode := change(info.Mode())
			if !entry.IsDir() {
				mode &^= fs.ModeSetgid
			}
			return os.Chmod(path, mode)
		}); err != nil {
			t.Fatal(err)
		}
		end := run(t, t.Context(), in)
		if end.err != nil {
			t.Fatalf("%s: %v\n%s", name, end.err, end.output)
		}
		digests[name] = end.results["image-digest"]
	}
	if digests["fsGroup"] != digests["none"] || digests["umask"] != digests["none"] {
		t.Errorf("%v", digests)
	}
}

func TestChain(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	files := map[string]string{
		"Dockerfile": "FROM busybox:1\nCOPY . /src\nRUN cat /src/app/a\n", "app/a": "content", "app/link": "-> a",
		".git/HEAD": "ref: refs/heads/main\n",
	}
	write := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o644) }
	}
	for name, test := range map[string]struct {
		path   string
		tamper func(path string) error
		reason outcome.Reason
		words  string
	}{
		"nothing":               {"source", func(string) error { return nil }, "", ""},
		"revision.json":         {"revision.json", write(`{"commit":"` + strings.Repeat("d", 40) + `"}`), "", ""},
		"Git's own":             {"source/.git/HEAD", write("ref: x"), "", ""},
		"a changed file":        {"source/app/a", write("Content"), outcome.SourceChanged, `"app/a"`},
		"another Dockerfile":    {"source/Dockerfile", write("FROM evil\n"), outcome.SourceChanged, "Dockerfile"},
		"an ignore file":        {"source/Dockerfile.dockerignore", write("app"), outcome.SourceChanged, "added"},
		"a file gone":           {"source/app/a", os.Remove, outcome.SourceChanged, `"app/a"`},
		"another list of files": {"tree/manifest", write(""), outcome.SourceChanged, "manifest"},
		"no list of files":      {"tree/manifest", os.Remove, outcome.SourceChanged, "manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := chained(t, parameters(project(t, files), r))
			if err := test.tamper(filepath.Join(string(in.Workspace), test.path)); err != nil {
				t.Fatal(err)
			}
			if test.reason == "" {
				b := succeed(t, in)
				if got := b.config.Config.Labels["org.opencontainers.image.revision"]; got != strings.Repeat("c", 40) {
					t.Errorf("the image is of revision %q", got)
				}
				return
			}
			end := run(t, t.Context(), in)
			failure := outcome.Of(end.err)
			if failure == nil || failure.Reason != test.reason || !strings.Contains(failure.Message, test.words) {
				t.Errorf("got %v", end.err)
			}
		})
	}
	t.Run("a revision that is none", func(t *testing.T) {
		t.Parallel()
		in := chained(t, parameters(project(t, files), r))
		in.Revision = "main"
		if failure := outcome.Of(run(t, t.Context(), in).err); failure == nil ||
			failure.Reason != outcome.InvalidParameters {
			t.Errorf("got %v", failure)
		}
	})
}

// What changes after the source was verified does not come into the build.
func TestContextIsVerifiedAsItIsRead(t *testing.T) {
	t.Parallel()
	w := workspace.Workspace(t.TempDir())
	files := map[string]string{"app/Dockerfile": "FROM scratch\n", "app/a": "content", "app/b/c": ""}
	for name, content := range files {
		path := filepath.Join(w.Source(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644),
			os.MkdirAll(filepath.Join(w.Source(), "app/.git"), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(w.Source(), "app/link")); err != nil {
		t.Fatal(err)
	}
	in := chained(t, Parameters{DockerContext: "/app", DockerfilePath: "app/Dockerfile"}.in(w))
	for name, test := range map[string]func(dir string) error{
		"nothing": nil,
		"content": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("Content"), 0o644) },
		"shorter": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), nil, 0o644) },
		"longer": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a"), []byte("content, and more"), 0o644)
		},
		"added":  func(dir string) error { return os.WriteFile(filepath.Join(dir, "b/new"), nil, 0o644) },
		"folder": func(dir string) error { return os.Mkdir(filepath.Join(dir, "new"), 0o755) },
		"link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "link")), os.Symlink("b", filepath.Join(dir, "link")))
		},
		"mode": func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o755) },
	} {
		copied := workspace.Workspace(t.TempDir())
		if err := os.CopyFS(string(copied), os.DirFS(string(w))); err != nil {
			t.Fatal(err)
		}
		in := in.in(copied)
		tree, err := copied.OpenTree(in.SourceDigest)
		if err == nil {
			err = tree.Verify(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		s, err := findSource(in, tree)
		if err != nil {
			t.Fatal(err)
		}
		if test != nil {
			if err := test(s.context); err != nil {
				t.Fatal(err)
			}
		}
		files, err := s.contextFS(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = readAll(t, files)
		if got := s.changed(); (got == nil) != (test == nil) || (err == nil) != (test == nil) {
			t.Errorf("%s: got %v, %v", name, got, err)
		} else if got != nil && outcome.Of(got).Reason != outcome.SourceChanged {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func (in Parameters) in(w workspace.Workspace) Parameters {
	in.Workspace = w
	return in
}

// readAll reads all files, as the builder does.
func readAll(t *testing.T, files fsutil.FS) error {
	return files.Walk(t.Context(), "", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := files.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
}
