// Package observability_test checks the dashboard and the rules: what they ask for is there, and Prometheus' own parser
// understands it. By the tag verifiers promtool checks and tries the rules.
package observability_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/telemetry"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/templates"
)

// read reads a file as YAML.
func read[T any](t *testing.T, name string) T {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var v T
	if err := yaml.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

// rules are the PrometheusRule's.
func rules(t *testing.T) []rule {
	t.Helper()
	object := read[struct {
		Spec struct {
			Groups []struct{ Rules []rule }
		}
	}](t, "prometheus-rule.yaml")
	var all []rule
	for _, group := range object.Spec.Groups {
		all = append(all, group.Rules...)
	}
	if len(all) < 8 {
		t.Fatalf("there are %d rules", len(all))
	}
	return all
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               struct{ UID string }
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct {
		Expr, RefID, LegendFormat string
		Datasource                struct{ UID string }
	}
}

type dashboard struct {
	UID, Title string
	Panels     []panel
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
}

// queries are the expressions of the dashboard, with values for Grafana's variables.
func queries(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, p := range read[dashboard](t, "dashboard.json").Panels {
		for _, target := range p.Targets {
			all = append(all, strings.NewReplacer(
				"$__rate_interval", "5m", "$__range", "1d", "$builder", ".*",
			).Replace(target.Expr))
		}
	}
	if len(all) < 15 {
		t.Fatalf("the dashboard has %d queries", len(all))
	}
	return all
}

// What a person wants to know of a panel is there, and no two are at one place.
func TestDashboard(t *testing.T) {
	d := read[dashboard](t, "dashboard.json")
	if d.UID == "" || d.Title == "" || len(d.Templating.List) != 2 || d.Templating.List[0].Type != "datasource" {
		t.Errorf("the dashboard is %s, %q, with %v", d.UID, d.Title, d.Templating)
	}
	ids, titles, taken := map[int]bool{}, map[string]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.Title == "" {
			t.Errorf("panel %d, %q, is there twice", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q is at the place of %q, or outside", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != "${datasource}" ||
			len(p.Targets) == 0 {
			t.Errorf("%q has no description, unit, query, or data source that can be chosen", p.Title)
		}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || target.LegendFormat == "" || target.RefID == "" {
				t.Errorf("%q: %+v", p.Title, target)
			}
		}
	}
}

// known are the metrics that there are: those of our templates and of Argo, as its controller serves them, and those
// that the rules record.
func known(t *testing.T) map[string]bool {
	t.Helper()
	const prefix = "argo_workflows_"
	all := map[string]bool{}
	for _, builtin := range []*telemetry.BuiltinInstrument{
		&telemetry.InstrumentGauge, &telemetry.InstrumentPodsGauge, &telemetry.InstrumentPodPendingCount,
		&telemetry.InstrumentQueueDepthGauge, &telemetry.InstrumentErrorCount,
	} {
		all[prefix+builtin.Name()] = true
	}
	own := 0
	for _, plane := range []string{"workflow-plane", "control-plane"} {
		files, err := templates.Files.ReadDir(plane)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			raw, err := templates.Files.ReadFile(plane + "/" + file.Name())
			if err != nil {
				t.Fatal(err)
			}
			var object struct {
				Spec struct {
					Templates   []struct{ Metrics *wfv1.Metrics }
					RunTemplate struct {
						Spec struct{ Metrics *wfv1.Metrics }
					}
				}
			}
			if err := yaml.Unmarshal(raw, &object); err != nil {
				t.Fatalf("%s: %v", file.Name(), err)
			}
			metrics := []*wfv1.Metrics{object.Spec.RunTemplate.Spec.Metrics}
			for _, template := range object.Spec.Templates {
				metrics = append(metrics, template.Metrics)
			}
			for _, m := range metrics {
				if m == nil {
					continue
				}
				for _, p := range m.Prometheus {
					own++
					if p.Histogram == nil {
						all[prefix+p.Name] = true
						continue
					}
					for _, part := range []string{"_bucket", "_count", "_sum"} {
						all[prefix+p.Name+part] = true
					}
				}
			}
		}
	}
	if own < 10 {
		t.Fatalf("the templates have %d metrics", own)
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			all[r.Record] = true
		}
	}
	return all
}

// Each expression is PromQL, and asks for metrics that there are.
func TestExpressions(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a parser of PromQL")
	}
	expressions := queries(t)
	for _, r := range rules(t) {
		expressions = append(expressions, r.Expr)
	}
	answers := parse(t, append(expressions, "rate(absent_metric[5m])", "sum("))
	known := known(t)
	faults := func(i int) []string {
		var all []string
		if fault := answers[i].Fault; fault != "" {
			all = append(all, fault)
		}
		for _, metric := range answers[i].Metrics {
			if !known[metric] {
				all = append(all, "there is no metric "+metric)
			}
		}
		return all
	}
	for i, expression := range expressions {
		if found := faults(i); len(found) > 0 || len(answers[i].Metrics) == 0 {
			t.Errorf("%s: %s", expression, found)
		}
	}
	for i := range 2 { // so that a fault is seen
		if len(faults(len(expressions)+i)) == 0 {
			t.Error("what is wrong has no fault")
		}
	}
}

type answer struct {
	Fault   string
	Metrics []string
}

// parse has Prometheus' own parser read expressions, by the program in testdata/promql.
func parse(t *testing.T, expressions []string) []answer {
	t.Helper()
	dir, err := cachedir.Path("promql")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "promql")
	unlock, err := filelock.Exclusive(t.Context(), program+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "promql")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw, err := json.Marshal(expressions)
	if err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), program)
	run.Stdin = bytes.NewReader(raw)
	out, err := run.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []answer
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(expressions) {
		t.Fatalf("%d answers for %d expressions: %v", len(answers), len(expressions), err)
	}
	return answers
}

var notInAnchor = regexp.MustCompile(`[^a-z0-9 -]`)

// Each alert says what to do, in the runbook, and each heading there is of an alert.
func TestRunbook(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, runbook, found := strings.Cut(string(readme), "\n## Runbook\n")
	if !found {
		t.Fatal("README.md has no runbook")
	}
	var want, got []string
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		want = append(want, r.Alert)
		anchor := notInAnchor.ReplaceAllString(strings.ToLower(r.Alert), "")
		if url := r.Annotations["runbook_url"]; !strings.HasSuffix(url, "/examples/observability/README.md#"+anchor) {
			t.Errorf("%s: the runbook is at %s", r.Alert, url)
		}
		if r.Annotations["summary"] == "" || !slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
			t.Errorf("%s: %v, %v", r.Alert, r.Annotations, r.Labels)
		}
	}
	for line := range strings.Lines(runbook) {
		if heading, is := strings.CutPrefix(line, "### "); is {
			got = append(got, strings.TrimSpace(heading))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the runbook has %q, and the alerts are %q", got, want)
	}
}

// Numbers of the rules that a person reads are those that the text says.
func TestWindows(t *testing.T) {
	for _, r := range rules(t) {
		if r.Record == "" {
			continue
		}
		window := regexp.MustCompile(`(\d+[mh])$`).FindString(r.Record)
		length, err := time.ParseDuration(window)
		if err != nil || !strings.Contains(r.Expr, fmt.Sprintf("[%s]", window)) || length < 5*time.Minute {
			t.Errorf("%s looks at another time than it says: %s", r.Record, r.Expr)
		}
	}
}
