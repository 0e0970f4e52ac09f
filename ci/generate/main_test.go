package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/templates"
)

const root = "../.."

// Every file that is generated, wholly or in part, is up to date, and no file is left of an earlier time.
func TestFilesAreCurrent(t *testing.T) {
	files, err := generate(root, templates.Builders())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(got) != want {
			t.Errorf("%s is not what would be generated: run make generate (%v)", name, err)
		}
	}
	left, err := leftovers(root, files)
	if err != nil || len(left) > 0 {
		t.Errorf("nothing generates %s any more: run make generate (%v)", strings.Join(left, ", "), err)
	}
}

// The files of a builder that goes are found, and no others.
func TestLeftovers(t *testing.T) {
	builders := templates.Builders()
	gone := builders[len(builders)-1]
	files, err := generate(root, builders[:len(builders)-1])
	if err != nil {
		t.Fatal(err)
	}
	got, err := leftovers(root, files)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{schemaFile(gone), workflowFile(gone), templateFile(gone)}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("left are %q, want %q", got, want)
	}
	for name, text := range files {
		if strings.HasPrefix(name, "images/") {
			continue // by hand, but for the version
		}
		if strings.Contains(text, gone.Builder.Digest) || strings.Contains(text, gone.Workflow) {
			t.Errorf("%s still has the builder that went", name)
		}
	}
}

// A file without a section, or with one too many, is not overwritten.
func TestSectionsThatAreNotThere(t *testing.T) {
	const one = "a:\n  # Generated from b by go run ./ci/generate.\n  c\n  # End of what is generated.\nd\n"
	got, err := withSections("f", one, "x\ny\n")
	if want := strings.Replace(one, "  c\n", "  x\n  y\n", 1); err != nil || got != want {
		t.Errorf("one section: got %q (%v), want %q", got, err, want)
	}
	for _, file := range []string{"a:\nd\n", one + one} {
		if _, err := withSections("f", file, "x\n"); err == nil || !strings.HasPrefix(err.Error(), "f: has ") {
			t.Errorf("%q: error %v", file, err)
		}
	}
}

// TestVersionHasOneHome: with another version in its home, no file of the project has the one that it has now. Lists of
// dependencies and the history of versions do not count.
func TestVersionHasOneHome(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, ".git")); errors.Is(err, fs.ErrNotExist) {
		t.Skip("Git has the list of the project's files, and this is a copy without it")
	}
	old, err := readVersion(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := generate(root, templates.Builders())
	if err != nil {
		t.Fatal(err)
	}
	const next = "98.7.6-rc.1"
	if err := stamp(root, next, files); err != nil {
		t.Fatal(err)
	}
	files[versionFile] = next
	list := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	listed, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	now := regexp.MustCompile(`(^|[^0-9.])` + regexp.QuoteMeta(old) + `($|[^0-9.]|\.($|[^0-9]))`)
	seen := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(listed), "\x00"), "\x00") {
		switch filepath.Base(name) {
		case "CHANGELOG.md", "package-lock.json", "package.json":
			continue
		}
		switch filepath.Ext(name) {
		case ".mod", ".sum": // versions of others
			continue
		}
		text, generated := files[name]
		if !generated {
			raw, err := os.ReadFile(filepath.Join(root, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed, and not yet committed
			}
			if err != nil {
				t.Fatal(err)
			}
			text = string(raw)
		}
		if strings.Contains(text, next) {
			seen++
		}
		if found := now.FindStringIndex(text); found != nil {
			line := 1 + strings.Count(text[:found[0]], "\n")
			t.Errorf("%s:%d has the version %s, of which make generate knows nothing", name, line, old)
		}
	}
	if want := len(versioned) + 1; seen < want { // and its home
		t.Errorf("%d files have the next version, want %d", seen, want)
	}
}

func TestWhatIsNoVersion(t *testing.T) {
	for text, want := range map[string]bool{
		"1.2.3\n": true, "10.20.30-rc.1\n": true, "1.2.3 ": true, "v1.2.3": false, "1.2": false, "1.2.3+4": false,
		"": false,
	} {
		dir := t.TempDir()
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, "templates"), 0o755),
			os.WriteFile(filepath.Join(dir, versionFile), []byte(text), 0o644),
		); err != nil {
			t.Fatal(err)
		}
		if version, err := readVersion(dir); (err == nil) != want {
			t.Errorf("%q: version %q, error %v", text, version, err)
		}
	}
}
