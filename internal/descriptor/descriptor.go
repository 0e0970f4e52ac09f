// Package descriptor reads workload.yaml, by which a component's source says what its Workload is to be
// (docs/contract.md section 3). generate-workload-cr makes Workloads of descriptors, and the command checks them before
// a run.
package descriptor

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/yamlline"
)

// Name is the descriptor's file in the application's directory.
const Name = "workload.yaml"

// Limit bounds the descriptor, and each file that it names, in bytes. The API would take nothing larger.
const Limit = 1 << 20

// Files reads the files of a repository. Paths are relative to its root, with slashes. A path that leads out of it is a
// PathEscapesRepository, whose cause says otherwise where it does; an absent file wraps fs.ErrNotExist.
type Files interface {
	ReadFile(path string, limit int64) ([]byte, error)
}

// Descriptor is what a descriptor says of its Workload, and its faults.
type Descriptor struct {
	Spec     v1alpha1.WorkloadSpec // endpoints, dependencies and the container's env and files; only without faults
	Faults   []Note                // by line
	Warnings []Note                // what has no effect, or another one than it seems; by line

	seems   string // what it seems to be that is no descriptor
	escapes bool   // whether a path leads out of the repository
}

// Note is something to tell about a line of the descriptor.
type Note struct {
	Line  int    // from 1; 0 when it is not known
	Field string // such as endpoints[0].port; empty when it is about more, or the text says it
	Text  string
}

func (n Note) String() string {
	text := n.Text
	if n.Field != "" {
		text = n.Field + ": " + text
	}
	if n.Line == 0 {
		return text
	}
	return fmt.Sprintf("line %d: %s", n.Line, text)
}

// Read reads the descriptor in a directory of a repository. Its error is about the reading, and wraps fs.ErrNotExist
// where there is no descriptor; faults are in the result.
func Read(from Files, dir string) (*Descriptor, error) { return read(from, dir, Name) }

// read is Read for any name of the file.
func read(from Files, dir, name string) (*Descriptor, error) {
	raw, err := from.ReadFile(path.Join(dir, name), Limit)
	if err != nil {
		return nil, err
	}
	values, o := parse(raw)
	if what := o.seems(); what != "" {
		text := quoted(
			"seems to be %s, not a workload descriptor: it has %s at its top", what, strings.Join(o.foreign, ", "),
		)
		return &Descriptor{Faults: []Note{{Line: o.line(""), Text: text}}, seems: what}, nil
	}
	l := &loader{files: from, dir: dir, outline: o}
	d := new(Descriptor)
	d.Spec.Endpoints = l.endpoints(values.Endpoints)
	d.Spec.Dependencies = l.dependencies(values.Dependencies)
	d.Spec.Container.Env = l.env(values.Configurations.Env)
	d.Spec.Container.Files = l.mounts(values.Configurations.Files)
	if l.failed != nil {
		return nil, l.failed
	}
	byLine := func(a, b Note) int { return cmp.Compare(a.Line, b.Line) }
	slices.SortStableFunc(o.warnings, byLine)
	slices.SortStableFunc(o.faults, byLine)
	d.Faults, d.Warnings, d.escapes = o.faults, o.warnings, l.escaped
	return d, nil
}

// Foreign tells whether it seems to be something else than a descriptor.
func (d *Descriptor) Foreign() bool { return d.seems != "" }

// Err lists every fault with its line; nil when there is none. name is the descriptor's file for people.
func (d *Descriptor) Err(name string) error {
	reason := outcome.DescriptorInvalid
	switch {
	case d.seems != "":
		return outcome.Errorf(reason, "%s %s", name, d.Faults[0].Text).WithHint(
			"A descriptor has endpoints and configurations.env as lists, and dependencies, directly at its top, " +
				"without spec; owner and image come from the pipeline. Without a descriptor only the image is changed.",
		)
	case d.escapes:
		reason = outcome.PathEscapesRepository
	}
	switch len(d.Faults) {
	case 0:
		return nil
	case 1:
		return outcome.Errorf(reason, "%s, %s", name, d.Faults[0])
	}
	var list strings.Builder
	for _, f := range d.Faults {
		fmt.Fprintf(&list, "\n  - %s", f)
	}
	return outcome.Errorf(reason, "%s: %d faults:%s", name, len(d.Faults), list.String())
}

// content is what a descriptor may hold. Its json tags are the keys; no omitempty, as it is only read.
type content struct {
	APIVersion     string         `json:"apiVersion"`
	Metadata       metadata       `json:"metadata"`
	Endpoints      []endpoint     `json:"endpoints"`
	Dependencies   dependencies   `json:"dependencies"`
	Configurations configurations `json:"configurations"`
}

// metadata is accepted and has no effect: a Workload is named after its component.
type metadata struct {
	Name string `json:"name"`
}

type endpoint struct {
	Name        string   `json:"name"`
	DisplayName string   `json:"displayName"`
	Port        int32    `json:"port"`
	TargetPort  int32    `json:"targetPort"`
	Type        string   `json:"type"`
	BasePath    string   `json:"basePath"`
	SchemaFile  string   `json:"schemaFile"`
	Visibility  []string `json:"visibility"`
}

type dependencies struct {
	Endpoints []endpointDependency `json:"endpoints"`
	Resources []resourceDependency `json:"resources"`
}

type endpointDependency struct {
	Project     string              `json:"project"`
	Component   string              `json:"component"`
	Name        string              `json:"name"`
	Visibility  string              `json:"visibility"`
	EnvBindings endpointEnvBindings `json:"envBindings"`
}

type endpointEnvBindings struct {
	Address  string `json:"address"`
	Host     string `json:"host"`
	Port     string `json:"port"`
	BasePath string `json:"basePath"`
}

type resourceDependency struct {
	Ref          string            `json:"ref"`
	EnvBindings  map[string]string `json:"envBindings"`
	FileBindings map[string]string `json:"fileBindings"`
}

type configurations struct {
	Env   []variable `json:"env"`
	Files []file     `json:"files"`
}

type variable struct {
	Name      string  `json:"name"`
	Value     string  `json:"value"`
	ValueFrom *origin `json:"valueFrom"`
}

type file struct {
	Name      string  `json:"name"`
	MountPath string  `json:"mountPath"`
	Value     string  `json:"value"`
	ValueFrom *origin `json:"valueFrom"`
}

// origin is where a value comes from that the descriptor does not hold itself.
type origin struct {
	SecretKeyRef *secretKeyRef `json:"secretKeyRef"`
	Path         string        `json:"path"` // of files only
}

type secretKeyRef struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

var syntaxLine = regexp.MustCompile(`(?s)^line (\d+): (.*)$`)

// parse reads a descriptor. Its faults are in the outline; the descriptor holds the values that could be
// read.
func parse(raw []byte) (content, *outline) {
	var d content
	err := yaml.Unmarshal(raw, &d)
	if _, shape := errors.AsType[*json.UnmarshalTypeError](err); err != nil && !shape {
		o := &outline{broken: map[string]bool{}}
		// The parser has no better form for the line.
		text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: yaml: ")
		fault := Note{Text: text}
		if found := syntaxLine.FindStringSubmatch(text); found != nil {
			line, _ := strconv.Atoi(found[1])
			fault.Line = yamlline.Of(raw).Line(line)
			fault.Text = found[2]
		}
		o.faults = append(o.faults, fault)
		return d, o
	}
	o := newOutline(raw, reflect.TypeFor[content]())
	if err != nil && len(o.faults) == 0 {
		o.fault("", "%s", err)
	}
	return d, o
}

// seems tells what a text seems to be that is no descriptor, empty when it may be one. The reference ignores each key
// that it does not know; but where nothing else is said, the Workload would lose all it has.
func (o *outline) seems() string {
	kind, version := o.top["kind"], o.top["apiVersion"]
	has := func(key string) bool { _, there := o.top[key]; return there }
	resource := slices.Contains(o.foreign, "spec")
	if !resource && (len(o.foreign) == 0 || has("endpoints") || has("dependencies") || has("configurations")) {
		return ""
	}
	switch {
	case kind == "Workload":
		return "a Workload custom resource"
	case kind != "" && version != "":
		return fmt.Sprintf("a Kubernetes object, %s of %s", kind, version)
	case has("services"):
		return "a Compose file"
	case has("openapi") || has("swagger"):
		return "an API definition"
	case version != "" && !strings.HasPrefix(version, "openchoreo.dev/"):
		return "a file of " + version
	}
	return "a file of another tool"
}
