package templates_test

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/util/telemetry"
	"github.com/argoproj/argo-workflows/v4/util/template"
	"github.com/argoproj/argo-workflows/v4/workflow/metrics"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/stepwright/stepwright/schemas"
)

// Argo turns each exit code into its reason and class, once there is one: what it replaces before a pod has run leaves
// the expressions as they are.
func TestMetricsOfSteps(t *testing.T) {
	t.Parallel()
	ctx := logging.WithLogger(t.Context(), logging.NewSlogLogger(logging.Error, logging.Text))
	for _, object := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		name := at(object, "metadata", "name").(string)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			builder := "none"
			if steps[name].template == "build-image" {
				builder = name
			}
			raw, err := json.Marshal(at(object, "spec", "templates", 0, "metrics"))
			if err != nil {
				t.Fatal(err)
			}
			early, err := template.Replace(ctx, string(raw), map[string]any{
				"workflow.name": "cart-1", "workflow.status": "Running", "inputs.parameters.registry": "r",
			}, true)
			if err != nil || early != string(raw) {
				t.Errorf("before the pod has run: %v\n%s", err, early)
			}
			// In a pod the template is a text in a variable: Argo's expressions are looked at in JSON within JSON.
			pod, err := json.Marshal(map[string]string{"ARGO_TEMPLATE": string(raw)})
			if err != nil {
				t.Fatal(err)
			}
			inPod, err := template.Replace(ctx, string(pod), map[string]any{"workflow.name": "cart-1"}, true)
			if err != nil || inPod != string(pod) {
				t.Errorf("in a pod: %v\n%s", err, inPod)
			}
			labels := func(scope map[string]any) map[string]map[string]string {
				scope["duration"] = "12.5"
				text, err := template.Replace(ctx, early, scope, false)
				if err != nil {
					t.Fatal(err)
				}
				var found wfv1.Metrics
				if err := json.Unmarshal([]byte(text), &found); err != nil {
					t.Fatal(err)
				}
				all := map[string]map[string]string{}
				for _, m := range found.Prometheus {
					all[m.Name] = m.GetMetricLabels()
					if value := m.GetValueString(); value != "12.5" && value != "1" {
						t.Errorf("%s is %s", m.Name, value)
					}
				}
				return all
			}
			type ending struct{ code, reason, class, status string }
			endings := []ending{{"3", "unknown", "unknown", "Failed"}}
			for _, reason := range schemas.Reasons() {
				status := "Failed"
				if reason.ExitCode == 0 {
					status = "Succeeded"
				}
				endings = append(endings, ending{strconv.Itoa(reason.ExitCode), reason.Name, reason.Class, status})
			}
			for _, e := range endings {
				want := map[string]map[string]string{
					"stepwright_step_duration_seconds": {
						"step": steps[name].schema, "builder": builder, "status": e.status,
					},
					"stepwright_step_outcomes_total": {
						"step": steps[name].schema, "builder": builder, "reason": e.reason, "class": e.class,
					},
				}
				got := labels(map[string]any{"exitCode": e.code, "status": e.status})
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Errorf("exit code %s: %s", e.code, diff)
				}
			}
		})
	}
}

// Argo copies a step's metrics into each of its pods and into each Workflow, so they are short.
func TestMetricsAreShort(t *testing.T) {
	t.Parallel()
	const most = 2200 // bytes; with a comparison for each exit code they had 2,700 and more
	for _, object := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		raw, err := json.Marshal(at(object, "spec", "templates", 0, "metrics"))
		if err != nil {
			t.Fatal(err)
		}
		if len(raw) > most {
			t.Errorf("%v: %d bytes, more than %d", at(object, "metadata", "name"), len(raw), most)
		}
	}
}

// variable is something that Argo replaces.
var variable = regexp.MustCompile(`{{[^=}][^}]*}}`)

// No label tells a run, a component or a namespace: there would be a time series for each.
func TestMetricsAreFew(t *testing.T) {
	t.Parallel()
	found := 0
	for _, dir := range []string{"workflow-plane", "control-plane"} {
		for _, object := range build(t, dir) {
			spec := at(object, "spec", "templates", 0, "metrics")
			if dir == "control-plane" {
				spec = at(object, "spec", "runTemplate", "spec", "metrics")
			}
			raw, err := json.Marshal(spec)
			if err != nil || string(raw) == "null" {
				continue
			}
			found++
			for _, v := range variable.FindAllString(string(raw), -1) {
				if !slices.Contains([]string{
					"{{status}}", "{{duration}}", "{{workflow.status}}", "{{workflow.duration}}",
				}, v) {
					t.Errorf("%v: %s", at(object, "metadata", "name"), v)
				}
			}
			for _, part := range strings.Split(string(raw), "{{=")[1:] {
				if expression, _, _ := strings.Cut(part, "}}"); strings.Contains(expression, "workflow.") {
					t.Errorf("%v: %s", at(object, "metadata", "name"), expression)
				}
			}
		}
	}
	if want := len(steps) + len(ofKind(build(t, "control-plane"), "ClusterWorkflow")); found != want {
		t.Errorf("%d objects have metrics, want %d", found, want)
	}
}

// Argo's own code serves the metrics by these names, types and labels, which docs/platform/observability.md and
// examples/observability have.
func TestMetricsAsServed(t *testing.T) {
	ctx := logging.WithLogger(t.Context(), logging.NewSlogLogger(logging.Error, logging.Text))
	// As the controller does.
	served, err := metrics.New(ctx, "workflows-controller", "argo_workflows", &telemetry.Config{Enabled: true},
		metrics.Callbacks{
			PodPhase:          func(context.Context) map[string]int64 { return map[string]int64{"Pending": 1} },
			WorkflowPhase:     func(context.Context) map[string]int64 { return map[string]int64{"Running": 1} },
			WorkflowCondition: func(context.Context) map[wfv1.Condition]int64 { return nil },
			IsLeader:          func() bool { return true },
		})
	if err != nil {
		t.Fatal(err)
	}
	scope := map[string]any{
		"status": "Failed", "duration": "12.5", "exitCode": "22",
		"workflow.status": "Failed", "workflow.duration": "60",
	}
	for range 2 { // runs
		for _, dir := range []string{"workflow-plane", "control-plane"} {
			for _, object := range build(t, dir) {
				spec := at(object, "spec", "templates", 0, "metrics")
				if dir == "control-plane" {
					spec = at(object, "spec", "runTemplate", "spec", "metrics")
				}
				raw, err := json.Marshal(spec)
				if err != nil {
					t.Fatal(err)
				}
				text, err := template.Replace(ctx, string(raw), scope, false)
				if err != nil {
					t.Fatal(err)
				}
				var all wfv1.Metrics
				if err := json.Unmarshal([]byte(text), &all); err != nil {
					t.Fatal(err)
				}
				for _, m := range all.Prometheus {
					if err := served.UpsertCustomMetric(ctx, m, "a run", nil); err != nil {
						t.Errorf("%v: %s: %v", at(object, "metadata", "name"), m.Name, err)
					}
				}
			}
		}
	}
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got, argo := map[string]string{}, map[string]bool{}
	for _, family := range families {
		argo[family.GetName()] = true
		if !strings.HasPrefix(family.GetName(), "argo_workflows_stepwright_") {
			continue
		}
		series := map[string]bool{}
		for _, m := range family.Metric {
			var labels []string
			for _, label := range m.Label {
				labels = append(labels, label.GetName())
			}
			series[strings.Join(labels, " ")] = true
			if m.GetCounter().GetValue() != 2 && m.GetHistogram().GetSampleCount() != 2 {
				t.Errorf("%s: %v is not of two runs", family.GetName(), m)
			}
		}
		got[family.GetName()] = family.GetType().String() + ": " +
			strings.Join(slices.Sorted(maps.Keys(series)), ", ")
	}
	if diff := gocmp.Diff(map[string]string{
		"argo_workflows_stepwright_run_duration_seconds":  "HISTOGRAM: builder status",
		"argo_workflows_stepwright_step_duration_seconds": "HISTOGRAM: builder status step",
		"argo_workflows_stepwright_step_outcomes_total":   "COUNTER: builder class reason step",
	}, got); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"argo_workflows_gauge", "argo_workflows_pods_gauge"} {
		if !argo[name] {
			t.Errorf("Argo does not serve %s", name)
		}
	}
}
