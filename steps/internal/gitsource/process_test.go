package gitsource

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// TestMain makes the test's binary the step itself where a test needs a process of its own: for its environment and its
// signals.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_IS_THE_STEP") == "1" {
		os.Exit(step.Main("checkout-source", Run))
	}
	if pack := os.Getenv("TEST_READS_PACK"); pack != "" {
		os.Exit(readPack(pack))
	}
	os.Exit(m.Run())
}

// process is the step as a process, and its log.
func process(t *testing.T, dir string, environ ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append(environ, "TEST_IS_THE_STEP=1", "BRANCH=main", "MAX_ATTEMPTS=1", "TERMINATION_MESSAGE_PATH=",
		"GIT_SECRET_DIR="+filepath.Join(dir, "none"), "WORKSPACE="+filepath.Join(dir, "workspace"),
		"RESULTS_DIR="+filepath.Join(dir, "results"))
	return cmd, &log
}

func TestProxyFromTheEnvironment(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	g := newGreeting(t, server.Repo(t, "app.git"))
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		there, err := net.Dial("tcp", to.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer here.Close()
		io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(there, here)
		io.Copy(here, there)
	}))
	t.Cleanup(proxy.Close)
	dir := t.TempDir()
	cmd, log := process(t, dir, "GIT_REPO=https://example.com/app.git", "CA_BUNDLE="+server.CABundle, "HTTPS_PROXY="+
		proxy.URL)
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if got := asked.Load(); got != "CONNECT example.com:443" {
		t.Errorf("the proxy was asked for %v", got)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "results", "git-commit")); err != nil || string(raw) != g.second {
		t.Errorf("git-commit is %q, %v", raw, err)
	}
}

func TestSIGTERM(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	cmd, log := process(t, dir, "GIT_REPO="+server.URL+"/app.git")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	started := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if got := cmd.ProcessState.ExitCode(); got != outcome.Cancelled.ExitCode() {
		t.Errorf("exit code %d\n%s", got, log)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "results", "outcome.json")); err != nil ||
		!strings.Contains(string(raw), `"Cancelled"`) {
		t.Errorf("outcome.json: %s, %v", raw, err)
	}
	if left := names(t, filepath.Join(dir, "workspace")); len(left) > 0 {
		t.Errorf("the workspace holds %v", left)
	}
}
