//go:build e2e

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/templates"
)

// published is where the test publishes the release: the cluster's registry, by the name that processes of the node
// have for it. Nodes know it by another name.
const (
	published         = "127.0.0.1:5000/published"
	publishedForNodes = "registry.stepwright.test:5000/published"
)

// TestRelease publishes a release to the cluster's registry and to a folder, and installs it from there alone, by the
// lines of README.md: of the checkout it takes those lines and the addresses of the test cluster.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	command := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "KUBECONFIG="+k8s.kubeconfig, "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s%s", cmd, err, &stdout, &stderr)
		}
		return stdout.String()
	}
	from := func(path string) string { return must(filepath.Abs(filepath.Join(*repository, path)))(t) }

	command(
		from("bin/release"), "publish", "--release", from("dist/e2e-release"), "--registry", published, "--plain-http",
		"--folder", dir,
	)
	folders := must(filepath.Glob(filepath.Join(dir, "v*")))(t)
	if len(folders) != 1 {
		t.Fatalf("published are %v", folders)
	}
	folder := folders[0]
	command("sh", "-c", `cd "$0" && sha256sum --check --quiet SHA256SUMS`, folder)

	// A user's helm, but for what a user need not know: the registry speaks plain HTTP, and other tests have installed
	// the same objects already.
	wrapper := fmt.Sprintf(`#!/bin/sh
case $1 in install) set -- "$@" --take-ownership ;; esac
exec %q "$@" --plain-http
`, from("bin/helm"))
	if err := os.WriteFile(filepath.Join(dir, "helm"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	lines := readmeLines(t)
	values := filepath.Join(dir, "values.yaml")
	command("sh", "-ec", lines[0])
	setValues(t, values)
	t.Cleanup(func() {
		if err := install(context.Background(), "default"); err != nil {
			t.Error(err)
		}
	})
	command("sh", "-ec", lines[1])

	commit := serving.repository(t, "released.git", small)
	run := build{name: "released", url: "https://" + publicGit + "/released.git"}.succeed(t, 3*time.Minute)
	if w := workload(t, "released"); w == nil || !strings.Contains(w.Spec.Container.Image, commit[:8]) {
		t.Errorf("the Workload is %+v", w)
	}
	references := string(must(os.ReadFile(filepath.Join(folder, "images.txt")))(t))
	for _, pod := range pods(t, run.Name) {
		for _, container := range pod.Spec.Containers {
			if container.Name != "main" {
				continue
			}
			reference, ours := strings.CutPrefix(container.Image, publishedForNodes)
			if !ours || !strings.Contains(references, "ghcr.io/stepwright"+reference+"\n") {
				t.Errorf("%s runs %s, which is not among the published\n%s", pod.Name, container.Image, references)
			}
		}
	}
	shown := command(
		filepath.Join(folder, "stepwright_linux_"+runtime.GOARCH), "get", run.Name, "--kubeconfig", k8s.kubeconfig,
		"--namespace", namespace,
	)
	if !strings.Contains(shown, "Succeeded") {
		t.Errorf("the published stepwright shows\n%s", shown)
	}
}

// readmeLines are the lines of README.md that install a release, with the registry of this test.
func readmeLines(t *testing.T) []string {
	t.Helper()
	const claim = "These lines are run by make e2e, TestRelease."
	block := guidetest.Blocks(t, filepath.Join(*repository, "README.md"), claim)[0]
	// The chart's own page has the second of them, for any version.
	chart := guidetest.Blocks(t, filepath.Join(*repository, "ci/release/chart/README.md"), claim)[0]
	if same := strings.Replace(chart, "<version>", templates.Version(), 1); !strings.HasSuffix(block, "\n"+same) {
		t.Errorf("the chart's page has another line: %s", chart)
	}
	text := strings.ReplaceAll(block, "oci://ghcr.io/stepwright/", "oci://"+published+"/")
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 2 || strings.Contains(text, "ghcr.io") {
		t.Fatalf("README.md has other lines than helm show values and helm install:\n%s", text)
	}
	return lines
}

// setValues puts into a values.yaml what a platform engineer has to: where this cluster's services are.
func setValues(t *testing.T, file string) {
	t.Helper()
	var values struct {
		Planes     map[string]any `json:"planes"`
		Images     map[string]any `json:"images"`
		Components map[string]any `json:"components"`
		Settings   map[string]any `json:"settings"`
	}
	raw := must(os.ReadFile(file))(t)
	if err := yaml.Unmarshal(raw, &values); err != nil {
		t.Fatal(err)
	}
	values.Images["registry"] = publishedForNodes
	values.Components["network-policies"] = true
	own := string(must(os.ReadFile(filepath.Join(*repository, "ci/e2e/overlays/default/settings.env")))(t))
	own = must(addressed(t.Context(), own))(t)
	for line := range strings.Lines(own) {
		name, value, isSetting := strings.Cut(strings.TrimSpace(line), "=")
		if !isSetting || strings.HasPrefix(name, "#") {
			continue
		}
		if _, known := values.Settings[name]; !known {
			t.Errorf("the chart has no setting %s", name)
		}
		values.Settings[name] = value
	}
	raw, err := yaml.Marshal(values)
	if err := errors.Join(err, os.WriteFile(file, raw, 0o644)); err != nil {
		t.Fatal(err)
	}
}
