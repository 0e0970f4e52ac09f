package cli

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// answerOf runs the command inside the test, as a plugin of kubectl or not.
func answerOf(t *testing.T, plugin bool, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	main := Main
	if plugin {
		main = Plugin
	}
	var out, err bytes.Buffer
	code = main(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

const storedRun = `{"metadata": {"name": "cart-2", "namespace": "acme", "creationTimestamp": "2026-11-21T10:30:00Z",
	"labels": {"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
	"annotations": {"stepwright.dev/commit": "6dcb09b", "stepwright.dev/reason": "BuildFailed"}},
	"spec": {"workflow": {"kind": "ClusterWorkflow", "name": "dockerfile-builder",
		"parameters": {"repository": {"url": "https://git.example.com/cart.git"}}}}}`

// refusedRun has no workflow: OpenChoreo has refused it.
const refusedRun = `{"metadata": {"name": "shop-1", "namespace": "acme", "creationTimestamp": "2026-11-20T10:30:00Z",
	"labels": {"openchoreo.dev/component": "shop"}},
	"spec": {"workflow": {"kind": "ClusterWorkflow", "name": "none"}},
	"status": {"conditions": [{"type": "WorkflowFailed", "status": "True", "reason": "WorkflowNotFound",
		"message": "there is no such workflow"}]}}`

func withOpenChoreo(t *testing.T) *workflowplanetest.Server {
	t.Helper()
	s := workflowplanetest.New(t)
	s.Change(func(s *workflowplanetest.Server) {
		s.Runs = map[string]string{"acme/cart-2": storedRun, "acme/shop-1": refusedRun}
		s.Components = map[string]string{"acme/cart": `{"metadata": {"name": "cart", "namespace": "acme"},
			"spec": {"owner": {"projectName": "shop"}, "componentType": {"name": "deployment/service"},
			"workflow": {"kind": "ClusterWorkflow", "name": "dockerfile-builder",
			"parameters": {"repository": {"url": "https://git.example.com/cart.git"}}}}}`}
	})
	return s
}

func TestListOfACluster(t *testing.T) {
	s := withOpenChoreo(t)
	t.Setenv("KUBECONFIG", s.Kubeconfig(t, workflowplanetest.Token))
	for _, test := range []struct {
		name   string
		plugin bool
		args   string
		want   []string
		not    string
	}{
		{"the configuration of kubectl", false, "--cluster", []string{"cart-1", "shop-1   shop        Failed"},
			"COMMIT"},
		{"as a plugin", true, "", []string{"cart-1", "shop-1"}, "COMMIT"},
		{"wide", true, "-o wide", []string{"COMMIT    IMAGE   REASON", "6dcb09b           BuildFailed"}, ""},
		{"of a component", true, "--component shop", []string{"shop-1"}, "cart-1"},
		{"names", true, "-o name --component cart", []string{"cart-2\n", "cart-1\n"}, "acme"},
		{"of another namespace", true, "-n zeta", []string{"NAMESPACE"}, "acme"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := answerOf(t, test.plugin, append([]string{"list"}, strings.Fields(test.args)...)...)
			for _, want := range test.want {
				if code != 0 || !strings.Contains(stdout, want) {
					t.Errorf("exit code %d; %q is missing in\n%s%s", code, want, stdout, stderr)
				}
			}
			if test.not != "" && strings.Contains(stdout, test.not) {
				t.Errorf("%q is in\n%s", test.not, stdout)
			}
		})
	}
	var list struct {
		Kind  string
		Items []v1alpha1.WorkflowRun
	}
	_, stdout, stderr := answerOf(t, true, "list", "-o", "json", "--component", "shop")
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || list.Kind != "List" || len(list.Items) != 1 ||
		list.Items[0].Name != "shop-1" || list.Items[0].Kind != "WorkflowRun" {
		t.Errorf("%v\n%s%s", err, stdout, stderr)
	}
	if _, stdout, _ := answerOf(t, true, "list", "-o", "json", "-n", "zeta"); !strings.Contains(stdout, `"items": []`) {
		t.Error(stdout)
	}
}

// The latest run of a component is the one that was created last, whatever its name.
func TestLatestOfAComponent(t *testing.T) {
	s := withOpenChoreo(t)
	kubeconfig := s.Kubeconfig(t, workflowplanetest.Token)
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"get --component shop", 0, "there is no such workflow"},
		{"get --component cart -o yaml", 0, "name: cart-2\n"},
		{"logs --component cart checkout-source", 0, "cart-2-say-2081402942 line 1\n"},
		{"watch --component cart", 22, "containerfile-build   Failed"},
		{"watch cart-1", 0, "publish-image   Succeeded"},
		{"get --component none", 44, `component "none" has no run`},
	} {
		code, stdout, stderr := answerOf(t, false, append(strings.Fields(test.args), "--kubeconfig", kubeconfig)...)
		if code != test.code || !strings.Contains(stdout+stderr, test.want) {
			t.Errorf("%s: exit code %d\n%s%s", test.args, code, stdout, stderr)
		}
	}
	s.Change(func(s *workflowplanetest.Server) {
		s.Runs["zeta/shop-1"] = strings.Replace(refusedRun, `"acme"`, `"zeta"`, 1)
	})
	if code, _, stderr := answerOf(t, false, "get", "--component", "shop", "--kubeconfig", kubeconfig); code != 64 ||
		!strings.Contains(stderr, "choose one with --namespace") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// A component that the cluster knows is built without a file, and a run is done again, with other parameters.
func TestRunWithoutAFile(t *testing.T) {
	for name, test := range map[string]struct{ args, prefix string }{
		"a component": {"run --component cart -n acme", "cart-build-"},
		"once more":   {"rerun cart-2", "cart-2-"},
	} {
		t.Run(name, func(t *testing.T) {
			s := withOpenChoreo(t)
			s.Change(func(s *workflowplanetest.Server) {
				s.Create = func(path, body string) {
					var run v1alpha1.WorkflowRun
					if err := json.Unmarshal([]byte(body), &run); err != nil {
						t.Error(err)
					}
					ended := workflowplanetest.Workflow(t, "cart-1")
					ended.Name, ended.Labels = run.Name, nil
					s.Workflows = append(s.Workflows, *ended)
					s.Runs["acme/"+run.Name] = body
				}
			})
			code, stdout, stderr := answerOf(t, false, append(strings.Fields(test.args), "--cluster", "--kubeconfig",
				s.Kubeconfig(t, workflowplanetest.Token), "--set", "repository.revision.branch=next")...)
			const created = "POST /apis/openchoreo.dev/v1alpha1/namespaces/acme/workflowruns"
			if len(s.Written) != 2 || s.Written[0] != created {
				t.Fatalf("exit code %d, %v\n%s%s", code, s.Written, stdout, stderr)
			}
			var run v1alpha1.WorkflowRun
			if err := json.Unmarshal([]byte(s.Written[1]), &run); err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(run.Name, test.prefix) || run.Labels["openchoreo.dev/project"] != "shop" ||
				run.Labels["openchoreo.dev/component"] != "cart" || len(run.Annotations) > 0 ||
				run.Spec.Workflow.Name != "dockerfile-builder" {
				t.Errorf("%+v", run)
			}
			parameters := string(run.Spec.Workflow.Parameters.Raw)
			for _, want := range []string{`"branch":"next"`, "https://git.example.com/cart.git"} {
				if !strings.Contains(parameters, want) {
					t.Errorf("%s is missing in %s", want, parameters)
				}
			}
		})
	}
	s := withOpenChoreo(t)
	code, _, stderr := answerOf(t, false, "run", "--component", "none", "--cluster", "--kubeconfig",
		s.Kubeconfig(t, workflowplanetest.Token))
	if code != 44 || !strings.Contains(stderr, "Component default/none") || !strings.Contains(stderr, "--namespace") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
}

// Argo is told to stop a workflow in its own way, so that exit handlers run.
func TestCancelInACluster(t *testing.T) {
	s := workflowplanetest.New(t)
	s.Change(func(s *workflowplanetest.Server) {
		running := &s.Workflows[0]
		running.Status.Phase, running.Status.FinishedAt = wfv1.WorkflowRunning, metav1.Time{}
	})
	kubeconfig := s.Kubeconfig(t, workflowplanetest.Token)
	code, stdout, stderr := answerOf(t, false, "cancel", "cart-1", "--kubeconfig", kubeconfig)
	want := []string{
		"PATCH /apis/argoproj.io/v1alpha1/namespaces/workflows-acme/workflows/cart-1", `{"spec":{"shutdown":"Stop"}}`,
	}
	if code != 0 || !slices.Equal(s.Written, want) || !strings.Contains(stdout, "acme/cart-1 is told to stop") {
		t.Errorf("exit code %d, %v\n%s%s", code, s.Written, stdout, stderr)
	}
}

// What a key offers are the names of runs, of components and of tasks.
func TestCompletion(t *testing.T) {
	s := withOpenChoreo(t)
	kubeconfig := s.Kubeconfig(t, workflowplanetest.Token)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"get", ""}, "cart-2\ncart-3\ncart-1\nshop-1\n"},
		{[]string{"get", "--component", "shop", ""}, "shop-1\n"},
		{[]string{"logs", "cart-1", ""}, "checkout-source\ncontainerfile-build\npublish-image\n"},
		{[]string{"watch", "--component", ""}, "cart\nshop\n"},
		{[]string{"cancel", "--namespace", ""}, "acme\n"},
		{[]string{"list", "--output", ""}, "wide\nname\nyaml\njson\n"},
		{[]string{"get", "cart-1", ""}, ""},
	} {
		args := slices.Concat([]string{"__complete", test.args[0], "--kubeconfig", kubeconfig}, test.args[1:])
		code, stdout, stderr := answerOf(t, false, args...)
		if got, _, _ := strings.Cut(stdout, ":"); code != 0 || got != test.want {
			t.Errorf("%v: exit code %d, %q, want %q\n%s", test.args, code, got, test.want, stderr)
		}
	}
}

func TestPlugin(t *testing.T) {
	for path, want := range map[string]bool{
		"/usr/local/bin/kubectl-stepwright": true, "kubectl-stepwright.exe": true, "bin/stepwright": false, "": false,
	} {
		if IsPlugin(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	if code, stdout, stderr := answerOf(t, true, "list", "--state", t.TempDir()); code != 0 {
		t.Errorf("the runs of this machine: exit code %d\n%s%s", code, stdout, stderr)
	}
	_, stdout, _ := answerOf(t, true, "list", "--help")
	for _, want := range []string{"Usage:\n  kubectl stepwright list", "this machine (default true)"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing in\n%s", want, stdout)
		}
	}
}
