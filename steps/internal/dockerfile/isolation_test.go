package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// asRoot is the way in which root builds.
var asRoot = rootlessWay{
	name:      "root",
	isolation: buildkit.OwnProc,
	prepare:   func(testing.TB, string) {},
	command:   func(program string, args []string) *exec.Cmd { return exec.Command(program, args...) },
}

// inEveryWay runs a test for each way to build, with the way's own copy of the program.
func inEveryWay(t *testing.T, run func(t *testing.T, way rootlessWay, program string)) {
	original := program(t, stepPackage)
	for _, way := range append([]rootlessWay{asRoot}, rootlessWays...) {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			copied := filepath.Join(openDir(t), "containerfile-build")
			// Not by this process: others that it starts meanwhile would hold the file open, and it could not be run.
			if out, err := exec.Command("install", "-m", "755", original, copied).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			way.prepare(t, copied)
			run(t, way, copied)
		})
	}
}

// dockerfileOf is a build of a Dockerfile by a program, and where its results are.
func (way rootlessWay) dockerfileOf(
	t *testing.T, r *registrytest.Registry, program, dockerfile string,
) (cmd *exec.Cmd, out *lockedBuffer, results string, w workspace.Workspace) {
	t.Helper()
	in := parameters(sharedProject(t, map[string]string{"Dockerfile": dockerfile}), r)
	exchange(t, &in, r)
	results = filepath.Join(string(in.Workspace), "results")
	cmd = way.command(program, arguments(t, in, results))
	out = &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out, results, in.Workspace
}

// reported is the outcome that a run of the program left.
func reported(t *testing.T, results string) outcome.Report {
	t.Helper()
	var report outcome.Report
	raw, err := os.ReadFile(filepath.Join(results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &report)
	}
	if err != nil {
		t.Errorf("no outcome: %v", err)
	}
	return report
}

// markers are durations of sleep that no other test and no other process has.
var markers = make(chan int, 64)

func init() {
	for i := range cap(markers) {
		markers <- 100_000_000 + os.Getpid()*100 + i
	}
}

func marker() string { return strconv.Itoa(<-markers) }

// A RUN ends with its first process, and all that it started ends with it, as with root's runc and in podman. It cannot
// signal what runs it.
func TestRunEndsWithItsFirstProcess(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		left, port := marker(), freePort(t)
		cmd, out, results, w := way.dockerfileOf(t, r, program, fmt.Sprintf(`FROM busybox:1
RUN sleep %[1]s & echo started
RUN (busybox setsid sleep %[1]s </dev/null >/dev/null 2>&1 &)
RUN (busybox nc -l -p %[2]d </dev/null >/dev/null 2>&1 &) ; sleep 0.2
RUN ! echo | busybox nc -w 2 127.0.0.1 %[2]d
RUN (sleep %[1]s &) ; kill -9 -1; kill -TERM 1; echo alive > /alive
`, left, port))
		ended := make(chan error, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- cmd.Wait() }()
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		case <-time.After(2 * time.Minute):
			t.Errorf("it waits for what a RUN started\n%s", out)
			syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
			for _, pid := range running(left) {
				syscall.Kill(pid, syscall.SIGKILL)
			}
			<-ended
		}
		if got := reported(t, results).Reason; got != outcome.Succeeded {
			t.Errorf("outcome %s", got)
		}
		if got := string(must(os.ReadFile(filepath.Join(results, "run-isolation")))); got != string(way.isolation) {
			t.Errorf("result run-isolation is %q, want %q", got, string(way.isolation))
		}
		if pids := running(left); len(pids) > 0 {
			t.Errorf("it left processes: %v", pids)
		}
		if !strings.Contains(out.String(), way.isolation.String()) {
			t.Errorf("the log does not tell the isolation %q:\n%s", way.isolation, out)
		}
		if open1(t, w).files["alive"] == "" {
			t.Error("the RUN that signalled all did not go on")
		}
	})
}

// Between instructions nobody waits until all that is in memory is on the disk.
func TestLayersAreVolatile(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		cmd, out, results, _ := way.dockerfileOf(t, r, program, `FROM busybox:1
RUN echo one > /one
COPY Dockerfile /two
RUN grep ' / / ' /proc/self/mountinfo | grep -E 'overlay .*(,|=)volatile'
`)
		if err := cmd.Run(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if got := reported(t, results).Reason; got != outcome.Succeeded {
			t.Errorf("outcome %s", got)
		}
	})
}

// However a step ends, nothing of its build is left.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
				left, port := marker(), freePort(t)
				cmd, out, results, w := way.dockerfileOf(t, r, program, fmt.Sprintf(`FROM busybox:1 AS a
RUN (busybox setsid sleep %[1]s &) ; (busybox nc -l -p %[2]d </dev/null >/dev/null 2>&1 &) ; sleep %[1]s
FROM busybox:1
RUN trap '' TERM; while :; do sleep %[1]s; done
COPY --from=a /etc /etc
`, left, port))
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				await(t, func() bool { return len(running(left)) >= 3 })
				var step int
				for _, pid := range mentioning(program) {
					if line := commandLine(pid); line != nil && line[0] == program {
						step = pid
					}
				}
				builder := childrenOf(step)
				if step == 0 || len(builder) != 1 {
					t.Fatalf("step %d, builder %v", step, builder)
				}
				syscall.Kill(step, signal)
				started := time.Now()
				cmd.Wait()
				if took := time.Since(started); took > 10*time.Second {
					t.Errorf("took %s to end", took)
				}
				if signal == syscall.SIGTERM {
					if got := reported(t, results).Reason; got != outcome.Cancelled {
						t.Errorf("outcome %s\n%s", got, out)
					}
					if left := leftovers(t, w); len(left) > 0 {
						t.Errorf("left behind: %v", left)
					}
				}
				await(t, func() bool {
					_, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
					return err != nil && len(running(left)) == 0 && len(mentioning(string(w))) == 0 &&
						commandLine(builder[0]) == nil
				})
				// With the masked /proc, a killed step is the end of its container, and so of its builder.
				if left := must(filepath.Glob(filepath.Join(string(w), ".buildkit-*"))); len(left) > 0 &&
					way.isolation == buildkit.OwnProc {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// A stage that fails ends another one at once.
func TestFailingStageBesideALongOne(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	inEveryWay(t, func(t *testing.T, way rootlessWay, program string) {
		left, port := marker(), freePort(t)
		cmd, out, results, _ := way.dockerfileOf(t, r, program, fmt.Sprintf(`FROM busybox:1 AS long
RUN (sleep %[1]s &) ; busybox timeout 60 busybox nc -l -p %[2]d; sleep %[1]s
FROM busybox:1
RUN until echo | busybox nc -w 1 127.0.0.1 %[2]d; do sleep 0.1; done; echo no more; exit 3
COPY --from=long /etc /etc
`, left, port))
		started := time.Now()
		if err := cmd.Run(); err == nil {
			t.Error("it did not fail")
		}
		if took := time.Since(started); took > 40*time.Second {
			t.Errorf("took %s\n%s", took, out)
		}
		if report := reported(t, results); report.Reason != outcome.BuildFailed ||
			!strings.Contains(report.Message, "exit code 3") {
			t.Errorf("outcome %s: %s", report.Reason, report.Message)
		}
		if pids := running(left); len(pids) > 0 {
			t.Errorf("it left processes: %v", pids)
		}
	})
}

// mentioning lists the processes that have a text in their command line.
func mentioning(text string) []int {
	var pids []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(text)) {
			pids = append(pids, must(strconv.Atoi(filepath.Base(filepath.Dir(path)))))
		}
	}
	return pids
}

// commandLine is how a process was started; nil when it has ended.
func commandLine(pid int) []string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(raw) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")
}
