package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

// TestWithGit: a folder is a repository for as long as a command runs, and the command's end is the end of both.
func TestWithGit(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "app")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "main.go"), []byte("package main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	host := "git." + node.Domain + ":" + gitPort
	clones := []string{
		"git", "-c", "http.curloptResolve=" + host + ":127.0.0.1", "clone", "--quiet", "--branch", "main", "{}", clone,
	}
	if err := withGit(t.Context(), "127.0.0.1:"+gitPort, folder, clones); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(clone, "main.go")); err != nil {
		t.Error(err)
	}
	origin, err := exec.Command("git", "-C", clone, "remote", "get-url", "origin").Output()
	if want := "http://" + host + "/app.git\n"; err != nil || string(origin) != want {
		t.Errorf("cloned from %q, want %q: %v", origin, want, err)
	}
	err = withGit(t.Context(), "127.0.0.1:"+gitPort, folder, []string{"sh", "-c", "exit 7"})
	if ended, ok := errors.AsType[*exec.ExitError](err); !ok || ended.ExitCode() != 7 {
		t.Errorf("a command that fails: %v", err)
	}
	if err := withGit(t.Context(), "127.0.0.1:"+gitPort, filepath.Join(folder, "none"), clones); err == nil {
		t.Error("a folder that is not there is served")
	}
}
