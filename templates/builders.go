package templates

import (
	_ "embed"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"
)

// Builder is an entry of builders.yaml: all in which the templates for buildpacks differ.
type Builder struct {
	Name        string      `json:"name"`      // gcp: settings and stand-ins for tests begin with it
	Template    string      `json:"template"`  // of the ClusterWorkflowTemplate
	Workflow    string      `json:"workflow"`  // of the ClusterWorkflow, and of the schema of its parameters
	Title       string      `json:"title"`     // as part of a sentence: "Paketo's buildpacks"
	Languages   []string    `json:"languages"` // that it builds, for people: Go, Node.js, web servers
	Environment Environment `json:"environment"`
	Writable    []string    `json:"writable"` // folders that its buildpacks write to, besides those of every builder
	Builder     Image       `json:"builder"`  // that builds
	Run         Image       `json:"run"`      // that an application is put on
}

// Environment describes the variables that a developer sets for a builder's buildpacks.
type Environment struct {
	About   string   `json:"about"` // goes on after "Environment variables for the buildpacks, "
	Example Variable `json:"example"`
}

// Variable is an element of buildEnv.
type Variable struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Image is an image of buildpacks, with the known facts about it.
type Image struct {
	Name      string   `json:"name"`      // with its registry, without tag and digest
	Tag       string   `json:"tag"`       // that the digest had when it was chosen; empty when that is not known
	Digest    string   `json:"digest"`    // sha256:…
	Platforms []string `json:"platforms"` // linux/amd64
	Source    string   `json:"source"`    // URL of its source code
	User      int      `json:"user"`      // UID of its processes
	Group     int      `json:"group"`     // GID
}

// Reference is the name by which the image is pulled: <name>@<digest>.
func (i Image) Reference() string { return i.Name + "@" + i.Digest }

// Volume is the name of the volume that is at a folder of Writable: the folder's last part.
func (b Builder) Volume(folder string) string { return path.Base(folder) }

// DockerfileBuilder is the ClusterWorkflow that builds without buildpacks, by a Dockerfile.
const DockerfileBuilder = "dockerfile-builder"

// Workflows lists the names of all ClusterWorkflows: DockerfileBuilder, and one for each of Builders.
func Workflows() []string {
	all := []string{DockerfileBuilder}
	for _, b := range Builders() {
		all = append(all, b.Workflow)
	}
	return all
}

//go:embed builders.yaml
var buildersFile []byte

var embedded = sync.OnceValue(func() []Builder {
	builders, err := ParseBuilders(buildersFile)
	if err != nil {
		panic(fmt.Sprintf("templates/builders.yaml: %v", err))
	}
	return builders
})

// Builders are the builders of buildpacks that are installed, in the order of builders.yaml.
func Builders() []Builder { return slices.Clone(embedded()) }

var (
	label     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	imageName = regexp.MustCompile(`^[a-z0-9-]+(\.[a-z0-9-]+)+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$`)
	digest    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// ParseBuilders reads the text of a file like builders.yaml. It refuses fields that it does not know, and its error
// lists every entry and field that lacks something or has the wrong form.
func ParseBuilders(file []byte) ([]Builder, error) {
	var document struct {
		Builders []Builder `json:"builders"`
	}
	if err := yaml.UnmarshalStrict(file, &document); err != nil {
		return nil, err
	}
	var faults []error
	taken := map[string]bool{} // "<field> <name>"
	for i, b := range document.Builders {
		entry := fmt.Sprintf("builders[%d]", i)
		if b.Name != "" {
			entry += " (" + b.Name + ")"
		}
		for _, fault := range b.faults() {
			faults = append(faults, fmt.Errorf("%s: %s", entry, fault))
		}
		for _, name := range []string{"name " + b.Name, "template " + b.Template, "workflow " + b.Workflow} {
			if taken[name] {
				faults = append(faults, fmt.Errorf("%s: %s is taken", entry, name))
			}
			taken[name] = true
		}
	}
	return document.Builders, errors.Join(faults...)
}

// faults lists the fields that lack something or have the wrong form.
func (b Builder) faults() []string {
	var all []string
	want := func(ok bool, field, form string) {
		if !ok {
			all = append(all, field+" "+form)
		}
	}
	for _, f := range []struct{ name, value string }{
		{"name", b.Name}, {"template", b.Template}, {"workflow", b.Workflow},
	} {
		want(label.MatchString(f.value), f.name, "must be a DNS label")
	}
	for _, f := range []struct{ name, value string }{
		{"title", b.Title}, {"languages", strings.Join(b.Languages, "")}, {"environment.about", b.Environment.About},
		{"environment.example.name", b.Environment.Example.Name},
	} {
		want(f.value != "", f.name, "is absent")
	}
	for i, folder := range b.Writable {
		want(path.IsAbs(folder) && label.MatchString(b.Volume(folder)), fmt.Sprintf("writable[%d]", i),
			"must be the path of a folder")
	}
	for _, f := range []struct {
		name string
		Image
	}{{"builder", b.Builder}, {"run", b.Run}} {
		want(imageName.MatchString(f.Name), f.name+".name", "must have a registry and a repository, and no tag")
		want(digest.MatchString(f.Digest), f.name+".digest", "must be sha256: and 64 hexadecimal digits")
		want(len(f.Platforms) > 0, f.name+".platforms", "is absent")
		want(f.Source != "", f.name+".source", "is absent")
		want(f.User > 0, f.name+".user", "must be a UID, and not root's")
		want(f.Group > 0, f.name+".group", "must be a GID, and not root's")
	}
	return all
}
