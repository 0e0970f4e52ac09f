package attacks

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

var commitTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// user is who builds where the step is not root.
const user = 1000

// mode is a way in which containerfile-build runs what a Dockerfile says.
type mode struct {
	name    string
	root    bool
	command func(program string, args []string) *exec.Cmd
}

var modes = []mode{
	{"root", true, func(program string, args []string) *exec.Cmd { return exec.Command(program, args...) }},
	{"user", false, func(program string, args []string) *exec.Cmd {
		return exec.Command("setpriv", append([]string{
			"--reuid=1000", "--regid=1000", "--clear-groups", program,
		}, args...)...)
	}},
	// As in a pod: parts of /proc are covered, and so no user namespace may mount one without.
	{"user with masked proc", false, func(program string, args []string) *exec.Cmd {
		script := `mount --bind /dev/null /proc/version &&
setpriv --reuid=1000 --regid=1000 --clear-groups "$@"; exit $?`
		return exec.Command("unshare", append([]string{
			"--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, "sh", program,
		}, args...)...)
	}},
}

// site is where builds run, with a registry that has busybox.
type site struct {
	registry *registrytest.Registry
}

func newSite(t *testing.T) site {
	t.Helper()
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	if os.Geteuid() != 0 {
		t.Skip("becomes other users, and covers parts of /proc")
	}
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	r.Push(t, "library/busybox:1", busybox(t))
	return site{r}
}

// busybox is a base image with the machine's busybox.
func busybox(t *testing.T) v1.Image {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("it is in the Debian package busybox-static: %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write(program)
		}
	}
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file.OS, file.Architecture, file.Config.Env = "linux", "amd64", []string{"PATH=/bin"}
	image, err = mutate.ConfigFile(image, file)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// attempt is a build of strangers' files.
type attempt struct {
	files    map[string]string // of the repository
	secrets  map[string]string // of the build, by id
	flags    []string
	variable string   // in the environment of the step
	within   []string // a command line that runs the one given to it
}

// build runs containerfile-build to its end. All files of the repository have the same time.
func (s site) build(t *testing.T, m mode, a attempt) ending {
	t.Helper()
	dir, err := os.MkdirTemp("", "attack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	workspace, secrets := filepath.Join(dir, "vol"), filepath.Join(dir, "secrets")
	write(t, filepath.Join(workspace, "source"), a.files)
	write(t, secrets, a.secrets)
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return errors.Join(os.Chown(path, user, user), os.Chtimes(path, commitTime, commitTime))
	}); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "containerfile-build")
	// Not by this process: others that it starts meanwhile would hold the file open, and what is written cannot be run.
	err = exec.Command("install", "-m", "755", filepath.Join(bin, "containerfile-build"), program).Run()
	if err == nil && !m.root {
		err = exec.Command("setcap", "cap_setuid,cap_setgid+p", program).Run()
	}
	if err != nil {
		t.Fatal(err)
	}
	e := ending{results: filepath.Join(workspace, "results")}
	args := append([]string{
		"--workspace=" + workspace, "--results-dir=" + e.results, "--build-secrets-dir=" + secrets,
		"--termination-message-path=" + filepath.Join(workspace, "message"), "--max-attempts=1",
		`--registry-mirrors=[{"registry":"docker.io","mirror":"` + s.registry.Host + `"}]`,
		`--insecure-registries=["` + s.registry.Host + `"]`,
	}, a.flags...)
	cmd := m.command(program, args)
	if len(a.within) > 0 {
		cmd.Path, err = exec.LookPath(a.within[0])
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args = append(append([]string{}, a.within...), cmd.Args...)
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir(), a.variable}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	cmd.Wait()
	if !late.Stop() {
		t.Fatalf("it does not end: %s", out.String())
	}
	e.code, e.stderr = cmd.ProcessState.ExitCode(), out.String()
	raw, err := os.ReadFile(filepath.Join(e.results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &e.report)
	}
	if err != nil {
		t.Fatalf("no outcome: %v\n%s", err, e.stderr)
	}
	return e
}

// held fails the test unless the build went through: the Dockerfile itself fails where its attack succeeds.
func (e ending) held(t *testing.T) {
	t.Helper()
	if e.report.Reason != outcome.Succeeded {
		t.Errorf("it ended with %s: %s\n%s", e.report.Reason, e.report.Message, e.stderr)
	}
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// inEveryMode runs an attack in each mode.
func inEveryMode(t *testing.T, attack func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			attack(t, m)
		})
	}
}

// search looks for what another RUN, the builder and the step hold, and fails when it finds any of it. Its own
// processes are those whose environment has the mark.
const search = `
set -u
found() { echo "BREACH: $*"; exit 7; }
look() {
	if grep -i -E '@.*(stepwright|buildkit|runc)' /proc/net/unix; then found "an abstract socket"; fi
	for p in /proc/[0-9]*; do
		if cat $p/environ 2>/dev/null | tr '\0' '\n' | grep -q -e sesam[e] -e MARK=holder; then found "$p/environ"; fi
		for f in $p/root/run/secrets/s $p/cwd/run/secrets/s $p/fd/* $p/map_files/*; do
			if [ -f "$f" ] && grep -q sesam[e] "$f" 2>/dev/null; then found "$f"; fi
		done
		if ls -d $p/root$WORKSPACE $p/cwd$WORKSPACE 2>/dev/null | grep -q .; then found "$p leads to the workspace"; fi
		for t in $p/task/[0-9]*; do
			if ls -d $t/root$WORKSPACE >/dev/null 2>&1; then found "$t leads to the workspace"; fi
		done
		if ! cat $p/environ 2>/dev/null | tr '\0' '\n' | grep -q MARK=$MARK &&
			head -c 1 $p/maps 2>/dev/null | grep -q .; then
			found "$p/maps"
		fi
		if grep -q -a sesam[e] $p/cmdline 2>/dev/null; then found "$p/cmdline"; fi
		ns=$(readlink $p/ns/pid 2>/dev/null) && [ "$ns" != "$(readlink /proc/self/ns/pid)" ] && found "$p/ns/pid"
	done
	return 0
}
`

// One stage holds a secret while another searches for it, and kills whatever it can name.
func TestRunReachesNobodyElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inEveryMode(t, func(t *testing.T, m mode) {
		port := freePort(t)
		s.build(t, m, attempt{
			variable: "STEP_TOKEN=sesame",
			secrets:  map[string]string{"s": "open-sesame"},
			files: map[string]string{
				"search.sh": search + fmt.Sprintf(`
i=0
until grep -q ':%04[2]X 0*:0000 0A' /proc/net/tcp /proc/net/tcp6; do
	sleep 0.1; i=$((i+1)); [ $i -lt 300 ] || exit 9
done
look
# Processes of others cannot be named, whatever /proc shows.
for p in /proc/[0-9]*; do kill -9 ${p#/proc/} 2>/dev/null; done
i=2; while [ $i -lt 400 ]; do kill -9 $i 2>/dev/null; i=$((i+1)); done
(kill -9 -1) 2>/dev/null; kill -15 1; kill -STOP -1 2>/dev/null
look
echo done | nc 127.0.0.1 %[1]d
`, port, port),
				"Dockerfile": fmt.Sprintf(`FROM busybox:1 AS holder
ENV MARK=holder
RUN --mount=type=secret,id=s HELD="$(busybox cat /run/secrets/s)" \
  sh -c 'until busybox grep -qs done /got; do busybox nc -l -p %d > /got || exit 1; done'
RUN busybox grep -q done /got
FROM busybox:1 AS searcher
ENV MARK=searcher
RUN busybox --install -s /bin
COPY search.sh /
RUN WORKSPACE=%s sh /search.sh
FROM busybox:1
COPY --from=searcher /search.sh /
COPY --from=holder /got /
`, port, filepath.Join(os.TempDir(), "attack-")+"*/vol"),
			},
		}).held(t)
	})
}

// What a RUN leaves running changes nothing of the next one, listens nowhere, and holds up nobody.
func TestNothingOutlivesItsRun(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inEveryMode(t, func(t *testing.T, m mode) {
		port := freePort(t)
		s.build(t, m, attempt{files: map[string]string{
			"stay.sh": `
while :; do
	for d in /proc/[0-9]*/root; do echo evil 2>/dev/null > $d/target; done
	echo evil > /target
done
`,
			"Dockerfile": fmt.Sprintf(`FROM busybox:1
RUN busybox --install -s /bin
COPY stay.sh /
RUN (setsid sh /stay.sh </dev/null >/dev/null 2>&1 &) ; (trap '' TERM HUP INT; nohup sh /stay.sh &) ; sleep 0.3
RUN echo good > /target; sleep 0.7; test "$(cat /target)" = good
RUN (nc -l -p %[1]d </dev/null >/dev/null 2>&1 &) ; sleep 0.2
RUN ! echo | nc -w 2 127.0.0.1 %[1]d
RUN sleep 3600 & echo started
RUN nsenter -t 1 -m -p -- true; unshare -p -f sleep 3600 & setsid unshare -m sleep 3600 & echo started
`, port),
		}}).held(t)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
			t.Errorf("the port is still taken: %v", err)
		} else {
			l.Close()
		}
	})
}

// limited is a cgroup of this test's, with limits, that a command line enters; the test is skipped where there is none.
func limited(t *testing.T, limits map[string]string) (within []string) {
	t.Helper()
	name := fmt.Sprintf("attack-%d-%d", os.Getpid(), time.Now().UnixNano())
	var enter []string
	for file, value := range limits {
		controller, _, _ := strings.Cut(file, ".")
		dir := filepath.Join("/sys/fs/cgroup", controller, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("cgroups of version 1 that may be made: %v", err)
		}
		t.Cleanup(func() {
			// What was killed leaves its cgroup a moment later.
			deadline := time.Now().Add(10 * time.Second)
			for ; time.Now().Before(deadline); time.Sleep(time.Millisecond) {
				if syscall.Rmdir(dir) == nil {
					return
				}
			}
			t.Errorf("%s cannot be removed: a RUN left something in it", dir)
		})
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
			t.Skip(err)
		}
		enter = append(enter, filepath.Join(dir, "cgroup.procs"))
	}
	return append([]string{
		"sh", "-c", `while [ "$1" != -- ]; do echo $$ > "$1"; shift; done; shift; exec "$@"`, "sh",
	}, append(enter, "--")...)
}

// A RUN cannot leave the limits of the step: its memory and its processes count there.
func TestRunStaysWithinTheLimits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inEveryMode(t, func(t *testing.T, m mode) {
		t.Run("memory", func(t *testing.T) {
			e := s.build(t, m, attempt{
				within: limited(t, map[string]string{"memory.limit_in_bytes": "268435456"}),
				files: map[string]string{"Dockerfile": `FROM busybox:1
RUN exec busybox awk 'BEGIN { x = "0123456789abcdef"; while (1) { x = x x; if (length(x) > 600000000) exit 0 } }'
`},
			})
			if e.report.Reason != outcome.BuildFailed || !strings.Contains(e.report.Message, "want of memory") {
				t.Errorf("it ended with %s: %s\n%s", e.report.Reason, e.report.Message, e.stderr)
			}
		})
		t.Run("processes", func(t *testing.T) {
			e := s.build(t, m, attempt{
				within: limited(t, map[string]string{"pids.max": "300"}),
				files: map[string]string{"Dockerfile": `FROM busybox:1
RUN i=0; while [ $i -lt 2000 ]; do busybox sleep 60 & i=$((i+1)); done; echo no-$((1+1))-limit
RUN b() { b | b & }; b; busybox sleep 1
`},
			})
			if strings.Contains(e.stderr, "no-2-limit") || e.report.Reason == outcome.Failed {
				t.Errorf("it ended with %s: %s\n%s", e.report.Reason, e.report.Message, e.stderr)
			}
		})
	})
}

// The frontend's settings are the platform's, whatever a developer calls them.
func TestSettingsOfTheBuilder(t *testing.T) {
	t.Parallel()
	workspace := t.TempDir()
	write(t, filepath.Join(workspace, "source"), map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
	for _, name := range []string{
		"BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_ATTEST_SBOM", "BUILDKIT_ATTEST_PROVENANCE",
		"BUILDKIT_GIT_ADVICE", "BUILDKIT_DISABLE_FILEOP", "BUILDKIT_", "buildkit_syntax", "Buildkit_Cache_Mount_Ns",
	} {
		t.Run(name, func(t *testing.T) {
			args, _ := json.Marshal([]map[string]string{
				{"name": "VERSION", "value": "1"}, {"name": name, "value": "generator=registry.example.com/evil:1"},
			})
			step(t, "containerfile-build", "--workspace="+workspace, "--build-args="+string(args)).
				refused(t, outcome.InvalidParameters, "build-args", name)
		})
	}
}

// daemon starts a BuildKit daemon that serves many components, and returns its address.
func (s site) daemon(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "buildkitd")
	if err := programtest.Build(t.Context(), dir, "../..", "github.com/moby/buildkit/cmd/buildkitd"); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"buildkitd.toml": fmt.Sprintf(`[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%[1]q]
[registry.%[1]q]
  http = true
`, s.registry.Host)})
	address := fmt.Sprintf("tcp://127.0.0.1:%d", freePort(t))
	cmd := exec.Command(
		program, "--config", filepath.Join(dir, "buildkitd.toml"), "--root", filepath.Join(dir, "state"),
		"--addr", address, "--oci-worker-net=host", "--oci-cni-pool-size=0",
		"--otel-socket-path", filepath.Join(dir, "otel.sock"),
	)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mounts end with it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("buildkitd: %s", out.String())
		}
	})
	return address
}

// Components that share a daemon share nothing else.
func TestComponentsOfOneDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	address := s.daemon(t)
	by := func(component, dockerfile, token, secret string) attempt {
		return attempt{
			flags: []string{
				"--buildkit-address=" + address, "--namespace-name=acme", "--project-name=shop",
				"--component-name=" + component, "--registry-mirrors=[]", "--insecure-registries=[]",
			},
			secrets: map[string]string{"s": secret},
			files:   map[string]string{"Dockerfile": dockerfile, "token": token},
		}
	}
	root := modes[0]
	const reader = "RUN --mount=type=cache,target=/e i=0; until [ -e /e/x ] || [ $i = 20 ]; do busybox sleep 0.1; " +
		"i=$((i+1)); done; busybox cat /e/x > /out; true\n"
	tests := []struct {
		name           string
		victim, robber string // Dockerfiles
	}{
		{
			"a cache mount by its id",
			"FROM busybox:1\nRUN --mount=type=cache,id=npm,target=/c echo victim > /c/x\n",
			"FROM busybox:1\nRUN --mount=type=cache,id=npm,target=/d test ! -e /d/x\n",
		},
		{
			"a cache mount by its path",
			"FROM busybox:1\nRUN --mount=type=cache,target=/root/.npm,sharing=locked echo victim > /root/.npm/x\n",
			"FROM busybox:1\nRUN --mount=type=cache,target=/root/.npm,sharing=locked test ! -e /root/.npm/x\n",
		},
		{
			"a cache mount by an id with the other's name",
			"FROM busybox:1\nRUN --mount=type=cache,id=m2,target=/c echo victim > /c/x\n",
			"FROM busybox:1\n" +
				"RUN --mount=type=cache,id=../victim/m2,target=/c test ! -e /c/x\n" +
				"RUN --mount=type=cache,id=acme/shop/victim/m2,target=/c test ! -e /c/x\n" +
				"RUN --mount=type=cache,id=/acme/shop/victim/m2,target=/c test ! -e /c/x\n",
		},
		{
			"a file of the context, guessed by size and time",
			"FROM busybox:1\nCOPY token /token\n",
			"FROM busybox:1\nCOPY token /token\nRUN busybox grep -q robber /token\n",
		},
		{
			"a result that a secret made",
			"FROM busybox:1\nRUN --mount=type=secret,id=s busybox cat /run/secrets/s > /out\n",
			"FROM busybox:1\nRUN --mount=type=secret,id=s busybox cat /run/secrets/s > /out\n" +
				"RUN busybox grep -q robber /out\n",
		},
		{
			"a result that a cache mount made",
			"FROM busybox:1 AS writer\nRUN --mount=type=cache,target=/e echo victim > /e/x; busybox touch /m\n" +
				"FROM busybox:1 AS reader\n" + reader +
				"FROM scratch\nCOPY --from=writer /m /\nCOPY --from=reader /out /\n",
			"FROM busybox:1\n" + reader + "RUN ! busybox grep -q victim /out\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.build(t, root, by("victim", test.victim, "victim-token", "victim-secret")).held(t)
			s.build(t, root, by("robber", test.robber, "robber-token", "robber-secret")).held(t)
		})
	}
	t.Run("what only a daemon's owner may allow", func(t *testing.T) {
		for _, run := range []string{"--security=insecure", "--network=host"} {
			e := s.build(t, root, by("robber", "FROM busybox:1\nRUN "+run+" echo entitled\n", "x", "x"))
			if e.report.Reason == outcome.Succeeded {
				t.Errorf("RUN %s was allowed", run)
			}
		}
	})
	t.Run("its process", func(t *testing.T) {
		s.build(t, root, by("robber", "FROM busybox:1\nRUN (kill -9 -1); for p in $(busybox seq 2 4000); do "+
			"kill -9 $p 2>/dev/null; done; true\n", "x", "x")).held(t)
		s.build(t, root, by("victim", "FROM busybox:1\nRUN echo it still builds\n", "x", "x")).held(t)
	})
}
