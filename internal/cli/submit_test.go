package cli

import (
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// A cluster that has only Argo gets what OpenChoreo's controller would create, in its order; one that has OpenChoreo
// gets the WorkflowRun.
func TestRunInACluster(t *testing.T) {
	dir := project(t, "", `{repository: {url: "https://git.example.com/cart.git"}}`)
	const rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/workflows-acme"
	const secrets = "/apis/external-secrets.io/v1/namespaces/workflows-acme/externalsecrets"
	for _, test := range []struct {
		name, ends string // the recorded workflow that it becomes
		openChoreo bool
		code       int
		stdout     string
		stderr     string
		written    []string
	}{
		{
			"only Argo", "cart-1", false, 0, "WorkflowRun acme/cart-1: Succeeded",
			"publish-image │ cart-1-say-1528715698 line 3\n",
			[]string{
				"PATCH /api/v1/namespaces/workflows-acme/serviceaccounts/workflow-sa",
				"PATCH " + rbac + "/roles/workflow-sa-role", "PATCH " + rbac + "/rolebindings/workflow-sa-role-binding",
				"PATCH " + secrets + "/cart-1-registry-push-secret",
				"PATCH " + secrets + "/cart-1-registry-pull-secret",
				"PATCH " + secrets + "/cart-1-oauth-client-secret",
				"POST /apis/argoproj.io/v1alpha1/namespaces/workflows-acme/workflows",
			},
		},
		{
			"OpenChoreo", "cart-2", true, 22, "WorkflowRun acme/cart-1: Failed", "BuildFailed: containerfile-build: ",
			[]string{"POST /apis/openchoreo.dev/v1alpha1/namespaces/acme/workflowruns"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := workflowplanetest.New(t)
			ended := workflowplanetest.Workflow(t, test.ends)
			ended.Name = "cart-1"
			ended.Labels = nil
			s.Change(func(s *workflowplanetest.Server) {
				s.Workflows = nil
				for i := range s.Pods {
					if s.Pods[i].Labels["workflows.argoproj.io/workflow"] == test.ends {
						s.Pods[i].Labels["workflows.argoproj.io/workflow"] = "cart-1"
					}
				}
				if test.openChoreo {
					s.Runs = map[string]string{}
				}
				s.Create = func(path, body string) {
					if strings.HasSuffix(path, "/workflows") || strings.HasSuffix(path, "/workflowruns") {
						s.Workflows = append(s.Workflows, *ended)
					}
					if strings.HasSuffix(path, "/workflowruns") {
						s.Runs["acme/cart-1"] = body
					}
				}
			})
			got, _ := stepwright(t, "run", "--cluster", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token), dir)
			if got.code != test.code || !strings.Contains(got.stdout, test.stdout) ||
				!strings.Contains(got.stderr, test.stderr) {
				t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
			var written []string
			for i := 0; i < len(s.Written); i += 2 {
				written = append(written, s.Written[i])
			}
			if diff := cmp.Diff(test.written, written); diff != "" {
				t.Error(diff)
			}
			if last := s.Written[len(s.Written)-1]; !strings.Contains(last, `"name":"cart-1"`) ||
				!strings.Contains(last, "https://git.example.com/cart.git") {
				t.Error(last)
			}
		})
	}
}

// A cluster's lack of something is reported before, or instead of, any run.
func TestRunThatAClusterRefuses(t *testing.T) {
	good := project(t, "", `{repository: {url: "https://git.example.com/cart.git"}}`)
	bad := project(t, "", `{repository: {url: "https://git.example.com/cart.git"}, buildEnv: "A=b"}`)
	for _, test := range []struct {
		name   string
		args   []string
		refuse func(*http.Request) int
		code   int
		stderr []string
	}{
		{"a fault", []string{bad}, nil, 2, []string{"InvalidParameters: ", "spec.workflow.parameters.buildEnv"}},
		{"flags of this machine", []string{"--source", ".", "--registry-mirror", "docker.io=x", good}, nil, 64,
			[]string{
				"UsageError: 2 faults:", "--source: is about runs on this machine",
				"--registry-mirror: is about runs on this machine",
			}},
		{"no namespace", []string{good}, func(r *http.Request) int {
			if r.Method == http.MethodPatch {
				return 404
			}
			return 0
		}, 44,
			[]string{
				"NotFound: ServiceAccount workflows-acme/workflow-sa: ", "kubectl create namespace workflows-acme",
			}},
		{"no right", []string{good}, func(r *http.Request) int {
			if r.Method == http.MethodPost {
				return 403
			}
			return 0
		}, 42, []string{"Forbidden: Workflow workflows-acme/cart-1: ", "create and patch on workflows"}},
		{"there already", []string{good}, func(r *http.Request) int {
			if r.Method == http.MethodPost {
				return 409
			}
			return 0
		}, 2, []string{"InvalidParameters: Workflow workflows-acme/cart-1: ", "another name"}},
		{"no External Secrets", []string{good}, func(r *http.Request) int {
			if strings.HasPrefix(r.URL.Path, "/apis/external-secrets.io/") {
				return 404
			}
			return 0
		}, 44, []string{"has no kind ExternalSecret of external-secrets.io/v1", "Install what has that kind"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := workflowplanetest.New(t)
			if test.refuse != nil {
				s.Change(func(s *workflowplanetest.Server) { s.Refuse = test.refuse })
			}
			got, _ := stepwright(t, append([]string{
				"run", "--cluster", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token),
			}, test.args...)...)
			for _, want := range test.stderr {
				if got.code != test.code || !strings.Contains(got.stderr, want) {
					t.Errorf("exit code %d, want %d; %q is missing in\n%s", got.code, test.code, want, got.stderr)
				}
			}
		})
	}
}

// An interrupt leaves the run alone, and says how to look at it again.
func TestInterruptLeavesTheRunInTheCluster(t *testing.T) {
	s := workflowplanetest.New(t)
	started := make(chan struct{})
	s.Change(func(s *workflowplanetest.Server) {
		s.Workflows = nil
		s.Create = func(path, _ string) {
			if strings.HasSuffix(path, "/workflows") {
				running := workflowplanetest.Workflow(t, "cart-1")
				running.Status.Phase, running.Status.FinishedAt = wfv1.WorkflowRunning, metav1.Time{}
				s.Workflows = append(s.Workflows, *running)
				close(started)
			}
		}
	})
	dir := project(t, "", `{repository: {url: "https://git.example.com/cart.git"}}`)
	cmd := exec.CommandContext(
		t.Context(), program(t), "run", "--cluster", "--kubeconfig",
		s.Kubeconfig(t, workflowplanetest.Token), dir,
	)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 ||
		!strings.Contains(
			stderr.String(), "Run acme/cart-1 goes on in the cluster: stepwright logs -f -n acme cart-1",
		) {
		t.Errorf("exit code %d\n%s", code, stderr.String())
	}
}
