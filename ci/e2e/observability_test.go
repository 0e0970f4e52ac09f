//go:build e2e

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// traceHost is where the collector of TestObservability is, and traceToken is what steps are to send it.
const (
	traceHost  = node + ":7483"
	traceToken = "canary-trace-51d7"
)

// TestObservability looks at what Argo's controller counts of a run that succeeds and of one that does not, and at the
// spans that they send to a collector: each run is one trace. A collector that has gone costs a warning.
func TestObservability(t *testing.T) {
	c := startCollector(t)
	if err := k8s.apply(t.Context(), object{
		"apiVersion": "v1", "kind": "Secret",
		"metadata":   object{"name": "stepwright-otlp-headers", "namespace": planeNamespace},
		"stringData": object{"headers": "Authorization=Bearer%20" + traceToken},
	}); err != nil {
		t.Fatal(err)
	}
	if err := install(t.Context(), "observability"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := install(context.Background(), "default"); err != nil {
			t.Error(err)
		}
	})
	before, tookBefore := scrape(t)
	good := build{name: "observed", url: "https://" + publicGit + "/observed.git"}
	commit := serving.repository(t, "observed.git", small)
	good.succeed(t, 4*time.Minute)
	checkCanaries(t, good.runName())
	bad := build{name: "observed-broken", url: "https://" + publicGit + "/observed-broken.git"}
	serving.repository(t, "observed-broken.git", with(map[string]string{"Dockerfile": "FROM busybox:1\nRUN exit 7\n"}))
	bad.start(t)
	if failed := bad.finish(t, 4*time.Minute); failed.Annotations["stepwright.dev/reason"] != "BuildFailed" {
		t.Fatalf("it did not fail as it should: %s\n%s", summary(failed), logs(t, bad.runName()))
	}
	checkCanaries(t, bad.runName())

	const user, success = "class=user reason=BuildFailed step=", "class=success reason=Succeeded step="
	const none, dockerfile = " builder=none ", " builder=containerfile-build "
	want := map[string]float64{
		"outcomes" + none + success + "checkout-source":           2,
		"outcomes" + none + success + "publish-image":             1,
		"outcomes" + dockerfile + success + "containerfile-build": 1,
		"outcomes" + dockerfile + user + "containerfile-build":    1,
		// Of the run that succeeded, and of annotate-run.
		"outcomes" + none + success + "generate-workload-cr":               2,
		"steps" + none + "status=Succeeded step=checkout-source":           2,
		"steps" + none + "status=Succeeded step=publish-image":             1,
		"steps" + none + "status=Succeeded step=generate-workload-cr":      2,
		"steps" + dockerfile + "status=Succeeded step=containerfile-build": 1,
		"steps" + dockerfile + "status=Failed step=containerfile-build":    1,
		"runs builder=dockerfile-builder status=Succeeded":                 1,
		"runs builder=dockerfile-builder status=Failed":                    1,
	}
	eventually(t, 30*time.Second, "the metrics", func(context.Context) (bool, error) {
		got := map[string]float64{}
		counts, took := scrape(t)
		for series, value := range counts {
			if more := value - before[series]; more != 0 {
				got[series] = more
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return false, fmt.Errorf("(-want +got)\n%s", diff)
		}
		for series, seconds := range took {
			if got[series] > 0 && seconds <= tookBefore[series] {
				t.Errorf("%s took no time", series)
			}
		}
		return true, nil
	})

	for _, b := range []build{good, bad} {
		for line := range strings.Lines(logs(t, b.runName())) {
			if strings.Contains(line, "trace of this step") {
				t.Error(line)
			}
		}
	}
	run := c.trace(t, good.runName())
	run.check(t, map[string]string{
		"WorkflowRun": "", "checkout-source": "WorkflowRun", "containerfile-build": "WorkflowRun",
		"publish-image": "WorkflowRun", "generate-workload-cr": "WorkflowRun", "build": "containerfile-build",
	})
	if got := run["checkout-source"].attributes["vcs.ref.head.revision"]; got != commit {
		t.Errorf("checkout-source tells the commit %q, want %s", got, commit)
	}
	image := workload(t, good.name).Spec.Container.Image
	if got := run["publish-image"].attributes["oci.manifest.digest"]; got == "" || !strings.HasSuffix(image, got) {
		t.Errorf("publish-image tells the digest %q of %s", got, image)
	}
	run.reach(t, "RUN echo built", "containerfile-build")
	if root := run["WorkflowRun"]; root.attributes["cicd.pipeline.result"] != "success" || root.took < time.Second ||
		root.attributes["stepwright.component"] != good.name {
		t.Errorf("the run's span is %+v", root)
	}
	run = c.trace(t, bad.runName())
	run.check(t, map[string]string{
		"WorkflowRun": "", "checkout-source": "WorkflowRun", "containerfile-build": "WorkflowRun",
		"generate-workload-cr": "WorkflowRun", "build": "containerfile-build",
	})
	run.reach(t, "RUN exit 7", "containerfile-build")
	if root := run["WorkflowRun"]; root.attributes["stepwright.failed-step"] != "containerfile-build" ||
		root.attributes["error.type"] != "BuildFailed" {
		t.Errorf("the span of the run that failed is %+v", root)
	}
	c.end(t)

	gone := build{name: "observed-gone", url: "https://" + publicGit + "/observed-gone.git"}
	serving.repository(t, "observed-gone.git", small)
	gone.succeed(t, 4*time.Minute)
	if said := logs(t, gone.runName()); strings.Count(said, "The trace of this step was not sent") != 4 {
		t.Errorf("the four steps do not each say once that the collector has gone:\n%s", said)
	}
}

// scrape reads the metrics of the templates at Argo's controller, as Prometheus would: how often each was counted, and
// of those that measure time the seconds.
func scrape(t *testing.T) (counts, seconds map[string]float64) {
	t.Helper()
	controllers := must(k8s.core.CoreV1().Pods("argo").List(t.Context(), metav1.ListOptions{
		LabelSelector: "app=workflow-controller",
	}))(t)
	if len(controllers.Items) != 1 {
		t.Fatalf("there are %d controllers", len(controllers.Items))
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the controller makes its certificate itself
	}}
	address := net.JoinHostPort(controllers.Items[0].Status.PodIP, "9090")
	response := must(client.Get("https://" + address + "/metrics"))(t)
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families := must(parser.TextToMetricFamilies(io.LimitReader(response.Body, 8<<20)))(t)
	counts, seconds = map[string]float64{}, map[string]float64{}
	for _, family := range []string{"step_outcomes_total", "step_duration_seconds", "run_duration_seconds"} {
		short := map[string]string{
			"step_outcomes_total": "outcomes", "step_duration_seconds": "steps", "run_duration_seconds": "runs",
		}[family]
		found := families["argo_workflows_stepwright_"+family]
		for _, metric := range found.GetMetric() {
			var labels []string
			for _, label := range metric.Label {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			slices.Sort(labels)
			series := short + " " + strings.Join(labels, " ")
			counts[series] = metric.GetCounter().GetValue()
			if h := metric.GetHistogram(); h != nil {
				counts[series], seconds[series] = float64(h.GetSampleCount()), h.GetSampleSum()
			}
		}
	}
	return counts, seconds
}

// collector is the OpenTelemetry Collector's receiver, the program of ci/collector.
type collector struct {
	process *exec.Cmd

	mu    sync.Mutex
	lines []string
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "certificate"), filepath.Join(dir, "key")
	var chain []byte
	for _, der := range serving.certificate.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	raw := must(x509.MarshalPKCS8PrivateKey(serving.certificate.PrivateKey))(t)
	if err := errors.Join(
		os.WriteFile(certificate, chain, 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(traceHost, ":")
	c := &collector{process: exec.CommandContext(
		t.Context(), *collecting, "-address", "0.0.0.0:"+port, "-certificate", certificate, "-key", key,
	)}
	out := must(c.process.StdoutPipe())(t)
	c.process.Stderr = os.Stderr
	if err := c.process.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			if lines.Text() == "ready" {
				close(ready)
				continue
			}
			c.mu.Lock()
			c.lines = append(c.lines, lines.Text())
			c.mu.Unlock()
		}
	}()
	select {
	case <-ready:
	case <-time.After(30 * time.Second):
		t.Fatal("the collector does not start")
	}
	return c
}

// end ends the collector: nobody listens where it was.
func (c *collector) end(t *testing.T) {
	t.Helper()
	if err := c.process.Process.Kill(); err != nil {
		t.Error(err)
	}
	c.process.Wait()
}

// span is a span as the collector has it, and its parent's name.
type span struct {
	id, above, name string
	took            time.Duration
	attributes      map[string]string
}

// spans are a run's, by name.
type spans map[string]span

// trace returns the spans of a run, by the ID of its trace, which is its Argo Workflow's. A step whose request was not
// answered in time sends its spans again. No other trace has spans of the run, each request had the token, and none
// has a secret.
func (c *collector) trace(t *testing.T, run string) spans {
	t.Helper()
	id := strings.ReplaceAll(string(must(k8s.workflow(t.Context(), run))(t).UID), "-", "")
	type attributes []struct {
		Key   string
		Value struct{ StringValue string }
	}
	all := spans{}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		for _, secret := range []string{gitPassword, pushPassword, pullPassword, traceToken} {
			if strings.Contains(strings.TrimPrefix(line, `{"authorization":"Bearer `+traceToken+`"`), secret) {
				t.Errorf("a secret is in a span: %s…", secret[:8])
			}
		}
		var got struct {
			Authorization string
			Traces        struct {
				ResourceSpans []struct {
					Resource   struct{ Attributes attributes }
					ScopeSpans []struct {
						Spans []struct {
							TraceID, SpanID, ParentSpanID, Name string
							StartTimeUnixNano, EndTimeUnixNano  int64 `json:",string"`
							Attributes                          attributes
						}
					}
				}
			}
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got.Authorization != "Bearer "+traceToken {
			t.Errorf("spans came with the header %q", got.Authorization)
		}
		for _, resource := range got.Traces.ResourceSpans {
			about := map[string]string{}
			for _, a := range resource.Resource.Attributes {
				about[a.Key] = a.Value.StringValue
			}
			for _, scope := range resource.ScopeSpans {
				for _, s := range scope.Spans {
					if (s.TraceID == id) != (about["cicd.pipeline.run.id"] == run) {
						t.Errorf("%s of the trace %s is of another run: %v", s.Name, s.TraceID, about)
					}
					if s.TraceID != id || all.byID(s.SpanID).id != "" {
						continue
					}
					one := span{
						s.SpanID, s.ParentSpanID, s.Name, time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano),
						maps.Clone(about),
					}
					for _, a := range s.Attributes {
						one.attributes[a.Key] = a.Value.StringValue
					}
					key := s.Name
					if _, twice := all[key]; twice {
						key += " " + s.SpanID
					}
					all[key] = one
				}
			}
		}
	}
	return all
}

// byID finds a span; its name is empty when there is none.
func (all spans) byID(id string) span {
	for _, s := range all {
		if s.id == id {
			return s
		}
	}
	return span{}
}

// check wants spans of these names, below those.
func (all spans) check(t *testing.T, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for key, s := range all {
		if _, one := want[s.name]; one && key != s.name && s.name != "build" {
			t.Errorf("there are two spans of %s", s.name)
		}
	}
	for name := range want {
		if s, there := all[name]; there {
			got[name] = all.byID(s.above).name
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans and those above them (-want +got)\n%s\nof %q", diff, slices.Sorted(maps.Keys(all)))
	}
}

// reach wants a span with this in its name, somewhere below another.
func (all spans) reach(t *testing.T, part, above string) {
	t.Helper()
	for name, s := range all {
		if !strings.Contains(name, part) {
			continue
		}
		for range all {
			if s.name == above {
				return
			}
			s = all.byID(s.above)
		}
	}
	t.Errorf("no span of %q is below %s: %q", part, above, slices.Sorted(maps.Keys(all)))
}
