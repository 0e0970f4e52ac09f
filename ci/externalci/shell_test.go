package externalci_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const examples = "../../examples/external-ci"

// script runs a script as a CI does, each command traced before it is run, and returns what it wrote.
func (b *bench) script(shell, dir, text string, environ []string) string {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "script.sh")
	write(b.t, file, text)
	var log string
	var code int
	b.watched(func() { log, code = command(b.t, dir, environ, shell, "-xe", file) })
	quiet(b.t, map[string]string{"log": log, "script": text}, b.secrets()...)
	if !strings.Contains(log, "+ ") {
		b.t.Error("nothing was traced")
	}
	b.t.Log(log)
	if code != 0 {
		b.t.Fatalf("exit code %d", code)
	}
	return log
}

// credentials are the variables that the examples for a shell and for GitLab are given.
func (b *bench) credentials(more ...string) []string {
	return b.environ(append([]string{
		"OPENCHOREO_API_URL=" + b.url, "THUNDER_URL=" + b.thunderURL(),
		"OAUTH_CLIENT_ID=" + b.publisher.id, "OAUTH_CLIENT_SECRET=" + b.publisher.secret,
		"STEPWRIGHT_URL=" + b.release, "STEPWRIGHT_SHA256=" + b.checksum, overHTTP(),
		"NAMESPACE_NAME=" + b.namespace, "PROJECT_NAME=" + b.project, "COMPONENT_NAME=" + b.component,
	}, more...)...)
}

func TestShell(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	text, err := os.ReadFile(filepath.Join(examples, "shell", "register.sh"))
	if err != nil {
		t.Fatal(err)
	}
	const image = "registry.example.com/cart:1"
	b.script("sh", b.repo, string(text), b.credentials("IMAGE="+image))
	if all := b.workloads(t, b.component); len(all) != 1 || all[0].Spec.Container.Image != image ||
		all[0].Spec.Endpoints["web"].Port != 8080 {
		t.Errorf("%+v", all)
	}
	b.quietTree(b.repo)
	b.quietTree(b.home)

	// A download runs only if its checksum is the one that the pipeline names.
	for name, checksum := range map[string]string{"another release": strings.Repeat("0", 64), "no checksum": ""} {
		file := filepath.Join(t.TempDir(), "script.sh")
		write(t, file, string(text))
		log, code := command(t, b.repo, b.credentials("IMAGE=registry.example.com/cart:2", "STEPWRIGHT_SHA256="+
			checksum), "sh", file)
		if code == 0 || strings.Contains(log, "generate-workload-cr  ") ||
			!strings.Contains(log, "STEPWRIGHT_SHA256 is '"+checksum+"'") {
			t.Errorf("%s: exit code %d: %s", name, code, log)
		}
	}
	if all := b.workloads(t, b.component); all[0].Spec.Container.Image != image {
		t.Errorf("registered %+v", all)
	}
}

// TestReadme: the lines that a pipeline needs are in the README, and work.
func TestReadme(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	lines := shellLines(t, "../../README.md")
	if len(lines) != 3 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	// Of the first line, the names are examples.
	lines[0] = strings.NewReplacer("=acme", "="+b.namespace, "=online-store", "="+b.project, "=cart", "="+
		b.component).Replace(lines[0])
	bin := t.TempDir()
	if err := os.Symlink(binary("generate-workload-cr"), filepath.Join(bin, "generate-workload-cr")); err != nil {
		t.Fatal(err)
	}
	b.path = bin + ":" + b.path
	b.script("sh", b.repo, strings.Join(lines, "\n"), b.environ(
		"OPENCHOREO_API_URL="+b.url, "THUNDER_URL="+b.thunderURL(), overHTTP(),
		"OAUTH_CLIENT_ID="+b.publisher.id, "OAUTH_CLIENT_SECRET="+b.publisher.secret,
		"IMAGE=registry.example.com/cart:1",
	))
	if all := b.workloads(t, b.component); len(all) != 1 ||
		all[0].Spec.Container.Image != "registry.example.com/cart:1" || all[0].Spec.Endpoints["web"].Port != 8080 {
		t.Errorf("%+v", all)
	}
}

// TestGitLab runs the scripts of the jobs as GitLab's runner joins them, with a client secret and without.
func TestGitLab(t *testing.T) {
	t.Parallel()
	t.Run("with a secret", func(t *testing.T) { t.Parallel(); gitLab(t, "") })
	if *apiURL == "" { // whose provider does not trust the tokens of this test's jobs
		t.Run("without", func(t *testing.T) { t.Parallel(); gitLab(t, "without-secret.yml") })
	}
}

// gitLab runs the pipeline, with what it includes; empty: nothing.
func gitLab(t *testing.T, include string) {
	b := newBench(t)
	raw, err := os.ReadFile(filepath.Join(examples, "gitlab", ".gitlab-ci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	type job struct {
		Stage    string                          `json:"stage"`
		Script   []string                        `json:"script"`
		IDTokens map[string]struct{ Aud string } `json:"id_tokens"`
	}
	var pipeline struct {
		Stages    []string          `json:"stages"`
		Variables map[string]string `json:"variables"`
		Build     job               `json:"build"`
		Register  job               `json:"register"`
	}
	if err := yaml.Unmarshal(raw, &pipeline); err != nil {
		t.Fatal(err)
	}
	if include != "" { // what both files say of a job is merged
		raw, err := os.ReadFile(filepath.Join(examples, "gitlab", include))
		if err == nil {
			err = yaml.Unmarshal(raw, &pipeline)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := pipeline.Variables["IMAGE"]; got != "$CI_REGISTRY_IMAGE:$CI_COMMIT_SHA" {
		t.Errorf("IMAGE is %q", got)
	}
	image := b.registry + "/acme/cart:" + b.commit
	environ := b.credentials("IMAGE="+image, "CI_PROJECT_DIR="+b.repo, "CI_COMMIT_SHA="+b.commit, "CI_REGISTRY="+
		b.registry, "CI_REGISTRY_IMAGE="+b.registry+"/acme/cart",
		"CI_REGISTRY_USER=pusher", "CI_REGISTRY_PASSWORD="+pushCanary)
	if got := len(pipeline.Register.IDTokens); (got == 1) != (include != "") {
		t.Fatalf("the job has %d id tokens", got)
	}
	for _, j := range []job{pipeline.Build, pipeline.Register} {
		if len(j.Script) == 0 {
			t.Fatal("a job without a script")
		}
		environ := environ
		for name, token := range j.IDTokens {
			text := b.idToken(t, os.Expand(token.Aud, func(name string) string {
				for _, variable := range environ {
					if value, found := strings.CutPrefix(variable, name+"="); found {
						return value
					}
				}
				return ""
			}))
			environ = slices.DeleteFunc(slices.Clone(environ), func(variable string) bool {
				return strings.HasPrefix(variable, "OAUTH_CLIENT_SECRET=")
			})
			environ = append(environ, name+"="+text)
		}
		log := b.script("sh", b.repo, strings.Join(j.Script, "\n")+"\n", environ)
		for _, variable := range environ {
			if text, found := strings.CutPrefix(variable, "OAUTH_CLIENT_ASSERTION="); found {
				quiet(t, map[string]string{"log": log}, text)
			}
		}
	}
	if got := b.registered(); got != image {
		t.Errorf("registered %s, want %s", got, image)
	}
	b.quietTree(b.repo)
}
