package templates_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/templates"
)

// A builder without a digest, or with a field that nobody reads, is found before it is installed.
func TestParseBuilders(t *testing.T) {
	raw, err := os.ReadFile("builders.yaml")
	if err != nil {
		t.Fatal(err)
	}
	whole := string(raw)
	first := templates.Builders()[0]
	replaced := func(from, to string) string {
		t.Helper()
		if !strings.Contains(whole, from) {
			t.Fatalf("builders.yaml has no %q", from)
		}
		return strings.Replace(whole, from, to, 1)
	}
	_, entry, _ := strings.Cut(whole, "builders:\n")
	entry = "  - " + strings.TrimSpace(strings.Split(entry, "\n  - ")[0][len("  - "):]) + "\n"
	at := "builders[0] (" + first.Name + "): "
	tests := []struct {
		name, file string
		want       []string // of the error's lines, in order
	}{
		{"as it is", whole, nil},
		{"an unknown field", replaced("    title:", "    about: a builder\n    title:"),
			[]string{`error unmarshaling JSON: while decoding JSON: json: unknown field "about"`}},
		{"a name that is no label", replaced("name: "+first.Name+"\n", "name: My builder\n"),
			[]string{"builders[0] (My builder): name must be a DNS label"}},
		{"no name", replaced("name: "+first.Name+"\n", "name: \"\"\n"),
			[]string{"builders[0]: name must be a DNS label"}},
		{"a digest that is none", replaced(first.Run.Digest, "sha256:abc"),
			[]string{at + "run.digest must be sha256: and 64 hexadecimal digits"}},
		{"an image without a registry", replaced("name: "+first.Builder.Name+"\n", "name: builder\n"),
			[]string{at + "builder.name must have a registry and a repository, and no tag"}},
		{"an image with a tag", replaced("name: "+first.Builder.Name+"\n", "name: "+first.Builder.Name+":v1\n"),
			[]string{at + "builder.name must have a registry and a repository, and no tag"}},
		{"root", replaced("user: 1000\n", "user: 0\n"), []string{at + "builder.user must be a UID, and not root's"}},
		{"two faults", replaced("    title: "+first.Title+"\n", "    writable: [workspace]\n"),
			[]string{at + "title is absent", at + "writable[0] must be the path of a folder"}},
		{"the same twice", whole + entry,
			[]string{"name " + first.Name + " is taken", "template " + first.Template + " is taken",
				"workflow " + first.Workflow + " is taken"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := templates.ParseBuilders([]byte(test.file))
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(got, test.want, strings.HasSuffix) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
