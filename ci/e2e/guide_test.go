//go:build e2e

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/templates"
)

// The pages whose lines TestGuide runs.
const (
	firstBuildPage = "docs/start/first-build-in-a-cluster.md"
	buildsPage     = "docs/developers/builds.md"
	runsPage       = "docs/developers/looking-at-runs.md"
)

// TestGuide runs lines of the guide that take a cluster, as they stand.
func TestGuide(t *testing.T) {
	if must(apiServer(t.Context()))(t) != clusternode.Address {
		t.Skip("examples/first-cluster has addresses of the cluster that is made of processes")
	}
	leaveNothing(t)
	t.Run("a cluster of one's own", testFirstBuild)
	t.Run("builds", testBuildsOfTheGuide)
}

// testFirstBuild installs what the guide installs, and builds what it builds. The cluster and the images are there.
func testFirstBuild(t *testing.T) {
	for _, step := range []string{
		"checkout-source", "containerfile-build", "buildpacks-build", "publish-image", "generate-workload-cr",
	} {
		loaded := must(name.NewTag("127.0.0.1:5000/stepwright/"+step+":"+version, name.Insecure))(t)
		index := must(remote.Index(loaded, remote.WithContext(t.Context())))(t)
		if err := remote.Tag(loaded.Tag(templates.Version()), index, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	componentType := must(k8s.kubectl(t.Context(), "", "get", "clustercomponenttype", "service", "-o", "json"))(t)
	t.Cleanup(func() {
		ctx := context.Background()
		if err := install(ctx, "default"); err != nil {
			t.Error(err)
		}
		must(k8s.kubectl(ctx, componentType, "replace", "--force", "-f", "-"))(t)
	})
	// `go run` would compile the program that has started this cluster once more.
	lines := guideLines(t, firstBuildPage, 2)
	for i, text := range lines {
		lines[i] = strings.ReplaceAll(text, "go run ./ci/cluster ", "bin/cluster ")
	}
	out := runLines(t, *repository, lines...)
	for _, want := range []string{"name: greeting-service-workload\n", "image: registry.stepwright.test:5000/builds/"} {
		if !strings.Contains(out, want) {
			t.Errorf("the lines show no %s:\n%s", want, out)
		}
	}
}

// testBuildsOfTheGuide runs what the page on builds has of a component cart.
func testBuildsOfTheGuide(t *testing.T) {
	serving.repository(t, "guide.git", small)
	b := build{name: "cart", run: "cart-build-01", url: "https://" + publicGit + "/guide.git"}
	if err := k8s.apply(t.Context(), b.component()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := []byte(canonical(t, b.workflowRun()))
	if err := os.WriteFile(filepath.Join(dir, "workflowrun.yaml"), run, 0o644); err != nil {
		t.Fatal(err)
	}
	program := must(filepath.Abs(*cli))(t)
	if err := os.Symlink(program, filepath.Join(dir, "stepwright")); err != nil {
		t.Fatal(err)
	}
	lines := guideLines(t, buildsPage, 3)
	out := runLines(t, dir, lines[0], lines[1], guideLines(t, runsPage, 1)[0], lines[2])
	if !strings.Contains(out, "WorkflowSucceeded") || !strings.Contains(out, "sha256:") {
		t.Errorf("the lines show no build that succeeded:\n%s", out)
	}
}

// guideLines are the blocks of a page that a comment promises to be run here.
func guideLines(t *testing.T, page string, want int) (blocks []string) {
	t.Helper()
	text := string(must(os.ReadFile(filepath.Join(*repository, page)))(t))
	for _, after := range strings.Split(text, "<!-- These lines are run by make e2e, TestGuide. -->\n\n")[1:] {
		var block strings.Builder
		for line := range strings.Lines(after) {
			line, indented := strings.CutPrefix(line, "    ")
			if !indented {
				break
			}
			block.WriteString(line)
		}
		blocks = append(blocks, block.String())
	}
	if len(blocks) != want {
		t.Fatalf("%s has %d blocks to run, and not %d", page, len(blocks), want)
	}
	return blocks
}

// runLines has a shell run blocks in a folder, one after another, and returns what they print.
func runLines(t *testing.T, dir string, blocks ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-exc", strings.Join(blocks, "\n"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k8s.kubeconfig, "PATH="+dir+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}
