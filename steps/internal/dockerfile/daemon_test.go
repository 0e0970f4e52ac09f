package dockerfile

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

// daemon is a buildkitd, which ends with its test.
type daemon struct {
	program string
	args    []string
	process *exec.Cmd
	out     lockedBuffer
}

// newDaemon starts a daemon with a state of its own, which pulls from the registry. Its settings begin with these.
func newDaemon(t testing.TB, r *registrytest.Registry, settings string, args ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "buildkitd.toml")
	write(t, config, settings+fmt.Sprintf(`
[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%[1]q]
[registry.%[1]q]
  http = false
  ca = [%[2]q]
`, r.Host, r.CAFile))
	d := &daemon{program: program(t, "github.com/moby/buildkit/cmd/buildkitd"), args: append([]string{
		"--config", config, "--root", filepath.Join(dir, "state"), "--oci-worker-net=host", "--oci-cni-pool-size=0",
		// Two daemons of one machine would race for the default path.
		"--otel-socket-path", filepath.Join(dir, "otel.sock"),
	}, args...)}
	d.start(t)
	t.Cleanup(func() {
		d.process.Process.Signal(syscall.SIGTERM)
		d.process.Wait()
		if t.Failed() {
			t.Logf("buildkitd %q: %s", d.args, d.out.String())
		}
	})
	return d
}

func (d *daemon) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command(d.program, d.args...)
	cmd.Stdout, cmd.Stderr = &d.out, &d.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mounts end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.process = cmd
}
