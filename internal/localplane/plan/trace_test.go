package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/stepwright/stepwright/internal/localplane/pipeline"
)

// Steps send their spans where the machine says, and the last one knows that it is.
func TestTrace(t *testing.T) {
	m := machine(t)
	for _, trace := range []map[string]string{
		nil, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://$(HOME)", "TRACEPARENT": "00"},
	} {
		m.Trace = trace
		steps, err := planRun(t, edited(t, ""), m, parameters)
		if err != nil {
			t.Fatal(err)
		}
		done := pipeline.Outputs{
			"checkout-source": checkedOut, "containerfile-build": built, "publish-image": published,
		}
		for i, step := range steps {
			process, err := step.Process(done)
			if err != nil {
				t.Fatal(err)
			}
			want, got := map[string]string{}, map[string]string{}
			for name, value := range trace {
				want[name] = value
			}
			if i == len(steps)-1 && trace != nil {
				want["STEPWRIGHT_RUN_LAST"] = "true"
			}
			for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "TRACEPARENT", "STEPWRIGHT_RUN_LAST"} {
				if value, has := process.Env[name]; has {
					got[name] = value
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s: %s", step.Name, diff)
			}
		}
	}
}

// What a template says is for its cluster, and code of strangers is told nothing.
func TestTraceOfAContainer(t *testing.T) {
	ofTemplate := func(name string) *corev1.Container {
		return &corev1.Container{Name: name, Env: []corev1.EnvVar{
			{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "http://collector"}, {Name: "REGISTRY", Value: "r"},
			{Name: "STEPWRIGHT_OTLP_HEADERS_FILE", Value: "/etc/secrets/otlp/headers"},
		}}
	}
	p := &plan{last: "publish-image", machine: Machine{Trace: map[string]string{"STEPWRIGHT_RUN_UID": "5c"}}}
	for _, test := range []struct {
		name, container string
		strangers       bool
		want            map[string]string
	}{
		{"a container that fetches", "fetch", false, map[string]string{
			"REGISTRY": "r", "STEPWRIGHT_RUN_UID": "5c", "STEPWRIGHT_PHASE": "fetch", "STEPWRIGHT_RUN_LAST": "true",
		}},
		{"the main one", "", false, map[string]string{
			"REGISTRY": "r", "STEPWRIGHT_RUN_UID": "5c", "STEPWRIGHT_RUN_LAST": "true",
		}},
		{"one that builds", "build", true, map[string]string{"REGISTRY": "r"}},
	} {
		c := ofTemplate(test.container)
		p.trace("publish-image", c, test.strangers)
		got, _ := variables(c, nil)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	p.machine.Trace = nil
	c := ofTemplate("")
	p.trace("publish-image", c, false)
	if got, _ := variables(c, nil); len(got) != 1 {
		t.Errorf("without a collector of its own, a step has %v", got)
	}
}
