package buildpack

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Buildpacks are named in project.toml in all forms that pack takes.
func TestOrderOfAProject(t *testing.T) {
	b := &builder{image: "builders.example.com/test:1"}
	for _, pack := range []string{"acme/go 1.0.0", "acme/git 1.2.0", "acme/java 1.0.0", "acme/java 2.0.0-rc.1"} {
		id, version, _ := strings.Cut(pack, " ")
		b.buildpacks = append(b.buildpacks, buildpack{ID: id, Version: version})
	}
	app := t.TempDir()
	if err := os.MkdirAll(filepath.Join(app, "buildpacks", "own"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "order.toml")
	if err := os.WriteFile(file, []byte("[[order]]\n[[order.group]]\nid = \"acme/java\"\nversion = \"1.0.0\"\n"+
		"[[order]]\n[[order.group]]\nid = \"acme/go\"\nversion = \"1.0.0\"\noptional = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CNB_ORDER_PATH", file)
	uri := func(all ...string) string {
		var text strings.Builder
		for _, one := range all {
			fmt.Fprintf(&text, "[[build.buildpacks]]\nuri = %q\n", one)
		}
		return text.String()
	}
	around := func(where string, ids ...string) string {
		text := "[_]\nschema-version = \"0.2\"\n"
		for _, id := range ids {
			text += fmt.Sprintf("[[io.buildpacks.%s.group]]\nid = %q\n", where, id)
		}
		return text
	}
	const path = "is a path of the repository, from which no buildpack is taken"
	tests := []struct {
		name, text string
		want       string // the groups, or the fault
	}{
		{"nothing", "", ""},
		{"id", "[[build.buildpacks]]\nid = \"acme/go\"\n", "acme/go@1.0.0"},
		{"id and version", "[[build.buildpacks]]\nid = \"acme/java\"\nversion = \"2.0.0-rc.1\"\n",
			"acme/java@2.0.0-rc.1"},
		{"id with version", "[[build.buildpacks]]\nid = \"acme/java@1.0.0\"\n", "acme/java@1.0.0"},
		{"uri of an id", uri("acme/go"), "acme/go@1.0.0"},
		{"uri of an id with version", uri("acme/java@1.0.0", "acme/git@1.2.0"), "acme/java@1.0.0 acme/git@1.2.0"},
		{"urn of the builder", uri("urn:cnb:builder:acme/go"), "acme/go@1.0.0"},
		{"urn of the builder with version", uri("urn:cnb:builder:acme/java@1.0.0"), "acme/java@1.0.0"},
		{"from the builder", uri("from=builder:acme/go", "from=builder:acme/java@1.0.0"),
			"acme/go@1.0.0 acme/java@1.0.0"},
		{"a uri wins over an id", "[[build.buildpacks]]\nid = \"x/y\"\nuri = \"acme/go\"\n", "acme/go@1.0.0"},
		{"the builder's order", uri("from=builder"), "acme/java@1.0.0; acme/go@1.0.0?"},
		{"the builder's order after one", uri("acme/git", "from=builder"),
			"acme/git@1.2.0 acme/java@1.0.0; acme/git@1.2.0 acme/go@1.0.0?"},
		{"the builder's order before one", "[[build.buildpacks]]\nid = \"from=builder\"\n" + uri("acme/git"),
			"acme/java@1.0.0 acme/git@1.2.0; acme/go@1.0.0? acme/git@1.2.0"},
		{"before", around("pre", "acme/git"), "acme/git@1.2.0 acme/java@1.0.0; acme/git@1.2.0 acme/go@1.0.0?"},
		{"after", around("post", "acme/git"), "acme/java@1.0.0 acme/git@1.2.0; acme/go@1.0.0? acme/git@1.2.0"},
		{"before does not count beside group", around("pre", "x/y") + "[[io.buildpacks.group]]\nid = \"acme/go\"\n",
			"acme/go@1.0.0"},
		{"the builder's order twice", uri("from=builder", "from=builder"), "from=builder is there twice"},
		{"the builder's order before itself", around("pre", "from=builder"), "from=builder belongs into group"},
		{"no such id", "[[build.buildpacks]]\nid = \"go\"\n", "the builder has no buildpack go"},
		{"no such version", uri("urn:cnb:builder:acme/go@2"), "the builder has no buildpack urn:cnb:builder:acme/go@2"},
		{"several versions", uri("acme/java"), "buildpack acme/java in versions 1.0.0, 2.0.0-rc.1: name one"},
		{"the registry", uri("urn:cnb:registry:acme/ruby"), "urn:cnb:registry:acme/ruby is of the buildpack registry"},
		{"the registry without its name", uri("acme/ruby@1.0.0"),
			"the builder has no buildpack acme/ruby@1.0.0, and the buildpack registry is not asked"},
		{"an image", uri("docker://registry.example.com/acme/go:1"), "is an image of its own, which is not fetched"},
		{"an archive", uri("https://example.com/go.tgz"), "https://example.com/go.tgz is not in the builder, and is"},
		{"a file", uri("file:///etc/passwd"), "file:///etc/passwd is not in the builder, and is"},
		{"a folder", uri("buildpacks/own"), path},
		{"a folder with dots", uri("./buildpacks/own"), path},
		{"a script", "[[build.buildpacks]]\nid = \"a\"\n[build.buildpacks.script]\ninline = \"make\"\n",
			`buildpack "a" has an inline script`},
		{"no name", around("pre", ""), "a buildpack has no id"},
		{"several faults", uri("docker://x", "acme/java"), "docker://x is an image of its own, which is not fetched; " +
			"the builder has buildpack acme/java in versions"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p, err := parseProject([]byte(test.text), slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			groups, err := p.order(b, app)
			if failure := outcome.Of(err); failure != nil {
				if failure.Reason != outcome.DescriptorInvalid || !strings.Contains(failure.Message, test.want) ||
					!strings.Contains(failure.Hint, "acme/git 1.2.0") {
					t.Errorf("got %+v, want %q", failure, test.want)
				}
				return
			}
			var got []string
			for _, group := range groups {
				var ids []string
				for _, e := range group.Group {
					id := e.ID + "@" + e.Version
					if e.Optional {
						id += "?"
					}
					ids = append(ids, id)
				}
				got = append(got, strings.Join(ids, " "))
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "; ")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
