package diagnosis

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	installed "github.com/stepwright/stepwright/templates"
)

// recorded is a cluster as one was: testdata/cluster.json has what a kind cluster answered that has all that runs need,
// by path, without what nothing here looks at.
type recorded struct {
	answers map[string]any
	forbids string // the end of paths that the user may not see
	denies  bool   // whether nobody may do anything
}

func record(t *testing.T) *recorded {
	t.Helper()
	raw, err := os.ReadFile("testdata/cluster.json")
	if err != nil {
		t.Fatal(err)
	}
	r := new(recorded)
	raw = bytes.ReplaceAll(raw, []byte("VERSION"), []byte(installed.Version()))
	if err := json.Unmarshal(raw, &r.answers); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *recorded) Read(_ context.Context, what, path string, _ url.Values, into any) error {
	if r.forbids != "" && strings.HasSuffix(path, r.forbids) {
		return outcome.Errorf(outcome.Forbidden, "%s: forbidden", what)
	}
	answer, ok := r.answers[path]
	if !ok {
		return outcome.Errorf(outcome.NotFound, "%s: not found", what)
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

func (r *recorded) Allowed(context.Context, string, Access) (bool, error) { return !r.denies, nil }

// at is the value that names and indices lead to. Of a list, a text leads to the item of that name.
func (r *recorded) at(t *testing.T, path string, steps ...any) any {
	t.Helper()
	value := r.answers[path]
	for _, step := range steps {
		switch v := value.(type) {
		case map[string]any:
			value = v[step.(string)]
		case []any:
			if i, ok := step.(int); ok {
				value = v[i]
				continue
			}
			i := slices.IndexFunc(v, func(item any) bool { return name(item) == step })
			if i < 0 {
				t.Fatalf("%s has no item %q", path, step)
			}
			value = v[i]
		}
	}
	return value
}

func name(item any) any {
	object, _ := item.(map[string]any)
	if metadata, ok := object["metadata"].(map[string]any); ok {
		return metadata["name"]
	}
	return object["name"]
}

func (r *recorded) object(t *testing.T, path string, steps ...any) map[string]any {
	t.Helper()
	return r.at(t, path, steps...).(map[string]any)
}

// drop removes the item of that name from a list.
func (r *recorded) drop(path, dropped string) {
	list := r.answers[path].(map[string]any)
	list["items"] = slices.DeleteFunc(list["items"].([]any), func(item any) bool { return name(item) == dropped })
}

const (
	openChoreo = "/apis/openchoreo.dev/v1alpha1/"
	argo       = "/apis/argoproj.io/v1alpha1/"
	secrets    = "/apis/external-secrets.io/v1/"
	inAcme     = "namespaces/workflows-acme/"
)

var installedTemplates = []Template{
	{Kind: "ClusterWorkflowTemplate", Name: "checkout-source", Version: installed.Version()},
	{Kind: "ClusterWorkflowTemplate", Name: "containerfile-build", Version: installed.Version()},
	{Kind: "ClusterWorkflowTemplate", Name: "publish-image", Version: installed.Version()},
	{Kind: "ClusterWorkflow", Name: "dockerfile-builder", Version: installed.Version()},
}

// A cluster that has all is told to have all.
func TestWhole(t *testing.T) {
	findings, err := Of(t.Context(), record(t), installedTemplates, "")
	if err != nil || Worst(findings) != OK {
		t.Errorf("%v %+v", err, findings)
	}
	var checks []string
	for _, f := range findings {
		if !slices.Contains(checks, f.Check) {
			checks = append(checks, f.Check)
		}
	}
	slices.Sort(checks)
	if got := strings.Join(checks, " "); got != "argo component-types kinds kubernetes nodes pod-security pods "+
		"secret-store secrets service-account storage templates workflow-plane" {
		t.Error(got)
	}
}

// Each thing that is broken is found, at its place, and nothing else is.
func TestBroken(t *testing.T) {
	type object = map[string]any
	notReady := object{"conditions": []any{object{"type": "Ready", "status": "False", "reason": "SecretSyncedError",
		"message": "could not get secret data from provider"}}}
	fiveMinutesAgo := time.Now().Add(-5 * time.Minute).UTC().Format(time.RFC3339)
	for name, test := range map[string]struct {
		breaks             func(t *testing.T, r *recorded)
		check              string
		state              State
		where, what, mends string
	}{
		"an old Kubernetes": {func(t *testing.T, r *recorded) {
			r.object(t, "/version")["minor"], r.object(t, "/version")["gitVersion"] = "24", "v1.24.0"
		}, "kubernetes", Problem, "API server", "v1.24.0", "Upgrade the cluster"},
		"an old External Secrets": {func(_ *testing.T, r *recorded) {
			delete(r.answers, "/apis/external-secrets.io/v1")
		}, "kinds", Problem, "external-secrets.io/v1", "has no ExternalSecret, ClusterSecretStore", "0.16 or later"},
		"an old Argo": {func(t *testing.T, r *recorded) {
			containers := r.at(t, "/apis/apps/v1/deployments", "items", 0, "spec", "template", "spec", "containers")
			containers.([]any)[0].(object)["image"] = "quay.io/argoproj/workflow-controller:v3.4.1"
		}, "argo", Problem, "Deployment argo/workflow-controller", "is Argo 3.4", "3.6 or later"},
		"an Argo that is down": {func(t *testing.T, r *recorded) {
			r.object(t, "/apis/apps/v1/deployments", "items", 0, "status")["readyReplicas"] = 0
		}, "argo", Problem, "Deployment argo/workflow-controller", "no pod that is ready", "describe deployment"},
		"no controller of Argo": {func(_ *testing.T, r *recorded) {
			r.answers["/apis/apps/v1/deployments"] = object{}
			r.answers["/apis/coordination.k8s.io/v1/leases"] = object{"items": []any{object{
				"metadata": object{"name": "workflow-controller", "namespace": "argo"},
				"spec":     object{"renewTime": "2026-01-01T00:00:00.000000Z"},
			}}}
		}, "argo", Problem, "Deployment workflow-controller", "is in no namespace", "Install Argo Workflows"},
		"no template": {func(_ *testing.T, r *recorded) {
			r.drop(argo+"clusterworkflowtemplates", "publish-image")
		}, "templates", Problem, "ClusterWorkflowTemplate publish-image", "is not there", "templates/workflow-plane"},
		"another version": {func(t *testing.T, r *recorded) {
			labels := r.object(t, argo+"clusterworkflowtemplates", "items", "checkout-source", "metadata", "labels")
			labels[versionLabel] = "9.0.0"
		}, "templates", Warning, "ClusterWorkflowTemplate checkout-source", "is of version 9.0.0", "that version"},
		"somebody else's template": {func(t *testing.T, r *recorded) {
			labels := r.object(t, openChoreo+"clusterworkflows", "items", "dockerfile-builder", "metadata", "labels")
			delete(labels, versionLabel)
		}, "templates", Warning, "ClusterWorkflow dockerfile-builder", "does not tell its version", "control-plane"},
		"an example's value": {func(t *testing.T, r *recorded) {
			r.object(t, argo+"clusterworkflowtemplates", "items", "publish-image", "spec", "templates", 0, "inputs",
				"parameters", "registry")["default"] = "registry.example.com/builds"
		}, "settings", Problem, "ClusterWorkflowTemplate publish-image", "registry: registry.example.com/builds",
			"Set registry in settings.env"},
		"no plane": {func(_ *testing.T, r *recorded) {
			r.answers[openChoreo+"clusterworkflowplanes"] = object{}
		}, "workflow-plane", Problem, "ClusterWorkflowPlane default", "is not there", "cluster-workflow-plane"},
		"a plane without a store": {func(t *testing.T, r *recorded) {
			delete(r.object(t, openChoreo+"clusterworkflowplanes", "items", 0, "spec"), "secretStoreRef")
		}, "workflow-plane", Problem, "ClusterWorkflowPlane default", "names no secret store", "spec.secretStoreRef"},
		"no store": {func(_ *testing.T, r *recorded) {
			r.answers[secrets+"clustersecretstores"] = object{}
		}, "secret-store", Problem, "ClusterSecretStore default", "is not there", "spec.secretStoreRef"},
		"a store that is not ready": {func(t *testing.T, r *recorded) {
			r.object(t, secrets+"clustersecretstores", "items", "default")["status"] = notReady
		}, "secret-store", Problem, "ClusterSecretStore default", "could not get secret data", "provider"},
		"a store that nobody looks at": {func(t *testing.T, r *recorded) {
			r.object(t, secrets+"clustersecretstores", "items", "default")["status"] = object{}
		}, "secret-store", Problem, "ClusterSecretStore default", "has not looked at it", "pods of External Secrets"},
		"a key that is not there": {func(t *testing.T, r *recorded) {
			es := r.object(t, secrets+inAcme+"externalsecrets", "items", 0)
			es["metadata"].(object)["name"], es["status"] = "cart-1-registry-pull-secret", notReady
		}, "secrets", Problem, "ExternalSecret workflows-acme/cart-1-registry-pull-secret", "SecretSyncedError",
			"Put the key into the secret store"},
		"no component type": {func(_ *testing.T, r *recorded) {
			r.answers[openChoreo+"clustercomponenttypes"] = object{}
		}, "component-types", Warning, "ClusterWorkflow dockerfile-builder", "no ClusterComponentType",
			"allowedWorkflows"},
		"a namespace that is too strict": {func(t *testing.T, r *recorded) {
			r.object(t, "/api/v1/namespaces", "items", "workflows-acme", "metadata")["labels"] = object{
				"pod-security.kubernetes.io/enforce": "baseline",
			}
		}, "pod-security", Problem, "Namespace workflows-acme", "pass only privileged", "seccomp-profile"},
		"a service account without rights": {func(_ *testing.T, r *recorded) { r.denies = true },
			"service-account", Problem, "ServiceAccount workflows-acme/workflow-sa", "may not create", "Bind it"},
		"a pod without its image": {func(t *testing.T, r *recorded) {
			pod := r.object(t, "/api/v1/"+inAcme+"pods", "items", 0)
			pod["metadata"].(object)["creationTimestamp"] = fiveMinutesAgo
			pod["status"] = object{"phase": "Pending", "containerStatuses": []any{object{"name": "main",
				"state": object{"waiting": object{"reason": "ImagePullBackOff", "message": "no such image"}}}}}
		}, "pods", Problem, "Pod workflows-acme/", "has waited for 5m", "image's name in the overlay"},
		"a pod without a node": {func(t *testing.T, r *recorded) {
			pod := r.object(t, "/api/v1/"+inAcme+"pods", "items", 0)
			pod["metadata"].(object)["creationTimestamp"] = fiveMinutesAgo
			pod["status"] = object{"phase": "Pending", "conditions": []any{object{"type": "PodScheduled",
				"status": "False", "reason": "Unschedulable", "message": "Insufficient memory"}}}
		}, "pods", Problem, "Pod workflows-acme/", "Insufficient memory", "lower the requests"},
		"no storage class": {func(_ *testing.T, r *recorded) {
			r.answers["/apis/storage.k8s.io/v1/storageclasses"] = object{}
		}, "storage", Warning, "StorageClass", "no class is the default", "workspace-storage-class"},
		"volumes before pods": {func(t *testing.T, r *recorded) {
			r.object(t, "/apis/storage.k8s.io/v1/storageclasses", "items", 0)["volumeBindingMode"] = "Immediate"
		}, "storage", Warning, "StorageClass standard", "before it is known where", "WaitForFirstConsumer"},
		"a node of another architecture": {func(t *testing.T, r *recorded) {
			r.object(t, "/api/v1/nodes", "items", 0, "status", "nodeInfo")["architecture"] = "s390x"
		}, "nodes", Problem, "Nodes", "none is ready", "amd64 or arm64"},
		"an old kernel": {func(t *testing.T, r *recorded) {
			r.object(t, "/api/v1/nodes", "items", 0, "status", "nodeInfo")["kernelVersion"] = "5.4.0-generic"
		}, "nodes", Warning, "Node node-1", "Linux 5.4.0", "5.11 or later"},
		"what may not be seen": {func(_ *testing.T, r *recorded) { r.forbids = "/nodes" },
			"nodes", Unknown, "Nodes", "forbidden", "whose user may read it"},
	} {
		t.Run(name, func(t *testing.T) {
			r := record(t)
			test.breaks(t, r)
			findings, err := Of(t.Context(), r, installedTemplates, "acme")
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, f := range findings {
				if f.Check == test.check && f.State == test.state && strings.HasPrefix(f.Where, test.where) &&
					strings.Contains(f.What, test.what) && strings.Contains(f.Mend, test.mends) {
					found = true
				} else if f.State != OK && f.Check != test.check {
					t.Errorf("besides: %+v", f)
				}
			}
			if !found {
				t.Errorf("%+v", findings)
			}
		})
	}
}

// A template that is not as the overlay has it is told with the place; defaults of the cluster are no difference.
func TestDrift(t *testing.T) {
	r := record(t)
	spec := r.object(t, argo+"clusterworkflowtemplates", "items", "publish-image", "spec")
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var wanted map[string]any
	if err := json.Unmarshal(raw, &wanted); err != nil {
		t.Fatal(err)
	}
	templates := slices.Clone(installedTemplates)
	templates[2].Spec = wanted
	spec["aDefault"] = true
	if findings, err := Of(t.Context(), r, templates, ""); err != nil || Worst(findings) != OK {
		t.Errorf("%v %+v", err, findings)
	}
	wanted["templates"].([]any)[0].(map[string]any)["container"].(map[string]any)["image"] = "another"
	findings, err := Of(t.Context(), r, templates, "")
	if err != nil || !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.State == Warning && strings.HasSuffix(f.What, "at spec.templates[0].container.image")
	}) {
		t.Errorf("%v %+v", err, findings)
	}
}

// Of two clusters each is looked at as what it is, or as what it should be.
func TestPlanes(t *testing.T) {
	checks := func(findings []Finding) string {
		var all []string
		for _, f := range findings {
			if !slices.Contains(all, f.Check) {
				all = append(all, f.Check)
			}
		}
		return strings.Join(all, " ")
	}
	r := record(t)
	delete(r.answers, "/apis/openchoreo.dev/v1alpha1")
	findings, err := Of(t.Context(), r, installedTemplates, "")
	if got := checks(findings); err != nil || Worst(findings) != OK || strings.Contains(got, "workflow-plane") {
		t.Errorf("%v %s", err, got)
	}
	findings, err = Of(t.Context(), r, installedTemplates, "", ControlPlane)
	if err != nil || !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.Check == "kinds" && f.State == Problem && strings.Contains(f.What, "WorkflowRun")
	}) {
		t.Errorf("%v %+v", err, findings)
	}
	findings, err = Of(t.Context(), &recorded{answers: map[string]any{"/version": r.answers["/version"]}}, nil, "")
	if err != nil || !slices.ContainsFunc(findings, func(f Finding) bool {
		return f.State == Problem && strings.Contains(f.What, "neither Argo Workflows nor OpenChoreo")
	}) {
		t.Errorf("%v %+v", err, findings)
	}
	if _, err := Of(t.Context(), new(recorded), nil, ""); outcome.Of(err).Reason != outcome.NotFound {
		t.Error(err)
	}
}
