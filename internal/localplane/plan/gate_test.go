package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
)

// A check of the platform's runs in its own image, with the paths of a pod, between programs of this machine.
func TestPlanOfAGate(t *testing.T) {
	if testing.Short() {
		t.Skip("wants runc, and root or a range of user IDs")
	}
	m := machine(t)
	m.Scratch, m.Containers = t.TempDir(), new(container.Runtime)
	if err := os.WriteFile(filepath.Join(m.Programs, "scan-gate"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	const step = "            - - name: scan-gate\n                templateRef:\n                  name: scan-gate\n" +
		"                  clusterScope: true\n                  template: scan-gate\n                arguments:\n" +
		"                  parameters:\n                    - {name: check-image, value: 'example.com/check:1'}\n"
	library := edited(t, "control-plane/dockerfile-builder.yaml", "            - - name: publish-image\n",
		step+"            - - name: publish-image\n")
	// What only tells others how a run goes is left out here.
	spec := &library.Workflows["dockerfile-builder"].Spec
	const hooks = `"onExit":"on-exit","hooks":{"commit-status":{"expression":"true","templateRef":` +
		`{"name":"commit-status","clusterScope":true,"template":"commit-status"},"arguments":{"parameters":` +
		`[{"name":"status","value":"pending"},{"name":"revision","value":""}]}}},"templates":[`
	const handler = `"steps":[[{"name":"annotate-run",` +
		`"when":"{{workflow.status}} != Succeeded","templateRef":{"name":"generate-workload","clusterScope":true,` +
		`"template":"generate-workload-cr"},"arguments":{"parameters":[{"name":"image","value":""},` +
		`{"name":"run-name","value":"x"},` +
		`{"name":"failures","value":"base64:{{=sprig.b64enc(workflow.failures)}}"}]}},{"name":"commit-status",` +
		`"templateRef":{"name":"commit-status","clusterScope":true,"template":"commit-status"},"arguments":` +
		`{"parameters":[{"name":"status","value":"success"},{"name":"revision","value":""}]}}]]`
	raw := strings.Replace(string(spec.RunTemplate.Raw), `"templates":[`, hooks, 1)
	if raw = strings.Replace(raw, `"steps":[[]]`, handler, 1); !strings.Contains(raw, handler) {
		t.Fatal("the template on-exit is not what it was")
	}
	spec.RunTemplate.Raw = []byte(raw)
	steps, err := planRun(t, library, m, parameters)
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != 5 || steps[2].Name != "scan-gate" {
		t.Fatalf("the steps are %v", steps)
	}
	process, err := steps[2].Process(pipeline.Outputs{
		"checkout-source": checkedOut, "containerfile-build": {"image-digest": "", "base-images": "[]"},
	})
	if err != nil {
		t.Fatal(err)
	}
	volumes := filepath.Join(m.Scratch, "volumes", "scan-gate")
	if len(process.Before) != 2 || process.Enter != nil {
		t.Fatalf("before it run %d processes, and it is entered: %t", len(process.Before), process.Enter != nil)
	}
	prepare, check := process.Before[0], process.Before[1]
	if prepare.Enter != nil || !cmp.Equal(prepare.Args, []string{"prepare", filepath.Join(volumes, "step")}) ||
		prepare.Env["PREPARED_DIR"] != filepath.Join(volumes, "prepared") ||
		prepare.Env["WORKSPACE"] != filepath.Join(m.Scratch, "workspace") {
		t.Errorf("prepare has %q and %v", prepare.Args, prepare.Env)
	}
	if check.Enter == nil || !cmp.Equal(check.Args, []string{"/opt/stepwright/scan-gate", "check"}) ||
		check.Results != "" {
		t.Errorf("check has %q, and results in %s", check.Args, check.Results)
	}
	if !cmp.Equal(process.Args, []string{"decide"}) ||
		process.Env["HANDOVER_DIR"] != filepath.Join(volumes, "handover") ||
		process.Env["CHECK_RESULTS_DIR"] != filepath.Join(volumes, "check-results") {
		t.Errorf("decide has %q and %v", process.Args, process.Env)
	}
}
