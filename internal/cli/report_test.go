package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
)

// recordedState is the state of a machine on which the runs in testdata of internal/report have run.
func recordedState(t *testing.T) string {
	t.Helper()
	state := t.TempDir()
	if err := os.CopyFS(filepath.Join(state, "runs"), os.DirFS("../report/testdata/runs")); err != nil {
		t.Fatal(err)
	}
	return state
}

func TestReport(t *testing.T) {
	state := recordedState(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for _, test := range []struct {
		name   string
		args   string
		code   int
		stdout string
		stderr string
		file   string
	}{
		{"by its name", "greeting-service-build-02", 0, "greeting-service-build-02.html\n", "",
			"greeting-service-build-02.html"},
		{"the latest of a component", "--component link-shortener -o a.html", 0, "a.html\n", "", "a.html"},
		{"to the standard output", "-o - greeting-service-build-03", 0, "<!doctype html>", "", ""},
		{"no such run", "cart-9", 67, "", "NotFound", ""},
		{"both", "cart-9 --component cart", 64, "", "give either the NAME", ""},
		{"a folder that is not there", "-o none/a.html greeting-service-build-01", 64, "", "--output: ", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := answerOf(t, false, append([]string{
				"report", "--state", state,
			}, strings.Fields(test.args)...)...)
			if !strings.HasPrefix(stdout, test.stdout) || test.stdout == "" && stdout != "" ||
				!strings.Contains(stderr, test.stderr) || (code == 0) != (test.code == 0) {
				t.Errorf("exit code %d: %.200q, %s", code, stdout, stderr)
			}
			if test.file == "" {
				return
			}
			page, err := os.ReadFile(test.file)
			if err != nil || !strings.HasPrefix(string(page), "<!doctype html>") {
				t.Errorf("%.100q, %v", page, err)
			}
		})
	}
	if left, _ := filepath.Glob("*"); len(left) != 2 {
		t.Errorf("%q is there", left)
	}
}

const clusterReport = `{"builder":"dockerfile","startedAt":"2026-11-21T10:27:40.500Z","durationMs":900,"parts":[` +
	`{"name":"[1/2] RUN a stranger's <b>","kind":"run","status":"failed","startMs":100,"durationMs":700}]}`

// The picture of a run of a cluster is made of what Argo keeps, also of a step that failed.
func TestReportOfACluster(t *testing.T) {
	s := withOpenChoreo(t)
	s.Change(func(s *workflowplanetest.Server) {
		for _, w := range s.Workflows {
			for id, node := range w.Status.Nodes {
				if w.Name == "cart-2" && node.DisplayName == "containerfile-build" {
					node.Outputs.Parameters = append(node.Outputs.Parameters, wfv1.Parameter{
						Name: buildreport.Name, Value: wfv1.AnyStringPtr(clusterReport),
					})
					w.Status.Nodes[id] = node
				}
			}
		}
	})
	t.Setenv("KUBECONFIG", s.Kubeconfig(t, workflowplanetest.Token))
	code, page, stderr := answerOf(t, false, "report", "--cluster", "--component", "cart", "-o", "-")
	if code != 0 {
		t.Fatal(stderr)
	}
	for _, want := range []string{
		"<title>cart Failed – cart-2</title>", "BuildFailed", "exit code: 1. See the log.", "6dcb09b",
		"https://git.example.com/cart.git", "[1/2] RUN a stranger&#39;s &lt;b&gt;", "line 1\n</p>",
		`<data class="ms" value="700">700 ms</data>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(page, "The build has left no report") {
		t.Error("the report of the build is not shown")
	}
}

// A run leaves its picture beside its other files and says where, also when it fails.
func TestPictureOfARun(t *testing.T) {
	state := t.TempDir()
	said := regexp.MustCompile(`Picture of the run: (\S+/runs/acme/cart-1/report\.html)\n`)
	for _, test := range []struct {
		name, dockerfile string
		code             int
		want             []string
	}{
		{"green", "FROM busybox:1\nRUN echo one > /one\n", 0, []string{
			"Succeeded", "RUN echo one", "Provenance (SLSA)", "Sent to the registry",
		}},
		{"failing", "FROM busybox:1\nRUN echo begun && false\n", 22, []string{
			"BuildFailed", "RUN echo begun", `<td class="number state">failed</td>`, "begun",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := project(t, test.dockerfile, cartRepository)
			got, _ := stepwright(t, withStandIns(
				t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir,
			)...)
			at := said.FindStringSubmatch(got.stderr)
			if got.code != test.code || at == nil {
				t.Fatalf("exit code %d\n%s", got.code, got.stderr)
			}
			page, err := os.ReadFile(at[1])
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.want {
				if !strings.Contains(string(page), want) {
					t.Errorf("%q is missing", want)
				}
			}
			again, _ := stepwright(t, "report", "--state", state, "--component", "cart", "-o", "-")
			if again.code != 0 || again.stdout != string(page) {
				t.Errorf("exit code %d: stepwright report makes another page: %s", again.code, again.stderr)
			}
		})
	}
}
