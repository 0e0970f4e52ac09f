package externalci_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

// actBinary builds act, which the go command keeps for the next time.
func actBinary(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "act")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "act", "-o", path, "github.com/nektos/act")
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building act: %v\n%s", err, out)
	}
	return path
}

// withWorkflow puts one of the examples' workflows and the action into the repository, with this component's names.
func (b *bench) withWorkflow(name string) {
	b.t.Helper()
	workflow, err := os.ReadFile(filepath.Join(examples, "github-actions", name))
	if err != nil {
		b.t.Fatal(err)
	}
	text := string(workflow)
	for from, to := range map[string]string{
		"namespace-name: acme\n":       "namespace-name: " + b.namespace + "\n",
		"project-name: online-store\n": "project-name: " + b.project + "\n",
		"component-name: cart\n":       "component-name: " + b.component + "\n",
		"wait: true\n":                 fmt.Sprintf("wait: true\n          insecure-plain-http: %t\n", *apiURL != ""),
	} {
		if !strings.Contains(text, from) {
			b.t.Fatalf("the workflow has no %q", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	action, err := os.ReadFile(filepath.Join(examples, "github-actions", "register-workload", "action.yml"))
	if err != nil {
		b.t.Fatal(err)
	}
	write(b.t, filepath.Join(b.repo, ".github/workflows/build.yml"), text)
	write(b.t, filepath.Join(b.repo, ".github/actions/register-workload/action.yml"), string(action))
	b.commitAll()
}

// act runs the workflow on this machine as a push to main, and returns its log and exit code.
func (b *bench) act(program string, secrets map[string]string, environ ...string) (string, int) {
	b.t.Helper()
	dir := b.t.TempDir()
	write(b.t, filepath.Join(dir, "config/act/actrc"), "")
	var file strings.Builder
	for name, value := range secrets {
		fmt.Fprintf(&file, "%s=%q\n", name, value)
	}
	write(b.t, filepath.Join(dir, "secrets"), file.String())
	var env strings.Builder
	for _, variable := range environ {
		fmt.Fprintln(&env, variable)
	}
	write(b.t, filepath.Join(dir, "env"), env.String())
	var log string
	var code int
	b.watched(func() {
		log, code = command(b.t, b.repo, b.environ("XDG_CONFIG_HOME="+filepath.Join(dir, "config"), "XDG_CACHE_HOME="+
			filepath.Join(dir, "cache")),
			program, "push", "--platform", "ubuntu-latest=-self-hosted", "--secret-file",
			filepath.Join(dir, "secrets"), "--env-file", filepath.Join(dir, "env"),
			"--var", "REGISTRY="+b.registry, "--var", "STEPWRIGHT_URL="+b.release, "--var",
			"STEPWRIGHT_SHA256="+b.checksum, "--var", "OPENCHOREO_API_URL="+b.url,
			"--var", "OPENCHOREO_CLIENT_ID="+b.publisher.id, "--no-cache-server",
			"--insecure-secrets") // act would mask what it must not come to know
	})
	b.t.Log(log)
	return log, code
}

// TestGitHubActions runs the workflow by act.
func TestGitHubActions(t *testing.T) {
	t.Parallel()
	program := actBinary(t)
	b := newBench(t)
	b.withWorkflow("workflow.yml")
	secrets := map[string]string{
		"OPENCHOREO_CLIENT_ID": b.publisher.id, "OPENCHOREO_CLIENT_SECRET": b.publisher.secret,
		"THUNDER_URL": b.thunderURL(), "OPENCHOREO_API_URL": b.url,
		"REGISTRY_USER": "pusher", "REGISTRY_PASSWORD": pushCanary,
	}
	log, code := b.act(program, secrets, "SHELLOPTS=xtrace")
	quiet(t, map[string]string{"log": log}, b.secrets()...)
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if image := b.registered(); image != b.registry+"/acme_online-store_cart:"+b.commit {
		t.Errorf("registered %s", image)
	}
	name := b.workloads(t, b.component)[0].Metadata.Name
	if !strings.Contains(log, "registered "+name) {
		t.Errorf("the action's output workload is not %s", name)
	}
	for _, want := range []string{"generate-workload-cr: Succeeded", "+ docker build"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log", want)
		}
	}
	b.quietTree(b.repo)

	secrets["OPENCHOREO_CLIENT_SECRET"] = "canary-but-wrong"
	log, code = b.act(program, secrets)
	quiet(t, map[string]string{"log of a failure": log}, append(b.secrets(), "canary-but-wrong")...)
	if code == 0 || !strings.Contains(log, "Unauthorized") || !strings.Contains(log, "Check the client ID and secret") {
		t.Errorf("exit code %d", code)
	}
}

// TestGitHubActionsWithoutSecret runs the workflow that has the job's id token in place of a client secret.
func TestGitHubActionsWithoutSecret(t *testing.T) {
	t.Parallel()
	program := actBinary(t)
	b := newBench(t)
	b.withWorkflow("workflow-without-secret.yml")
	const request = "canary-of-the-job"
	gitHub := httptest.NewServer(devidp.JobTokens{Provider: b.jobs, Subject: job, Secret: request})
	t.Cleanup(gitHub.Close)
	secrets := map[string]string{"REGISTRY_USER": "pusher", "REGISTRY_PASSWORD": pushCanary}
	log, code := b.act(program, secrets, "SHELLOPTS=xtrace", "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+request,
		"ACTIONS_ID_TOKEN_REQUEST_URL="+gitHub.URL+"/idtoken?api-version=2.0")
	quiet(t, map[string]string{"log": log}, append(b.secrets(), request)...)
	if code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if image := b.registered(); image != b.registry+"/acme_online-store_cart:"+b.commit {
		t.Errorf("registered %s", image)
	}
	b.quietTree(b.repo)

	// Without the permission id-token: write there are no such variables. The job's summary says so, too: act may lose
	// the last line that a program prints.
	log, code = b.act(program, secrets)
	if code == 0 || !strings.Contains(log, "generate-workload-cr: InvalidParameters") ||
		!strings.Contains(log, "github-id-token: ACTIONS_ID_TOKEN_REQUEST_URL") ||
		!strings.Contains(log, "id-token: write") {
		t.Errorf("exit code %d", code)
	}
}

// TestActionIsSafe: what somebody else writes, such as a branch's name, never becomes part of a script; and actions of
// others are pinned by commit.
func TestActionIsSafe(t *testing.T) {
	pinned := regexp.MustCompile(`^(\./|[\w-]+/[\w./-]+@[0-9a-f]{40}$)`)
	type step struct {
		Name, Uses, Run, Shell string
	}
	var action struct {
		Runs struct {
			Using string
			Steps []step
		}
	}
	var workflow, without struct {
		Jobs map[string]struct{ Steps []step }
	}
	for name, into := range map[string]any{
		"register-workload/action.yml": &action, "workflow.yml": &workflow, "workflow-without-secret.yml": &without,
	} {
		raw, err := os.ReadFile(filepath.Join(examples, "github-actions", name))
		if err == nil {
			err = yaml.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	steps := slices.Concat(action.Runs.Steps, workflow.Jobs["build"].Steps, without.Jobs["build"].Steps)
	if action.Runs.Using != "composite" || len(steps) < 10 {
		t.Fatalf("%d steps of %q", len(steps), action.Runs.Using)
	}
	for _, s := range steps {
		if strings.Contains(s.Run, "${{") {
			t.Errorf("%s: an expression in a script: %s", s.Name, s.Run)
		}
		if s.Uses != "" && !pinned.MatchString(s.Uses) {
			t.Errorf("%s is not pinned by its commit", s.Uses)
		}
		if s.Run != "" && s.Shell != "bash" {
			t.Errorf("%s: the shell is %q", s.Name, s.Shell)
		}
	}
}
