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
	if got.code != 2 || !strings.HasPrefix(got.stderr, "InvalidParameters: 21 faults\n") {
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
	if len(asJSON.Faults) != 21 || !slices.Equal(asJSON.Faults, asYAML.Faults) {
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
		"the first cluster of the guide": {
			example, "../../examples/first-cluster/platform.yaml", "--templates", "../../examples/first-cluster",
		},
		"what the portal shows": {"../../examples/backstage", "--partial", "--github-callback-url",
			"https://portal.example.com/api/auth/github/handler/frame"},
	} {
		got, _ := stepwright(t, append([]string{"validate"}, args...)...)
		if got.code != 0 || !strings.Contains(got.stdout, ", no fault\n") {
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
		{"validate", "Read 1 file in 1 folder\n1 object, no fault\n"},
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

// tree writes files of these texts into a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const cartComponent = "apiVersion: openchoreo.dev/v1alpha1\nkind: Component\n" +
	"metadata: {name: cart, namespace: acme}\nspec:\n  owner: {projectName: shop}\n" +
	"  componentType: {kind: ClusterComponentType, name: deployment/service}\n"

// A folder is read with the folders in it, and what was read is said.
func TestValidateFolders(t *testing.T) {
	t.Parallel()
	wrong := strings.Replace(cartComponent, "projectName: shop", "project: shop", 1)
	dir := tree(t, map[string]string{
		"app/component.yaml":              cartComponent,
		"app/config/deep/component.yml":   strings.Replace(wrong, "name: cart", "name: deep", 1),
		"app/chart/templates/a.yaml":      "{{ if .Values.on }}\na: b\n{{ end }}\n",
		"app/chart/values.yaml":           "replicas: 1\n",
		"app/.github/workflows/ci.yaml":   wrong,
		"app/node_modules/x/package.yaml": wrong,
	})
	outside := tree(t, map[string]string{"component.yaml": wrong})
	if err := os.Symlink(outside, filepath.Join(dir, "app", "link")); err != nil {
		t.Fatal(err)
	}
	got, _ := stepwright(t, "validate", "--partial", filepath.Join(dir, "app"))
	stdout := strings.ReplaceAll(got.stdout, dir+"/", "")
	for _, want := range []string{
		"app/config/deep/component.yml:5: Component acme/deep: spec.owner.project: there is no such field\n",
		"Read 4 files in 4 folders; nothing to check is in app/chart/templates/a.yaml, app/chart/values.yaml; ",
		"; not looked into: app/.github, app/link, app/node_modules\n",
	} {
		if got.code != 2 || !strings.Contains(stdout, want) {
			t.Errorf("exit code %d; %q is missing in\n%s", got.code, want, stdout)
		}
	}
	var asJSON struct {
		Files []struct {
			File  string
			Holds int
		}
		Left []string
	}
	got, _ = stepwright(
		t, "validate", "--partial", "-o", "json", filepath.Join(dir, "app"), filepath.Join(dir, "app/component.yaml"),
	)
	if err := json.Unmarshal([]byte(got.stdout), &asJSON); err != nil || len(asJSON.Files) != 4 ||
		len(asJSON.Left) != 3 || asJSON.Files[2].Holds != 1 {
		t.Errorf("%v: %s", err, got.stdout)
	}
	got, _ = stepwright(t, "validate", filepath.Join(dir, "app/chart"))
	if got.code != 2 || !strings.Contains(got.stderr, "there is no object of OpenChoreo's in ") ||
		!strings.Contains(got.stderr, "Read 2 files in 2 folders") {
		t.Errorf("exit code %d: %s", got.code, got.stderr)
	}
}

// A descriptor is checked as the last step checks it.
func TestValidateDescriptor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		args  []string // instead of the folder
		code  int
		want  []string
	}{
		"right": {
			files: map[string]string{
				"workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: ../api.yaml}\n",
				"../.git/HEAD":  "", "../api.yaml": "openapi: 3.0.0\n",
			},
			want: []string{"2 objects, no fault\n"},
		},
		"wrong": {
			files: map[string]string{"workload.yaml": "endpoints:\n- name: web\n  port: \"8080\"\n" +
				"  type: HTP\n  visibility: [public]\n  schemaFile: none\n"},
			code: 2,
			want: []string{
				`app/workload.yaml:3: endpoints[0].port: DescriptorInvalid: must be a number, without quotes`,
				`app/workload.yaml:4: endpoints[0].type: DescriptorInvalid: must be one of HTTP, gRPC`,
				`app/workload.yaml:5: endpoints[0].visibility[0]: DescriptorInvalid: must be one of project`,
				`app/workload.yaml:6: endpoints[0].schemaFile: DescriptorInvalid: there is no file "none"`,
			},
		},
		"by name": {
			files: map[string]string{"workload.yaml": "endpoints: {}\n"}, args: []string{"app/workload.yaml"}, code: 2,
			want: []string{`app/workload.yaml:1: endpoints: DescriptorInvalid: must be a list, is a mapping`},
		},
		"below": {
			files: map[string]string{"services/cart/workload.yaml": "endpoints: x\n"}, code: 2,
			want: []string{"app/services/cart/workload.yaml:1: endpoints: DescriptorInvalid: "},
		},
		"not YAML": {
			files: map[string]string{"workload.yaml": "endpoints:\n- name: [\n"}, code: 2,
			want: []string{"app/workload.yaml:2: DescriptorInvalid: did not find"},
		},
		"of another tool": {
			files: map[string]string{"workload.yaml": "services: {web: {image: x}}\n"}, code: 2,
			want: []string{"app/workload.yaml:1: DescriptorInvalid: seems to be a Compose file"},
		},
		"what has no effect": {
			files: map[string]string{"workload.yaml": "configurations:\n  env: [{name: A, value: 1.10}]\nmore: 1\n"},
			want: []string{
				`app/workload.yaml:2: no fault, but configurations.env[0].value: 1.10 is read as "1.1"`,
				"app/workload.yaml:3: no fault, but more is not known here", "2 objects, no fault\n",
			},
		},
		"another name": {
			files: map[string]string{"workload.yml": "endpoints: []\n", "x/Workload.yaml": "endpoints: []\n"},
			code:  2,
			want: []string{
				"app/workload.yml:1: only a file named workload.yaml counts", "app/x/Workload.yaml:1: only a file",
			},
		},
		"the custom resource": {
			files: map[string]string{"workload.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: Workload\n" +
				"metadata: {name: cart-workload, namespace: acme}\nspec:\n" +
				"  owner: {projectName: shop, componentName: cart}\n  container: {image: x}\n"},
			want: []string{"Workload acme/cart-workload: it is no descriptor", "2 objects, no fault\n"},
		},
		"another object, and a template": {
			files: map[string]string{
				"k8s/workload.yaml":       "apiVersion: apps/v1\nkind: Deployment\nspec: {}\n",
				"templates/workload.yaml": "{{- range .Values.x }}\na: b\n{{- end }}\n",
			},
			want: []string{
				"1 object, no fault\n", "nothing to check is in app/k8s/workload.yaml, app/templates/workload.yaml",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"app/component.yaml": cartComponent}
			for path, text := range test.files {
				files[filepath.Join("app", path)] = text
			}
			dir := tree(t, files)
			args := []string{"validate", "--partial"}
			for _, arg := range test.args {
				args = append(args, filepath.Join(dir, arg))
			}
			if test.args == nil {
				args = append(args, filepath.Join(dir, "app"))
			}
			got, _ := stepwright(t, args...)
			stdout := strings.ReplaceAll(got.stdout, dir+"/", "")
			for _, want := range test.want {
				if got.code != test.code || !strings.Contains(stdout, want) {
					t.Errorf("exit code %d; %q is missing in\n%s%s", got.code, want, stdout, got.stderr)
				}
			}
		})
	}
}
