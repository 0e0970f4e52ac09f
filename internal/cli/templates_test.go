package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// editedTemplates is a copy of the templates in which a text of one file is another.
func editedTemplates(t *testing.T, file, old, replacement string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../templates")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(old)) {
		t.Fatalf("%s does not hold %q", file, old)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(raw, []byte(old), []byte(replacement)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// repository serves the source of a project, with that password unless it is empty, and returns its URL and folder.
func repository(t *testing.T, project, password string) (url, folder string) {
	t.Helper()
	root := t.TempDir()
	folder = filepath.Join(root, "cart.git")
	if _, err := devgit.Import(
		t.Context(), filepath.Join(project, "source"), folder, "first", time.Unix(1767225600, 0),
	); err != nil {
		t.Fatal(err)
	}
	handler := &devgit.Handler{Root: root}
	if password != "" {
		handler.Username, handler.Password = "git", password
	}
	server, err := devgit.Start(t.Context(), "127.0.0.1:0", handler)
	if err != nil {
		t.Fatal(err)
	}
	return server + "/cart.git", folder
}

// The YAML is what runs: a parameter that is renamed there alone breaks the run.
func TestRunOfOtherTemplates(t *testing.T) {
	tests := []struct {
		name, file, old, replacement string
		code                         int
		stderr                       string
		started                      bool
	}{
		{"a variable", "workflow-plane/checkout-source.yaml", "name: GIT_REPO", "name: GIT_URL", 2,
			"InvalidParameters: checkout-source: git-repo: is required", true},
		{"an input parameter", "workflow-plane/publish-image.yaml", "- name: git-revision", "- name: git-rev", 2,
			"git-revision", false},
		{"an argument", "control-plane/dockerfile-builder.yaml", "- name: dockerfile-path", "- name: docker-file", 2,
			"workflow.parameters.dockerfile-path", false},
		{"a step's name", "control-plane/dockerfile-builder.yaml", "- - name: checkout-source", "- - name: checkout",
			2, "steps.checkout-source.outputs.parameters.source-digest", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := project(t, "FROM scratch\nCOPY . /app\n", `{repository: {url: "https://git.example.com/cart.git"}}`)
			state := filepath.Join(t.TempDir(), "state")
			got, _ := stepwright(
				t, "run", "--state", state, "--templates", editedTemplates(t, test.file, test.old, test.replacement),
				"--source", filepath.Join(dir, "source"), dir,
			)
			if got.code != test.code || !strings.Contains(got.stderr, test.stderr) {
				t.Errorf("exit code %d, want %d\n%s", got.code, test.code, got.stderr)
			}
			if _, err := os.Stat(state); (err == nil) != test.started {
				t.Errorf("something was started, or nothing: %v", err)
			}
		})
	}
}

// A platform engineer's own overlay runs as it would be installed.
func TestRunOfAnOverlay(t *testing.T) {
	dir := project(t, "FROM scratch\nCOPY . /app\n", `{repository: {url: "https://git.example.com/cart.git"}}`)
	run := func(t *testing.T, templates string) result {
		got, _ := stepwright(
			t, "run", "--state", t.TempDir(), "--templates", templates, "--source", filepath.Join(dir, "source"), dir,
		)
		return got
	}
	// Nobody has the example's scanner.
	templates := editedTemplates(t, "overlays/example/settings.env", "dockerfile-sbom=final", "dockerfile-sbom=none")
	for _, overlay := range []string{"overlays/example", "overlays/local"} {
		t.Run(overlay, func(t *testing.T) {
			if got := run(t, filepath.Join(templates, overlay)); got.code != 0 ||
				!strings.Contains(got.stdout, "Workload acme/cart-workload") {
				t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
			}
		})
	}
	// A component of one's own is what runs, too: it changes a variable of the build.
	root := t.TempDir()
	own := filepath.Join(root, "overlays", "own")
	if err := os.CopyFS(root, os.DirFS("../../templates")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	patch := func(value string) {
		text := `resources: [../example]
patches:
  - target: {kind: ClusterWorkflowTemplate, name: containerfile-build}
    patch: |
      - op: add
        path: /spec/templates/0/container/env/0
        value: {name: ` + value + `}
`
		if err := os.WriteFile(filepath.Join(own, "kustomization.yml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	patch("SOURCE_DATE_EPOCH, value: soon")
	if got := run(t, own); got.code != 2 ||
		!strings.Contains(got.stderr, "InvalidParameters: containerfile-build: source-date-epoch") {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
	patch("SOURCE_DATE_EPOCH, valueOf: x")
	if got := run(t, own); got.code != 2 || !strings.Contains(got.stderr, "valueOf") {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
}

// Where Argo would expand a developer's text, the step gets it as it was written: a branch, paths, and what a build is
// given.
func TestDevelopersTextsArriveLiterally(t *testing.T) {
	const branch, app = "{{=1+1}}", "{{workflow.parameters.git-secret}}"
	const argument = "{{inputs.parameters.oauth-client-id}}"
	dir := project(t, "FROM busybox:1\n", "")
	source := filepath.Join(dir, "source", app)
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"{{=2+2}}": "FROM busybox:1\nARG WHO\nRUN echo \"it is <$WHO> in <$PLACE>\"\n",
		"workload.yaml": "apiVersion: openchoreo.dev/v1alpha1\nmetadata: {name: cart}\n" +
			"configurations: {env: [{name: FROM_THE_DESCRIPTOR, value: x}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	url, folder := repository(t, dir, "")
	if out, err := exec.Command("git", "-C", folder, "branch", "-m", "main", branch).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	parameters, err := json.Marshal(map[string]any{
		"repository": map[string]any{"url": url, "revision": map[string]any{"branch": branch}, "appPath": app},
		"docker":     map[string]any{"context": app, "filePath": app + "/{{=2+2}}"},
		"buildArgs":  []any{map[string]any{"name": "WHO", "value": argument}},
		"buildEnv":   []any{map[string]any{"name": "PLACE", "value": app}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := stepwright(t, withStandIns(t, "run", "--state", t.TempDir(), project(t, "", string(parameters)))...)
	if got.code != 0 || !strings.Contains(got.stderr, "it is <"+argument+"> in <"+app+">") ||
		!strings.Contains(got.stdout, "FROM_THE_DESCRIPTOR") {
		t.Errorf("exit code %d\n%s\n%s", got.code, got.stdout, got.stderr)
	}
}

// A Secret that comes late is waited for; a repository is never cloned as public because it is not there yet.
func TestSecretThatComesLate(t *testing.T) {
	t.Run("it comes", func(t *testing.T) {
		source := project(t, "FROM scratch\nCOPY . /app\n", "")
		url, _ := repository(t, source, "late-password")
		dir := project(t, "", fmt.Sprintf(`{repository: {url: %q, secretRef: git-credentials}}`, url))
		secrets, state := t.TempDir(), t.TempDir()
		cmd := exec.CommandContext(
			t.Context(), program(t), "run", "--state", state, "--git-secret-dir", secrets, dir,
		)
		var stderr bytes.Buffer
		cmd.Stderr, cmd.Env = &stderr, append(os.Environ(), "TMPDIR="+t.TempDir())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		record := filepath.Join(state, "runs", "acme", "cart-1", "workflowrun.yaml")
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if raw, _ := os.ReadFile(record); bytes.Contains(raw, []byte("name: checkout-source\n    phase: Running")) {
				break
			}
			if time.Now().After(deadline) {
				cmd.Process.Kill()
				cmd.Wait()
				t.Fatalf("checkout-source does not run\n%s", stderr.String())
			}
		}
		late := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(late, []byte("late-password"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(late, filepath.Join(secrets, "password")); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, stderr.String())
		}
	})
	t.Run("it does not come", func(t *testing.T) {
		url, _ := repository(t, project(t, "FROM scratch\nCOPY . /app\n", ""), "") // anyone may clone it
		dir := project(t, "", fmt.Sprintf(`{repository: {url: %q, secretRef: git-credentials}}`, url))
		got, _ := stepwright(t, "run", "--state", t.TempDir(), "--git-secret-dir", t.TempDir(), dir)
		if got.code != 11 || !strings.Contains(got.stderr, "the Git secret did not appear") {
			t.Errorf("exit code %d\n%s", got.code, got.stderr)
		}
	})
}

// A run can be read while it runs and afterwards: its status as the WorkflowRun has it, and what its tasks wrote.
func TestRunsOfThisMachine(t *testing.T) {
	state := t.TempDir()
	good := project(t, "FROM scratch\nCOPY . /app\n", `{repository: {url: "https://git.example.com/cart.git"}}`)
	bad := project(t, "FROM nowhere.example.com:1/x AS\n", `{repository: {url: "https://git.example.com/cart.git"}}`)
	raw, err := os.ReadFile(filepath.Join(bad, "run.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(
		filepath.Join(bad, "run.yaml"), bytes.Replace(raw, []byte("cart-1"), []byte("cart-2"), 1), 0o644,
	); err != nil {
		t.Fatal(err)
	}

	follower := exec.CommandContext(
		t.Context(), program(t), "logs", "--state", state, "-f", "cart-1", "publish-image",
	)
	var followed bytes.Buffer
	follower.Stdout = &followed
	run := exec.CommandContext(
		t.Context(), program(t), "run", "--state", state, "--source",
		filepath.Join(good, "source"), "-o", "json", good,
	)
	run.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var printed bytes.Buffer
	run.Stdout = &printed
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(state, "runs", "acme", "cart-1", "workflowrun.yaml")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(record); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no record of the run")
		}
	}
	if err := follower.Run(); err != nil {
		t.Error(err)
	}
	if err := run.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(followed.String(), "cart:v1-") || strings.Contains(followed.String(), "│") {
		t.Errorf("followed: %s", followed.String())
	}
	var ended v1alpha1.WorkflowRun
	if err := json.Unmarshal(printed.Bytes(), &ended); err != nil {
		t.Fatalf("%v in %s", err, printed.String())
	}
	var tasks []string
	for _, task := range ended.Status.Tasks {
		tasks = append(tasks, task.Name+" "+task.Phase)
	}
	if got, want := strings.Join(tasks, ", "), "checkout-source Succeeded, containerfile-build Succeeded, "+
		"publish-image Succeeded, generate-workload-cr Succeeded"; got != want {
		t.Errorf("tasks are %s, want %s", got, want)
	}
	if ended.Annotations["openchoreo.dev/workload"] == "" {
		t.Errorf("annotations are %v", ended.Annotations)
	}

	failed, _ := stepwright(t, "run", "--state", state, "--source", filepath.Join(bad, "source"), "-o", "yaml", bad)
	var other v1alpha1.WorkflowRun
	if err := yaml.UnmarshalStrict([]byte(failed.stdout), &other); err != nil || failed.code != 21 {
		t.Fatalf("exit code %d, %v in %s\n%s", failed.code, err, failed.stdout, failed.stderr)
	}
	if last := other.Status.Tasks[len(other.Status.Tasks)-1]; len(other.Status.Tasks) != 2 || last.Phase != "Failed" ||
		!strings.HasPrefix(last.Message, "DockerfileInvalid: ") {
		t.Errorf("%+v", other.Status.Tasks)
	}

	for _, test := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"list", []string{"list"}, 0, []string{"cart-1   cart        Succeeded", "cart-2   cart        Failed"}},
		{"get", []string{"get", "cart-2"}, 0,
			[]string{"WorkflowRun acme/cart-2: Failed", "containerfile-build   Failed", "DockerfileInvalid: "}},
		{"get as YAML", []string{"get", "cart-2", "-o", "yaml"}, 0, []string{failed.stdout}},
		{"get another", []string{"get", "cart-3"}, 44, []string{`NotFound: there is no run "cart-3"; there is`}},
		{"logs", []string{"logs", "cart-1"}, 0, []string{"checkout-source │ ", "generate-workload-cr │ "}},
		{"logs of a task", []string{"logs", "cart-1", "publish-image"}, 0, []string{followed.String()}},
		{"logs of no task", []string{"logs", "cart-1", "push"}, 64,
			[]string{`run cart-1 has no task "push"; it has checkout-source, containerfile-build`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, _ := stepwright(t, append(test.args, "--state", state)...)
			for _, want := range test.want {
				if got.code != test.code || !strings.Contains(got.stdout+got.stderr, want) {
					t.Errorf(
						"exit code %d, want %d; %q is missing in\n%s\n%s", got.code, test.code, want, got.stdout,
						got.stderr,
					)
				}
			}
		})
	}
}
