package dockerfile

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// probes are what a RUN can see and do, each a script whose output is compared. It has a RUN of its own where it begins
// with other instructions, or with a mark; all others have one together.
var probes = []struct{ name, script string }{
	{"environment", "env | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= | busybox sort"},
	{"environment of nobody", "USER nobody\nenv | grep -e ^HOME= -e ^USER="},
	{"environment of a number", "USER 4321\nenv | grep -e ^HOME= -e ^USER="},
	{"identity", "id"},
	{"identity of nobody", "USER nobody\nid"},
	{"identity of a number", "USER 4321\nid"},
	{"identity of a number and a group", "USER 4321:55\nid"},
	{"folder", "pwd"},
	{"folder that is made", "WORKDIR /made/for/it\npwd; busybox stat -c '%a %u:%g' . .."},
	{"folder that is made for nobody", "USER nobody\nWORKDIR /theirs\nbusybox stat -c '%u:%g' ."},
	{"umask", "umask"},
	{"standard input", "#\nbusybox wc -c; test -t 0; echo $?; busybox readlink /proc/self/fd/0 | busybox tr -d 0-9"},
	{"terminal", "test -t 1; echo $?; echo ${TERM-unset}"},
	{"file descriptors", "ls /proc/self/fd | busybox wc -l"},
	{"privileges", "busybox grep -e NoNewPrivs -e Seccomp: /proc/self/status"},
	{"capabilities", "busybox grep ^Cap /proc/self/status"},
	{"capabilities of nobody", "USER nobody\nbusybox grep ^Cap /proc/self/status"},
	{"ignored signals", "busybox grep -e SigIgn -e SigBlk /proc/self/status"},
	{"limits", "busybox grep -v -e pending -e processes /proc/self/limits"},
	{"priority", "busybox nice"},
	{"devices", "ls /dev | busybox sort"},
	{"shared memory", "busybox stat -c %a /dev/shm; busybox grep ' /dev/shm ' /proc/mounts"},
	{
		"writable kernel settings",
		"for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity " +
			"/sys/kernel/mm/transparent_hugepage/enabled; do test -w $f && (echo > $f) 2>/dev/null && echo $f; done",
	},
	{"hidden files", "busybox wc -c /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | busybox tail -1; " +
		"ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | busybox grep -v :"},
	{"mounting", "busybox mount -t tmpfs none /tmp; echo $?"},
	{"device nodes", "busybox mknod /tmp/n b 8 0; echo $?"},
	{
		"changing the time and host name",
		"busybox date -s 2000-01-01 >/dev/null; echo $?; busybox hostname other; echo $?",
	},
	{
		"giving away",
		"touch /tmp/f && chown 1234:5678 /tmp/f && busybox chmod 4755 /tmp/f && busybox stat -c '%a %u:%g' /tmp/f",
	},
	{"process", "#\necho $$; set -- /proc/[0-9]*; echo $#"},
	{"killing the first process", "#\nkill -9 1; kill -TERM 1; echo alive"},
	{"killing all", "#\n(sleep 100 &); kill -9 -1; echo alive"},
	{"left behind", "#\nsleep 1000 & (sleep 1000 </dev/null >/dev/null 2>&1 &); echo done"},
	{"daemons", "#\nbusybox setsid sleep 1000 </dev/null >/dev/null 2>&1 & " +
		"(busybox setsid sh -c 'sleep 1000 & sleep 1000 &' &); echo done"},
	{"zombies", "#\n(sleep 0 & exec sleep 0.2) & busybox sleep 0.4; set -- /proc/[0-9]*; echo $#"},
	{"pipeline", "false | true; echo $?; true | false; echo $?"},
	{"variables", "echo $GREETING ${GREETING} '$GREETING' \\$GREETING"},
	{"names", "busybox cat /etc/hosts | busybox grep -c localhost; test -s /etc/resolv.conf; echo $?"},
	{"host name", "test -n \"$(busybox hostname)\"; echo $?"},
	{"writing to the name files", "echo '10.0.0.9 x' >> /etc/hosts; echo $?"},
}

// differ says which probes end differently in podman, and why ours is meant.
var differ = map[string]string{
	"environment":            "podman sets HOSTNAME, which Docker does not, and which no two builds have in common",
	"capabilities":           "a RUN has those of Docker's builds; podman leaves out AUDIT_WRITE, MKNOD and NET_RAW",
	"capabilities of nobody": "the same",
	"device nodes":           "where MKNOD is real, as for root here, it works as in Docker; elsewhere not",
	"limits":                 "the open files are the step's, and so the pod's; podman lowers them to 1,024",
	"names":                  "/etc/hosts has the step's lines, after BuildKit's own",
	"writing to the name files": "BuildKit has /etc/hosts and /etc/resolv.conf read-only, so that nobody takes them " +
		"for files of the image",
}

// endings are builds by how they end: of one RUN, or what is before it.
var endings = []struct{ name, lines string }{
	{"success", "RUN true"},
	{"exit code", "RUN exit 3"},
	{"killed", "RUN kill -9 $$"},
	{"terminated", "RUN kill -TERM $$"},
	{"no such command", "RUN nonesuch"},
	{"no such program", `RUN ["/nonesuch"]`},
	{"not executable", "RUN /etc/passwd"},
	{"the last of a pipeline", "RUN false | true"},
	{"a shell of one's own", "SHELL [\"/bin/sh\", \"-ec\"]\nRUN false; true"},
	{"of what went on in the background", "RUN (sleep 1; exit 4) & exit 0"},
	{"unknown user", "USER nonesuch\nRUN true"},
	{"folder that is a file", "WORKDIR /etc/passwd\nRUN true"},
}

// podman builds the Dockerfile in a folder, with a folder for its own state, and returns the files of the image and how
// it ended.
func podman(t *testing.T, state, folder string) (files string, out string, code int) {
	t.Helper()
	files = filepath.Join(t.TempDir(), "files")
	cmd := exec.Command(
		"podman",
		"--root",
		filepath.Join(state, "root"),
		"--runroot",
		filepath.Join(state, "run"),
		"--storage-driver",
		"vfs",
		"--cgroup-manager",
		"cgroupfs",
		"--runtime",
		"runc",
		"build",
		"--isolation",
		"oci",
		"--format",
		"docker",
		"--network",
		"host",
		"--layers=false",
		"--output",
		files,
		folder,
	)
	raw, _ := cmd.CombinedOutput()
	return files, string(raw), cmd.ProcessState.ExitCode()
}

// A RUN sees, may do and ends as in podman, but for what differ names.
func TestRunAgainstPodman(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds images by BuildKit and podman")
	}
	if _, err := exec.LookPath("podman"); err != nil {
		t.Skip("podman is in the Debian package of that name")
	}
	state, err := os.MkdirTemp("", "podman-") // podman wants a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(state)
	rootfs := baseFiles(t)
	dockerfile := "FROM scratch\nADD rootfs.tar /\nENV PATH=/bin GREETING=hello\n" +
		"RUN mkdir /probes && busybox chmod 777 /probes\n"
	var together []string
	for i, probe := range probes {
		lines, script := "", probe.script
		if at := strings.LastIndexByte(script, '\n'); at >= 0 {
			lines, script = script[:at+1], script[at+1:]
		}
		script = fmt.Sprintf("(%s) > /probes/%d 2>&1", script, i)
		if lines == "" {
			together = append(together, script)
			continue
		}
		dockerfile += lines + "RUN " + script + " || true\nUSER root\nWORKDIR /\n"
	}
	dockerfile += "RUN " + strings.Join(together, "; ") + "; true\n"
	files := map[string]string{"Dockerfile": dockerfile, "rootfs.tar": rootfs}
	ours := succeed(t, parameters(project(t, files), nil))
	theirs, out, code := podman(t, state, project(t, files).Source())
	if code != 0 {
		t.Fatalf("podman: %d\n%s", code, out)
	}
	for i, probe := range probes {
		want, err := os.ReadFile(filepath.Join(theirs, "probes", fmt.Sprint(i)))
		got := ours.files[fmt.Sprintf("probes/%d", i)]
		_, meant := differ[probe.name]
		switch same := got == string(want); {
		case err != nil:
			t.Error(err)
		case !same && !meant:
			t.Errorf("%s: here\n%s\nin podman\n%s", probe.name, got, want)
		case same && meant:
			t.Errorf("%s: it is the same in podman: %s", probe.name, got)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(differ)) {
		t.Logf("%s: %s", name, differ[name])
	}

	codes := regexp.MustCompile(`exit code (\d+)`)
	for _, test := range endings {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{
				"Dockerfile": "FROM scratch\nADD rootfs.tar /\nENV PATH=/bin\n" + test.lines + "\n",
				"rootfs.tar": rootfs,
			}
			end := run(t, t.Context(), parameters(project(t, files), nil))
			_, out, want := podman(t, state, project(t, files).Source())
			if want == 125 { // podman's own, as for a user whom nobody knows
				want = 1
			}
			got := 0
			if end.err != nil {
				got = 1
				if found := codes.FindStringSubmatch(outcome.Of(end.err).Message); found != nil {
					fmt.Sscan(found[1], &got)
				}
			}
			if got != want {
				t.Errorf("here %d: %v\nin podman %d:\n%s", got, end.err, want, out)
			}
		})
	}
}

// baseFiles is the one layer of busybox.
func baseFiles(t *testing.T) string {
	t.Helper()
	layer := must(must(busybox()).Layers())[0]
	plain, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var all bytes.Buffer
	if _, err := all.ReadFrom(plain); err != nil {
		t.Fatal(err)
	}
	return all.String()
}
