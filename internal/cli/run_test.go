package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
)

// bin holds the stepwright command and the steps, as make build makes them.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		os.Exit(m.Run())
	}
	var err error
	if bin, err = os.MkdirTemp("", "stepwright-bin-"); err != nil {
		panic(err)
	}
	if err := programtest.Build(
		context.Background(), bin, "../..", "./cmd/stepwright", "./steps/buildpacks-build", "./steps/checkout-source",
		"./steps/containerfile-build", "./steps/generate-workload-cr", "./steps/publish-image",
	); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if closeStandIns != nil {
		closeStandIns()
	}
	os.RemoveAll(bin)
	os.Exit(code)
}

const example = "../../examples/greeting-service"

// standIns is a mirror with the stand-ins for base images and builders, for all tests.
var standIns = sync.OnceValues(func() (*mirror.Mirror, error) {
	m, err := mirror.Start(mirror.Options{
		Dir: filepath.Join(bin, "mirror"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		closeStandIns = m.Close
	}
	return m, err
})

var closeStandIns func() error

// withStandIns adds the flags to a run that make it ask the mirror.
func withStandIns(t *testing.T, args ...string) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	m, err := standIns()
	if err != nil {
		t.Fatal(err)
	}
	return append(args, m.Flags()...)
}

// withBuilder adds the flags to a run that make it build with the stand-in of a builder.
func withBuilder(t *testing.T, builder string, args ...string) []string {
	t.Helper()
	if testing.Short() {
		t.Skip("makes builders of Debian packages")
	}
	m, err := standIns()
	if err != nil {
		t.Fatal(err)
	}
	flags, err := m.MakeBuilder(t.Context(), builder)
	if err != nil {
		t.Fatal(err)
	}
	return append(withStandIns(t, args...), flags...)
}

// program is the path of the command's binary.
func program(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("wants the command's binary")
	}
	return filepath.Join(bin, "stepwright")
}

// result is what a finished command left.
type result struct {
	code           int
	stdout, stderr string
}

// stepwright runs the command in a process of its own, its temporary files below the test's folder. In short mode there
// are no binaries, and it runs in this process; the steps of a pipeline do not run then.
func stepwright(t *testing.T, args ...string) (got result, temp string) {
	t.Helper()
	temp = t.TempDir()
	var stdout, stderr bytes.Buffer
	if testing.Short() {
		if args[0] == "run" {
			t.Skip("runs steps")
		}
		code := Main(t.Context(), args, &stdout, &stderr)
		return result{code, stdout.String(), stderr.String()}, temp
	}
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			t.Fatal(err)
		}
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}, temp
}

var published = regexp.MustCompile(
	`127\.0\.0\.1:\d+/acme_online-store_greeting-service:v1-[0-9a-f]{8}@(sha256:[0-9a-f]{64})`,
)

// exampleFiles are the example's WorkflowRun and Component, its repository on a Git server that keeps its address.
func exampleFiles(t *testing.T) string {
	t.Helper()
	repositories, dir := t.TempDir(), t.TempDir()
	if _, err := devgit.Import(
		t.Context(), example, filepath.Join(repositories, "greeting-service.git"), "first", time.Unix(1767225600, 0),
	); err != nil {
		t.Fatal(err)
	}
	server, err := devgit.Start(t.Context(), "127.0.0.1:0", &devgit.Handler{Root: repositories})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"component.yaml", "workflowrun.yaml"} {
		raw, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(raw), "https://git.example.com/acme", server)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The example, from Git to a service: the image can be pulled while the registry is up, and it runs.
func TestExample(t *testing.T) {
	state, files := t.TempDir(), exampleFiles(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(
		ctx, program(t),
		withStandIns(t, "run", "--state", state, "--keep-serving", files)...,
	)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan() &&
		!strings.HasPrefix(lines.Text(), "Serving until interrupted"); {
		text.WriteString(lines.Text() + "\n")
	}
	image := published.FindStringSubmatch(text.String())
	if image == nil {
		cmd.Wait()
		t.Fatalf("no image in\n%s\n%s", text.String(), stderr.String())
	}
	for _, want := range []string{"Workload acme/greeting-service-workload", "kind: Workload", "image: " + image[0],
		`openchoreo.dev/workload-from-source: true`, `openchoreo.dev/workload: {"`} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
	answers(
		t, image[0], "../../examples/greeting-service/README.md",
		"These lines are run by go test ./internal/cli, TestExample.", "ADDRESS=127.0.0.1:$PORT",
	)
	verifiable(t, image[0], "https://stepwright.dev/steps/containerfile-build", false) // without a scanner
	cmd.Process.Signal(os.Interrupt)
	go io.Copy(io.Discard, stdout)
	if err := cmd.Wait(); err != nil {
		t.Errorf("after the interrupt: %v", err)
	}
	object, err := os.ReadFile(filepath.Join(state, "api", "acme", "workloads", "greeting-service-workload.yaml"))
	if err != nil || !strings.Contains(string(object), image[0]) {
		t.Errorf("%v: %s", err, object)
	}

	t.Run("a second run uses the cache and makes the same image", func(t *testing.T) {
		again, _ := stepwright(t, withStandIns(t, "run", "--state", state, files)...)
		other := published.FindStringSubmatch(again.stdout)
		if again.code != 0 || other == nil || other[1] != image[1] || !strings.Contains(again.stderr, " CACHED") {
			t.Errorf("%v, want %s\n%s", other, image[1], again.stderr)
		}
	})
}

// Two machines that share nothing make one commit into one image.
func TestOneCommitIsOneImage(t *testing.T) {
	repositories := t.TempDir()
	dir := project(
		t, "FROM busybox:1\nARG VERSION\nCOPY . /app\nRUN chown -R 1000:1000 /app && echo $VERSION > /app/version\n",
		"",
	)
	if _, err := devgit.Import(
		t.Context(), filepath.Join(dir, "source"), filepath.Join(repositories, "cart.git"), "first",
		time.Unix(1767225600, 0),
	); err != nil {
		t.Fatal(err)
	}
	server, err := devgit.Start(t.Context(), "127.0.0.1:0", &devgit.Handler{Root: repositories})
	if err != nil {
		t.Fatal(err)
	}
	digest := regexp.MustCompile(`acme_shop_cart:v1-[0-9a-f]{8}@(sha256:[0-9a-f]{64})`)
	var digests []string
	for range 2 {
		project := project(
			t, "",
			fmt.Sprintf(`{repository: {url: %q}, buildArgs: [{name: VERSION, value: "1.0"}]}`, server+"/cart.git"),
		)
		got, _ := stepwright(t, withStandIns(t, "run", "--state", t.TempDir(), project)...)
		found := digest.FindStringSubmatch(got.stdout)
		if got.code != 0 || found == nil {
			t.Fatal(got.stderr)
		}
		digests = append(digests, found[1])
	}
	if digests[0] != digests[1] {
		t.Errorf("%s and %s", digests[0], digests[1])
	}
}

// project writes a component, a run of it, and a source folder, and returns the folder.
func project(t *testing.T, dockerfile, parameters string) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range map[string]string{
		"component.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: Component\n" +
			"metadata: {name: cart, namespace: acme}\nspec:\n  owner: {projectName: shop}\n" +
			"  componentType: {kind: ClusterComponentType, name: deployment/service}\n",
		"run.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: WorkflowRun\nmetadata:\n  name: cart-1\n" +
			"  namespace: acme\n  labels: {openchoreo.dev/project: shop, openchoreo.dev/component: cart}\n" +
			"spec:\n  workflow:\n    kind: ClusterWorkflow\n    name: dockerfile-builder\n    parameters: " +
			parameters + "\n",
		"source/Dockerfile": dockerfile,
	} {
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

func TestRunThatFails(t *testing.T) {
	const ok = `{repository: {url: "https://git.example.com/cart.git"}}`
	tests := []struct {
		name       string
		dockerfile string
		parameters string
		code       int
		stderr     []string
		started    bool
	}{
		{
			name: "three faults start nothing", dockerfile: "FROM busybox:1\n",
			parameters: `{repository: {url: "https://me:hunter22@git.example.com/cart.git", revision: {commit: ` +
				`nope}}, buildEnv: "A=b"}`,
			code: 2,
			stderr: []string{
				"InvalidParameters: 3 faults:\n",
				": spec.workflow.parameters.repository.url: does not have the right form",
				": spec.workflow.parameters.repository.revision.commit: does not have the right form",
				": spec.workflow.parameters.buildEnv: expected array, but got string",
			},
		},
		{
			name: "a RUN that fails", dockerfile: "FROM busybox:1\nRUN echo about to break && ls /no/such/folder\n",
			parameters: ok,
			code:       22,
			stderr: []string{"BuildFailed: containerfile-build: ", "ls /no/such/folder",
				"ls: /no/such/folder: No such file or directory"},
			started: true,
		},
		{
			name: "a base image without a stand-in", dockerfile: "FROM alpine:3.20\n", parameters: ok, code: 23,
			stderr: []string{
				"BaseImageUnavailable: containerfile-build: Dockerfile line 1: base image alpine:3.20",
				"library/alpine:3.20 has no stand-in, and only stand-ins are served here",
				"docker.io/library/busybox:1, docker.io/library/debian:bookworm-slim, ",
			},
			started: true,
		},
		{
			name: "a Dockerfile elsewhere", dockerfile: "FROM busybox:1\n",
			parameters: `{repository: {url: "https://git.example.com/cart.git"}, docker: {filePath: app/Dockerfile}}`,
			code:       20, stderr: []string{"DockerfileNotFound: containerfile-build: ", "app/Dockerfile"},
			started: true,
		},
		{
			name: "a path out of the repository", dockerfile: "FROM busybox:1\n",
			parameters: `{repository: {url: "https://git.example.com/cart.git"}, docker: {context: ../..}}`,
			code:       14, stderr: []string{"PathEscapesRepository: containerfile-build: "}, started: true,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := project(t, test.dockerfile, test.parameters)
			state := filepath.Join(t.TempDir(), "state")
			got, temp := stepwright(t, withStandIns(
				t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir,
			)...)
			if got.code != test.code || got.stdout != "" {
				t.Errorf("exit code %d, want %d; stdout %q", got.code, test.code, got.stdout)
			}
			for _, want := range test.stderr {
				if !strings.Contains(got.stderr, want) {
					t.Errorf("%q is missing in\n%s", want, got.stderr)
				}
			}
			if strings.Contains(got.stderr, "hunter22") {
				t.Errorf("a password:\n%s", got.stderr)
			}
			if _, err := os.Stat(state); (err == nil) != test.started {
				t.Errorf("something was started, or nothing: %v", err)
			}
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if workloads, _ := filepath.Glob(filepath.Join(state, "api", "*", "workloads", "*")); len(workloads) > 0 {
				t.Errorf("a Workload was made: %v", workloads)
			}
		})
	}
}

// Faults of flags are reported before anything starts, all at once.
func TestFlagsThatAreWrong(t *testing.T) {
	dir := project(t, "", cartRepository)
	state := filepath.Join(t.TempDir(), "state")
	got, _ := stepwright(
		t, "run", "--state", state, "--source", dir, "--output", "toml", "--ca-bundle", "no/such/file",
		"--registry-mirror", "docker.io", "--registry-mirror", "gcr.io=https://mirror.example.com",
		"--insecure-registry", "mirror.example.com/hub", dir,
	)
	for _, want := range []string{
		`UsageError: 5 faults:`, `--output: "toml" is neither yaml nor json`,
		`--registry-mirror: "docker.io" is not of the form HOST=MIRROR`,
		`--registry-mirror: registry-mirrors[0].mirror: does not have the right form`,
		`--insecure-registry: insecure-registries[0]: does not have the right form`,
		`--ca-bundle: `, `no/such/file: no such file or directory`,
	} {
		if got.code != 64 || !strings.Contains(got.stderr, want) {
			t.Errorf("exit code %d; %q is missing in\n%s", got.code, want, got.stderr)
		}
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("something was started")
	}
}

// A run that names a secret is told where to get it from before anything starts.
func TestSecretThatIsNotGiven(t *testing.T) {
	dir := project(t, "", `{repository: {url: "https://git.example.com/cart.git", secretRef: git-credentials}}`)
	state := filepath.Join(t.TempDir(), "state")
	got, _ := stepwright(t, "run", "--state", state, dir)
	if got.code != 64 || !strings.Contains(got.stderr, "--git-secret-dir") {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("something was started")
	}
}

// Secrets for a build of another kind, which nothing would read, are refused before anything starts.
func TestSecretsThatDoNotApply(t *testing.T) {
	t.Parallel()
	secrets := t.TempDir()
	if err := os.WriteFile(filepath.Join(secrets, "npmrc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const cartSecrets = `{repository: {url: "https://git.example.com/cart.git"}, ` +
		`buildSecrets: [{name: npmrc, secretRef: cart-npm}, {name: pip, secretRef: cart-pip, key: conf}]}`
	paketo := builder(t, "paketo")
	tests := []struct {
		name, builder, parameters string
		flags                     []string
		want                      string // in the message
	}{
		{"bindings for a Dockerfile", "", cartRepository, []string{"--bindings-dir", secrets},
			"--bindings-dir: this workflow builds with a Dockerfile, in which nothing reads bindings"},
		{"secrets of RUN for buildpacks", paketo.Workflow, cartRepository, []string{"--build-secrets-dir", secrets},
			"--build-secrets-dir: this workflow builds with buildpacks, which have no RUN"},
		{"bindings that are not given", paketo.Workflow,
			`{repository: {url: "https://git.example.com/cart.git"}, bindings: {secretRef: cart-bindings}}`, nil,
			`bindings.secretRef is "cart-bindings": give the folder with that secret's files with --bindings-dir`},
		{"build secrets that are not given", "", cartSecrets, nil,
			"buildSecrets has npmrc, pip: give a folder with a file of each name with --build-secrets-dir"},
		{"build secrets that are not there", "", cartSecrets, []string{"--build-secrets-dir", secrets},
			"--build-secrets-dir: buildSecrets[1] is not there: "},
		{"bindings that are not there", paketo.Workflow, cartRepository, []string{"--bindings-dir", "no/such"},
			"--bindings-dir: "},
		{"a key for templates that sign nothing", "", cartRepository, []string{"--signing-key", secrets},
			"--signing-key: the templates have no component signing-key"},
		{"a key that is not there", "", cartRepository, []string{"--signing-key", "no/such"}, "--signing-key: "},
		{"a client that proves itself in another way", "", cartRepository, []string{"--oauth-client-auth", "basic"},
			`--oauth-client-auth: "basic" is not one of client_secret_post, client_secret_basic`},
		{"a password for no key", "", cartRepository, []string{"--signing-password-file", secrets},
			"--signing-password-file: there is no --signing-key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := project(t, "", test.parameters)
			if test.builder != "" {
				dir = application(t, paketo, nil, test.parameters)
			}
			state := filepath.Join(t.TempDir(), "state")
			got, _ := stepwright(t, append([]string{"run", "--state", state, dir}, test.flags...)...)
			if got.code != 64 || !strings.Contains(got.stderr, test.want) {
				t.Errorf("exit code %d; %q is missing in\n%s", got.code, test.want, got.stderr)
			}
			if _, err := os.Stat(state); err == nil {
				t.Error("something was started")
			}
		})
	}
}

// A workflow of the run's namespace runs as one of the cluster does. With --source, what the WorkflowRun says of a
// revision is told not to count. The Workload that is printed is the stored one, with what somebody else has put there.
func TestRunOfANamespacedWorkflow(t *testing.T) {
	workflow, err := os.ReadFile("../../templates/control-plane/dockerfile-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir := project(
		t, "FROM scratch\nCOPY . /app\n",
		`{repository: {url: "https://git.example.com/cart.git", revision: {branch: next, commit: 6dcb09b5}}}`,
	)
	run, err := os.ReadFile(filepath.Join(dir, "run.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"run.yaml": strings.NewReplacer(
			"ClusterWorkflow", "Workflow", "dockerfile-builder", "own",
		).Replace(string(run)),
		"workflow.yaml": strings.NewReplacer(
			"kind: ClusterWorkflow\n", "kind: Workflow\n",
			"  name: dockerfile-builder\n", "  name: own\n  namespace: acme\n",
		).Replace(string(workflow)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	state := t.TempDir()
	object := filepath.Join(state, "api", "acme", "workloads", "cart-workload.yaml")
	for i := range 2 {
		got, _ := stepwright(t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir)
		if got.code != 0 {
			t.Fatalf("exit code %d\n%s", got.code, got.stderr)
		}
		for _, told := range []string{
			`repository.revision.branch "next" of the WorkflowRun does not count`,
			`repository.revision.commit "6dcb09b5" of the WorkflowRun does not count`,
		} {
			if !strings.Contains(got.stderr, told) {
				t.Errorf("%q is missing in\n%s", told, got.stderr)
			}
		}
		stored, err := os.ReadFile(object)
		if err != nil {
			t.Fatal(err)
		}
		_, printed, _ := strings.Cut(got.stdout, "Workload acme/cart-workload\n")
		printed, _, _ = strings.Cut(printed, "\n\n")
		var is, want map[string]any
		if err := errors.Join(yaml.Unmarshal([]byte(printed), &is), yaml.Unmarshal(stored, &want)); err != nil ||
			len(want) == 0 || !reflect.DeepEqual(is, want) {
			t.Errorf("run %d: %v: printed\n%s\nstored\n%s", i, err, printed, stored)
		}
		if strings.Contains(printed, "GREETING") != (i == 1) {
			t.Errorf("run %d printed\n%s", i, printed)
		}
		edited := strings.Replace(
			string(stored), "container:\n", "container:\n    env: [{key: GREETING, value: hello}]\n", 1,
		)
		if err := os.WriteFile(object, []byte(edited), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "workflow.yaml")); err != nil {
		t.Fatal(err)
	}
	got, _ := stepwright(t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir)
	if got.code != 2 || !strings.Contains(got.stderr, `Workflow "own" is in no file: give its file or folder, too`) {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
}

// Faults of the descriptor in --source are found before the build, by the last step's own reasons.
func TestRunWithAFaultyDescriptor(t *testing.T) {
	dir := project(t, "FROM scratch\n", `{repository: {url: "https://git.example.com/cart.git", appPath: /app}}`)
	path := filepath.Join(dir, "source", "app", "workload.yaml")
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("endpoints:\n- port: \"80\"\n"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	got, _ := stepwright(t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir)
	if got.code != 40 || !strings.Contains(got.stderr, path+": 3 faults:\n  - line 2: endpoints[0].") {
		t.Errorf("exit code %d\n%s", got.code, got.stderr)
	}
	if _, err := os.Stat(state); err == nil {
		t.Error("something was started")
	}
}

// A run that is run again publishes, although another was run since: it is not the late build of an old commit.
func TestRunAgain(t *testing.T) {
	dir := project(t, "FROM scratch\nCOPY . /app\n", `{repository: {url: "https://git.example.com/cart.git"}}`)
	first, err := os.ReadFile(filepath.Join(dir, "run.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	second := strings.Replace(string(first), "cart-1", "cart-2", 1)
	if err := os.WriteFile(filepath.Join(dir, "second.yaml"), []byte(second), 0o644); err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	for i, name := range []string{"cart-1", "cart-2", "cart-1"} {
		if err := os.WriteFile(filepath.Join(dir, "source", "version"), fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		// The API's times are in whole seconds.
		for start := time.Now().Unix(); time.Now().Unix() == start; time.Sleep(10 * time.Millisecond) {
		}
		got, _ := stepwright(t, "run", "--state", state, "--name", name, "--source", filepath.Join(dir, "source"), dir)
		image := regexp.MustCompile(`127\S+@sha256:[0-9a-f]{64}`).FindString(got.stdout)
		stored, err := os.ReadFile(filepath.Join(state, "api", "acme", "workloads", "cart-workload.yaml"))
		if got.code != 0 || err != nil || image == "" || !strings.Contains(string(stored), image) {
			t.Errorf("run %d: the Workload does not have image %s: %v\n%s\n%s", i, image, err, stored, got.stderr)
		}
	}
}

// An interrupt ends the run within seconds, and so does another process that cancels it; the command says so.
func TestRunInterrupted(t *testing.T) {
	for name, stop := range map[string]func(t *testing.T, run *os.Process, state string){
		"interrupt": func(_ *testing.T, run *os.Process, _ string) { run.Signal(os.Interrupt) },
		"cancel": func(t *testing.T, _ *os.Process, state string) {
			if got, _ := stepwright(t, "cancel", "--state", state, "cart-1"); got.code != 0 {
				t.Errorf("exit code %d\n%s", got.code, got.stderr)
			}
		},
	} {
		t.Run(name, func(t *testing.T) { testRunInterrupted(t, stop) })
	}
}

func testRunInterrupted(t *testing.T, stop func(t *testing.T, run *os.Process, state string)) {
	state, dir := t.TempDir(), project(
		t, "FROM busybox:1\nRUN echo now-it-runs; sleep 600\n",
		`{repository: {url: "https://git.example.com/cart.git"}}`,
	)
	cmd := exec.CommandContext(
		t.Context(), program(t),
		withStandIns(t, "run", "--state", state, "--source", filepath.Join(dir, "source"), dir)...,
	)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var interrupted time.Time
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if interrupted.IsZero() && strings.HasSuffix(lines.Text(), " now-it-runs") {
			interrupted = time.Now()
			stop(t, cmd.Process, state)
		}
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 || time.Since(interrupted) > 20*time.Second ||
		!strings.Contains(text.String(), "✗ Cancelled") {
		t.Errorf("exit code %d, %s after the interrupt\n%s", code, time.Since(interrupted), text.String())
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got, _ := stepwright(t, "cancel", "--state", state, "cart-1"); got.code != 64 ||
		!strings.Contains(got.stderr, "has ended already: Failed") {
		t.Errorf("cancelled again: exit code %d\n%s", got.code, got.stderr)
	}
}

// A Component is built without a WorkflowRun, and what was run is run once more with other parameters.
func TestRunOfAComponent(t *testing.T) {
	dir, state := project(t, "FROM scratch\nARG NAME=/first\nCOPY Dockerfile ${NAME}\n", `{}`), t.TempDir()
	file := filepath.Join(dir, "component.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "  workflow:\n    kind: ClusterWorkflow\n    name: dockerfile-builder\n    parameters:\n"+
		"      repository: {url: \"https://git.example.com/cart.git\"}\n"...)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	flags := []string{"--state", state, "--source", filepath.Join(dir, "source")}
	run := func(args ...string) (name, digest string) {
		t.Helper()
		got, _ := stepwright(t, slices.Concat(args, flags)...)
		latest, _ := stepwright(t, "list", "--state", state, "-o", "name")
		name, _, _ = strings.Cut(latest.stdout, "\n")
		found := regexp.MustCompile(`acme_shop_cart:v1-[0-9a-f]{8}@(sha256:[0-9a-f]{64})`).
			FindStringSubmatch(got.stdout)
		if got.code != 0 || found == nil || !strings.HasPrefix(name, "cart-build-") {
			t.Fatalf("exit code %d, run %q\n%s%s", got.code, name, got.stdout, got.stderr)
		}
		return name, found[1]
	}
	_, first := run("run", file)
	name, second := run("run", file, "--set", "buildArgs[0].name=NAME", "--set", "buildArgs[0].value=/second")
	if first == second {
		t.Errorf("the parameter of --set changes nothing: %s", first)
	}
	again, third := run("rerun", name, file)
	if third != second || again == name {
		t.Errorf("once more: %s as %s, want %s of %s", third, again, second, name)
	}
	if got, _ := stepwright(t, "watch", "--state", state, "--component", "cart"); got.code != 0 ||
		!strings.Contains(got.stdout, "generate-workload-cr   Succeeded") {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}

func TestDevAPI(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(
		t.Context(), program(t), "dev-api", "--dir", dir, "--listen", "127.0.0.1:0",
		filepath.Join(example, "component.yaml"),
	)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGTERM)
	var base string
	if _, err := fmt.Fscanf(stdout, "API %s\n", &base); err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(filepath.Join(dir, "client-secret"))
	if err != nil {
		t.Fatal(err)
	}
	form := map[string][]string{"grant_type": {"client_credentials"}, "client_id": {"stepwright-local"},
		"client_secret": {strings.TrimSpace(string(secret))}}
	resp, err := http.PostForm(base+"/oauth2/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&token); err != nil || token.AccessToken == "" {
		t.Fatal(resp.Status, err)
	}
	request, err := http.NewRequest("GET", base+"/api/v1/namespaces/acme/components/greeting-service", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token.AccessToken)
	got, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if body, _ := io.ReadAll(got.Body); got.StatusCode != http.StatusOK ||
		!strings.Contains(string(body), `"projectName":"online-store"`) {
		t.Errorf("%s: %s", got.Status, body)
	}
}
