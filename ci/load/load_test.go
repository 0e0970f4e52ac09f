package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	kubernetesfake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

// docs is where make load writes the page.
const docs = "../../docs/reference"

// The page and the plots are up to date with the record beside them.
func TestPageIsOfItsRecord(t *testing.T) {
	all, err := readResults(docs)
	if err != nil {
		t.Fatal(err)
	}
	files := pages(all)
	for name, want := range files {
		if *updating {
			if err := os.WriteFile(filepath.Join(docs, name), []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(filepath.Join(docs, name)); err != nil || string(got) != want {
			t.Errorf("%s is not what is in %s (%v): run make load, or go test ./ci/load -update", name, recordName, err)
		}
	}
	plots, err := filepath.Glob(filepath.Join(docs, "scale-*.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range plots {
		if _, ok := files[filepath.Base(file)]; !ok {
			t.Errorf("%s is of no experiment in the record", file)
		}
	}
}

func TestParse(t *testing.T) {
	for words, want := range map[string]string{
		"":                            "",
		"-runs 5,x":                   "wants numbers",
		"-runs 0":                     "wants numbers",
		"-argo fast":                  "it knows recommended and defaults",
		"-failures 1":                 "wants a share",
		"-steps build=30s,build=2s":   "two of build",
		"-steps build":                "no step of a second",
		"-steps build=10ms":           "no step of a second",
		"more":                        "flags only",
		"-runs 3,4 -argo defaults":    "",
		"-steps checkout=2s,build=4s": "",
	} {
		_, err := parse(strings.Fields(words), io.Discard)
		if got := fmtError(err); want == "" && err != nil || !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", words, err, want)
		}
	}
}

func fmtError(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Each step has a stage that ends it after its time, and one that fails it as often as the share says.
func TestStages(t *testing.T) {
	steps := []work{{"checkout", 2 * time.Second}, {"build", 1500 * time.Millisecond}}
	type stage struct {
		Kind     string
		Metadata metav1.ObjectMeta
		Spec     struct {
			Selector struct{ MatchLabels map[string]string }
			Weight   int
			Delay    struct {
				DurationMilliseconds int
				DurationFrom         struct{ JQ struct{ Expression string } }
			}
			Next struct{ StatusTemplate string }
		}
	}
	read := func(failures float64) map[string]stage {
		text, err := stages(steps, failures)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]stage{}
		for decoder := utilyaml.NewYAMLReader(reader(text)); ; {
			document, err := decoder.Read()
			if errors.Is(err, io.EOF) {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			var s stage
			if err := yaml.Unmarshal(document, &s); err != nil {
				t.Fatalf("%v in %s", err, document)
			}
			if s.Kind == "Stage" {
				all[s.Metadata.Name] = s
			}
		}
	}
	some := read(0.25)
	for name, want := range map[string]struct {
		step                 string
		weight, milliseconds int
		until                string
		says                 string
	}{
		"pod-starts":         {"", 0, 1000, "", "phase: Running"},
		"checkout-succeeds":  {"checkout", 750, 2000, " + 2.8 - now ", "phase: Succeeded"},
		"checkout-fails":     {"checkout", 250, 2000, " + 2.8 - now ", "phase: Failed"},
		"build-succeeds":     {"build", 750, 1500, " + 2.3 - now ", "phase: Succeeded"},
		"build-fails":        {"build", 250, 1500, " + 2.3 - now ", "phase: Failed"},
		"pod-leaves":         {"", 0, 0, "", ""},
		"generate-succeeds?": {},
	} {
		s, ok := some[strings.TrimSuffix(name, "?")]
		if strings.HasSuffix(name, "?") {
			if ok {
				t.Errorf("there is a stage %s", s.Metadata.Name)
			}
			continue
		}
		if !ok || s.Spec.Selector.MatchLabels[stepLabel] != want.step || s.Spec.Weight != want.weight ||
			s.Spec.Delay.DurationMilliseconds != want.milliseconds ||
			!strings.Contains(s.Spec.Delay.DurationFrom.JQ.Expression, want.until) ||
			!strings.Contains(s.Spec.Next.StatusTemplate, want.says) {
			t.Errorf("%s is %+v", name, s)
		}
	}
	if none := read(0); len(none) != 4 {
		t.Errorf("without failures there are %d stages", len(none))
	}
}

// The templates of kwok's stages give a pod its status: each container has a state, and of a failing step main fails.
func TestStatuses(t *testing.T) {
	text, err := stages([]work{{"build", time.Second}}, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	pod := map[string]any{
		"spec": map[string]any{
			"initContainers": []any{map[string]any{"name": "init", "image": "argoexec"}},
			"containers": []any{
				map[string]any{"name": "wait", "image": "argoexec"}, map[string]any{"name": "main", "image": "build"},
			},
		},
		"status": map[string]any{"startTime": "2026-01-02T03:04:05Z"},
	}
	now := func() string { return "2026-01-02T03:04:35Z" }
	quote := func(text any) string { return fmt.Sprintf("%q", text) }
	statuses := map[corev1.PodPhase]corev1.PodStatus{}
	for decoder := utilyaml.NewYAMLReader(reader(text)); ; {
		document, err := decoder.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var stage struct {
			Spec struct {
				Next struct{ StatusTemplate string }
			}
		}
		if err := errors.Join(err, yaml.Unmarshal(document, &stage)); err != nil {
			t.Fatal(err)
		}
		if stage.Spec.Next.StatusTemplate == "" {
			continue
		}
		var out bytes.Buffer
		parsed := template.Must(template.New("").Funcs(template.FuncMap{"Now": now, "Quote": quote}).
			Parse(stage.Spec.Next.StatusTemplate))
		var status corev1.PodStatus
		if err := errors.Join(parsed.Execute(&out, pod), yaml.UnmarshalStrict(out.Bytes(), &status)); err != nil {
			t.Fatalf("%v in %s", err, out.Bytes())
		}
		statuses[status.Phase] = status
	}
	codes := func(phase corev1.PodPhase) (all []int32) {
		for _, c := range statuses[phase].ContainerStatuses {
			if c.State.Terminated == nil {
				all = append(all, -1)
				continue
			}
			ended := c.State.Terminated
			if ended.FinishedAt.Sub(ended.StartedAt.Time) == 30*time.Second {
				all = append(all, ended.ExitCode)
			}
		}
		return all
	}
	for phase, want := range map[corev1.PodPhase][]int32{
		corev1.PodRunning: {-1, -1}, corev1.PodSucceeded: {0, 0}, corev1.PodFailed: {0, 1},
	} {
		if got := codes(phase); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", phase, got, want)
		}
	}
	if init := statuses[corev1.PodRunning].InitContainerStatuses; len(init) != 1 || init[0].State.Terminated == nil {
		t.Errorf("%+v", init)
	}
}

func TestMetricsText(t *testing.T) {
	all, err := readSeries(strings.NewReader(`# HELP requests_total x
requests_total{verb="GET",path="a, \"b\" } c"} 3
requests_total{verb="PUT",} 4.5 1700000000
requests_total_more{verb="GET"} 100
depth 7
`), oneOf([]string{"requests_total", "depth"}))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 || all[0].Labels["path"] != `a, "b" } c` {
		t.Errorf("%+v", all)
	}
	for want, got := range map[float64]float64{
		7.5: sum(all, "requests_total"), 4.5: sum(all, "requests_total", "verb", "PUT"), 7: sum(all, "depth"),
		0: sum(all, "depth", "name", "x"),
	} {
		if got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	if _, err := readSeries(strings.NewReader("depth x\n"), oneOf([]string{"depth"})); err == nil {
		t.Error("a figure that is none is taken")
	}
	if _, err := readSeries(strings.NewReader("depth{a=b} 1\n"), oneOf([]string{"depth"})); err == nil {
		t.Error("a label without quotes is taken")
	}
}

// This test's own process is among those that are read.
func TestUsages(t *testing.T) {
	name := filepath.Base(os.Args[0])
	for deadline := time.Now().Add(time.Minute); ; {
		all, err := usages("/proc", []string{name})
		if err != nil {
			t.Fatal(err)
		}
		if u := all[name]; u.PID != 0 && u.RSS > 1<<20 && u.CPU > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%+v", all)
		}
		bytes.Repeat([]byte("x"), 1<<20) // until a tick of the clock has counted
	}
}

func TestInEtcd(t *testing.T) {
	keys := []string{
		"/registry/argoproj.io/workflows/workflows-acme/a", "/registry/pods/workflows-acme/a", "/registry/pods/x/b",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Key []byte `json:"key"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.URL.Path != "/v3/kv/range" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		i, _ := slices.BinarySearch(keys, string(asked.Key))
		var pairs []map[string][]byte
		if i < len(keys) {
			pairs = append(pairs, map[string][]byte{"key": []byte(keys[i]), "value": []byte("12345")})
		}
		json.NewEncoder(w).Encode(map[string]any{"kvs": pairs, "more": i+1 < len(keys)})
	}))
	defer server.Close()
	got, err := inEtcd(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if got["workflows"] != (stored{1, int64(len(keys[0]) + 5)}) || got["pods"].Objects != 2 || len(got) != 2 {
		t.Errorf("%+v", got)
	}
	if left := more(got, map[string]stored{"workflows": got["workflows"], "pods": {1, 10}}); len(left) != 1 ||
		left["pods"].Objects != 1 {
		t.Errorf("%+v", left)
	}
	if _, err := inEtcd(t.Context(), server.URL+"/nowhere"); err == nil {
		t.Error("an answer that is none is taken")
	}
}

// The executor reports what argoexec does: incomplete at first, then the outputs, then that they are complete.
func TestExecutor(t *testing.T) {
	client := dynamicfake.NewSimpleDynamicClient(scheme())
	outputs := &argo.Outputs{Parameters: []argo.Parameter{{Name: "image", Value: argo.AnyStringPtr("r/x@sha256:1")}}}
	e := newExecutor(client, []work{{"build", time.Second}}, map[string]*argo.Outputs{"build": outputs})
	controls := true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "run-build-1", Namespace: "w", UID: types.UID("1"),
			Labels:      map[string]string{workflowLabel: "run", stepLabel: "build"},
			Annotations: map[string]string{nodeIDKey: "run-1"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "argoproj.io/v1alpha1", Kind: "Workflow", Name: "run", UID: "2", Controller: &controls,
			}},
		},
		Spec: corev1.PodSpec{NodeSelector: map[string]string{nodeLabel: "true"}},
	}
	realPod := pod.DeepCopy()
	realPod.UID, realPod.Spec.NodeSelector = "3", nil
	for _, p := range []*corev1.Pod{pod, pod, realPod} {
		e.start(t.Context(), p)
	}
	e.group.Wait()
	if len(e.faults) > 0 {
		t.Fatal(e.faults)
	}
	var verbs []string
	for _, action := range client.Actions() {
		verbs = append(verbs, action.GetVerb())
	}
	if want := []string{"create", "patch", "patch"}; !slices.Equal(verbs, want) {
		t.Errorf("%v, want %v", verbs, want)
	}
	result, err := client.Resource(taskResults).Namespace("w").Get(t.Context(), "run-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	parameters, _, _ := unstructured.NestedSlice(result.Object, "outputs", "parameters")
	if result.GetLabels()[reportedLabel] != "true" || result.GetLabels()[workflowLabel] != "run" ||
		len(parameters) != 1 || result.GetOwnerReferences()[0].UID != "2" {
		t.Errorf("%v", result.Object)
	}
	if got := e.worked("run"); got != time.Second {
		t.Errorf("the run's steps worked %s", got)
	}
}

func TestNodes(t *testing.T) {
	ready := simulatedNode(1)
	ready.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	client := kubernetesfake.NewClientset(simulatedNode(0), ready)
	if err := nodesReady(t.Context(), client, 2); err == nil {
		t.Error("a node that is not ready counts")
	}
	if err := nodesReady(t.Context(), client, 1); err != nil {
		t.Error(err)
	}
}

// The ClusterWorkflow of simulated runs differs by its name and its nodes alone.
func TestSimulate(t *testing.T) {
	text, err := os.ReadFile("../../templates/control-plane/dockerfile-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var original, changed map[string]any
	for _, into := range []*map[string]any{&original, &changed} {
		if err := yaml.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	if err := simulate(&unstructured.Unstructured{Object: changed}); err != nil {
		t.Fatal(err)
	}
	spec := func(o map[string]any) map[string]any {
		found, _, _ := unstructured.NestedMap(o, "spec", "runTemplate", "spec")
		return found
	}
	before, after := spec(original), spec(changed)
	for key := range before {
		same := bytes.Equal(asJSON(t, before[key]), asJSON(t, after[key]))
		if differs := key == "nodeSelector" || key == "tolerations"; same == differs {
			t.Errorf("%s: the same is %v", key, same)
		}
	}
	if len(before) != len(after) {
		t.Errorf("there are %d fields, not %d", len(after), len(before))
	}
}

func asJSON(t *testing.T, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestSettings(t *testing.T) {
	o := options{override: argoSettings{Parallelism: -1}}
	if got := o.settingsOf(defaults, 1000); got != argoDefaults || len(got.configMap()) != 0 {
		t.Errorf("%+v", got)
	}
	o.override = argoSettings{Parallelism: 7, QPS: 15}
	got := o.settingsOf(recommended, 1000)
	if got.QPS != 15 || got.Burst != 30 || got.configMap()["parallelism"] != "7" {
		t.Errorf("%+v", got)
	}
	args := []string{"--executor-image", "x", "--qps", "1", "--burst", "2", "--loglevel", "info"}
	want := []string{"--executor-image", "x", "--loglevel", "info"}
	if kept := withoutFlags(args, got.flags()); !slices.Equal(kept, want) {
		t.Errorf("%v", kept)
	}
}

func TestBetween(t *testing.T) {
	at := time.Now()
	of := func(seconds, cpu int, pid int, requests float64) reading {
		return reading{
			at: at.Add(time.Duration(seconds) * time.Second), argo: controller{requests: requests},
			programs: map[string]usage{argoProgram: {CPU: time.Duration(cpu) * time.Second, RSS: 3 << 20, PID: pid}},
		}
	}
	if s := between(of(0, 1, 1, 10), of(10, 6, 1, 110)); s.ArgoCPU != 0.5 || s.ArgoRate != 10 || s.ArgoMiB != 3 {
		t.Errorf("%+v", s)
	}
	if s := between(of(0, 5, 1, 100), of(10, 1, 2, 5)); s.ArgoCPU != 0 || s.ArgoRate != 0 {
		t.Errorf("after its death: %+v", s)
	}
}

func TestQuantiles(t *testing.T) {
	var all []float64
	for i := range 100 {
		all = append(all, float64(100-i))
	}
	if got := quantilesOf(all); got != (quantiles{50, 95, 100}) {
		t.Errorf("%+v", got)
	}
	if got := quantilesOf(nil); got != (quantiles{}) {
		t.Errorf("%+v", got)
	}
}

// The page says what was missed, replaces experiments that were made anew, and keeps the others.
func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	of := func(runs int, name string, overhead, mib float64, unended int) result {
		return result{
			Runs: runs, Name: name, Succeeded: runs - unended, Unended: unended,
			Overhead: quantiles{overhead, overhead, overhead},
			Programs: map[string]peak{argoProgram: {MiB: mib}},
			Objects:  map[string]stored{"workflows": {runs, int64(runs) * 2048}},
			Samples:  []sample{{At: 0}, {At: 5, Running: 3, ArgoMiB: mib}},
		}
	}
	for _, r := range []result{
		of(1, recommended, 10, 50, 0), of(1000, recommended, 99, 700, 3), of(100, defaults, 40, 90, 0),
		of(1000, recommended, 25, 600, 0),
	} {
		if err := update(dir, r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "scale.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| runs that did not end | 0 | 0 | met |", "| memory of Argo's controller | 512 MiB | 600 MiB | **missed** |",
		"| 2 | 2.5 | **missed** |", "(scale-1000.svg)", "(scale-100-defaults.svg)", "| `workflows` | 1 | 2 | 2 |",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "700 MiB") {
		t.Error("the page has the older experiment")
	}
	drawn, err := os.ReadFile(filepath.Join(dir, "scale-1000.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for decoder := xml.NewDecoder(bytes.NewReader(drawn)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(string(drawn), `points="64.0,`) {
		t.Errorf("no line: %s", drawn)
	}
}
