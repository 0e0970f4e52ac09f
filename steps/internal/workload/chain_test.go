package workload

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A Workload is made of what was checked out, and of nothing that somebody wrote into the workspace later.
func TestSourceDigest(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"cart/workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: api/openapi.yaml}\n" +
			"configurations:\n  files:\n  - {name: f, mountPath: /f, valueFrom: {path: api/settings}}\n",
		"cart/api/openapi.yaml": "openapi: 3.0.0\n", "cart/api/settings": "quiet\n", "plain/README.md": "",
	}
	const external = "endpoints:\n- {name: evil, port: 80, type: HTTP, visibility: [external]}\n"
	write := func(content string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o644) }
	}
	for name, test := range map[string]struct {
		app, path string
		tamper    func(path string) error
		reason    outcome.Reason // empty: it succeeds
		words     string
	}{
		"nothing":              {app: "cart"},
		"no descriptor":        {app: "plain"},
		"a descriptor added":   {app: "plain", path: "source/plain/workload.yaml", tamper: write(external)},
		"a folder that is not": {app: "absent", reason: outcome.InvalidParameters, words: `there is no "absent"`},
		"a file as a folder":   {app: "plain/README.md", reason: outcome.InvalidParameters, words: "not a directory"},
		"another descriptor":   {"cart", "source/cart/workload.yaml", write(external), outcome.SourceChanged, ""},
		"a descriptor gone":    {"cart", "source/cart/workload.yaml", os.Remove, outcome.SourceChanged, ""},
		"another schema":       {"cart", "source/cart/api/openapi.yaml", write("x: 1\n"), outcome.SourceChanged, ""},
		"another file":         {"cart", "source/cart/api/settings", write("token\n"), outcome.SourceChanged, ""},
		"another list":         {"cart", "tree/manifest", write(""), outcome.SourceChanged, ""},
		"another revision":     {app: "cart", path: "revision.json", tamper: write("{")},
		"a link to a credential": {"cart", "source/cart/api/settings", func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("/proc/self/environ", path))
		}, outcome.SourceChanged, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, files)
			if err := b.in.Workspace.MakeFolders(); err != nil {
				t.Fatal(err)
			}
			var err error
			if b.in.SourceDigest, err = b.in.Workspace.WriteTree(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.in.AppPath = test.app
			if test.tamper != nil {
				if err := test.tamper(filepath.Join(string(b.in.Workspace), test.path)); err != nil {
					t.Fatal(err)
				}
			}
			if test.reason != "" {
				b.fails(test.reason, test.words)
				return
			}
			if got, want := b.mustRun()["workload-from-source"], test.app == "cart"; (got == "true") != want {
				t.Errorf("from source: %s, want %t", got, want)
			}
			spec := b.workload().Spec
			if _, evil := spec.Endpoints["evil"]; evil || test.app == "cart" && len(spec.Endpoints) != 1 {
				t.Errorf("endpoints %v", spec.Endpoints)
			}
		})
	}
	b := newBench(t, files)
	b.in.SourceDigest = "sha256:" + strings.Repeat("0", 64)
	b.in.Descriptor = filepath.Join(b.in.Workspace.Source(), "cart")
	b.fails(outcome.InvalidParameters, "descriptor: source-digest is given, too")
}

// What Git keeps for itself may hold the token that another checkout has left.
func TestGitIsNoFileOfTheDescriptor(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{
		"workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: .git/config}\n",
		".git/config":   "[http]\n\textraheader = token\n",
	})
	b.fails(outcome.PathEscapesRepository, `".git/config" leads to what Git keeps for itself`)
}
