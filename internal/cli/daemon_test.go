package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stepwright/stepwright/internal/programtest"
)

// On a machine without runc a Dockerfile is built by a daemon, as the one of Docker Desktop or Colima.
func TestDaemonWithoutRunc(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("starts a BuildKit daemon, which wants root")
	}
	dir := t.TempDir()
	if err := programtest.Build(t.Context(), dir, "../..", "github.com/moby/buildkit/cmd/buildkitd"); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "buildkitd.toml")
	if err := os.WriteFile(config, []byte("[worker.containerd]\n  enabled = false\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := "unix://" + filepath.Join(dir, "sock")
	var said bytes.Buffer
	daemon := exec.Command(filepath.Join(dir, "buildkitd"), "--config", config, "--root", filepath.Join(dir, "state"),
		"--oci-worker-net=host", "--oci-cni-pool-size=0", "--otel-socket-path", filepath.Join(dir, "otel.sock"),
		"--addr", address)
	daemon.Stdout, daemon.Stderr = &said, &said
	daemon.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mounts end with it
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
		if t.Failed() {
			t.Logf("%s", said.Bytes())
		}
	}()

	// Only what serves --source as a Git repository is on the machine.
	path := t.TempDir()
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(git, filepath.Join(path, "git")); err != nil {
		t.Fatal(err)
	}
	app := project(t, "FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"mkdir\", \"/made\"]\n",
		`{repository: {url: "https://git.example.com/cart.git"}}`)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(app, "source", "busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(flags ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), program(t), append([]string{
			"run", "--state", t.TempDir(), "--source", filepath.Join(app, "source"), app,
		}, flags...)...)
		cmd.Env = append(os.Environ(), "PATH="+path, "TMPDIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run(); err == nil || !strings.Contains(out, "BuilderUnavailable: runc") {
		t.Errorf("without runc and daemon: %v\n%s", err, out)
	}
	if out, err := run("--buildkit-address", address); err != nil || !strings.Contains(out, "cart-workload") {
		t.Errorf("by the daemon: %v\n%s", err, out)
	}
}
