package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// The commands show runs of a cluster as they show those of this machine, and end with the reasons' exit codes.
func TestRunsOfACluster(t *testing.T) {
	s := workflowplanetest.New(t)
	nobody := workflowplanetest.Kubeconfig(t, "http://127.0.0.1:1", "", nil)
	for _, test := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"list", []string{"list"}, 0,
			[]string{"NAMESPACE   NAME     COMPONENT   PHASE", "acme        cart-2   cart        Failed",
				"acme        cart-1   cart        Succeeded"}},
		{"get", []string{"get", "-n", "acme", "cart-2"}, 0,
			[]string{"WorkflowRun acme/cart-2: Failed", "containerfile-build   Failed", "BuildFailed: "}},
		{"get what only Argo explains", []string{"get", "cart-3"}, 0,
			[]string{"WorkflowRun acme/cart-3: Failed", "template reference checkout-source.checkout not found"}},
		{"get as YAML", []string{"get", "cart-1", "-o", "yaml"}, 0,
			[]string{"kind: WorkflowRun\n", "reason: WorkflowSucceeded",
				"  - completedAt: \"2026-11-21T10:27:38Z\"\n    name: checkout-source\n    phase: Succeeded\n"}},
		{"get another", []string{"get", "cart-9"}, 44,
			[]string{`NotFound: there is no run "cart-9" in the cluster at https://127.0.0.1`,
				"there is acme/cart-3, acme/cart-2, acme/cart-1", "the same --kubeconfig"}},
		{"logs", []string{"logs", "cart-2"}, 0,
			[]string{"checkout-source │ cart-2-say-2081402942 line 1\n",
				"containerfile-build │ cart-2-say-2487319825 line 3\n"}},
		{"logs of a task", []string{"logs", "-f", "cart-2", "checkout-source"}, 0,
			[]string{"cart-2-say-2081402942 line 1\ncart-2-say-2081402942 line 2\ncart-2-say-2081402942 line 3\n"}},
		{"logs of no task", []string{"logs", "cart-2", "push"}, 64,
			[]string{`run cart-2 has no task "push"; it has checkout-source, containerfile-build`}},
		{"an expired token", []string{"list", "--kubeconfig", s.Kubeconfig(t, "old")}, 41,
			[]string{"Unauthorized: ", "Log in again"}},
		{"nobody there", []string{"list", "--kubeconfig", nobody}, 45,
			[]string{"ApiUnavailable: ", "cannot be reached"}},
		{"no such context", []string{"list", "--context", "prod"}, 2, []string{`InvalidParameters: `, `"prod"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := test.args
			if !slices.Contains(args, "--kubeconfig") {
				args = append(args, "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token))
			}
			got, _ := stepwright(t, args...)
			for _, want := range test.want {
				if got.code != test.code || !strings.Contains(got.stdout+got.stderr, want) {
					t.Errorf(
						"exit code %d, want %d; %q is missing in\n%s\n%s", got.code, test.code, want, got.stdout,
						got.stderr,
					)
				}
			}
		})
	}
	t.Run("forbidden", func(t *testing.T) {
		s.Change(func(s *workflowplanetest.Server) { s.Refuse = func(*http.Request) int { return 403 } })
		defer s.Change(func(s *workflowplanetest.Server) { s.Refuse = func(*http.Request) int { return 0 } })
		got, _ := stepwright(t, "logs", "cart-1", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token))
		if got.code != 42 || !strings.Contains(got.stderr, "Forbidden: ") ||
			!strings.Contains(got.stderr, "needs a Role") {
			t.Errorf("exit code %d\n%s", got.code, got.stderr)
		}
	})
	t.Run("pods that are gone", func(t *testing.T) {
		s.Change(func(s *workflowplanetest.Server) {
			s.Pods = slices.DeleteFunc(slices.Clone(s.Pods), func(p corev1.Pod) bool {
				return p.Name == "cart-1-say-951070249"
			})
		})
		got, _ := stepwright(t, "logs", "cart-1", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token))
		if got.code != 44 || !strings.Contains(got.stderr, "checkout-source: its pod is gone") ||
			!strings.Contains(got.stdout, "publish-image │ ") {
			t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
		}
	})
}

// A log that is followed goes on with the next step, and ends with the workflow.
func TestLogsAreFollowedAcrossSteps(t *testing.T) {
	s := workflowplanetest.New(t)
	ended := workflowplanetest.Workflow(t, "cart-1")
	first, second := ended.Status.Nodes["cart-1-951070249"], ended.Status.Nodes["cart-1-1440746042"]
	now := ended.DeepCopy()
	now.Status.Phase, now.Status.FinishedAt = wfv1.WorkflowRunning, metav1.Time{}
	show := func(s *workflowplanetest.Server, nodes ...wfv1.NodeStatus) {
		s.Workflows[0] = *now.DeepCopy()
		s.Workflows[0].Status.Nodes = wfv1.Nodes{}
		for _, n := range nodes {
			s.Workflows[0].Status.Nodes[n.ID] = n
		}
	}
	s.Change(func(s *workflowplanetest.Server) {
		show(s)
		for _, pod := range s.Pods {
			s.Logs[pod.Name] = func(w workflowplanetest.Stream) {
				fmt.Fprintf(w, "from %s\n", pod.Annotations["workflows.argoproj.io/node-name"])
			}
		}
	})
	read, write := io.Pipe()
	cmd := logsCommand()
	cmd.SetOut(write)
	cmd.SetArgs([]string{"-f", "cart-1", "-n", "acme", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token)})
	done := make(chan error, 1)
	go func() {
		done <- cmd.ExecuteContext(t.Context())
		write.Close()
	}()
	s.Change(func(s *workflowplanetest.Server) { show(s, first) })
	line := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(read, got); err != nil || string(got) != want {
			t.Fatalf("%v %q, want %q", err, got, want)
		}
	}
	line("checkout-source │ from cart-1[0].checkout-source\n")
	s.Change(func(s *workflowplanetest.Server) { show(s, first, second) })
	line("containerfile-build │ from cart-1[1].containerfile-build\n")
	s.Change(func(s *workflowplanetest.Server) { s.Workflows[0] = *ended })
	rest, err := io.ReadAll(read)
	if want := "publish-image │ from cart-1[2].publish-image\n"; err != nil || string(rest) != want {
		t.Errorf("%v %q, want %q", err, rest, want)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What get prints of a cluster is a WorkflowRun, and nothing else.
func TestGetPrintsAWorkflowRun(t *testing.T) {
	s := workflowplanetest.New(t)
	cmd := getCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"cart-1", "-o", "json", "--kubeconfig", s.Kubeconfig(t, workflowplanetest.Token)})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	var run v1alpha1.WorkflowRun
	strict := json.NewDecoder(&out)
	strict.DisallowUnknownFields()
	if err := strict.Decode(&run); err != nil || len(run.Status.Tasks) != 3 {
		t.Errorf("%v %+v", err, run.Status)
	}
}

// What pods print and workflows say is shown, and not obeyed.
func TestHostileCluster(t *testing.T) {
	const hostile = "\x1b[31mred\x1b[2J\u202e\r\x9b1m"
	s := workflowplanetest.New(t)
	s.Change(func(s *workflowplanetest.Server) {
		nodes := s.Workflows[0].Status.Nodes
		for id, n := range nodes {
			n.Message, n.Phase = hostile+"\t1\n2", wfv1.NodeFailed
			nodes[id] = n
		}
		for _, pod := range s.Pods {
			s.Logs[pod.Name] = func(w workflowplanetest.Stream) {
				fmt.Fprintf(w, "%s\n::error::x\n%s\n", hostile, strings.Repeat("x", 100_000))
			}
		}
	})
	name, namespace := s.Workflows[0].Name, strings.TrimPrefix(s.Workflows[0].Namespace, "workflows-")
	for args, wants := range map[string][]string{
		"logs":        {`red\x1b[2J\u202e\r`, `\x9b1m`, "│ \\x3a:error::x\n", "│ " + strings.Repeat("x", 1<<16) + "\n"},
		"get":         {`\x1b[31mred\x1b[2J\u202e\r`},
		"list":        {name},
		"get -o yaml": {`\u202e`},
		"get -o json": {`\u202e`},
	} {
		var out bytes.Buffer
		cli := append(strings.Fields(args), name, "-n", namespace, "--kubeconfig",
			s.Kubeconfig(t, workflowplanetest.Token))
		if args == "list" {
			cli = append(cli[:1], cli[2:]...)
		}
		if code := Main(t.Context(), cli, &out, &out); code != 0 {
			t.Fatalf("%s: %s", args, out.String())
		}
		got := out.String()
		if i := strings.IndexFunc(got, func(r rune) bool {
			return !quote.Visible(r) && r != '\n' && r != '\t'
		}); i >= 0 || !utf8.ValidString(got) {
			t.Errorf("%s prints %.300q", args, got[max(i, 0):])
		}
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s does not print %.100q: %.500s", args, want, got)
			}
		}
	}
}
