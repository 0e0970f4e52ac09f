//go:build e2e

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestExternalCI runs the tests of ci/externalci, which know the development API, against OpenChoreo's own, with its
// security on.
func TestExternalCI(t *testing.T) {
	absolute := func(path string) string { return must(filepath.Abs(path))(t) }
	client := func(id, secret string) string {
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		return id + "=" + file
	}
	tests := exec.CommandContext(t.Context(), absolute(*pipelines), "-test.v", "-test.timeout=5m", "-test.parallel=4",
		"-test.run=^(TestAPI|TestShell|TestReadme|TestGitLab|TestJenkins|TestGitHubActions)$",
		"-binaries="+absolute(*steps),
		"-api=http://api.stepwright.test:8090", "-token-url=http://idp.stepwright.test:8091/oauth2/token",
		"-namespace="+namespace, "-project="+project,
		"-publisher="+client("openchoreo-workload-publisher-client", "openchoreo-workload-publisher-secret"),
		"-nobody="+client("nobody", "nobody-secret"), "-admin="+client("admin", "admin-secret"))
	tests.Dir = absolute(filepath.Join(*repository, "ci/externalci"))
	tests.Stdout, tests.Stderr = t.Output(), t.Output()
	if err := tests.Run(); err != nil {
		t.Error(err)
	}
}
