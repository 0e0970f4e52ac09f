package main

import (
	"os"
	"path/filepath"
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
