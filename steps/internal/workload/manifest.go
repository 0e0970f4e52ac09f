package workload

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Target is whose Workload is made, and what it runs.
type Target struct {
	Namespace, Project, Component, Image string
	Name                                 string // of a new Workload; empty: <component>-workload
}

// Manifest is a component's Workload as its source asks for it.
type Manifest struct {
	Workload   v1alpha1.Workload
	FromSource bool     // whether there is a descriptor; without one only the image is known
	Warnings   []string // what in the descriptor has no effect, or another one than it seems
}

// Load makes a component's Workload from the descriptor in the directory appPath of the repository in the directory
// root. The error lists every fault with its line.
func Load(root, appPath string, target Target) (*Manifest, error) {
	return load(folder(root), root, appPath, target)
}

// reader is how a descriptor and the files that it names are read.
type reader interface {
	descriptor.Files
	IsFolder(path string) (bool, error)
}

// folder is the repository in a folder, which is believed.
type folder string

// ReadFile implements descriptor.Files.
func (f folder) ReadFile(path string, limit int64) ([]byte, error) {
	return workspace.ReadFile(string(f), path, limit)
}

func (f folder) IsFolder(path string) (bool, error) {
	real, err := workspace.Resolve(string(f), path)
	if err != nil {
		return false, err
	}
	info, err := os.Stat(real)
	return err == nil && info.IsDir(), err
}

// load is Load for any repository; root is its folder, for messages.
func load(from reader, root, appPath string, target Target) (*Manifest, error) {
	if err := checkDirectory(from, root, appPath); err != nil {
		return nil, err
	}
	// The leading slash goes first: it would swallow the dots of a path that leads out.
	dir := strings.TrimLeft(appPath, "/")
	name := path.Join(dir, descriptor.Name)
	d, err := descriptor.Read(from, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return &Manifest{Workload: bare(target)}, nil
	}
	if err != nil {
		return nil, descriptorError(name, err)
	}
	if err := d.Err(name); err != nil {
		return nil, err
	}
	m := &Manifest{Workload: bare(target), FromSource: true}
	spec := &m.Workload.Spec
	spec.Endpoints, spec.Dependencies = d.Spec.Endpoints, d.Spec.Dependencies
	spec.Container.Env, spec.Container.Files = d.Spec.Container.Env, d.Spec.Container.Files
	for _, w := range d.Warnings {
		m.Warnings = append(m.Warnings, name+", "+w.String())
	}
	return m, nil
}

func checkDirectory(from reader, root, appPath string) error {
	is, err := from.IsFolder(appPath)
	if err == nil && !is {
		return outcome.Errorf(
			outcome.InvalidParameters, "app-path: %q is not a directory%s", appPath, directories(root),
		)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return outcome.Errorf(
			outcome.InvalidParameters, "app-path: there is no %q in %s%s", appPath, root, directories(root),
		)
	}
	return err
}

// directories names some that could have been meant.
func directories(root string) string {
	entries, err := os.ReadDir(root)
	if err != nil {
		return ""
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	switch {
	case len(names) == 0:
		return "; it has no directories"
	case len(names) > 10:
		names = append(names[:10], "…")
	}
	return "; there are " + strings.Join(names, ", ")
}

// bare is the Workload of a component that says nothing about itself.
func bare(target Target) v1alpha1.Workload {
	var w v1alpha1.Workload
	w.APIVersion, w.Kind = v1alpha1.GroupVersion.String(), "Workload"
	w.Name, w.Namespace = cmp.Or(target.Name, target.Component+"-workload"), target.Namespace
	w.Spec.Owner = v1alpha1.WorkloadOwner{ProjectName: target.Project, ComponentName: target.Component}
	w.Spec.Container.Image = target.Image
	return w
}

func descriptorError(name string, err error) error {
	if failure := outcome.Of(err); failure.Reason != outcome.Failed {
		return err
	}
	return outcome.Errorf(outcome.DescriptorInvalid, "%s: %w", name, err)
}

// body is what the API takes: a Workload without apiVersion and kind. The type's own JSON would carry an empty status,
// too.
type body struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec v1alpha1.WorkloadSpec `json:"spec"`
}

func (m *Manifest) body() body {
	b := body{Spec: m.Workload.Spec}
	b.Metadata.Name, b.Metadata.Namespace = m.Workload.Name, m.Workload.Namespace
	return b
}

// Object is the request body of a POST. Encoded, it is also what the WorkflowRun's annotation holds.
func (m *Manifest) Object() (openchoreo.Object, error) {
	raw, err := json.Marshal(m.body())
	if err != nil {
		return nil, err
	}
	return openchoreo.Decode(raw)
}

// YAML is the complete custom resource.
func (m *Manifest) YAML() ([]byte, error) {
	b := m.body()
	b.APIVersion, b.Kind = m.Workload.APIVersion, m.Workload.Kind
	return yaml.Marshal(b)
}
