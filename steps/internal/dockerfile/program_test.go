package dockerfile

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// program builds a program of this module, once per test binary and package, where any user may execute it.
func program(t testing.TB, pkg string) string {
	t.Helper()
	made, _ := programs.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		return filepath.Join(scratch, filepath.Base(pkg)), programtest.Build(
			context.Background(), scratch, "../../..", pkg,
		)
	}))
	path, err := made.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// programs are those that were built, by their packages: functions as of sync.OnceValues. They are in the folder
// scratch, which other users may enter.
var (
	programs sync.Map
	scratch  string
)

const stepPackage = "github.com/stepwright/stepwright/steps/containerfile-build"

// openDir is a temporary directory that other users may enter: the testing package's own is root's alone.
func openDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dockerfile-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// user is who builds where the step is not root.
const user = 1000

// give hands everything under a directory to the user. The directory itself is root's, and the user's by a group only,
// as a volume with fsGroup is.
func give(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, user, user)
	})
	if err == nil {
		err = os.Chown(dir, 0, 2000)
	}
	if err == nil {
		err = os.Chmod(dir, 0o770|os.ModeSetgid)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// arguments are those for the program that do what the parameters say.
func arguments(t testing.TB, in Parameters, results string) []string {
	t.Helper()
	text := func(v any) string { return string(must(json.Marshal(v))) }
	args := []string{
		"--workspace=" + string(in.Workspace), "--results-dir=" + results, "--docker-context=" + in.DockerContext,
		"--dockerfile-path=" + in.DockerfilePath,
		"--provenance=" + in.Provenance, "--ca-bundle=" + in.CABundle,
		"--registry-pull-secret=" + in.RegistryPullSecret, "--max-attempts=1",
		"--buildkit-address=" + in.BuildKitAddress, "--buildkit-root=" + in.BuildKitRoot,
	}
	if in.RegistryMirrors != nil {
		args = append(args, "--registry-mirrors="+text(in.RegistryMirrors))
	}
	if in.BuildEnv != nil {
		args = append(args, "--build-env="+text(in.BuildEnv))
	}
	return args
}

// rootlessWay is a way in which a user who is not root can build.
type rootlessWay struct {
	name      string
	isolation buildkit.Isolation
	prepare   func(t testing.TB, program string)
	command   func(program string, args []string) *exec.Cmd
}

func asUser(program string, args []string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: user, Gid: user, Groups: []uint32{2000}},
	}
	return cmd
}

func setCapabilities(t testing.TB, program string) {
	if out, err := exec.Command("setcap", "cap_setuid,cap_setgid+p", program).CombinedOutput(); err != nil {
		t.Fatalf("setcap is in the Debian package libcap2-bin: %v\n%s", err, out)
	}
}

var rootlessWays = []rootlessWay{
	{name: "file capabilities", isolation: buildkit.OwnProc, prepare: setCapabilities, command: asUser},
	{
		// As in a pod, where parts of /proc are covered: the kernel does not let a user namespace mount one without.
		name:      "masked proc",
		isolation: buildkit.SharedProc,
		prepare:   setCapabilities,
		command: func(program string, args []string) *exec.Cmd {
			script := `mount --bind /dev/null /proc/version && mount --bind /proc/sys /proc/sys &&
mount -o remount,ro,bind /proc/sys && setpriv --reuid 1000 --regid 1000 --groups 2000 "$@"; exit $?`
			return exec.Command("unshare", append([]string{
				"--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", program,
			}, args...)...)
		},
	},
	{
		name:      "newuidmap",
		isolation: buildkit.OwnProc,
		prepare: func(t testing.TB, _ string) {
			if _, err := exec.LookPath("newuidmap"); err != nil {
				t.Fatalf("newuidmap is in the Debian package uidmap: %v", err)
			}
		},
		// This machine need not know the user: in a mount namespace of its own, the program finds files in /etc that
		// do.
		command: func(program string, args []string) *exec.Cmd {
			script := `set -e
mount -t tmpfs none /mnt
printf '%s\n' '` + fmt.Sprint(user) + `:200000:65536' > /mnt/sub
mount --bind /mnt/sub /etc/subuid
mount --bind /mnt/sub /etc/subgid
{ cat /etc/passwd; echo 'builder:x:` + fmt.Sprint(user) + `:` + fmt.Sprint(user) + `::/:/bin/sh'; } > /mnt/passwd
mount --bind /mnt/passwd /etc/passwd
exec setpriv --reuid 1000 --regid 1000 --groups 2000 "$@"`
			return exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", program}, args...)...)
		},
	},
}

// exchange is a registry whose files the user may read.
func exchange(t testing.TB, in *Parameters, r *registrytest.Registry) {
	t.Helper()
	dir := openDir(t)
	for _, path := range []*string{&in.CABundle, &in.RegistryPullSecret} {
		raw, err := os.ReadFile(*path)
		if err != nil {
			t.Fatal(err)
		}
		*path = filepath.Join(dir, filepath.Base(*path))
		if err := os.WriteFile(*path, raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sharedProject is a project whose workspace belongs to the user.
func sharedProject(t testing.TB, files map[string]string) workspace.Workspace {
	t.Helper()
	w := project(t, files)
	open := workspace.Workspace(filepath.Join(openDir(t), "vol"))
	if err := os.CopyFS(string(open), os.DirFS(string(w))); err != nil {
		t.Fatal(err)
	}
	give(t, string(open))
	return open
}

// The program, by a user who is not root, builds what root builds, to the last bit.
func TestRootless(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	asRoot := parameters(project(t, reproducible), r)
	asRoot.BuildEnv = odd
	want := succeed(t, asRoot).digest

	binary := program(t, stepPackage)
	if info, err := os.Stat(binary); err != nil || info.Size() > 45_000_000 {
		t.Errorf("the program has %d bytes: %v", info.Size(), err)
	}
	for _, way := range rootlessWays {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			copied := filepath.Join(openDir(t), "containerfile-build")
			if err := os.WriteFile(copied, must(os.ReadFile(binary)), 0o755); err != nil {
				t.Fatal(err)
			}
			way.prepare(t, copied)
			in := parameters(sharedProject(t, reproducible), r)
			in.BuildEnv = odd
			exchange(t, &in, r)
			results := filepath.Join(string(in.Workspace), "results")

			cmd := way.command(copied, arguments(t, in, results))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := open1(t, in.Workspace).digest; got != want {
				t.Errorf("digest %s, as root %s", got, want)
			}
			if got := string(must(os.ReadFile(filepath.Join(results, "image-digest")))); got != want.String() {
				t.Errorf("result image-digest: %q", got)
			}
			if n := bytes.Count(out, []byte("Building")); n != 1 {
				t.Errorf("built %d times", n)
			}
			if left := leftovers(t, in.Workspace); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			for _, path := range []string{in.Workspace.Image(), filepath.Join(in.Workspace.Image(), "index.json"),
				filepath.Join(results, "outcome.json")} {
				var st syscall.Stat_t
				if err := syscall.Stat(path, &st); err != nil || st.Uid != user {
					t.Errorf("%s belongs to %d: %v", path, st.Uid, err)
				}
			}
		})
	}

	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		copied := filepath.Join(openDir(t), "containerfile-build")
		if err := os.WriteFile(copied, must(os.ReadFile(binary)), 0o755); err != nil {
			t.Fatal(err)
		}
		rootlessWays[0].prepare(t, copied)
		marker := fmt.Sprintf("87654%d", os.Getpid())
		in := parameters(sharedProject(t, map[string]string{
			"Dockerfile": "FROM busybox:1\nRUN sleep " + marker + "\n",
		}), r)
		exchange(t, &in, r)
		results := filepath.Join(string(in.Workspace), "results")
		cmd := asUser(copied, arguments(t, in, results))
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return len(running(marker)) > 0 })
		cmd.Process.Signal(syscall.SIGTERM)
		started := time.Now()
		cmd.Wait()
		if took := time.Since(started); took > 10*time.Second {
			t.Errorf("took %s to stop", took)
		}
		if code := cmd.ProcessState.ExitCode(); code != outcome.Cancelled.ExitCode() {
			t.Errorf("exit code %d\n%s", code, out.String())
		}
		var report outcome.Report
		if err := json.Unmarshal(must(os.ReadFile(filepath.Join(results, "outcome.json"))), &report); err != nil ||
			report.Reason != outcome.Cancelled {
			t.Errorf("outcome %s: %v", report.Reason, err)
		}
		if left := running(marker); len(left) > 0 {
			t.Errorf("processes of the build are still there: %v", left)
		}
		if left := leftovers(t, in.Workspace); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})

	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		marker := fmt.Sprintf("76543%d", os.Getpid())
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1\nRUN sleep " + marker + "\n"}), r)
		cmd := exec.Command(binary, arguments(t, in, t.TempDir())...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return len(running(marker)) > 0 })
		cmd.Process.Kill()
		cmd.Wait()
		await(t, func() bool { return len(running(marker)) == 0 })
	})

	t.Run("builder killed", func(t *testing.T) {
		t.Parallel()
		marker := fmt.Sprintf("54321%d", os.Getpid())
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1\nRUN sleep " + marker + "\n"}), r)
		cmd := exec.Command(binary, arguments(t, in, t.TempDir())...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return len(running(marker)) > 0 })
		for _, pid := range running(marker) { // in a pod it ends with the step; here it is an orphan
			defer syscall.Kill(pid, syscall.SIGKILL)
		}
		for _, pid := range childrenOf(cmd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != outcome.BuilderUnavailable.ExitCode() ||
			!strings.Contains(out.String(), "signal: killed") {
			t.Errorf("exit code %d\n%s", code, out.String())
		}
	})

	t.Run("without any way", func(t *testing.T) {
		t.Parallel()
		in := parameters(sharedProject(t, reproducible), r)
		exchange(t, &in, r)
		results := filepath.Join(string(in.Workspace), "results")
		cmd := asUser(binary, arguments(t, in, results))
		cmd.Env = []string{"PATH=" + onlyRunc(t)}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != outcome.BuilderUnavailable.ExitCode() {
			t.Errorf("%v\n%s", err, out)
		}
		for _, words := range []string{
			"SETUID", "newuidmap is not installed", "setcap cap_setuid,cap_setgid+p " + binary, "buildkit-address",
		} {
			if !bytes.Contains(out, []byte(words)) {
				t.Errorf("output lacks %q:\n%s", words, out)
			}
		}
		if left := leftovers(t, in.Workspace); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})

	t.Run("without runc", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, reproducible), r)
		cmd := exec.Command(binary, arguments(t, in, t.TempDir())...)
		cmd.Env = []string{"PATH=" + t.TempDir()}
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != outcome.BuilderUnavailable.ExitCode() ||
			!bytes.Contains(out, []byte("Install runc")) {
			t.Errorf("%s", out)
		}
	})
}

// childrenOf lists the processes that another started, and that still run.
func childrenOf(parent int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var state string
		var ppid int
		if _, err := fmt.Sscan(string(raw[bytes.LastIndexByte(raw, ')')+1:]), &state, &ppid); err == nil &&
			ppid == parent {
			pids = append(pids, must(strconv.Atoi(filepath.Base(filepath.Dir(path)))))
		}
	}
	return pids
}

// onlyRunc is a directory for PATH with runc and nothing else.
func onlyRunc(t testing.TB) string {
	t.Helper()
	dir := openDir(t)
	if err := os.Symlink(must(exec.LookPath("runc")), filepath.Join(dir, "runc")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// await polls for something that must come true within a minute.
func await(t testing.TB, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come true")
		}
	}
}

// A daemon given by address builds what the step's own builder does, and fails as it does.
func TestDaemon(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := t.TempDir()
	certificates(t, dir)
	socket := "unix://" + filepath.Join(dir, "sock")
	address := fmt.Sprintf("tcp://localhost:%d", freePort(t))
	newDaemon(t, r, "", "--addr", socket)
	newDaemon(
		t, r, "", "--addr", strings.Replace(address, "localhost", "127.0.0.1", 1), "--tlscacert",
		filepath.Join(dir, "ca.crt"), "--tlscert", filepath.Join(dir, "tls.crt"), "--tlskey",
		filepath.Join(dir, "tls.key"),
	)

	own := parameters(project(t, reproducible), r)
	want := succeed(t, own).digest
	by := func(t testing.TB, address, tlsDir string, files map[string]string) Parameters {
		in := parameters(project(t, files), r)
		in.RegistryMirrors, in.CABundle = nil, ""
		in.BuildKitAddress, in.BuildKitTLSDir = address, tlsDir
		return in
	}
	t.Run("socket", func(t *testing.T) {
		if got := succeed(t, by(t, socket, "", reproducible)).digest; got != want {
			t.Errorf("digest %s, of the own builder %s", got, want)
		}
	})
	t.Run("mutual TLS", func(t *testing.T) {
		if got := succeed(t, by(t, address, dir, reproducible)).digest; got != want {
			t.Errorf("digest %s, of the own builder %s", got, want)
		}
	})
	t.Run("times of files", func(t *testing.T) {
		b := succeed(t, by(t, socket, "", recording()))
		times := told(t, b, "work/record")
		for _, path := range []string{"work/copied", "work/old", "added/archived", "bin/busybox"} {
			if got := b.headers[path].ModTime.Unix(); got != times[path] {
				t.Errorf("%s is of %d, recorded %d", path, got, times[path])
			}
		}
		for _, path := range []string{"work/copied", "work/made", "stage/folder/inside"} {
			if got := b.headers[path].ModTime; !got.Equal(fixedTime) {
				t.Errorf("%s is of %s", path, got)
			}
		}
	})
	t.Run("failing RUN", func(t *testing.T) {
		in := by(t, socket, "", map[string]string{"Dockerfile": "FROM busybox:1\nRUN echo why >&2; exit 3\n"})
		fail(t, in, outcome.BuildFailed, "line 2: RUN echo why >&2; exit 3: exit code 3:\nwhy")
	})
	t.Run("no such base image", func(t *testing.T) {
		fail(t, by(t, socket, "", map[string]string{
			"Dockerfile": "FROM nonesuch:1\n",
		}), outcome.BaseImageUnavailable, "line 1: base image nonesuch:1")
	})
	t.Run("what an image to copy from does not have", func(t *testing.T) {
		in := by(t, socket, "", map[string]string{
			"Dockerfile": "FROM busybox:1\nCOPY --from=library/busybox:1 /absent /b\n",
		})
		fail(t, in, outcome.BuildFailed, "line 2: COPY")
	})
	t.Run("what its frontend refuses", func(t *testing.T) {
		fail(t, by(t, socket, "", map[string]string{
			"Dockerfile": "# check=error=true\nFROM busybox:1\nCMD true\n",
		}), outcome.DockerfileInvalid, "(line 3)")
		fail(t, by(t, socket, "", map[string]string{
			"Dockerfile": "FROM busybox:1 AS a\nONBUILD RUN --network=host true\nFROM a\n",
		}), outcome.DockerfileInvalid, "line 3: FROM a: ")
	})
	t.Run("what the context does not have", func(t *testing.T) {
		fail(t, by(t, socket, "", map[string]string{
			"Dockerfile": "FROM busybox:1\nCOPY a /\n", ".containerignore": "a", "a": "",
		}), outcome.BuildFailed, "line 2: COPY a /", "line 1 of .containerignore")
	})
	t.Run("names that are no UTF-8", func(t *testing.T) {
		if b := succeed(t, by(t, socket, "", map[string]string{
			"Dockerfile": "FROM scratch\nCOPY . /\n", "caf\xe9": "x",
		})); b.files["caf\xe9"] != "x" {
			t.Errorf("the image has %q", b.files)
		}
	})
	t.Run("stages by its platform", func(t *testing.T) {
		in := by(t, socket, "", map[string]string{"Dockerfile": "FROM busybox:1 AS base-amd64\nENV A=own\n" +
			"FROM busybox:1 AS base-arm64\nENV A=own\nFROM base-${TARGETARCH}\nRUN echo $A > /a\n"})
		in.BuildEnv = named("A", "parameter")
		if got := succeed(t, in).files["a"]; got != "own\n" {
			t.Errorf("RUN sees %q", got)
		}
	})
	t.Run("settings that the daemon does not take", func(t *testing.T) {
		in := by(t, socket, "", reproducible)
		in.CABundle = r.CAFile
		if end := run(t, t.Context(), in); end.err != nil || !strings.Contains(end.output, "with its own settings") {
			t.Errorf("%v\n%s", end.err, end.output)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		marker := fmt.Sprintf("65432%d", os.Getpid())
		in := by(t, socket, "", map[string]string{"Dockerfile": "FROM busybox:1\nRUN sleep " + marker + "\n"})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for len(running(marker)) == 0 && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
		}()
		if end := run(t, ctx, in); outcome.Of(end.err).Reason != outcome.Cancelled {
			t.Error(end.err)
		}
		await(t, func() bool { return len(running(marker)) == 0 })
	})
	t.Run("TLS without the client's certificate", func(t *testing.T) {
		stranger := t.TempDir()
		certificates(t, stranger)
		write(t, filepath.Join(stranger, "ca.crt"), string(must(os.ReadFile(filepath.Join(dir, "ca.crt")))))
		shortWait(t)
		fail(t, by(t, address, stranger, reproducible), outcome.BuilderUnavailable, address)
	})
	t.Run("TLS from an authority that is not trusted", func(t *testing.T) {
		stranger := t.TempDir()
		certificates(t, stranger)
		shortWait(t)
		fail(t, by(t, address, stranger, reproducible), outcome.BuilderUnavailable, address, "certificate")
	})
	t.Run("nothing there", func(t *testing.T) {
		shortWait(t)
		fail(
			t, by(t, "unix:///nowhere/sock", "", reproducible), outcome.BuilderUnavailable,
			"unix:///nowhere/sock does not answer",
		)
	})
	t.Run("elsewhere without TLS", func(t *testing.T) {
		fail(
			t, by(t, "tcp://buildkitd.example.com:1234", "", reproducible), outcome.InvalidParameters,
			"buildkit-tls-dir is empty",
		)
	})
	t.Run("TLS directory without a key", func(t *testing.T) {
		incomplete := t.TempDir()
		certificates(t, incomplete)
		os.Remove(filepath.Join(incomplete, "tls.key"))
		fail(t, by(t, address, incomplete, reproducible), outcome.InvalidParameters, "tls.key")
	})
}

// shortWait makes a daemon that does not answer give up sooner. The tests that use it do not run in parallel with each
// other.
func shortWait(t testing.TB) {
	before := daemonWait
	daemonWait = 500 * time.Millisecond
	t.Cleanup(func() { daemonWait = before })
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// certificates writes ca.crt, and tls.crt and tls.key that it signed, for localhost as server and as client.
func certificates(t testing.TB, dir string) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey, name string) {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	caKey, key := must(
		ecdsa.GenerateKey(elliptic.P256(), rand.Reader),
	), must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: rand.Text()},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	sign(ca, ca, caKey, caKey, "ca.crt")
	sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, key, caKey, "tls.crt")
	der := must(x509.MarshalPKCS8PrivateKey(key))
	write(t, filepath.Join(dir, "tls.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
