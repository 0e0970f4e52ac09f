package workspace

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// repository makes a workspace with a source folder, and something outside that nobody may read.
func repository(t *testing.T) (Workspace, string) {
	t.Helper()
	root := t.TempDir()
	w := Workspace(filepath.Join(root, "vol"))
	outside := filepath.Join(root, "outside")
	for path, content := range map[string]string{
		filepath.Join(w.Source(), "Dockerfile"):        "FROM scratch\n",
		filepath.Join(w.Source(), "app", "schema.yml"): "openapi: 3.0.0\n",
		filepath.Join(outside, "secret"):               "secret\n",
		w.Source() + "-sibling/file":                   "sibling\n",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"inside":       "app/schema.yml",
		"app/up":       "../Dockerfile",
		"out":          "../../outside/secret",
		"absolute":     filepath.Join(outside, "secret"),
		"dir":          outside,
		"dangling-out": "../../nowhere",
		"dangling-in":  "nowhere",
		"loop":         "loop",
		"sibling":      "../source-sibling",
		"chain":        "dir",
	} {
		if err := os.Symlink(target, filepath.Join(w.Source(), link)); err != nil {
			t.Fatal(err)
		}
	}
	return w, root
}

func TestResolve(t *testing.T) {
	w, _ := repository(t)
	tests := []struct {
		path string
		want string // in the source folder; empty for an error
		err  error
		esc  bool
	}{
		{path: "Dockerfile", want: "Dockerfile"},
		{path: "./Dockerfile", want: "Dockerfile"},
		{path: "/Dockerfile", want: "Dockerfile"},
		{path: "//app", want: "app"},
		{path: ".", want: "."},
		{path: "/", want: "."},
		{path: "", want: "."},
		{path: "app/../Dockerfile", want: "Dockerfile"},
		{path: "inside", want: "app/schema.yml"},
		{path: "app/up", want: "Dockerfile"},
		{path: "nothing", err: fs.ErrNotExist},
		{path: "Dockerfile/nothing", err: fs.ErrNotExist},
		{path: "dangling-in", err: fs.ErrNotExist},
		{path: "..", esc: true},
		{path: "../outside/secret", esc: true},
		{path: "/../outside/secret", esc: true},
		{path: "app/../../outside/secret", esc: true},
		{path: "out", esc: true},
		{path: "absolute", esc: true},
		{path: "dir/secret", esc: true},
		{path: "dir", esc: true},
		{path: "chain/secret", esc: true},
		{path: "dangling-out", esc: true},
		{path: "sibling/file", esc: true},
		{path: "a\x00b", esc: true},
	}
	root, err := filepath.EvalSymlinks(w.Source())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.path, func(t *testing.T) {
			got, err := w.Resolve(test.path)
			switch {
			case test.esc:
				if err == nil || outcome.Of(err).Reason != outcome.PathEscapesRepository {
					t.Errorf("got %q, %v", got, err)
				}
			case test.err != nil:
				if !errors.Is(err, test.err) {
					t.Errorf("got %q, %v", got, err)
				}
			case err != nil || got != filepath.Join(root, test.want):
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	if _, err := w.Resolve("loop"); err == nil {
		t.Error("a loop of links was resolved")
	}
}

func TestReadFile(t *testing.T) {
	w, _ := repository(t)
	if raw, err := w.ReadFile("inside", 100); err != nil || string(raw) != "openapi: 3.0.0\n" {
		t.Errorf("got %q, %v", raw, err)
	}
	if _, err := w.ReadFile("inside", 3); err == nil {
		t.Error("a file over the limit was read")
	}
	if _, err := w.ReadFile("app", 100); err == nil {
		t.Error("a folder was read")
	}
	if _, err := w.ReadFile("out", 100); err == nil || outcome.Of(err).Reason != outcome.PathEscapesRepository {
		t.Errorf("got %v", err)
	}
}

func TestRevisionSurvives(t *testing.T) {
	w := Workspace(t.TempDir())
	if _, err := w.ReadRevision(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	want := Revision{
		URL:        "https://git.example.com/a",
		Branch:     "main",
		Commit:     "6dcb09b5b57875f334f61aebed695e2e4193db5e",
		AuthorName: "A",
		Time:       time.Unix(1767225600, 0).UTC(),
	}
	if err := w.WriteRevision(want); err != nil {
		t.Fatal(err)
	}
	if got, err := w.ReadRevision(); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	const prefix = "org.opencontainers.image."
	made := time.Date(2026, time.January, 2, 3, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		revision Revision
		created  time.Time
		want     map[string]string
	}{
		"all": {
			Revision{URL: "https://git.example.com/cart.git", Commit: "1a2b3c4d"}, made,
			map[string]string{
				prefix + "source": "https://git.example.com/cart.git", prefix + "revision": "1a2b3c4d",
				prefix + "created": "2026-01-02T03:04:05Z",
			},
		},
		"the beginning of time": {
			Revision{}, time.Unix(0, 0).UTC(), map[string]string{prefix + "created": "1970-01-01T00:00:00Z"},
		},
		"nothing": {Revision{}, time.Time{}, map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := test.revision.Labels(test.created); !maps.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
