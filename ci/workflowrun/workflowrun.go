// Package workflowrun reads a WorkflowRun and its Component from files and checks them as far as that is possible without a cluster.
package workflowrun

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
)

// Labels that tie a WorkflowRun to its component (contract section 2).
const (
	ProjectLabel   = "openchoreo.dev/project"
	ComponentLabel = "openchoreo.dev/component"
)

// builder is the one ClusterWorkflow there is so far.
const builder = "dockerfile-builder"

// Run is a WorkflowRun that passed every check, with what belongs to it.
type Run struct {
	*v1alpha1.WorkflowRun
	Component  *v1alpha1.Component // nil when no file holds it
	Parameters map[string]any      // with the defaults of the workflow's schema
}

// Project and ComponentName are what the run's labels say.
func (r *Run) Project() string { return r.Labels[ProjectLabel] }

// ComponentName is the component that the run builds.
func (r *Run) ComponentName() string { return r.Labels[ComponentLabel] }

// Text returns a parameter as a step takes it: the path leads through nested objects; text is bare, everything else JSON.
func (r *Run) Text(path ...string) string {
	var value any = r.Parameters
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return schemas.Text(value)
}

// InvalidError lists all that is wrong with the files.
type InvalidError struct {
	Faults []string
}

func (e *InvalidError) Error() string {
	if len(e.Faults) == 1 {
		return e.Faults[0]
	}
	return fmt.Sprintf("%d faults:\n  - %s", len(e.Faults), strings.Join(e.Faults, "\n  - "))
}

// Load reads files, and the YAML files directly in folders, and returns the WorkflowRun of that name; name may be empty when they hold only
// one. Every fault found is in the *InvalidError.
func Load(name string, paths ...string) (*Run, error) {
	var set objects
	if err := set.read(paths); err != nil {
		return nil, err
	}
	if len(set.faults) > 0 {
		return nil, &InvalidError{set.faults}
	}
	run, err := set.pick(name, paths)
	if err != nil {
		return nil, err
	}
	if run.Namespace == "" {
		run.Namespace = metav1.NamespaceDefault
	}
	for _, c := range set.components {
		if c.Namespace == "" {
			c.Namespace = metav1.NamespaceDefault
		}
		if c.Name == run.ComponentName() && c.Namespace == run.Namespace {
			run.Component = c
		}
	}
	if faults := run.check(); len(faults) > 0 {
		return nil, &InvalidError{faults}
	}
	return run, nil
}

// check lists what OpenChoreo would refuse, and what a step would.
func (r *Run) check() []string {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, label := range []string{ProjectLabel, ComponentLabel} {
		if r.Labels[label] == "" {
			fault("metadata.labels: %s is required", label)
		}
	}
	w := r.Spec.Workflow
	if kind := string(w.Kind); kind != "" && kind != "ClusterWorkflow" || w.Name != builder {
		fault("spec.workflow: %s %q cannot be run here; there is ClusterWorkflow %q", w.Kind, w.Name, builder)
	}
	if c := r.Component; c != nil {
		if owner := c.Spec.Owner.ProjectName; owner != r.Project() {
			fault("metadata.labels: %s is %q, but component %q belongs to project %q", ProjectLabel, r.Project(), c.Name, owner)
		}
		if cw := c.Spec.Workflow; cw != nil && cw.Name != w.Name {
			fault("spec.workflow: %q is not the workflow of component %q, which is %q", w.Name, c.Name, cw.Name)
		}
	}
	given := map[string]any{}
	if w.Parameters != nil {
		dec := json.NewDecoder(bytes.NewReader(w.Parameters.Raw))
		dec.UseNumber()
		if err := dec.Decode(&given); err != nil {
			fault("spec.workflow.parameters: %v", err)
		}
	}
	schema := schemas.MustLoad(builder)
	schema.Soften(given)
	r.Parameters = schema.WithDefaults(given)
	for _, f := range schema.Validate(r.Parameters) {
		fault("spec.workflow.parameters.%s", f)
	}
	return faults
}

// objects are what the files hold.
type objects struct {
	runs       []*v1alpha1.WorkflowRun
	components []*v1alpha1.Component
	faults     []string
}

func (o *objects) pick(name string, paths []string) (*Run, error) {
	var names []string
	for _, r := range o.runs {
		names = append(names, r.Name)
	}
	switch {
	case len(o.runs) == 0:
		return nil, &InvalidError{[]string{fmt.Sprintf("there is no WorkflowRun in %s", strings.Join(paths, ", "))}}
	case name == "" && len(o.runs) > 1:
		return nil, &InvalidError{[]string{fmt.Sprintf("there are several WorkflowRuns; choose one of %s with --name", strings.Join(names, ", "))}}
	case name == "":
		return &Run{WorkflowRun: o.runs[0]}, nil
	}
	i := slices.Index(names, name)
	if i < 0 {
		return nil, &InvalidError{[]string{fmt.Sprintf("there is no WorkflowRun %q; there is %s", name, strings.Join(names, ", "))}}
	}
	return &Run{WorkflowRun: o.runs[i]}, nil
}

func (o *objects) read(paths []string) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		files := []string{path}
		if info.IsDir() {
			if files, err = yamlFiles(path); err != nil {
				return err
			}
		}
		for _, file := range files {
			if err := o.readFile(file, !info.IsDir()); err != nil {
				return err
			}
		}
	}
	return nil
}

func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.Type().IsRegular() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: %w: no YAML file in this folder", dir, fs.ErrNotExist)
	}
	return files, nil
}

// readFile takes the documents of OpenChoreo's kinds. In a folder others are passed over: it also holds workload descriptors and schemas.
func (o *objects) readFile(path string, named bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	documents := utilyaml.NewYAMLReader(bufio.NewReader(f))
	for {
		raw, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(raw, &kind); err != nil {
			if named {
				o.faults = append(o.faults, fmt.Sprintf("%s: %v", path, err))
			}
			continue
		}
		if kind.APIVersion != v1alpha1.GroupVersion.String() {
			continue
		}
		switch kind.Kind {
		case "WorkflowRun":
			o.runs = append(o.runs, decode[v1alpha1.WorkflowRun](o, path, raw))
		case "Component":
			o.components = append(o.components, decode[v1alpha1.Component](o, path, raw))
		}
	}
}

func decode[T any](o *objects, path string, raw []byte) *T {
	object := new(T)
	asJSON, err := yaml.YAMLToJSONStrict(raw) // refuses a key that stands twice
	var unknown []error
	if err == nil {
		unknown, err = kjson.UnmarshalStrict(asJSON, object)
	}
	for _, fault := range append(unknown, err) {
		if fault != nil {
			o.faults = append(o.faults, fmt.Sprintf("%s: %v", path, fault))
		}
	}
	return object
}
