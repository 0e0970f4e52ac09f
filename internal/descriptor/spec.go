package descriptor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// mostDependencies and mostBindings are limits of the Workload's CRD.
const (
	mostDependencies = 50
	mostBindings     = 50
)

// loader turns a descriptor into the parts of a Workload's spec. What it finds wrong goes into the outline.
type loader struct {
	files Files
	dir   string // of the descriptor, in there
	*outline
	escaped bool  // whether a path leads out of the repository
	failed  error // of the files, for another reason than one that the descriptor is to blame for
	inlined int   // bytes of files that are part of the Workload
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
			if shown := quote.Line(e.Name, nameLimit); shown != e.Name {
				l.fault(at+".name", "must be at most %d visible characters; is %q", nameLimit, shown)
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

func (l *loader) mounts(list []file) []v1alpha1.FileVar {
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

// inlinedLimit bounds the files that are read, all together, in bytes: a descriptor can name the same large file many
// times. It is four times as much as OpenChoreo's API takes.
const inlinedLimit = 6_000_000

// read returns the text of a file that the descriptor names, relative to its own directory.
func (l *loader) read(at, name string) string {
	if l.inlined > inlinedLimit {
		return "" // it is told already that this is too much
	}
	raw, err := l.files.ReadFile(path.Join(l.dir, name), Limit)
	failure := outcome.Of(err)
	switch {
	case err == nil && !utf8.Valid(raw):
		l.fault(at, "%q is not a UTF-8 text", name)
	case err == nil:
	case failure.Reason == outcome.PathEscapesRepository && failure.Cause != nil:
		l.escaped = true
		l.fault(at, "%q %v", name, failure.Cause)
	case failure.Reason == outcome.PathEscapesRepository:
		l.escaped = true
		l.fault(at, "%q leads out of the repository", name)
	case errors.Is(err, fs.ErrNotExist):
		l.fault(at, "there is no file %q; paths are relative to %s", name, Name)
	case failure.Reason != outcome.Failed:
		l.failed = cmp.Or(l.failed, err)
	default:
		l.fault(at, "%v", err)
	}
	if l.inlined += len(raw); l.inlined > inlinedLimit {
		l.fault(at, "the files up to this one have more than %d bytes, which no Workload can hold", inlinedLimit)
	}
	return string(raw)
}
