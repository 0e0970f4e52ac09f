//go:build verifiers

package observability_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

// written writes the rules as a file of Prometheus' own into a folder, and returns it.
func written(t *testing.T, dir string) string {
	t.Helper()
	object := read[struct{ Spec json.RawMessage }](t, "prometheus-rule.yaml")
	file := filepath.Join(dir, "rules.yaml")
	text, err := yaml.JSONToYAML(object.Spec)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// promtool finds no fault with the rules and the configuration, and the alerts fire when they should, and only then.
func TestPromtool(t *testing.T) {
	promtool := verifiertest.Build(t, "promtool", "github.com/prometheus/prometheus/cmd/promtool")
	dir := t.TempDir()
	rules := written(t, dir)
	cases, err := os.ReadFile("testdata/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	tests := filepath.Join(dir, "tests.yaml")
	if err := os.WriteFile(tests, cases, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, args := range [][]string{
		{"check", "rules", "--lint=all", "--lint-fatal", rules},
		{"check", "config", "--syntax-only", "--lint=all", "--lint-fatal", "prometheus.yaml"},
		{"test", "rules", tests},
	} {
		if out, err := run(args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	// So that a fault is seen: an alert that looks for another class.
	raw, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(raw), `class="platform"`, `class="none"`)
	if changed == string(raw) {
		t.Fatal("there is nothing to change")
	}
	if err := os.WriteFile(rules, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run("test", "rules", tests); err == nil || !strings.Contains(out, "StepwrightPlatformFailures") {
		t.Errorf("promtool finds no fault with a changed alert: %v\n%s", err, out)
	}
}
