package history

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
)

func newRun(namespace, name string) *v1alpha1.WorkflowRun {
	return &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
}

var workflow = map[string]any{"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
	"metadata": map[string]any{"name": "cart-1", "namespace": "workflows-acme"}}

// conditions are type, status and reason.
func conditions(run *v1alpha1.WorkflowRun) map[string]string {
	all := map[string]string{}
	for _, c := range run.Status.Conditions {
		all[c.Type] = string(c.Status) + " " + c.Reason
	}
	return all
}

func get(t *testing.T, s Store, name string) *v1alpha1.WorkflowRun {
	t.Helper()
	run, err := s.Get("", name)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// The table of conditions in docs/contract.md section 2, as a reader sees it while the run runs.
func TestRecord(t *testing.T) {
	failure := outcome.Errorf(outcome.BuildFailed, "exit code: 1.").WithHint("See the log.")
	tests := []struct {
		name    string
		end     func(*Record) error
		want    map[string]string
		phase   string
		message string
		reason  outcome.Reason
	}{
		{
			"succeeded", func(r *Record) error {
				r.Ended("build", outcome.Report{Reason: outcome.Succeeded, Message: "fine"}, time.Second)
				return nil
			},
			map[string]string{"WorkflowCompleted": "True WorkflowSucceeded", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowSucceeded": "True WorkflowSucceeded"},
			"Succeeded", "", outcome.Succeeded,
		},
		{
			"failed", func(r *Record) error {
				r.Ended("build", outcome.Report{}.FailedBy(failure), time.Second)
				return failure
			},
			map[string]string{"WorkflowCompleted": "True WorkflowFailed", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowFailed": "True WorkflowFailed"},
			"Failed",
			"BuildFailed: exit code: 1. See the log.", outcome.BuildFailed,
		},
		{
			"an error", func(r *Record) error { return errors.New("no such program") },
			map[string]string{"WorkflowCompleted": "True WorkflowFailed", "WorkflowRunning": "False WorkflowRunning",
				"WorkflowFailed": "True WorkflowFailed"},
			"Error",
			"no such program", "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := Store{Dir: t.TempDir()}
			r, err := s.Create(newRun("acme", "cart-1"), workflow)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]string{
				"WorkflowCompleted": "False WorkflowPending",
			}, conditions(get(t, s, "cart-1"))); diff != "" {
				t.Error(diff)
			}
			r.Started("build")
			r.Line("build", "one line")
			during := get(t, s, "cart-1")
			if diff := cmp.Diff(map[string]string{
				"WorkflowCompleted": "False WorkflowPending",
				"WorkflowRunning":   "True WorkflowRunning",
			}, conditions(during)); diff != "" {
				t.Error(diff)
			}
			if runstatus.Phase(during) != "Running" || len(during.Status.Tasks) != 1 ||
				during.Status.Tasks[0].Phase != "Running" {
				t.Errorf("%+v", during.Status)
			}
			if _, err := s.Create(newRun("acme", "cart-1"), workflow); !errors.Is(err, errRunning) {
				t.Errorf("a second run of that name: %v", err)
			}
			failure := test.end(r)
			r.Keep(map[string]map[string]string{"build": {"image": "x"}})
			if _, err := r.End(failure, map[string]string{"a": "b"}); err != nil {
				t.Fatal(err)
			}
			after := get(t, s, "cart-1")
			if diff := cmp.Diff(test.want, conditions(after)); diff != "" {
				t.Error(diff)
			}
			task := after.Status.Tasks[0]
			if task.Name != "build" || task.Phase != test.phase || task.Message != test.message ||
				task.StartedAt == nil || task.CompletedAt == nil {
				t.Errorf("%+v", task)
			}
			if after.Annotations["a"] != "b" || after.Status.RunReference.Namespace != "workflows-acme" ||
				after.Status.CompletedAt == nil {
				t.Errorf("%+v", after)
			}
			details, err := s.Details(after)
			if d := details["build"]; err != nil || d.StartedAt.IsZero() || d.Outputs["image"] != "x" ||
				d.Reason != test.reason || (d.Reason == "") != (d.DurationMs == 0) {
				t.Errorf("%+v, %v", details, err)
			}
			if log, err := os.ReadFile(s.Log(after, "build")); err != nil || string(log) != "one line\n" {
				t.Errorf("%q, %v", log, err)
			}
			again, err := s.Create(newRun("acme", "cart-1"), workflow)
			if err != nil {
				t.Fatal(err)
			}
			defer again.End(nil, nil)
			if fresh := get(t, s, "cart-1"); len(fresh.Status.Tasks) > 0 || runstatus.Completed(fresh) {
				t.Errorf("a run of the same name begins with %+v", fresh.Status)
			}
		})
	}
}

// A run whose process was killed has failed.
func TestRunThatIsGone(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	r, err := s.Create(newRun("acme", "cart-1"), workflow)
	if err != nil {
		t.Fatal(err)
	}
	r.Started("build")
	r.unlock() // as the system does when a process ends
	run := get(t, s, "cart-1")
	if !runstatus.Completed(run) || runstatus.Phase(run) != "Failed" {
		t.Errorf("%+v", conditions(run))
	}
}

func TestGet(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	if _, err := s.Get("", "cart-1"); err == nil || !strings.Contains(err.Error(), "nothing was run yet") {
		t.Error(err)
	}
	for _, run := range []*v1alpha1.WorkflowRun{
		newRun("acme", "cart-1"), newRun("acme", "cart-2"), newRun("other", "cart-2"),
	} {
		r, err := s.Create(run, workflow)
		if err != nil {
			t.Fatal(err)
		}
		defer r.End(nil, nil)
	}
	tests := []struct{ namespace, name, want string }{
		{"", "cart-1", ""}, {"acme", "cart-2", ""},
		{"", "cart-2", `in each of the namespaces`}, {"other", "cart-1", `there is no run "cart-1"; there is`},
		{"", "cart-3", `there is no run "cart-3"`},
	}
	for _, test := range tests {
		run, err := s.Get(test.namespace, test.name)
		if test.want == "" && (err != nil || run.Name != test.name) || test.want != "" && (err == nil ||
			!strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v: %v", test, err)
		}
	}
}

// The newest run is the first, also of runs that began in one second, whatever their names.
func TestOrderOfRuns(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	names := []string{"cart-3", "cart-1", "cart-20", "cart-2"}
	for i, name := range names {
		r, err := s.Create(newRun("acme", name), workflow)
		if err != nil {
			t.Fatal(err)
		}
		defer r.End(nil, nil)
		// As if they had all begun in the second of the first, and the last of them at its very end.
		r.run.CreationTimestamp = metav1.Unix(1767225600, 0)
		r.save()
		at := time.Unix(1767225600, int64(i)*int64(350*time.Millisecond))
		if err := os.Chtimes(filepath.Join(s.Dir, "acme", name, workflowFile), at, at); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, run := range all {
		listed = append(listed, run.Name)
	}
	slices.Reverse(names)
	if diff := cmp.Diff(names, listed); diff != "" {
		t.Error(diff)
	}
}

// Names are a developer's, and stay in the folder.
func TestNamesThatLeadElsewhere(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "runs")}
	for _, run := range []*v1alpha1.WorkflowRun{
		newRun("acme", "../../x"), newRun("..", "x"), newRun("acme", ""), newRun("a/b", "x"),
	} {
		if _, err := s.Create(run, workflow); err == nil {
			t.Errorf("%s/%s was made", run.Namespace, run.Name)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(s.Dir)); len(left) > 0 {
		t.Errorf("%v was made", left)
	}
}
