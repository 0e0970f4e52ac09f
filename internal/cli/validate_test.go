package cli

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

const faulty = "../controlplane/workflowrun/testdata/faults"

// samples is a folder of OpenChoreo's own samples.
func samples(t *testing.T, name string) string {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "samples/getting-started", name)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run go test with -update if it should:\n%s", path, got)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	got, _ := stepwright(t, "validate", faulty)
	if got.code != 2 || !strings.HasPrefix(got.stderr, "InvalidParameters: 15 faults\n") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
	golden(t, "validate.txt", got.stdout)

	type findings struct {
		Objects []struct{ Object, Note string }
		Faults  []struct {
			File, Object, Field, Reason, Message string
			Line                                 int
		}
	}
	var asJSON, asYAML findings
	got, _ = stepwright(t, "validate", "-o", "json", faulty)
	if err := json.Unmarshal([]byte(got.stdout), &asJSON); err != nil || got.code != 2 {
		t.Fatalf("exit code %d: %v in %s", got.code, err, got.stdout)
	}
	got, _ = stepwright(t, "validate", "-o", "yaml", faulty)
	if err := yaml.Unmarshal([]byte(got.stdout), &asYAML); err != nil || got.code != 2 {
		t.Fatalf("exit code %d: %v in %s", got.code, err, got.stdout)
	}
	if len(asJSON.Faults) != 15 || !slices.Equal(asJSON.Faults, asYAML.Faults) {
		t.Errorf("JSON has %v, YAML %v", asJSON.Faults, asYAML.Faults)
	}
	i := slices.IndexFunc(asJSON.Faults, func(f struct {
		File, Object, Field, Reason, Message string
		Line                                 int
	}) bool {
		return f.Object == "WorkflowRun acme/no-component"
	})
	if f := asJSON.Faults[i]; filepath.Base(f.File) != "no-component.yaml" || f.Line != 6 ||
		f.Reason != "ComponentValidationFailed" || f.Message != `component "none" not found` {
		t.Errorf("got %+v", f)
	}
}

func TestValidateWithoutFault(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"the whole platform": {
			example, samples(t, "component-types"), "--templates", samples(t, "ci-workflows"),
		},
		"the example, on a cluster": {example, "--partial"},
		"what the portal shows": {"../../examples/backstage", "--partial", "--github-callback-url",
			"https://portal.example.com/api/auth/github/handler/frame"},
	} {
		got, _ := stepwright(t, append([]string{"validate"}, args...)...)
		if got.code != 0 || !strings.HasSuffix(got.stdout, " objects, no fault\n") {
			t.Errorf("%s: exit code %d: %s%s", name, got.code, got.stdout, got.stderr)
		}
	}
}

// Values alone can be checked, and give the note on the callback URL.
func TestValidateValues(t *testing.T) {
	t.Parallel()
	got, _ := stepwright(t, "validate", "../../examples/backstage/values-github-enterprise.yaml")
	if got.code != 0 || !strings.Contains(
		got.stdout,
		"the GitHub OAuth App needs the authorization callback URL "+
			"https://portal.example.com/api/auth/github/handler/frame\n",
	) {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	got, _ = stepwright(
		t, "validate", "--github-callback-url", "https://elsewhere.example.com/api/auth/github/handler/frame",
		"../../examples/backstage/values-github.yaml",
	)
	if got.code != 2 || !strings.Contains(
		got.stdout, "values-github.yaml:6: Values values-github.yaml: backstage.baseUrl: the portal sends ",
	) {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
}

func TestRender(t *testing.T) {
	t.Parallel()
	got, _ := stepwright(t, "render", example, "--templates", samples(t, "ci-workflows"), "--secret-store", "vault")
	if got.code != 0 {
		t.Fatal(got.stderr)
	}
	golden(t, "render.yaml", got.stdout)

	var list struct{ Items []map[string]any }
	asJSON, _ := stepwright(
		t, "render", example, "--templates", samples(t, "ci-workflows"), "--secret-store", "vault", "-o", "json",
	)
	if err := json.Unmarshal([]byte(asJSON.stdout), &list); err != nil {
		t.Fatalf("%v in %s", err, asJSON.stdout)
	}
	var documents bytes.Buffer
	for _, item := range list.Items {
		text, err := yaml.Marshal(item)
		if err != nil {
			t.Fatal(err)
		}
		documents.WriteString("---\n" + string(text))
	}
	if documents.String() != got.stdout {
		t.Errorf("JSON differs:\n%s", documents.String())
	}
}

// The templates are those that the command was built with, wherever it is called.
func TestInAnEmptyFolder(t *testing.T) {
	run, err := filepath.Abs(filepath.Join(faulty, "standalone.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for _, test := range []struct{ command, want string }{
		{"validate", " objects, no fault\n"},
		{"render", "name: containerfile-build\n"},
	} {
		var stdout, stderr bytes.Buffer
		if code := Main(t.Context(), []string{test.command, run}, &stdout, &stderr); code != 0 ||
			!strings.Contains(stdout.String(), test.want) {
			t.Errorf("%s: exit code %d: %s%s", test.command, code, &stdout, &stderr)
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	platform, components := filepath.Join(faulty, "platform.yaml"), filepath.Join(faulty, "components.yaml")
	run := func(name string) string { return filepath.Join(faulty, name+".yaml") }
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no workflow", []string{run("no-workflow")}, 2,
			`no-workflow.yaml:9: WorkflowRun acme/no-workflow: spec.workflow.name: ClusterWorkflow ` +
				`"missing" is in no file`},
		{"other templates", []string{run("standalone"), "--templates", samples(t, "component-types")}, 2,
			`standalone.yaml:9: WorkflowRun acme/standalone: spec.workflow.name: ClusterWorkflow ` +
				`"dockerfile-builder" is in no file`},
		{"a component check", []string{run("other-project"), platform, components}, 2,
			"other-project.yaml:6: WorkflowRun acme/other-project: metadata.labels[openchoreo.dev/project]: " +
				"ComponentValidationFailed: "},
		{"an expression", []string{run("failing-expression"), platform}, 2,
			"platform.yaml:55: ClusterWorkflow failing: spec.runTemplate.spec.arguments.parameters[0].value: " +
				"WorkflowPending: "},
		{"a SecretReference", []string{run("no-secret"), platform}, 2,
			`there is no SecretReference "none" in namespace "acme"`},
		{"no run", []string{platform}, 2, "there is no WorkflowRun in these files"},
		{"several runs", []string{run("standalone"), run("good"), platform}, 2,
			"choose one of standalone, good with --name"},
		{"no folder of templates", []string{run("good"), "--templates", "none"}, 64, "none: no such file or directory"},
		{"another form", []string{run("good"), "-o", "toml"}, 64, `--output: "toml" is neither yaml nor json`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _ := stepwright(t, append([]string{"render"}, test.args...)...)
			if got.code != test.code || !strings.Contains(got.stderr, test.want) || got.stdout != "" {
				t.Errorf("exit code %d: %s%s", got.code, got.stderr, got.stdout)
			}
		})
	}
}

// Templates are read as kubectl apply -k reads them.
func TestRenderWithKustomization(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	raw, err := os.ReadFile(filepath.Join(samples(t, "ci-workflows"), "dockerfile-builder.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	plane := filepath.Join(dir, "control-plane")
	for path, text := range map[string]string{
		"workflow.yaml": string(raw),
		"kustomization.yaml": "resources: [workflow.yaml]\npatches:\n- target: {kind: ClusterWorkflow}\n  patch: |\n" +
			"    - op: replace\n" +
			"      path: /spec/runTemplate/spec/volumeClaimTemplates/0/spec/resources/requests/storage\n" +
			"      value: 9Gi\n",
	} {
		if err := os.MkdirAll(plane, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(plane, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := stepwright(t, "render", example, "--templates", dir)
	if got.code != 0 || !strings.Contains(got.stdout, "storage: 9Gi") {
		t.Errorf("exit code %d: %s%s", got.code, got.stderr, got.stdout)
	}
	if err := os.Remove(filepath.Join(plane, "workflow.yaml")); err != nil {
		t.Fatal(err)
	}
	got, _ = stepwright(t, "render", example, "--templates", dir)
	if got.code == 0 || !strings.Contains(got.stderr, "kustomize "+plane) {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}
