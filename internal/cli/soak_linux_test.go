package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/soaktest"
)

// Runs one after the other on one machine, with failures and interrupts among them, leave no process, mount or
// temporary file, and what they keep does not grow but for the images and the history. make soak does the like in a
// cluster, for hours.
func TestRunsLeaveNothing(t *testing.T) {
	s := &soakOfRuns{state: t.TempDir(), temp: t.TempDir()}
	s.Outcomes = map[string]int{}
	runs := []struct {
		dockerfile, want string
		interrupt        bool
	}{
		{"FROM busybox:1\nCOPY turn /turn\nRUN cat /turn > /made\n", "✓", false},
		{"FROM busybox:1\nCOPY turn /turn\nRUN echo no such luck; exit 7\n", "✗ BuildFailed", false},
		{"FROM busybox:1\nCOPY turn /turn\nRUN echo now-it-runs; sleep " + asleep + "\n", "✗ Cancelled", true},
	}
	var dirs []string
	for _, run := range runs {
		dirs = append(dirs, project(t, run.dockerfile, `{repository: {url: "https://git.example.com/cart.git"}}`))
	}
	s.began = time.Now()
	for turn := 0; turn < 9 || time.Since(s.began) < 15*time.Second; turn++ {
		run := runs[turn%len(runs)]
		said := s.run(t, dirs[turn%len(runs)], turn, run.interrupt)
		if !strings.Contains(said, run.want) {
			t.Fatalf("turn %d does not end with %q:\n%s", turn, run.want, said)
		}
		s.Outcomes[run.want]++
		s.sample(t, turn+1)
	}
	verdicts, _ := s.Judge()
	t.Logf("\n%s", s.Page(verdicts))
	for _, v := range verdicts {
		if v.Grows {
			t.Errorf("%s: from %.1f to %.1f", v.Name, v.First, v.Last)
		}
	}
	for _, name := range []string{"processes", "mounts", "temporary files"} {
		if left := s.Samples[len(s.Samples)-1].Values[name]; left > 0 {
			t.Errorf("%.0f %s are left", left, name)
		}
	}
}

// asleep is an argument that no other process of the machine has.
const asleep = "598213"

// soakOfRuns are runs of the command that share a state.
type soakOfRuns struct {
	soaktest.Soak
	state, temp string
	began       time.Time
}

// run runs the command, and returns what it said. Each turn has a file that none had before.
func (s *soakOfRuns) run(t *testing.T, dir string, turn int, interrupt bool) string {
	t.Helper()
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(filepath.Join(source, "turn"), fmt.Append(nil, turn), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program(t), withStandIns(
		t, "run", "--state", s.state, "--name", "cart-1", "--source", source, dir,
	)...)
	command.Env = append(os.Environ(), "TMPDIR="+s.temp)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		said.WriteString(lines.Text() + "\n")
		if interrupt && strings.HasSuffix(lines.Text(), " now-it-runs") {
			command.Process.Signal(os.Interrupt)
		}
	}
	command.Wait()
	return said.String()
}

// sample looks at what there is after a run has ended. Nothing of it may need a while to go.
func (s *soakOfRuns) sample(t *testing.T, builds int) {
	t.Helper()
	values := map[string]float64{"processes": float64(len(s.processes(t))), "mounts": 0, "temporary files": 0}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.state) || strings.Contains(line, s.temp) {
			values["mounts"]++
		}
	}
	filepath.WalkDir(s.temp, func(path string, _ fs.DirEntry, _ error) error {
		if path != s.temp {
			values["temporary files"]++
		}
		return nil
	})
	open, err := os.ReadDir("/proc/self/fd") // the mirror is in this process
	if err != nil {
		t.Fatal(err)
	}
	values["descriptors of the mirror"] = float64(len(open))
	mebi, files, err := soaktest.Usage(s.state)
	if err != nil {
		t.Fatal(err)
	}
	values["disk of the state"], values["files of the state"] = mebi, float64(files)
	s.Add(soaktest.Sample{After: time.Since(s.began), Builds: builds, Values: values}, mayGrow)
}

// mayGrow is what a quantity may grow by.
func mayGrow(name string) soaktest.Quantity {
	q := soaktest.Quantity{Name: name, PerBuild: true}
	switch name {
	case "descriptors of the mirror":
		q.Spare = 6 // connections are kept for a while
	case "disk of the state", "files of the state":
		q.Free = true // images, layers of the cache, and the history of runs
	}
	return q
}

// processes lists those that a run has started: by their environment, or by what they were told.
func (s *soakOfRuns) processes(t *testing.T) (found []string) {
	t.Helper()
	all, err := soaktest.Machine{}.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
		told := strings.Join(p.Args, " ")
		if p.PID != os.Getpid() && (bytes.Contains(environment, []byte("TMPDIR="+s.temp)) ||
			strings.Contains(told, s.state) || strings.Contains(told, s.temp) || slices.Contains(p.Args, asleep)) {
			found = append(found, told)
		}
	}
	if len(found) > 0 {
		t.Logf("there run %q", found)
	}
	return found
}
