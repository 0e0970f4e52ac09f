package diagnosis

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
)

// oldestKubernetes is the minor version of Kubernetes 1 that Argo 3.6 and later are made for.
const oldestKubernetes = 29

func (e *examination) version(ctx context.Context) error {
	var info version.Info
	if err := e.cluster.Read(ctx, "version", "/version", nil, &info); err != nil {
		return err
	}
	minor, err := strconv.Atoi(strings.TrimRight(info.Minor, "+"))
	if err != nil || info.Major == "1" && minor < oldestKubernetes {
		e.problem("kubernetes", "API server", "is Kubernetes "+info.GitVersion,
			fmt.Sprintf("Upgrade the cluster: the templates are for Kubernetes 1.%d and later.", oldestKubernetes))
		return nil
	}
	e.ok("kubernetes", "API server", "is Kubernetes %s", info.GitVersion)
	return nil
}

// needs are the kinds that a plane cannot do without.
var needs = []struct {
	plane   Plane
	version string
	kinds   []string
	mend    string
}{
	{WorkflowPlane, "argoproj.io/v1alpha1", []string{"Workflow", "ClusterWorkflowTemplate", "WorkflowTaskResult"},
		"Install Argo Workflows 3.6 or later: its manifests have the CustomResourceDefinitions."},
	{WorkflowPlane, "external-secrets.io/v1", []string{"ExternalSecret", "ClusterSecretStore"},
		"Install External Secrets 0.16 or later, the first with the API v1."},
	{ControlPlane, "openchoreo.dev/v1alpha1", []string{
		"WorkflowRun", "ClusterWorkflow", "ClusterWorkflowPlane", "Component", "SecretReference",
	}, "Install or upgrade OpenChoreo's control plane, 1.2 or later."},
}

// kinds looks which planes the cluster is, and what kinds it lacks for them.
func (e *examination) kinds(ctx context.Context, wanted []Plane) {
	type group struct {
		have []string
		err  error
	}
	found := map[string]group{}
	for _, need := range needs {
		var resources metav1.APIResourceList
		err := e.cluster.Read(ctx, "kinds of "+need.version, "/apis/"+need.version, nil, &resources)
		g := group{err: err}
		for _, r := range resources.APIResources {
			g.have = append(g.have, r.Kind)
		}
		found[need.version] = g
		if err == nil && len(wanted) == 0 && !slices.Contains(e.planes, need.plane) {
			e.planes = append(e.planes, need.plane)
		}
	}
	if len(wanted) > 0 {
		e.planes = wanted
	}
	if len(e.planes) == 0 {
		e.problem("kinds", "cluster", "has neither Argo Workflows nor OpenChoreo",
			"Choose the cluster of the WorkflowPlane or the ControlPlane by --kubeconfig or --context.")
	}
	for _, need := range needs {
		if !slices.Contains(e.planes, need.plane) {
			continue
		}
		g := found[need.version]
		if g.err != nil && !missing(g.err) {
			e.unseen("kinds", need.version, g.err)
			continue
		}
		var lacks []string
		for _, kind := range need.kinds {
			if !slices.Contains(g.have, kind) {
				lacks = append(lacks, kind)
			}
		}
		if len(lacks) > 0 {
			e.problem("kinds", need.version, "has no "+strings.Join(lacks, ", "), need.mend)
			continue
		}
		e.ok("kinds", need.version, "has %s", strings.Join(need.kinds, ", "))
	}
}

var argoVersion = regexp.MustCompile(`:v?(\d+)\.(\d+)`)

// argo looks for Argo's controller, and at its version, which its image tells.
func (e *examination) argo(ctx context.Context) {
	deployments, err := list[appsv1.Deployment](ctx, e, "apps/v1", "deployments", "")
	if e.unseen("argo", "Deployment workflow-controller", err) {
		return
	}
	seen := false
	for _, d := range deployments {
		if !strings.HasSuffix(d.Name, "workflow-controller") {
			continue
		}
		seen = true
		where := "Deployment " + d.Namespace + "/" + d.Name
		if d.Status.ReadyReplicas == 0 {
			e.problem("argo", where, "has no pod that is ready",
				"Look why: kubectl -n "+d.Namespace+" describe deployment "+d.Name+", and the logs of its pods.")
			continue
		}
		image := ""
		if containers := d.Spec.Template.Spec.Containers; len(containers) > 0 {
			image = containers[0].Image
		}
		found := argoVersion.FindStringSubmatch(image)
		if found == nil {
			e.ok("argo", where, "is ready; its image %s does not tell its version", image)
			continue
		}
		major, _ := strconv.Atoi(found[1])
		minor, _ := strconv.Atoi(found[2])
		if major < 3 || major == 3 && minor < 6 {
			e.problem("argo", where, fmt.Sprintf("is Argo %d.%d", major, minor),
				"Upgrade to Argo Workflows 3.6 or later.")
			continue
		}
		e.ok("argo", where, "is ready, Argo %d.%d", major, minor)
	}
	if seen {
		return
	}
	// It may run elsewhere, and hold its lease all the same.
	leases, err := list[coordinationv1.Lease](ctx, e, "coordination.k8s.io/v1", "leases", "")
	if e.unseen("argo", "Lease workflow-controller", err) {
		return
	}
	for _, l := range leases {
		if strings.HasPrefix(l.Name, "workflow-controller") && l.Spec.RenewTime != nil &&
			time.Since(l.Spec.RenewTime.Time) < fresh {
			e.ok("argo", "Lease "+l.Namespace+"/"+l.Name, "is held by a controller that no such Deployment runs")
			return
		}
	}
	e.problem("argo", "Deployment workflow-controller", "is in no namespace, and no controller holds its lease",
		"Install Argo Workflows: the CustomResourceDefinitions alone run nothing.")
}

// fresh is how old the renewal of a lease may be whose holder lives. Argo renews it each 10 s.
const fresh = time.Minute

const versionLabel = "app.kubernetes.io/version"

type installedObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     any               `json:"spec"`
}

// installed compares the templates of a kind with those that the cluster has.
func (e *examination) installed(ctx context.Context, resource, version, kind, folder string) {
	found, err := list[installedObject](ctx, e, version, resource, "")
	if missing(err) { // which kinds has told
		return
	}
	if e.unseen("templates", kind, err) {
		return
	}
	apply := "Apply the templates: kubectl apply -k of your overlay, or of templates/" + folder + "."
	for _, wanted := range e.templates {
		if wanted.Kind != kind {
			continue
		}
		where := kind + " " + wanted.Name
		i := slices.IndexFunc(found, func(o installedObject) bool { return o.Metadata.Name == wanted.Name })
		if i < 0 {
			e.problem("templates", where, "is not there", apply)
			continue
		}
		have := found[i]
		e.examples(where, have)
		switch has := have.Metadata.Labels[versionLabel]; {
		case has == "":
			e.warning("templates", where, "does not tell its version: it is not Stepwright's", apply)
			continue
		case wanted.Version != "" && has != wanted.Version:
			e.warning("templates", where, "is of version "+has+", and this program of "+wanted.Version,
				apply+" Or use the program of that version.")
			continue
		}
		if wanted.Spec != nil {
			if path := difference(wanted.Spec, have.Spec, "spec"); path != "" {
				e.warning("templates", where, "differs from the templates of --templates at "+path, apply)
				continue
			}
		}
		e.ok("templates", where, "is there, version %s", have.Metadata.Labels[versionLabel])
	}
}

// difference is the path of the first value that is not as wanted; empty for none. What is there besides is a default
// of the cluster's.
func difference(wanted, have any, path string) string {
	switch wanted := wanted.(type) {
	case map[string]any:
		object, ok := have.(map[string]any)
		if !ok {
			return path
		}
		keys := make([]string, 0, len(wanted))
		for key := range wanted {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			if found := difference(wanted[key], object[key], path+"."+key); found != "" {
				return found
			}
		}
	case []any:
		items, ok := have.([]any)
		if !ok || len(items) != len(wanted) {
			return path
		}
		for i := range wanted {
			if found := difference(wanted[i], items[i], fmt.Sprintf("%s[%d]", path, i)); found != "" {
				return found
			}
		}
	case nil:
	default:
		if !reflect.DeepEqual(wanted, have) && fmt.Sprint(wanted) != fmt.Sprint(have) {
			return path
		}
	}
	return ""
}

// unset finds the hosts that stand in settings for those of a platform.
var unset = regexp.MustCompile(`^(https?://)?([a-z0-9-]+\.)*example\.(com|org|net)\b`)

// settings are the parameters that have an example's value until somebody sets them.
var settings = []string{"registry", "api-server-url", "oauth-token-url"}

// examples finds those that still have it.
func (e *examination) examples(where string, object installedObject) {
	raw, err := json.Marshal(object.Spec)
	if err != nil {
		return
	}
	var spec wfv1.WorkflowSpec
	if object.Spec == nil || json.Unmarshal(raw, &spec) != nil {
		return
	}
	for _, template := range spec.Templates {
		for _, p := range template.Inputs.Parameters {
			if slices.Contains(settings, p.Name) && p.Default != nil && unset.MatchString(p.Default.String()) {
				e.problem("settings", where, fmt.Sprintf("has the example's value for %s: %s", p.Name, p.Default),
					"Set "+p.Name+" in settings.env of your overlay, and apply it.")
			}
		}
	}
}

// workflowPlanes looks at the planes that the ClusterWorkflows name, and whether a component type allows the workflows.
func (e *examination) workflowPlanes(ctx context.Context) {
	workflows, err := list[v1alpha1.ClusterWorkflow](ctx, e, v1alpha1.GroupVersion.String(), "clusterworkflows", "")
	if missing(err) || e.unseen("workflow-plane", "ClusterWorkflows", err) {
		return
	}
	planes, err := list[v1alpha1.ClusterWorkflowPlane](
		ctx, e, v1alpha1.GroupVersion.String(), "clusterworkflowplanes", "",
	)
	if missing(err) || e.unseen("workflow-plane", "ClusterWorkflowPlanes", err) {
		return
	}
	var told []string
	for _, w := range workflows {
		ref := w.Spec.WorkflowPlaneRef
		if !e.wants("ClusterWorkflow", w.Name) || ref == nil || slices.Contains(told, ref.Name) {
			continue
		}
		told = append(told, ref.Name)
		where := "ClusterWorkflowPlane " + ref.Name
		i := slices.IndexFunc(planes, func(p v1alpha1.ClusterWorkflowPlane) bool { return p.Name == ref.Name })
		switch {
		case i < 0:
			e.problem("workflow-plane", where, "is not there, and ClusterWorkflow "+w.Name+" names it",
				"Register the WorkflowPlane, or set cluster-workflow-plane in settings.env.")
		case planes[i].Spec.SecretStoreRef == nil || planes[i].Spec.SecretStoreRef.Name == "":
			e.problem("workflow-plane", where, "names no secret store, so no run gets its Secrets",
				"Set spec.secretStoreRef to the ClusterSecretStore of the WorkflowPlane.")
		default:
			e.ok("workflow-plane", where, "names the secret store %s", planes[i].Spec.SecretStoreRef.Name)
			if slices.Contains(e.planes, WorkflowPlane) {
				e.store(ctx, planes[i].Spec.SecretStoreRef.Name)
			}
		}
	}
}

func (e *examination) wants(kind, name string) bool {
	return slices.ContainsFunc(e.templates, func(t Template) bool { return t.Kind == kind && t.Name == name })
}

// componentTypes looks whether the workflows may be used: OpenChoreo refuses runs of those that a type does not allow.
func (e *examination) componentTypes(ctx context.Context) {
	types, err := list[v1alpha1.ClusterComponentType](
		ctx, e, v1alpha1.GroupVersion.String(), "clustercomponenttypes", "",
	)
	if missing(err) || e.unseen("component-types", "ClusterComponentTypes", err) {
		return
	}
	allowed := map[string]bool{}
	for _, t := range types {
		for _, w := range t.Spec.AllowedWorkflows {
			allowed[w.Name] = true
		}
	}
	for _, wanted := range e.templates {
		if wanted.Kind != "ClusterWorkflow" {
			continue
		}
		where := "ClusterWorkflow " + wanted.Name
		if allowed[wanted.Name] {
			e.ok("component-types", where, "is allowed by a ClusterComponentType")
			continue
		}
		e.warning("component-types", where, "is allowed by no ClusterComponentType: developers cannot choose it",
			"Add it to allowedWorkflows of the component types that it is for. A ComponentType of a namespace may "+
				"allow it all the same.")
	}
}
