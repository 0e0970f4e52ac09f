package workload

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// descriptorName is the descriptor's file in the application's directory.
const descriptorName = "workload.yaml"

// descriptorLimit bounds the descriptor, and each file that it names, in bytes. Nothing larger could be sent, see
// bodyLimit.
const descriptorLimit = 1 << 20

// mostDependencies and mostBindings are limits of the Workload's CRD.
const (
	mostDependencies = 50
	mostBindings     = 50
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

// reader is how a descriptor and the files that it names are read. Paths that lead out of the repository are a
// PathEscapesRepository, and absent ones wrap fs.ErrNotExist.
type reader interface {
	ReadFile(path string, limit int64) ([]byte, error)
	IsFolder(path string) (bool, error)
}

// folder is the repository in a folder, which is believed.
type folder string

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
	l := &loader{reader: from, dir: strings.TrimLeft(appPath, "/")}
	name := path.Join(l.dir, descriptorName)
	raw, err := from.ReadFile(name, descriptorLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return &Manifest{Workload: bare(target)}, nil
	}
	if err != nil {
		return nil, descriptorError(name, err)
	}

	d, o := parse(raw)
	if what := o.seems(); what != "" {
		return nil, outcome.Errorf(
			outcome.DescriptorInvalid, "%s seems to be %s, not a workload descriptor: it has %s at its top", name,
			what, quote.Line(strings.Join(o.foreign, ", "), noteLimit),
		).WithHint("A descriptor has endpoints and configurations.env as lists, and dependencies, directly at its " +
			"top, without spec; owner and image come from the pipeline. Without a descriptor only the image is " +
			"changed.")
	}
	l.outline = o
	m := &Manifest{Workload: bare(target), FromSource: true}
	spec := &m.Workload.Spec
	spec.Endpoints = l.endpoints(d.Endpoints)
	spec.Dependencies = l.dependencies(d.Dependencies)
	spec.Container.Env = l.env(d.Configurations.Env)
	spec.Container.Files = l.files(d.Configurations.Files)

	if l.changed != nil {
		return nil, l.changed
	}

	byLine := func(a, b note) int { return cmp.Compare(a.line, b.line) }
	slices.SortStableFunc(o.warnings, byLine)
	for _, w := range o.warnings {
		m.Warnings = append(m.Warnings, name+", "+w.String())
	}
	slices.SortStableFunc(o.faults, byLine)
	switch reason := l.reason(); len(o.faults) {
	case 0:
		return m, nil
	case 1:
		return nil, outcome.Errorf(reason, "%s, %s", name, o.faults[0])
	default:
		var list strings.Builder
		for _, f := range o.faults {
			fmt.Fprintf(&list, "\n  - %s", f)
		}
		return nil, outcome.Errorf(reason, "%s: %d faults:%s", name, len(o.faults), list.String())
	}
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

// loader turns a descriptor into the parts of a Workload's spec. What it finds wrong goes into the outline.
type loader struct {
	reader
	dir string // of the descriptor, in there
	*outline
	escaped bool  // whether a path leads out of the repository
	changed error // the first file that is not what was checked out
	inlined int   // bytes of files that are part of the Workload
}

func (l *loader) reason() outcome.Reason {
	if l.escaped {
		return outcome.PathEscapesRepository
	}
	return outcome.DescriptorInvalid
}

var endpointTypes = []v1alpha1.EndpointType{
	v1alpha1.EndpointTypeHTTP, v1alpha1.EndpointTypeGRPC, v1alpha1.EndpointTypeGraphQL,
	v1alpha1.EndpointTypeWebsocket, v1alpha1.EndpointTypeTCP, v1alpha1.EndpointTypeUDP,
}

// schemaTypes are the formats of API definitions, for those endpoint types that have one.
var schemaTypes = map[v1alpha1.EndpointType]string{
	v1alpha1.EndpointTypeHTTP: "openapi", v1alpha1.EndpointTypeGRPC: "proto", v1alpha1.EndpointTypeGraphQL: "graphql",
}

var (
	endpointVisibilities = []v1alpha1.EndpointVisibility{
		v1alpha1.EndpointVisibilityProject, v1alpha1.EndpointVisibilityNamespace,
		v1alpha1.EndpointVisibilityInternal, v1alpha1.EndpointVisibilityExternal,
	}
	dependencyVisibilities = endpointVisibilities[:2]
)

// nameLimit is how long the name of an endpoint is at most, in bytes, as other names of Kubernetes.
const nameLimit = 253

func (l *loader) endpoints(list []endpoint) map[string]v1alpha1.WorkloadEndpoint {
	if len(list) == 0 {
		return nil
	}
	made := map[string]v1alpha1.WorkloadEndpoint{}
	for i, e := range list {
		at := fmt.Sprintf("endpoints[%d]", i)
		if l.required(at+".name", e.Name) {
			if _, twice := made[e.Name]; twice {
				l.fault(at+".name", "there is an endpoint %q already", e.Name)
			}
			if quote.Line(e.Name, nameLimit) != e.Name {
				l.fault(at+".name", "must be at most %d visible characters; is %q", nameLimit,
					quote.Line(e.Name, nameLimit))
			}
		}
		w := v1alpha1.WorkloadEndpoint{
			DisplayName: e.DisplayName, Port: e.Port, TargetPort: e.TargetPort, BasePath: e.BasePath,
			Type: v1alpha1.EndpointType(e.Type),
		}
		if _, given := l.lines[at+".port"]; !given && e.Port == 0 {
			l.fault(at+".port", "is required")
		}
		l.port(at+".port", e.Port)
		if e.TargetPort != 0 {
			l.port(at+".targetPort", e.TargetPort)
		}
		if l.required(at+".type", e.Type) {
			oneOf(l, at+".type", w.Type, endpointTypes)
		}
		for j, v := range e.Visibility {
			visibility := v1alpha1.EndpointVisibility(v)
			here := fmt.Sprintf("%s.visibility[%d]", at, j)
			oneOf(l, here, visibility, endpointVisibilities)
			if slices.Contains(w.Visibility, visibility) {
				l.fault(here, "%q is listed twice", v)
			}
			w.Visibility = append(w.Visibility, visibility)
		}
		if e.SchemaFile != "" {
			w.Schema = &v1alpha1.Schema{Type: schemaTypes[w.Type], Content: l.read(at+".schemaFile", e.SchemaFile)}
		}
		made[e.Name] = w
	}
	return made
}

func (l *loader) dependencies(d dependencies) *v1alpha1.WorkloadDependencies {
	if len(d.Endpoints) == 0 && len(d.Resources) == 0 {
		return nil
	}
	made := &v1alpha1.WorkloadDependencies{}
	l.atMost("dependencies.endpoints", len(d.Endpoints), mostDependencies)
	for i, e := range d.Endpoints {
		at := fmt.Sprintf("dependencies.endpoints[%d]", i)
		l.required(at+".component", e.Component)
		l.required(at+".name", e.Name)
		if l.required(at+".visibility", e.Visibility) {
			oneOf(l, at+".visibility", v1alpha1.EndpointVisibility(e.Visibility), dependencyVisibilities)
		}
		made.Endpoints = append(made.Endpoints, v1alpha1.WorkloadConnection{
			Project: e.Project, Component: e.Component, Name: e.Name, Visibility: e.Visibility,
			EnvBindings: v1alpha1.ConnectionEnvBindings(e.EnvBindings),
		})
	}
	l.atMost("dependencies.resources", len(d.Resources), mostDependencies)
	refs := map[string]bool{}
	for i, r := range d.Resources {
		at := fmt.Sprintf("dependencies.resources[%d]", i)
		if l.required(at+".ref", r.Ref) && refs[r.Ref] {
			l.fault(at+".ref", "there is a dependency on %q already", r.Ref)
		}
		refs[r.Ref] = true
		l.bindings(at+".envBindings", r.EnvBindings)
		l.bindings(at+".fileBindings", r.FileBindings)
		made.Resources = append(made.Resources, v1alpha1.WorkloadResourceDependency(r))
	}
	return made
}

func (l *loader) bindings(at string, bindings map[string]string) {
	l.atMost(at, len(bindings), mostBindings)
	for output, name := range bindings {
		if output == "" || name == "" {
			l.fault(at, "names must not be empty; there is %q: %q", output, name)
		}
	}
}

func (l *loader) env(list []variable) []v1alpha1.EnvVar {
	var made []v1alpha1.EnvVar
	for i, v := range list {
		at := fmt.Sprintf("configurations.env[%d]", i)
		l.required(at+".name", v.Name)
		w := v1alpha1.EnvVar{Key: v.Name}
		if w.ValueFrom = l.secret(at, v.Value, v.ValueFrom); w.ValueFrom == nil {
			w.Value = v.Value
			if v.ValueFrom != nil && v.ValueFrom.Path != "" {
				l.warn(at+".valueFrom.path", "has no effect on a variable, only on a file")
			}
			l.valued(at)
		}
		made = append(made, w)
	}
	return made
}

func (l *loader) files(list []file) []v1alpha1.FileVar {
	var made []v1alpha1.FileVar
	for i, f := range list {
		at := fmt.Sprintf("configurations.files[%d]", i)
		l.required(at+".name", f.Name)
		l.required(at+".mountPath", f.MountPath)
		w := v1alpha1.FileVar{Key: f.Name, MountPath: f.MountPath}
		if w.ValueFrom = l.secret(at, f.Value, f.ValueFrom); w.ValueFrom == nil {
			w.Value = f.Value
			if f.ValueFrom != nil && f.ValueFrom.Path != "" {
				l.outranked(at, f.Value, "path")
				w.Value = l.read(at+".valueFrom.path", f.ValueFrom.Path)
			} else {
				l.valued(at)
			}
		}
		made = append(made, w)
	}
	return made
}

// secret is the reference that a value comes from; nil when it does not come from a secret. It wins over everything
// else.
func (l *loader) secret(at, value string, from *origin) *v1alpha1.EnvVarValueFrom {
	if from == nil || from.SecretKeyRef == nil {
		return nil
	}
	at += ".valueFrom.secretKeyRef"
	l.required(at+".name", from.SecretKeyRef.Name)
	l.required(at+".key", from.SecretKeyRef.Key)
	l.outranked(strings.TrimSuffix(at, ".valueFrom.secretKeyRef"), value, "secretKeyRef")
	if from.Path != "" {
		l.warn(strings.TrimSuffix(at, "secretKeyRef")+"path", "is ignored: secretKeyRef wins over it")
	}
	ref := v1alpha1.SecretKeyRef(*from.SecretKeyRef)
	return &v1alpha1.EnvVarValueFrom{SecretKeyRef: &ref}
}

func (l *loader) outranked(at, value, by string) {
	if value != "" {
		l.warn(at+".value", "is ignored: valueFrom.%s wins over it", by)
	}
}

// valued warns of a variable or file that says nothing about its value: it will be empty. The API accepts that, and so
// does the reference.
func (l *loader) valued(at string) {
	if _, given := l.lines[at+".value"]; !given && len(l.lines) > 0 {
		l.warn(at, "has neither a value nor a valueFrom that counts, and will be empty")
	}
}

func (l *loader) required(at, value string) bool {
	if value == "" {
		l.fault(at, "is required")
	}
	return value != ""
}

func (l *loader) port(at string, port int32) {
	if port < 1 || port > 65535 {
		l.fault(at, "must be a port, from 1 to 65535; is %d", port)
	}
}

func (l *loader) atMost(at string, n, limit int) {
	if n > limit {
		l.fault(at, "has %d entries; at most %d are allowed", n, limit)
	}
}

func oneOf[T ~string](l *loader, at string, value T, allowed []T) {
	if slices.Contains(allowed, value) {
		return
	}
	texts := make([]string, len(allowed))
	for i, a := range allowed {
		texts[i] = string(a)
	}
	l.fault(at, "must be one of %s; is %q", strings.Join(texts, ", "), string(value))
}

// inlinedLimit bounds what is read of all files together, in bytes: a descriptor can name the same large file many
// times.
const inlinedLimit = 4 * bodyLimit

// read returns the text of a file that the descriptor names, relative to its own directory.
func (l *loader) read(at, name string) string {
	if l.inlined > inlinedLimit {
		return "" // it is told already that this is too much
	}
	raw, err := l.ReadFile(path.Join(l.dir, name), descriptorLimit)
	failure := outcome.Of(err)
	switch {
	case failure != nil && failure.Reason == outcome.PathEscapesRepository:
		l.escaped = true
		if errors.Is(err, workspace.ErrGit) {
			l.fault(at, "%q %v", name, workspace.ErrGit)
		} else {
			l.fault(at, "%q leads out of the repository", name)
		}
	case failure != nil && failure.Reason == outcome.SourceChanged:
		l.changed = err
	case errors.Is(err, fs.ErrNotExist):
		l.fault(at, "there is no file %q; paths are relative to %s", name, descriptorName)
	case err != nil:
		l.fault(at, "%v", err)
	case !utf8.Valid(raw):
		l.fault(at, "%q is not a UTF-8 text", name)
	}
	if l.inlined += len(raw); l.inlined > inlinedLimit {
		l.fault(
			at, "the files up to this one have more than %d bytes; OpenChoreo takes at most %d in all", inlinedLimit,
			bodyLimit,
		)
	}
	return string(raw)
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
