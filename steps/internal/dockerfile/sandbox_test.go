package dockerfile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/outcome"
)

// withFile is busybox with a file of that user and group.
func withFile(t *testing.T, uid, gid int) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "srv/theirs", Mode: 0o644, Uid: uid, Gid: gid}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return must(mutate.AppendLayers(must(busybox()), added))
}

// Users and groups of any number that Kubernetes knows exist in a build, where the machine has them.
func TestLargeIDs(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.Push(t, "library/theirs:1", withFile(t, 197609, 1001160))
	dockerfile := `FROM theirs:1
COPY --chown=1001160000:0 Dockerfile /chowned
RUN mkdir /open && chown 2147483647 /open && busybox tar -c -f /a.tar /srv && busybox tar -x -f /a.tar -C /tmp
USER 1001160000
RUN id -u > /tmp/me
`
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		cmd, out, results, w := way.dockerfileOf(t, r, program, dockerfile)
		err := cmd.Run()
		if way.name == "newuidmap" { // /etc/subuid has 65,536 there
			report := reported(t, results)
			want := "Dockerfile line 2: COPY --chown=1001160000:0 Dockerfile /chowned: " +
				"/srv/theirs: user 197609 does not exist where the image is built: " +
				"there are users from 0 to 65536 and groups from 0 to 65536"
			if report.Reason != outcome.BuildFailed || report.Message != want ||
				!strings.Contains(report.Hint, "lower id") {
				t.Errorf("%s: %s\n%s\n%s", report.Reason, report.Message, report.Hint, out)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		image := open1(t, w)
		for path, owner := range map[string][2]int{
			"srv/theirs": {197609, 1001160}, "tmp/srv/theirs": {197609, 1001160}, "chowned": {1001160000, 0},
			"open": {2147483647, 0}, "tmp/me": {1001160000, 0},
		} {
			if h := image.headers[path]; h == nil || h.Uid != owner[0] || h.Gid != owner[1] {
				t.Errorf("%s belongs to %+v, want %v", path, h, owner)
			}
		}
		if got := image.files["tmp/me"]; got != "1001160000\n" {
			t.Errorf("USER became %q", got)
		}
	})
}

// Beyond them, the message has the id or file, the line, and what there is.
func TestUnknownIDs(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	const here = "does not exist where the image is built: there are users from 0 to 65536 and groups from 0 to 65536"
	way := rootlessWays[2] // where /etc/subuid has 65,536
	binary := program(t, stepPackage)
	way.prepare(t, binary)
	for _, test := range []struct{ name, dockerfile, message string }{
		{"USER", "FROM busybox:1\nUSER 70000\nRUN true\n", "Dockerfile line 3: RUN true: USER: user 70000 " + here},
		{"the group of USER", "FROM busybox:1\nUSER 0:70000\nRUN true\n",
			"Dockerfile line 3: RUN true: USER: group 70000 " + here},
		{"COPY", "FROM busybox:1\nCOPY --chown=70000 Dockerfile /d/\n",
			"Dockerfile line 2: COPY --chown=70000 Dockerfile /d/: d: its user or group " + here},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd, out, results, _ := way.dockerfileOf(t, r, binary, test.dockerfile)
			if err := cmd.Run(); err == nil {
				t.Error("it was built")
			}
			if report := reported(t, results); report.Reason != outcome.BuildFailed || report.Message != test.message {
				t.Errorf("%s: %s\n%s", report.Reason, report.Message, out)
			}
		})
	}
}

// A RUN finds hosts as the step does.
func TestNamesInRun(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		if way.name == "newuidmap" {
			t.Skip("it has its own files in /etc")
		}
		for _, test := range []struct{ name, resolv, want string }{
			{"systemd's", "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan example.com\n",
				"nameserver 127.0.0.53\nsearch lan example.com\noptions edns0 trust-ad\n"},
			{"Docker's", "nameserver 127.0.0.11\noptions ndots:0\n", "nameserver 127.0.0.11\noptions ndots:0\n"},
			{"four, and one with a zone",
				"nameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%lo\nnameserver 10.0.0.4\n",
				"nameserver 10.0.0.1\nnameserver ::1\nnameserver fe80::1%lo\nnameserver 10.0.0.4\n"},
			{"none", "# nothing\n", "nameserver 127.0.0.1\n"},
		} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				dir := openDir(t)
				for name, content := range map[string]string{
					"resolv.conf": test.resolv,
					"hosts": "127.0.0.1 localhost\n10.9.8.7\tdb.internal db # the database\n" +
						"fd00::7 db6\nfe80::1%lo zoned\n",
				} {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				cmd, out, _, w := way.dockerfileOf(t, r, program, `FROM busybox:1
RUN cat /etc/resolv.conf > /resolv && cat /etc/hosts > /hosts && busybox ping -c 1 -w 1 -W 1 db > /ping || true
`)
				script := fmt.Sprintf(`mount --bind %[1]s/resolv.conf /etc/resolv.conf
mount --bind %[1]s/hosts /etc/hosts; exec "$@"`, dir)
				inner := append([]string{"--mount", "sh", "-ec", script, "sh"}, cmd.Args...)
				outer := exec.Command("unshare", inner...)
				outer.Stdout, outer.Stderr = out, out
				if cmd.SysProcAttr != nil {
					c := cmd.SysProcAttr.Credential
					outer.Args = append([]string{
						"unshare",
						"--mount",
						"sh",
						"-ec",
						script,
						"sh",
						"setpriv",
						fmt.Sprintf(
							"--reuid=%d",
							c.Uid,
						),
						fmt.Sprintf("--regid=%d", c.Gid),
						"--groups=2000",
					}, cmd.Args...)
				}
				if err := outer.Run(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				image := open1(t, w)
				if got := image.files["resolv"]; got != test.want {
					t.Errorf("resolv.conf is %q, want %q", got, test.want)
				}
				for _, line := range []string{"10.9.8.7\tdb.internal db\n", "fd00::7\tdb6\n"} {
					if got := image.files["hosts"]; !strings.Contains(got, line) {
						t.Errorf("hosts lacks %q: %q", line, got)
					}
				}
				if got := image.files["ping"]; !strings.Contains(got, "10.9.8.7") {
					t.Errorf("db is found as %q", got)
				}
			})
		}
	})
}

// What a build leaves that was killed with all it had, the next one in the workspace removes; not what another uses.
func TestLeftoversOfOthers(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		left := marker()
		cmd, _, _, w := way.dockerfileOf(t, r, program, "FROM busybox:1\nRUN mkdir /d && chown 7 /d && chmod 0 /d\n"+
			"ARG WAIT=yes\nRUN test $WAIT = no || sleep "+left+"\n")
		next := exec.Command(cmd.Path)
		next.Args = append(slices.Clone(cmd.Args), `--build-args=[{"name":"WAIT","value":"no"}]`)
		next.SysProcAttr = cmd.SysProcAttr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		await(t, func() bool { return len(running(left)) > 0 })
		for _, pid := range append(mentioning(string(w)), running(left)...) {
			for _, child := range append(childrenOf(pid), pid) {
				syscall.Kill(child, syscall.SIGKILL)
			}
		}
		cmd.Wait()
		await(t, func() bool { return len(mentioning(string(w)))+len(running(left)) == 0 })
		if found := leftovers(t, w); len(found) == 0 {
			t.Skip("the builder ended in good order")
		}
		used := filepath.Join(string(w), ".buildkit-used")
		unlock, err := filelock.Try(filepath.Join(used, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		if out, err := next.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var kept []string
		for _, path := range leftovers(t, w) {
			if strings.HasPrefix(filepath.Base(path), ".buildkit-") {
				kept = append(kept, path)
			}
		}
		if !slices.Equal(kept, []string{used}) {
			t.Errorf("left behind: %v", kept)
		}
	})
}
