package templates_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
)

// Every container that runs a step, and no code of strangers, sends spans to the platform's collector. One that has no
// Secret has no headers, and exactly one step is the last.
func TestSpansOfSteps(t *testing.T) {
	t.Parallel()
	const endpoint = "https://collector.example.com:4318"
	dir := overlay(t, "observability")
	setting := []byte("otel-endpoint=" + endpoint + "\n")
	if err := os.WriteFile(filepath.Join(dir, "settings.env"), setting, 0o644); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kustomization.yaml")
	merging := append(readFile(t, file), []byte(`configMapGenerator:
  - {name: workflow-plane-settings, behavior: merge, envs: [settings.env], options: {disableNameSuffixHash: true}}
`)...)
	if err := os.WriteFile(file, merging, 0o644); err != nil {
		t.Fatal(err)
	}
	value := func(c *corev1.Container, name string) string {
		i := slices.IndexFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == name })
		if i < 0 {
			return ""
		}
		return c.Env[i].Value
	}
	headless := map[string]bool{"build": true, "check": true, "install": true}
	last, aside := 0, 0
	for _, object := range ofKind(build(t, dir), "ClusterWorkflowTemplate") {
		cluster := converted[wfv1.ClusterWorkflowTemplate](t, object)
		template := cluster.Spec.Templates[0]
		schema := steps[cluster.Name].schema
		containers := []*corev1.Container{template.Container}
		for i := range template.InitContainers {
			containers = append(containers, &template.InitContainers[i].Container)
		}
		for i, c := range containers {
			name := cluster.Name + " " + c.Name
			want := endpoint
			if i > 0 && headless[c.Name] {
				want = ""
			}
			if got := value(c, "OTEL_EXPORTER_OTLP_ENDPOINT"); got != want {
				t.Errorf("%s sends to %q, want %q", name, got, want)
			}
			secret := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.Name == "otlp-headers"
			})
			mayHave := want != "" && (i > 0 || schema != buildpacksBuild && schema != scanGate)
			if headers := value(c, "STEPWRIGHT_OTLP_HEADERS_FILE") != ""; secret != mayHave || headers != mayHave {
				t.Errorf("%s: has the Secret: %v, headers: %v, want %v", name, secret, headers, mayHave)
			}
			phase := ""
			if i > 0 && want != "" {
				phase = c.Name
			}
			if got := value(c, "STEPWRIGHT_PHASE"); got != phase {
				t.Errorf("%s is the phase %q", name, got)
			}
			if value(c, "STEPWRIGHT_RUN_LAST") != "" {
				last++
			}
			if value(c, "STEPWRIGHT_RUN_ASIDE") != "" {
				aside++
			}
		}
	}
	if last != 1 || aside != 2 {
		t.Errorf("%d steps are the last, and %d stand beside; want 1, and 2", last, aside)
	}
}
