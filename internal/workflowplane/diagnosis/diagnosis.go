// Package diagnosis finds what a cluster lacks before its first run fails by it: kinds, templates, secrets, rights,
// room and nodes. It reads, and asks what may be done; it changes nothing.
package diagnosis

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// State is how something is.
type State string

// The states, the worst last.
const (
	OK      State = "ok"
	Unknown State = "unknown" // it cannot be seen
	Warning State = "warning" // runs work, but not as well as they could
	Problem State = "problem" // runs fail
)

// Finding is one thing that was looked at.
type Finding struct {
	Check string `json:"check"` // a short name, such as secret-store
	State State  `json:"state"`
	Where string `json:"where"`          // the object, such as ClusterSecretStore default
	What  string `json:"what"`           // how it is
	Mend  string `json:"mend,omitempty"` // what to do about it; of a Problem and a Warning
}

// Cluster is the cluster that is looked at. Errors are of *outcome.Error, NotFound where there is no such object or
// kind, and Forbidden where the user may not see it.
type Cluster interface {
	// Read reads the object or list at a path of the API server. what names it for errors.
	Read(ctx context.Context, what, path string, query url.Values, into any) error

	// Allowed asks whether somebody may do something. The user is empty for the user of the kubeconfig.
	Allowed(ctx context.Context, user string, what Access) (bool, error)
}

// Access is something that a user may do or not.
type Access struct{ Namespace, Verb, Group, Resource, Subresource string }

// Template is an object of the templates that should be installed.
type Template struct {
	Kind, Name, Version string
	Spec                any // as JSON has it; nil: any will do, as long as the version is right
}

// Plane is one of the two clusters of OpenChoreo, which may be the same one.
type Plane string

// The planes.
const (
	WorkflowPlane Plane = "workflow"
	ControlPlane  Plane = "control"
)

// Of looks at a cluster, and at the runs of one namespace of OpenChoreo; empty for all. The planes are those that the
// cluster should be; none: those that it is, by what is installed. The error says that the cluster cannot be asked at
// all.
func Of(ctx context.Context, cluster Cluster, templates []Template, namespace string, planes ...Plane) (
	[]Finding, error,
) {
	e := &examination{cluster: cluster, templates: templates, namespace: namespace}
	if err := e.version(ctx); err != nil {
		return nil, err
	}
	e.kinds(ctx, planes)
	if slices.Contains(e.planes, WorkflowPlane) {
		e.argo(ctx)
		e.installed(
			ctx, "clusterworkflowtemplates", "argoproj.io/v1alpha1", "ClusterWorkflowTemplate", "workflow-plane",
		)
		e.stores(ctx)
		e.namespaces(ctx)
		e.storage(ctx)
		e.nodes(ctx)
	}
	if slices.Contains(e.planes, ControlPlane) {
		e.installed(ctx, "clusterworkflows", "openchoreo.dev/v1alpha1", "ClusterWorkflow", "control-plane")
		e.workflowPlanes(ctx)
		e.componentTypes(ctx)
	}
	return e.findings, ctx.Err()
}

// Worst is the worst state of all.
func Worst(findings []Finding) State {
	worst := OK
	for _, f := range findings {
		if order := []State{OK, Unknown, Warning, Problem}; slices.Index(order, f.State) > slices.Index(order, worst) {
			worst = f.State
		}
	}
	return worst
}

// examination is one look at a cluster.
type examination struct {
	cluster   Cluster
	templates []Template
	namespace string

	planes   []Plane
	findings []Finding
}

func (e *examination) ok(check, where, format string, args ...any) {
	e.findings = append(e.findings, Finding{check, OK, where, fmt.Sprintf(format, args...), ""})
}

func (e *examination) warning(check, where, what, mend string) {
	e.findings = append(e.findings, Finding{check, Warning, where, what, mend})
}

func (e *examination) problem(check, where, what, mend string) {
	e.findings = append(e.findings, Finding{check, Problem, where, what, mend})
}

// unseen is the finding of an error; none for nil. It tells whether there was one.
func (e *examination) unseen(check, where string, err error) bool {
	if err == nil {
		return false
	}
	mend := ""
	if failed, ok := errors.AsType[*outcome.Error](err); ok && failed.Reason == outcome.Forbidden {
		mend = "Use a kubeconfig whose user may read it; cluster-admin may."
	}
	e.findings = append(e.findings, Finding{check, Unknown, where, err.Error(), mend})
	return true
}

func missing(err error) bool {
	failed, ok := errors.AsType[*outcome.Error](err)
	return ok && failed.Reason == outcome.NotFound
}

// list reads a list of a resource, of one namespace or of all.
func list[T any](ctx context.Context, e *examination, version, resource, namespace string) ([]T, error) {
	path := "/apis/" + version
	if !strings.Contains(version, "/") {
		path = "/api/" + version
	}
	if namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	var found struct {
		Items []T `json:"items"`
	}
	err := e.cluster.Read(ctx, resource, path+"/"+resource, nil, &found)
	return found.Items, err
}
