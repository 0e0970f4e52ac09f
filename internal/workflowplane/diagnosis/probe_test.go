package diagnosis

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
	installed "github.com/stepwright/stepwright/templates"
)

// workshop is a cluster in which what is made becomes what its makers would make of it.
type workshop struct {
	*recorded
	there    map[string]map[string]any // by path, what was made and not yet removed
	pods     []corev1.Pod
	becomes  func(kind string, object map[string]any) // changes what was made
	logs     map[string]string                        // of pods, by the ends of their names
	keeps    bool                                     // what is deleted stays
	forbids  string                                   // the kind that the user may not create
	made     int
	creating func() // hears of each creation
}

func (w *workshop) Read(ctx context.Context, what, path string, query url.Values, into any) error {
	object, ok := w.there[path]
	if !ok {
		return w.recorded.Read(ctx, what, path, query, into)
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

var resources = map[string]string{
	"ExternalSecret": "/apis/external-secrets.io/v1/namespaces/workflows-acme/externalsecrets/",
	"Pod":            "/api/v1/namespaces/workflows-acme/pods/",

	"PersistentVolumeClaim": "/api/v1/namespaces/workflows-acme/persistentvolumeclaims/",
}

func (w *workshop) Create(_ context.Context, object map[string]any) error {
	kind := text(object, "kind")
	if kind == w.forbids {
		return outcome.Errorf(outcome.Forbidden, "%s: forbidden", kind).WithHint("Give the user a Role.")
	}
	if text(object, "metadata", "namespace") != "workflows-acme" || resources[kind] == "" ||
		text(object, "metadata", "labels", probeLabel) == "" {
		return fmt.Errorf("%v is nothing that may be made", object)
	}
	w.made++
	ready := map[string]any{"type": "Ready", "status": "True", "reason": "SecretSynced"}
	switch kind {
	case "ExternalSecret":
		object["status"] = map[string]any{"conditions": []any{ready}}
	case "PersistentVolumeClaim":
		object["status"] = map[string]any{"phase": "Bound"}
	case "Pod":
		raw, err := json.Marshal(object)
		var pod corev1.Pod
		if err != nil || json.Unmarshal(raw, &pod) != nil {
			return fmt.Errorf("no pod: %s", raw)
		}
		w.pods = append(w.pods, pod)
		object["status"] = map[string]any{"phase": "Succeeded"}
		object["spec"].(map[string]any)["nodeName"] = "node-1"
	}
	if w.becomes != nil {
		w.becomes(kind, object)
	}
	w.there[resources[kind]+text(object, "metadata", "name")] = object
	if w.creating != nil {
		w.creating()
	}
	return nil
}

func (w *workshop) Delete(_ context.Context, what, path string) error {
	if w.keeps {
		return outcome.Errorf(outcome.Forbidden, "%s: may not be deleted", what)
	}
	delete(w.there, path)
	return nil
}

func (w *workshop) PodLog(_ context.Context, _, pod string) (string, error) {
	for end, log := range w.logs {
		if strings.HasSuffix(pod, end) {
			return log, nil
		}
	}
	const well = `{"check":%q,"where":"x","reason":"Succeeded","message":"ok"}` + "\n"
	return fmt.Sprintf(well, pod[strings.LastIndex(pod, "-")+1:]), nil
}

// newWorkshop has the templates of this version.
func newWorkshop(t *testing.T) (*workshop, Run) {
	t.Helper()
	w := &workshop{recorded: record(t), there: map[string]map[string]any{}, logs: map[string]string{}}
	const namespace = "/api/v1/namespaces/workflows-acme"
	w.answers[namespace] = map[string]any{"kind": "Namespace"}
	w.answers[namespace+"/serviceaccounts/workflow-sa"] = map[string]any{"kind": "ServiceAccount"}
	set := new(objects.Set)
	for _, dir := range []string{"workflow-plane", "control-plane"} {
		files, err := fs.Glob(installed.Files, dir+"/*.yaml")
		if err != nil || len(files) < 4 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			raw, err := fs.ReadFile(installed.Files, file)
			if err != nil {
				t.Fatal(err)
			}
			set.Read(file, raw)
			var object map[string]any
			if err := yaml.Unmarshal(raw, &object); err != nil {
				t.Fatal(err)
			}
			if object["kind"] == "ClusterWorkflowTemplate" {
				w.answers[argo+"clusterworkflowtemplates/"+text(object, "metadata", "name")] = object
			}
		}
	}
	if err := set.ReadObject("run", map[string]any{
		"apiVersion": "openchoreo.dev/v1alpha1", "kind": "WorkflowRun",
		"metadata": map[string]any{"name": "probe-1", "namespace": "acme"},
		"spec": map[string]any{"workflow": map[string]any{
			"kind": "ClusterWorkflow", "name": "dockerfile-builder",
			"parameters": map[string]any{"repository": map[string]any{"url": "https://git.example.com/a.git"}},
		}},
	}); err != nil {
		t.Fatal(err)
	}
	rendered, err := workflowrun.Render(set, set.Find("WorkflowRun", "acme", "probe-1"), "default")
	if err != nil {
		t.Fatal(err)
	}
	return w, Run{Workflow: rendered.Workflow, Resources: rendered.Resources}
}

// short makes waiting short for a test.
func short(t *testing.T) {
	was := []time.Duration{secretPatience, podPatience, goneAfter, look}
	secretPatience, podPatience, goneAfter, look = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond,
		time.Millisecond
	t.Cleanup(func() { secretPatience, podPatience, goneAfter, look = was[0], was[1], was[2], was[3] })
}

func TestProbe(t *testing.T) {
	short(t)
	pending := func(kind, of, reason string) func(string, map[string]any) {
		return func(made string, object map[string]any) {
			if made == kind && strings.HasSuffix(text(object, "metadata", "name"), of) {
				waiting := map[string]any{"waiting": map[string]any{"reason": reason, "message": "not found"}}
				object["status"] = map[string]any{"phase": "Pending", "containerStatuses": []any{
					map[string]any{"name": "main", "state": waiting},
				}}
			}
		}
	}
	for name, test := range map[string]struct {
		breaks              func(*workshop)
		check               string
		state               State
		where, what, advice string
	}{
		"all is well": {func(*workshop) {}, "secret-keys", OK,
			"key registry-pull-secret of ClusterSecretStore default", "is there", ""},
		"a volume":    {func(*workshop) {}, "storage-binding", OK, "StorageClass the default class", "gives a pod", ""},
		"what a step": {func(*workshop) {}, "build", OK, "x", "ok", ""},
		"a key that is not there": {func(w *workshop) {
			w.becomes = func(kind string, object map[string]any) {
				if strings.HasSuffix(text(object, "metadata", "name"), "-registry-push-secret") {
					object["status"] = map[string]any{"conditions": []any{map[string]any{
						"type": "Ready", "status": "False", "reason": "SecretSyncedError", "message": "no such key",
					}}}
				}
			}
		}, "secret-keys", Problem, "key registry-push-secret of ClusterSecretStore default", "no such key",
			"Put the key"},
		"a step whose Secret has not come": {func(w *workshop) {
			w.becomes = func(kind string, object map[string]any) {
				if strings.HasSuffix(text(object, "metadata", "name"), "-oauth-client-secret") {
					delete(object, "status")
				}
			}
		}, "probe", Unknown, "ClusterWorkflowTemplate generate-workload", "has not come", "secret-keys"},
		"a volume that does not bind": {func(w *workshop) {
			w.becomes = func(kind string, object map[string]any) {
				pending("PersistentVolumeClaim", "", "")(kind, object)
				if strings.HasSuffix(text(object, "metadata", "name"), "containerfile-build") {
					object["status"] = map[string]any{"phase": "Pending"}
				}
			}
		}, "storage-binding", Problem, "StorageClass the default class", "no volume within", "describe pvc"},
		"an image that is not there": {func(w *workshop) {
			w.becomes = pending("Pod", "publish-image", "ErrImagePull")
		}, "probe", Problem, "ClusterWorkflowTemplate publish-image", "ErrImagePull", "image's name"},
		"a push that is denied": {func(w *workshop) {
			w.logs["publish-image"] = "time=1 level=INFO\n" +
				`{"check":"registry-push","where":"r/x","reason":"PushDenied","message":"401","hint":"Check it."}`
		}, "registry-push", Problem, "r/x", "PushDenied: 401", "Check it."},
		"a registry that deletes nothing": {func(w *workshop) {
			w.logs["publish-image"] = `{"check":"registry-delete","where":"r/x","reason":"Failed","message":"405",` +
				`"hint":"Let it.","minor":true}` + "\n"
		}, "registry-delete", Warning, "r/x", "405", "Let it."},
		"the node": {func(w *workshop) {
			w.logs["build"] = `{"check":"node","where":"c","reason":"Succeeded","message":"Linux 6.1"}` + "\n"
		}, "node", OK, "Node node-1", "Linux 6.1", ""},
		"a step of before": {func(w *workshop) {
			w.logs["publish-image"] = "level=ERROR\n"
			w.becomes = func(_ string, object map[string]any) {
				if strings.HasSuffix(text(object, "metadata", "name"), "publish-image") {
					object["status"] = map[string]any{"phase": "Failed", "containerStatuses": []any{map[string]any{
						"state": map[string]any{"terminated": map[string]any{"message": "InvalidParameters: no such"}},
					}}}
				}
			}
		}, "probe", Problem, "ClusterWorkflowTemplate publish-image", "InvalidParameters", "of the version"},
		"a user who may make no pods": {func(w *workshop) { w.forbids = "Pod" },
			"probe", Unknown, "ClusterWorkflowTemplate publish-image", "forbidden", "Role"},
		"no namespace": {func(w *workshop) { delete(w.answers, "/api/v1/namespaces/workflows-acme") },
			"probe", Unknown, "Namespace workflows-acme", "is not there", "kubectl create namespace workflows-acme"},
		"no account yet": {func(w *workshop) {
			delete(w.answers, "/api/v1/namespaces/workflows-acme/serviceaccounts/workflow-sa")
		}, "probe", OK, "ServiceAccount workflows-acme/workflow-sa", "account default", ""},
		"what stays": {func(w *workshop) { w.keeps = true }, "probe", Warning,
			"Pod workflows-acme/probe-1-publish-image", "stays", "stepwright.dev/doctor=probe-1"},
	} {
		t.Run(name, func(t *testing.T) {
			w, run := newWorkshop(t)
			test.breaks(w)
			findings := Probe(t.Context(), w, run)
			if !slices.ContainsFunc(findings, func(f Finding) bool {
				return f.Check == test.check && f.State == test.state && f.Where == test.where &&
					strings.Contains(f.What, test.what) && strings.Contains(f.Mend, test.advice)
			}) {
				t.Errorf("%+v", findings)
			}
			if test.state == OK && Worst(findings) != OK {
				t.Errorf("%+v", findings)
			}
			if len(w.there) > 0 && !w.keeps || (w.made == 0) != (name == "no namespace") {
				t.Errorf("of %d objects %d stay: %v", w.made, len(w.there), w.there)
			}
		})
	}
}

// A pod has what the pod of a run has, but for Argo's containers, and only looks.
func TestPodsOfAProbe(t *testing.T) {
	short(t)
	w, run := newWorkshop(t)
	Probe(t.Context(), w, run)
	if len(w.pods) != 3 {
		t.Fatalf("%d pods", len(w.pods))
	}
	for _, pod := range w.pods {
		name := strings.TrimPrefix(pod.Name, "probe-1-")
		var template wfv1.ClusterWorkflowTemplate
		path := argo + "clusterworkflowtemplates/" + name
		if err := w.Read(t.Context(), "", path, nil, &template); err != nil {
			t.Fatal(err)
		}
		want := template.Spec.Templates[0]
		c := pod.Spec.Containers[0]
		raw, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		if pod.Spec.ServiceAccountName != "workflow-sa" || c.Image != want.Container.Image ||
			len(pod.Spec.Containers) != 1 || !slices.Equal(c.Command, want.Container.Command) ||
			pod.Spec.RestartPolicy != corev1.RestartPolicyNever ||
			len(pod.Spec.Volumes) != len(want.Volumes)+1 || len(c.VolumeMounts) != len(want.Container.VolumeMounts) ||
			pod.Labels["stepwright.dev/step"] != want.Metadata.Labels["stepwright.dev/step"] ||
			pod.Spec.ActiveDeadlineSeconds == nil || strings.Contains(string(raw), "{{") {
			t.Errorf("%s", raw)
		}
		values := map[string]string{}
		for _, v := range c.Env {
			values[v.Name] = v.Value
		}
		if values["CHECK_ONLY"] != "true" || name != "containerfile-build" && values["COMPONENT_NAME"] != probeName ||
			!strings.Contains(values["SECRET_KEYS"], `"registry-pull-secret"`) {
			t.Errorf("%s: %v", name, values)
		}
	}
}

// A person who has had enough leaves nothing behind.
func TestInterruptedProbe(t *testing.T) {
	short(t)
	all, run := newWorkshop(t)
	Probe(t.Context(), all, run)
	for after := range all.made {
		w, run := newWorkshop(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.creating = func() {
			if w.made > after {
				cancel()
			}
		}
		Probe(ctx, w, run)
		if w.made != after+1 || len(w.there) > 0 {
			t.Errorf("interrupted after %d: %d made, %d stay", after, w.made, len(w.there))
		}
	}
}
