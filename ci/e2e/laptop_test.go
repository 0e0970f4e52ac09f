//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// laptop lets one run at a time have the machine: its registry and API have addresses of their own.
var laptop sync.Mutex

// checkLaptop runs the same build by `stepwright run`, without the cluster, and wants the image to be the same.
func checkLaptop(t *testing.T, b build, image string, flags ...string) {
	t.Helper()
	dir := t.TempDir()
	for name, object := range map[string]object{"component.yaml": b.component(), "workflowrun.yaml": b.workflowRun()} {
		raw := must(json.Marshal(object))(t)
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	authority := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(authority, serving.ca, 0o644); err != nil {
		t.Fatal(err)
	}
	const mirror = "registry.stepwright.test:5000"
	laptop.Lock()
	defer laptop.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, *cli, "run", dir, "--state", t.TempDir(),
		"--templates", filepath.Join(*repository, "ci/e2e/overlays/default"), "--ca-bundle", authority,
		"--registry-mirror", "docker.io="+mirror, "--registry-mirror", "gcr.io="+mirror,
		"--registry-mirror", "ghcr.io="+mirror, "--insecure-registry", mirror)
	cmd.Args = append(cmd.Args, flags...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("stepwright run: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	found := regexp.MustCompile(`(?m)^Image\n +\S+@(sha256:\w+)$`).FindStringSubmatch(stdout.String())
	if _, want, _ := strings.Cut(image, "@"); found == nil || found[1] != want {
		t.Errorf("stepwright run built %q, the cluster %s\n%s", found, want, stdout.String())
	}
}
