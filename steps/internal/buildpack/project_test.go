package buildpack

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buildpacks/pack/pkg/logging"
	packproject "github.com/buildpacks/pack/pkg/project"
	"github.com/buildpacks/pack/pkg/project/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/step"
)

var descriptors = []string{
	"",
	"[project]\nname = \"a\"\n[build]\nexclude = [\"*.md\"]\n[[build.env]]\nname = \"A\"\nvalue = \"b\\nc\"\n" +
		"[[build.buildpacks]]\nid = \"a/b\"\nversion = \"1.0\"\n",
	"[build]\ninclude = [\"src/\", \"go.mod\"]\nbuilder = \"some/builder\"\n[metadata]\na = 1\n",
	"[_]\nschema-version = \"0.1\"\n[build]\nexclude = [\"x\"]\n",
	"[_]\nschema-version = \"0.2\"\nname = \"a\"\n[io.buildpacks]\ninclude = [\"x\"]\n[[io.buildpacks.group]]\n" +
		"id = \"a/b\"\n[[io.buildpacks.build.env]]\nname = \"A\"\nvalue = \"b\"\n",
	"[_]\nschema-version = \"0.2\"\n[[io.buildpacks.env.build]]\nname = \"A\"\nvalue = \"of the older name\"\n",
	"[_]\nschema-version = \"0.2\"\n[[io.buildpacks.env.build]]\nname = \"A\"\nvalue = \"old\"\n" +
		"[[io.buildpacks.build.env]]\nname = \"A\"\nvalue = \"new\"\n[com.example.tool]\na = 1\n",
	"[_]\nschema-version = \"0.3\"\n[[io.buildpacks.build.env]]\nname = \"A\"\nvalue = \"b\"\nexec-env = [\"test\"]\n" +
		"[[io.buildpacks.build.env]]\nname = \"B\"\nvalue = \"b\"\nexec-env = [\"*\"]\n",
	"[[build.buildpacks]]\nuri = \"docker://x\"\n", "[[build.buildpacks]]\nuri = \"a/b\"\nversion = \"1\"\n",
	"[[build.buildpacks]]\nid = \"a\"\n[build.buildpacks.script]\ninline = \"make\"\napi = \"0.10\"\n",
	"[_]\nschema-version = \"0.2\"\n[[io.buildpacks.pre.group]]\nid = \"a\"\n[[io.buildpacks.post.group]]\n" +
		"uri = \"b\"\n",
	"[_]\nschema-version = \"0.9\"\n", "[build]\ninclude = []\nexclude = []\n", "[build\n",
	// What pack decodes, although the step has no use for it.
	"[_]\nschema-version = \"0.3\"\n[[io.BuildpACks.Build.BuildpACks.0]]\n", "[project]\nname = 1\n",
	"[_]\nschema-version = \"0.2\"\nlicenses = [{}]\n", "[_]\nschema-version = \"0.3\"\nauthors = {}\n",
	"[_]\nschema-version = \"0.3\"\n[[io.buildpacks.build.pre.group.0]]\n", "metadata = 1\n",
	"[build]\nexclude = \"x\"\n", "[[build.buildpacks]]\nversion = \"1\"\n",
}

// byPack reads a descriptor as pack does.
func byPack(t testing.TB, text string) (types.Build, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), projectFile)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	descriptor, err := packproject.ReadProjectDescriptor(path, logging.NewLogWithWriters(io.Discard, io.Discard))
	return descriptor.Build, err
}

// compare reads a project by the step and by pack, and compares.
func compare(t testing.TB, text string) {
	t.Helper()
	want, packErr := byPack(t, text)
	got, err := parseProject([]byte(text), slog.New(slog.DiscardHandler))
	if packErr != nil {
		if err == nil {
			t.Errorf("pack refuses it, %v, and the step does not:\n%s", packErr, text)
		}
		return
	}
	if err != nil {
		// The step refuses what it cannot do.
		if outcome.Of(err).Reason != outcome.DescriptorInvalid {
			t.Errorf("%v", err)
		}
		return
	}
	if diff := cmp.Diff(want, got.Build, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s\n(-pack +step)\n%s", text, diff)
	}
}

func TestProjectsAreReadAsByPack(t *testing.T) {
	for _, text := range descriptors {
		compare(t, text)
	}
}

// FuzzProject: project.toml: it is read as by pack, or refused.
func FuzzProject(f *testing.F) {
	for _, text := range descriptors {
		f.Add(text)
	}
	f.Add(fuzztest.Long("[[build.env]]\nname = \"a\"\nvalue = \"b\"\n"))
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.Of(4, 16).Bound(t, len(text), func() {
			parseProject([]byte(text), slog.New(slog.DiscardHandler))
		})
		compare(t, text)
	})
}

func TestProjectsThatAreRefused(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"no TOML", "[build\n", "project.toml: toml: line"},
		{"a version to come", "[_]\nschema-version = \"1.0\"\n",
			`its schema-version is "1.0", and not 0.1, 0.2 or 0.3`},
		{"both filters", "[build]\ninclude = [\"a\"]\nexclude = [\"b\"]\n", "it has both include and exclude"},
		{"nothing", "[[build.buildpacks]]\nversion = \"1\"\n", "a buildpack has neither id nor uri"},
		{"a uri and a version", "[[build.buildpacks]]\nuri = \"a/b\"\nversion = \"1\"\n",
			"a/b has both uri and version"},
		{"a path for a variable", "[[build.env]]\nname = \"../../bin/sh\"\nvalue = \"x\"\n",
			`variable "../../bin/sh" does not have the name of a variable`},
		{
			"several", "[build]\ninclude = [\"a\"]\nexclude = [\"b\"]\n[[build.env]]\nname = \"\"\nvalue = \"x\"\n",
			`it has both include and exclude; variable "" has no name`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseProject([]byte(test.text), slog.New(slog.DiscardHandler))
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != outcome.DescriptorInvalid ||
				!strings.Contains(failure.Message, test.want) || !strings.Contains(failure.Hint, "project.toml") {
				t.Errorf("got %+v, want %q", failure, test.want)
			}
		})
	}
}

func TestProjectWarnings(t *testing.T) {
	var log bytes.Buffer
	_, err := parseProject(
		[]byte(
			"[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nbuilder = \"some/builder\"\nexcludes = [\"x\"]\n"+
				"[com.example]\na = 1\n",
		),
		slog.New(slog.NewTextHandler(&log, nil)),
	)
	if err != nil {
		t.Fatal(err)
	}
	if text := log.String(); !strings.Contains(text, "io.buildpacks.excludes") ||
		!strings.Contains(text, "some/builder") || strings.Contains(text, "com.example") {
		t.Error(text)
	}
}

func TestVariablesOfOtherEnvironments(t *testing.T) {
	p, err := parseProject([]byte(descriptors[7]), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]step.NameValue{{Name: "B", Value: "b"}}, p.variables()); diff != "" {
		t.Error(diff)
	}
}

// A project.toml that is a link out of the repository is not followed.
func TestProjectThatLeadsOut(t *testing.T) {
	app := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(app, projectFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := readProject(
		app, slog.New(slog.DiscardHandler),
	); outcome.Of(err).Reason != outcome.PathEscapesRepository {
		t.Errorf("got %v", err)
	}
}

func TestCopyApp(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, mode := range map[string]os.FileMode{
		"a.txt":           0o644,
		"bin/run":         0o755,
		"secret":          0o400,
		"shared.txt":      0o664,
		"shared/run":      0o775,
		".git/HEAD":       0o644,
		"sub/.git/HEAD":   0o644,
		"sub/mod/.git":    0o644,
		"sub/mod/a":       0o644,
		"docs/a.md":       0o644,
		"docs/keep/b.txt": 0o644,
	} {
		path := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(from, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	// As a volume of a pod with an fsGroup has them, whatever the umask.
	for path, mode := range map[string]os.FileMode{
		"shared.txt": 0o664, "shared/run": 0o775, "shared": 0o775 | os.ModeSetgid,
	} {
		if err := os.Chmod(filepath.Join(from, path), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../etc/passwd", filepath.Join(from, "out")); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_000_000_000, 0)
	belongs := func(path string) bool { return path != "docs" && !strings.HasSuffix(path, ".md") }
	if err := copyApp(t.Context(), from, to, belongs, at); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err := filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == to {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		local, _ := filepath.Rel(to, path)
		got[local] = info.Mode().String()
		if d.Type()&os.ModeSymlink == 0 && !info.ModTime().Equal(at) {
			t.Errorf("%s is of %s", local, info.ModTime())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"a.txt": "-rw-r--r--", "bin": "drwxr-xr-x", "bin/run": "-rwxr-xr-x", "secret": "-rw-r--r--",
		"shared.txt": "-rw-r--r--", "shared": "drwxr-xr-x", "shared/run": "-rwxr-xr-x",
		"sub": "drwxr-xr-x", "sub/mod": "drwxr-xr-x", "sub/mod/a": "-rw-r--r--",
		"docs": "drwxr-xr-x", "docs/keep": "drwxr-xr-x", "docs/keep/b.txt": "-rw-r--r--", "empty": "drwxr-xr-x",
		"out": "Lrwxrwxrwx",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDetections(t *testing.T) {
	const log = `======== Output: a/one@1.0 ========
no go.mod
======== Error: a/two@1.0 ========
exit status 2
======== Output: a/six@1.0 ========
go.mod:1: unknown directive: modul
======== Error: a/six@1.0 ========
exit status 1
======== Results ========
pass: a/five@1.0
fail: a/one@1.0
err:  a/two@1.0 (2)
err:  a/six@1.0 (1)
skip: a/three@1.0
======== Output: a/one@1.0 ========
no go.mod
======== Results ========
pass: a/five@1.0
fail: a/one@1.0
pass: a/four@1.0
Resolving plan... (try #1)
fail: a/four@1.0 requires node
ERROR: No buildpack groups passed detection.
`
	const want = "  a/two@1.0 broke:\n    exit status 2\n  a/six@1.0 broke:\n    go.mod:1: unknown directive: modul\n" +
		"  a/one@1.0: no go.mod\n  a/four@1.0: requires node\n  without a word: a/three@1.0\n" +
		"  passed, though no whole group of buildpacks did: a/five@1.0"
	if got := detections(log); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := detections("something else\n"); got != "something else" {
		t.Errorf("got %q", got)
	}
}
