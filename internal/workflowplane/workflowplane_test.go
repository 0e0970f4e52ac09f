package workflowplane

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

func open(t *testing.T, s *workflowplanetest.Server) *Plane {
	t.Helper()
	plane, err := Open(s.Kubeconfig(t, workflowplanetest.Token), "plane")
	if err != nil {
		t.Fatal(err)
	}
	return plane
}

func TestList(t *testing.T) {
	s := workflowplanetest.New(t)
	s.Change(func(s *workflowplanetest.Server) {
		other := workflowplanetest.Workflow(t, "cart-1")
		other.Name, other.Namespace, other.Labels = "nightly", "ci", nil
		s.Workflows = append(s.Workflows, *other)
	})
	plane := open(t, s)
	for namespace, want := range map[string][]string{
		"":               {"acme/cart-3 Failed", "acme/cart-2 Failed", "acme/cart-1 Succeeded", "ci/nightly Succeeded"},
		"acme":           {"acme/cart-3 Failed", "acme/cart-2 Failed", "acme/cart-1 Succeeded"},
		"workflows-acme": {"acme/cart-3 Failed", "acme/cart-2 Failed", "acme/cart-1 Succeeded"},
		"ci":             {"ci/nightly Succeeded"},
		"none":           nil,
	} {
		runs, err := plane.List(t.Context(), namespace)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, run := range runs {
			got = append(got, run.Namespace+"/"+run.Name+" "+runstatus.Phase(run))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("namespace %q: %s", namespace, diff)
		}
	}
}

func TestGet(t *testing.T) {
	s := workflowplanetest.New(t)
	plane := open(t, s)
	run, err := plane.Get(t.Context(), "acme", "cart-2")
	if err != nil {
		t.Fatal(err)
	}
	if run.Labels["openchoreo.dev/component"] != "cart" || run.Labels["openchoreo.dev/project"] != "shop" ||
		run.Kind != "WorkflowRun" {
		t.Errorf("%+v", run.ObjectMeta)
	}
	if want := (&v1alpha1.ResourceReference{
		APIVersion: "argoproj.io/v1alpha1",
		Kind:       "Workflow",
		Name:       "cart-2",
		Namespace:  "workflows-acme",
	}); !cmp.Equal(run.Status.RunReference, want) {
		t.Errorf("%+v", run.Status.RunReference)
	}
	s.Change(func(s *workflowplanetest.Server) {
		s.Runs = map[string]string{
			"acme/cart-2": `{"metadata": {"name": "cart-2", "namespace": "acme",
				"creationTimestamp": "2026-11-21T10:27:40Z", "annotations": {"openchoreo.dev/workload": "{}"}},
			"spec": {"workflow": {"kind": "ClusterWorkflow", "name": "dockerfile-builder"}}}`,
		}
	})
	stored, err := plane.Get(t.Context(), "acme", "cart-2")
	if err != nil || stored.Annotations["openchoreo.dev/workload"] != "{}" ||
		stored.Spec.Workflow.Name != "dockerfile-builder" || !cmp.Equal(stored.Status, run.Status) {
		t.Errorf("%v %+v", err, stored)
	}
	s.Change(func(s *workflowplanetest.Server) {
		s.Runs["acme/cart-8"] = `{"metadata": {"name": "cart-8", "namespace": "acme"},
			"status": {"conditions": [{"type": "WorkflowFailed", "status": "True",
			"reason": "ComponentValidationFailed", "message": "there is no such component"}]}}`
	})
	if refused, err := plane.Get(t.Context(), "acme", "cart-8"); err != nil ||
		runstatus.Failure(refused) != "there is no such component" || refused.Kind != "WorkflowRun" {
		t.Errorf("a run without a workflow: %v %+v", err, refused)
	}
	s.Change(func(s *workflowplanetest.Server) {
		s.Workflows = slices.Concat(s.Workflows, s.Workflows[:1])
		s.Workflows[3].Namespace = "other"
	})
	if _, err := plane.Get(t.Context(), "", "cart-1"); err == nil ||
		!strings.Contains(err.Error(), "in each of the namespaces workflows-acme, other: choose one") {
		t.Error(err)
	}
	_, err = plane.Get(t.Context(), "acme", "cart-9")
	missing, ok := errors.AsType[*runstatus.NotFoundError](err)
	if !ok || !cmp.Equal(missing.There, []string{
		"acme/cart-3", "acme/cart-2", "acme/cart-1", "acme/cart-8",
	}) || !strings.Contains(err.Error(), "in namespace workflows-acme or acme of the cluster at http") {
		t.Error(err)
	}
}

func readAll(t *testing.T, plane *Plane, name, task string, follow bool) (string, error) {
	t.Helper()
	run, err := plane.Get(t.Context(), "", name)
	if err != nil {
		t.Fatal(err)
	}
	log, err := plane.Log(t.Context(), run, task, follow)
	if err != nil {
		return "", err
	}
	defer log.Close()
	text, err := io.ReadAll(log)
	return string(text), err
}

func TestLog(t *testing.T) {
	s := workflowplanetest.New(t)
	plane := open(t, s)
	for _, follow := range []bool{false, true} {
		text, err := readAll(t, plane, "cart-1", "containerfile-build", follow)
		const pod = "cart-1-say-1440746042"
		if want := pod + " line 1\n" + pod + " line 2\n" + pod + " line 3\n"; err != nil || text != want {
			t.Errorf("follow %v: %v %q, want %q", follow, err, text, want)
		}
	}
	if _, err := readAll(t, plane, "cart-1", "push", false); err == nil ||
		!strings.Contains(err.Error(), `has no task "push"`) {
		t.Error(err)
	}
	s.Change(func(s *workflowplanetest.Server) { s.Pods = nil })
	if _, err := readAll(t, plane, "cart-1", "checkout-source", false); !errors.Is(err, fs.ErrNotExist) ||
		!strings.Contains(err.Error(), "checkout-source: its pod is gone") {
		t.Error(err)
	}
}

// A connection that breaks in the middle of a line, and one that the server ends before the last lines, cost no line
// and double none.
func TestLogOfAConnectionThatBreaks(t *testing.T) {
	s := workflowplanetest.New(t)
	plane := open(t, s)
	const pod = "cart-1-say-951070249"
	const all = "one\ntwo\nthree\nfour\n"
	state := func(how corev1.ContainerState) func(*workflowplanetest.Server) {
		return func(s *workflowplanetest.Server) {
			s.Pods = slices.Clone(s.Pods)
			for i := range s.Pods {
				if s.Pods[i].Name == pod {
					s.Pods[i].Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: how}}
				}
			}
		}
	}
	s.Change(state(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}))
	s.Change(func(s *workflowplanetest.Server) {
		s.Logs[pod] = func(w workflowplanetest.Stream) {
			if !w.Follow {
				io.WriteString(w, all)
				return
			}
			io.WriteString(w, all[:6]) // to the middle of the second line
			panic(http.ErrAbortHandler)
		}
	})
	run, err := plane.Get(t.Context(), "acme", "cart-1")
	if err != nil {
		t.Fatal(err)
	}
	log, err := plane.Log(t.Context(), run, "checkout-source", true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	next := func(want string) {
		t.Helper()
		text, err := io.ReadAll(log)
		if err != nil || string(text) != want {
			t.Errorf("%v %q, want %q", err, text, want)
		}
	}
	next("") // it has not started
	s.Change(state(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}))
	next("one\n")
	next("")
	s.Change(func(s *workflowplanetest.Server) {
		s.Logs[pod] = func(w workflowplanetest.Stream) {
			if w.Follow {
				io.WriteString(w, all[:8])
				return
			}
			io.WriteString(w, all)
		}
	})
	next("two\n")
	s.Change(state(corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}))
	next("three\nfour\n")
	next("")
}

// A build by buildpacks is in an init container: it is shown while it runs, and what main prints once more is not.
func TestLogOfABuildInFront(t *testing.T) {
	s := workflowplanetest.New(t)
	plane := open(t, s)
	const pod = "cart-1-say-951070249"
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	state := func(build, main corev1.ContainerState) {
		s.Change(func(s *workflowplanetest.Server) {
			s.Pods = slices.Clone(s.Pods)
			for i := range s.Pods {
				if p := &s.Pods[i]; p.Name == pod {
					p.Spec.InitContainers = []corev1.Container{{Name: "fetch"}, {Name: "build"}}
					p.Status.InitContainerStatuses = []corev1.ContainerStatus{
						{Name: "fetch", State: ended}, {Name: "build", State: build},
					}
					p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: main}}
				}
			}
		})
	}
	sealed := replay.Mark(replay.Build, "compiling") + "\nsealing\n"
	s.Change(func(s *workflowplanetest.Server) {
		s.Logs[pod] = func(w workflowplanetest.Stream) {
			built := "compiling\n" + replay.Mark(replay.Build, "of a stranger") + "\n"
			text := map[string]string{"build": built, "main": sealed}
			io.WriteString(w, text[w.Container])
		}
	})
	run, err := plane.Get(t.Context(), "acme", "cart-1")
	if err != nil {
		t.Fatal(err)
	}
	log, err := plane.Log(t.Context(), run, "checkout-source", true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	next := func(want string) {
		t.Helper()
		text, err := io.ReadAll(log)
		if err != nil || string(text) != want {
			t.Errorf("%v %q, want %q", err, text, want)
		}
	}
	state(corev1.ContainerState{}, corev1.ContainerState{})
	next("")
	state(running, corev1.ContainerState{})
	next("compiling\n" + replay.Mark(replay.Build, "of a stranger") + "\n")
	state(ended, corev1.ContainerState{})
	next("")
	state(ended, running)
	next("sealing\n")
	state(ended, ended)
	next("")

	// The node has removed the container: main tells the whole.
	s.Change(func(s *workflowplanetest.Server) {
		for i := range s.Pods {
			if s.Pods[i].Name == pod {
				s.Pods[i].Status.InitContainerStatuses[1].State = ended
			}
		}
		s.Refuse = func(r *http.Request) int {
			if r.URL.Query().Get("container") == "build" {
				return http.StatusNotFound
			}
			return 0
		}
	})
	if text, err := readAll(t, plane, "cart-1", "checkout-source", false); err != nil || text != sealed {
		t.Errorf("%v %q", err, text)
	}
}

// What a cluster refuses is said with what to do about it.
func TestRefusals(t *testing.T) {
	s := workflowplanetest.New(t)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	withoutTrust := httptest.NewTLSServer(s)
	defer withoutTrust.Close()
	html := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<html>a portal</html>")
	}))
	defer html.Close()
	tests := []struct {
		name       string
		kubeconfig string
		refuse     func(*http.Request) int
		reason     outcome.Reason
		message    string
		hint       string
	}{
		{"an expired token", s.Kubeconfig(t, "old"), nil, outcome.Unauthorized,
			"Argo Workflows in namespace workflows-acme: ", "Log in again"},
		{"no right", "", func(*http.Request) int { return 403 }, outcome.Forbidden, "said by the API server",
			"needs a Role with list on workflows.argoproj.io"},
		{"no Argo", "", func(*http.Request) int { return 404 }, outcome.NotFound,
			"Argo Workflows in namespace workflows-acme: ", "Argo Workflows is not installed"},
		{"an error inside", "", func(*http.Request) int { return 500 }, outcome.ApiUnavailable,
			"Argo Workflows in namespace workflows-acme: ", ""},
		{"nobody listens", workflowplanetest.Kubeconfig(t, closed.URL, "", nil), nil, outcome.ApiUnavailable,
			"cannot be reached", "Check the server"},
		{"a certificate of nobody known", workflowplanetest.Kubeconfig(t, withoutTrust.URL, "", nil), nil,
			outcome.ApiUnavailable, "certificate", "certificate authority"},
		{"something else listens", workflowplanetest.Kubeconfig(t, html.URL, "", nil), nil, outcome.ApiUnavailable,
			"is no answer of Kubernetes", ""},
		{"no pods", "", func(r *http.Request) int {
			if strings.HasSuffix(r.URL.Path, "/pods") {
				return 403
			}
			return 0
		}, outcome.Forbidden, "pods in namespace workflows-acme: ", "get on pods/log"},
		{"no logs", "", func(r *http.Request) int {
			if strings.HasSuffix(r.URL.Path, "/log") {
				return 403
			}
			return 0
		}, outcome.Forbidden, "log of pod workflows-acme/cart-1-say-951070249: ", "get on pods/log"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.kubeconfig == "" {
				test.kubeconfig = s.Kubeconfig(t, workflowplanetest.Token)
			}
			s.Change(func(s *workflowplanetest.Server) {
				s.Refuse = func(*http.Request) int { return 0 }
				if test.refuse != nil {
					s.Refuse = test.refuse
				}
			})
			plane, err := Open(test.kubeconfig, "")
			if err != nil {
				t.Fatal(err)
			}
			run, err := plane.Get(t.Context(), "acme", "cart-1")
			if err == nil {
				var log io.ReadCloser
				if log, err = plane.Log(t.Context(), run, "checkout-source", false); err == nil {
					_, err = io.ReadAll(log)
				}
			}
			failed, ok := errors.AsType[*outcome.Error](err)
			if !ok || failed.Reason != test.reason || !strings.Contains(failed.Error(), test.message) ||
				!strings.Contains(failed.Hint, test.hint) {
				t.Errorf("%T %v, hint %q", err, err, failed.Hint)
			}
		})
	}
	t.Run("one of two namespaces is another's", func(t *testing.T) {
		s.Change(func(s *workflowplanetest.Server) {
			s.Refuse = func(r *http.Request) int {
				if strings.Contains(r.URL.Path, "/namespaces/acme/") {
					return 403
				}
				return 0
			}
		})
		if runs, err := open(t, s).List(t.Context(), "acme"); err != nil || len(runs) != 3 {
			t.Errorf("%v %v", runs, err)
		}
	})
}

func TestKubeconfigs(t *testing.T) {
	good := workflowplanetest.Kubeconfig(t, "http://127.0.0.1:1", "", nil)
	broken := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(broken, []byte("clusters: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, path, context, want string }{
		{"absent", filepath.Join(t.TempDir(), "none"), "", "no such file"},
		{"broken", broken, "", "kubeconfig " + broken},
		{"no such context", good, "prod", `"prod"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(test.path, test.context)
			failed, ok := errors.AsType[*outcome.Error](err)
			if !ok || failed.Reason != outcome.InvalidParameters || !strings.Contains(err.Error(), test.want) ||
				failed.Hint == "" {
				t.Error(err)
			}
		})
	}
}

// An interrupt is no failure to reach the cluster.
func TestInterrupt(t *testing.T) {
	s := workflowplanetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, s).List(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
