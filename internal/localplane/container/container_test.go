package container

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

// The test binary is also the one who runs a container, since a user does that in a process of its own.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == "container" {
		os.Exit(runOne(os.Args[2], os.Args[3], os.Args[4]))
	}
	os.Exit(m.Run())
}

// runOne runs the script in the image, its files below dir, and returns its exit code.
func runOne(dir, image, script string) int {
	ctx := context.Background()
	host, _, _ := strings.Cut(image, "/")
	r := &Runtime{Dir: filepath.Join(dir, "images"), Insecure: []string{host}}
	c := Container{
		Image: image, Args: []string{"/bin/busybox", "sh", "-c", script},
		Env:  map[string]string{"OWN": "o", "BOTH": "own"},
		User: 1000, Group: 1001, ReadOnlyRoot: true, NoNewRights: true,
		Mounts: []Mount{{Path: "/mnt/vol", Source: filepath.Join(dir, "vol")},
			{Path: "/mnt/in", Source: filepath.Join(dir, "in"), ReadOnly: true}},
	}
	err := Check(ctx)
	var cmd *exec.Cmd
	var leave func() error
	if err == nil {
		cmd, leave, err = r.Command(ctx, c, func(line string) { fmt.Println(line) })
	}
	if err != nil {
		fmt.Println(err)
		return 100
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		fmt.Println(err)
		return 101
	}
	if err := leave(); err != nil {
		fmt.Println(err)
		return 102
	}
	return cmd.ProcessState.ExitCode()
}

// testImage is busybox with a folder of the user's.
func testImage(t *testing.T) v1.Image {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox is in the Debian package busybox-static: %v", err)
	}
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	for _, h := range []*tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(program))},
		{Name: "home/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1001},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: runtime.GOARCH,
		Config: v1.Config{Env: []string{"IMAGES=i", "BOTH=image"}, WorkingDir: "/home"},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layer); err != nil {
		t.Fatal(err)
	}
	return image
}

// asRootUser and asOrdinaryUser start the test binary; the latter in a mount namespace in which files of /etc know the
// user.
func asRootUser(program string, args ...string) *exec.Cmd { return exec.Command(program, args...) }

func asOrdinaryUser(program string, args ...string) *exec.Cmd {
	const script = `set -e
mount -t tmpfs none /mnt
printf '4711:200000:65536\n' > /mnt/sub
mount --bind /mnt/sub /etc/subuid
mount --bind /mnt/sub /etc/subgid
{ cat /etc/passwd; echo 'builder:x:4711:4711::/:/bin/sh'; } > /mnt/passwd
mount --bind /mnt/passwd /etc/passwd
exec setpriv --reuid 4711 --regid 4711 --clear-groups "$@"`
	return exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", program}, args...)...)
}

// A container has the rights, the mounts and the variables that it is to have, run by root or by a user, and leaves
// nothing behind.
func TestCommand(t *testing.T) {
	if testing.Short() {
		t.Skip("runs containers as root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test becomes other users, so it needs root")
	}
	host := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous).Host
	ref, err := name.ParseReference(host + "/tools/busybox:1")
	if err != nil {
		t.Fatal(err)
	}
	image := testImage(t)
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	const script = `cd /; busybox() { /bin/busybox "$@"; }
echo user $(busybox id -u) $(busybox id -g) home $(busybox stat -c %u:%g /home)
busybox grep -E '^(CapPrm|CapBnd|NoNewPrivs)' /proc/self/status | busybox tr '\t' ' '
echo env $OWN $IMAGES $BOTH $SECRET
busybox touch /x 2>&1; busybox touch /mnt/in/x 2>&1
busybox cat /mnt/in/given
echo made > /mnt/vol/made
exit 7`
	for _, who := range []struct {
		name string
		uid  int
		as   func(string, ...string) *exec.Cmd
	}{{"root", 0, asRootUser}, {"an ordinary user", 4711, asOrdinaryUser}} {
		t.Run(who.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "container-test-") // which every user may enter
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			for _, folder := range []string{"vol", "in", "tmp"} {
				if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			program := filepath.Join(dir, "program")
			if out, err := exec.Command("cp", self, program).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := os.WriteFile(filepath.Join(dir, "in", "given"), []byte("given\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(
				"chown", "-R", fmt.Sprintf("%d:%d", who.uid, who.uid), dir,
			).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			start := func(reference string) (string, int) {
				cmd := who.as(program, "container", dir, reference, script)
				cmd.Env = append(os.Environ(), "TMPDIR="+filepath.Join(dir, "tmp"), "SECRET=of-this-process")
				out, err := cmd.CombinedOutput()
				if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
					t.Fatal(err)
				}
				return string(out), cmd.ProcessState.ExitCode()
			}
			out, code := start(ref.Name())
			for _, want := range []string{
				"Unpacking ", "user 1000 1001 home 1000:1001\n", "CapPrm: 0000000000000000\n",
				"CapBnd: 0000000000000000\n", "NoNewPrivs: 1\n", "env o i own\n",
				"touch: /x: Read-only file system\n", "touch: /mnt/in/x: Read-only file system\n", "given\n",
			} {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			info, err := os.Stat(filepath.Join(dir, "vol", "made"))
			if code != 7 || err != nil {
				t.Fatalf("exit code %d, %v", code, err)
			}
			if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner != who.uid {
				t.Errorf("what it has made belongs to user %d, want %d", owner, who.uid)
			}
			if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			// By its digest it is found, though no registry is asked; an absent image is an error.
			if out, code := start("nowhere.invalid/busybox@" + digest.String()); code != 7 ||
				strings.Contains(out, "Unpacking") {
				t.Errorf("exit code %d\n%s", code, out)
			}
			other := host + "/tools/busybox@sha256:" + strings.Repeat("0", 64)
			if out, code := start(other); code != 100 || !strings.Contains(out, "image "+other+": ") {
				t.Errorf("exit code %d\n%s", code, out)
			}
		})
	}
}

// The program is told to end, and its remains are removed.
func TestCommandIsCancelled(t *testing.T) {
	if testing.Short() {
		t.Skip("runs containers as root")
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "/bin/busybox", filepath.Join(root, "bin")).CombinedOutput(); err != nil {
		t.Fatalf("busybox is in the Debian package busybox-static: %v: %s", err, out)
	}
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	for stubborn, script := range map[bool]string{
		false: "trap 'exit 9' TERM; echo up; while :; do /bin/busybox sleep 0.1; done",
		true:  "trap '' TERM; echo up; while :; do /bin/busybox sleep 0.1; done",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cmd, leave, err := new(Runtime).Command(ctx, Container{
			Root:         root,
			Args:         []string{"/bin/busybox", "sh", "-c", script},
			User:         1000,
			Group:        1000,
			ReadOnlyRoot: true,
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = time.Second
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); !stubborn && code != 9 {
			t.Errorf("exit code %d, want 9", code)
		}
		if err := leave(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
