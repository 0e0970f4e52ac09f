package bench

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rounds is how often each contender runs.
var rounds = flag.Int("rounds", 5, "how often each contender runs")

// A contender is one of the ways that are compared.
type contender struct {
	name    string
	prepare func(b *testing.B) trial // makes what one round needs, which is not measured
}

// A trial is one round of one contender.
type trial struct {
	commands  []*exec.Cmd // run one after another
	remove    func()      // removes what the round leaves
	traffic   []*traffic  // of the registries that it uses; empty: nobody counts
	servers   []int       // process ids of daemons that work for it alone
	workspace []string    // folders that one command leaves to the next; empty: nobody measures
}

// A contest measures contenders by turns, so that what else the machine does meets all of them. The first one is what
// the others are compared with.
type contest struct{ contenders []contender }

// cost is what one round took.
type cost struct {
	wall, cpu float64  // seconds; user and system time, of processes that were waited for
	peak      float64  // MiB, of the largest process
	network   *network // nil: nobody counted
	workspace *float64 // MB, of files; nil: nobody measured
}

// network is what registries counted.
type network struct{ Sent, Received, Requests float64 } // MB of bodies, as the contender sees them

// run measures, reports the medians as metrics, and keeps them for the page.
func (c contest) run(b *testing.B) {
	b.Helper()
	costs := make([][]cost, len(c.contenders))
	for round := range *rounds {
		for i := range c.contenders {
			i = (i + round) % len(c.contenders)
			if round%2 == 1 { // nobody always follows the same one
				i = len(c.contenders) - 1 - i
			}
			costs[i] = append(costs[i], c.once(b, c.contenders[i]))
		}
	}
	b.ReportMetric(0, "ns/op")
	name := strings.ReplaceAll(strings.TrimPrefix(b.Name(), "Benchmark"), "_", " ")
	t := table{Name: name, Rounds: *rounds, About: about()}
	for i, contender := range c.contenders {
		r := result{
			Name: contender.name,
			Wall: spreadOf(costs[i], func(c cost) float64 { return c.wall }),
			CPU:  spreadOf(costs[i], func(c cost) float64 { return c.cpu }),
			Peak: spreadOf(costs[i], func(c cost) float64 { return c.peak }),
		}
		if costs[i][0].network != nil {
			r.Network = &network{
				Sent:     spreadOf(costs[i], func(c cost) float64 { return c.network.Sent }).Median,
				Received: spreadOf(costs[i], func(c cost) float64 { return c.network.Received }).Median,
				Requests: spreadOf(costs[i], func(c cost) float64 { return c.network.Requests }).Median,
			}
		}
		if costs[i][0].workspace != nil {
			r.Workspace = new(spreadOf(costs[i], func(c cost) float64 { return *c.workspace }).Median)
		}
		t.Results = append(t.Results, r)
		name := strings.ReplaceAll(r.Name, " ", "-")
		b.ReportMetric(r.Wall.Median, "s-"+name)
		b.ReportMetric(r.CPU.Median, "cpu-s-"+name)
		b.ReportMetric(r.Peak.Median, "MiB-"+name)
		if i > 0 {
			b.ReportMetric(r.Wall.Median/t.Results[0].Wall.Median, "x-"+name)
		}
	}
	if *docs != "" {
		if err := update(*docs, t); err != nil {
			b.Fatal(err)
		}
	}
}

// once runs one contender.
func (c contest) once(b *testing.B, contender contender) (took cost) {
	b.Helper()
	t := contender.prepare(b)
	defer t.remove()
	for _, counter := range t.traffic {
		counter.reset()
	}
	for _, pid := range t.servers {
		took.cpu -= processorTime(b, pid)
		// The kernel counts the most memory anew.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			b.Fatal(err)
		}
	}
	for _, command := range t.commands {
		var out bytes.Buffer
		command.Stdout, command.Stderr = &out, &out
		started := time.Now()
		if err := command.Start(); err != nil {
			b.Fatalf("%s: %s: %v", contender.name, command, err)
		}
		peak := watch(append(slices.Clone(t.servers), command.Process.Pid)...)
		err := command.Wait()
		took.wall += time.Since(started).Seconds()
		took.peak = max(took.peak, peak())
		if err != nil {
			b.Fatalf("%s: %s: %v: %s", contender.name, command, err, &out)
		}
		took.cpu += (command.ProcessState.UserTime() + command.ProcessState.SystemTime()).Seconds()
	}
	for _, pid := range t.servers {
		took.cpu += processorTime(b, pid)
	}
	if len(t.traffic) > 0 {
		took.network = new(network)
		for _, counter := range t.traffic {
			took.network.Sent += float64(counter.in.Load()) / 1e6
			took.network.Received += float64(counter.out.Load()) / 1e6
			took.network.Requests += float64(counter.requests.Load())
		}
	}
	if len(t.workspace) > 0 {
		took.workspace = new(megabytes(b, t.workspace))
	}
	return took
}

// processorTime is how many seconds of user and system time a process has used, and those of its children that it has
// waited for.
func processorTime(b *testing.B, pid int) (seconds float64) {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// The name, in brackets, may have spaces. Times are in hundredths of a second on all architectures.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	for _, field := range fields[11:15] {
		hundredths, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatal(err)
		}
		seconds += hundredths / 100
	}
	return seconds
}

// megabytes is the size of all regular files in folders. One that is not there has none.
func megabytes(b *testing.B, dirs []string) (size float64) {
	b.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if path == dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			info, err := entry.Info()
			if err == nil {
				size += float64(info.Size()) / 1e6
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return size
}

// watch looks at processes and their descendants until the function that it returns is called, which returns the most
// memory in MiB that one of them had. The memory that wait tells includes this process, from between fork and exec.
func watch(pids ...int) (peak func() float64) {
	done, found := make(chan struct{}), make(chan float64)
	go func() {
		var most float64
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			for _, pid := range pids {
				most = max(most, memory(pid))
			}
			select {
			case <-done:
				found <- most
				return
			case <-ticker.C:
			}
		}
	}()
	return func() float64 {
		close(done)
		return <-found
	}
}

// memory is the most memory in MiB that a process, or one of its living descendants, had so far.
func memory(pid int) float64 {
	dir := fmt.Sprintf("/proc/%d", pid)
	var kilobytes float64
	fmt.Sscan(field(dir+"/status", "VmHWM"), &kilobytes)
	most := kilobytes / 1024
	threads, _ := filepath.Glob(dir + "/task/*/children")
	for _, thread := range threads {
		children, _ := os.ReadFile(thread)
		for _, child := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(child); err == nil {
				most = max(most, memory(pid))
			}
		}
	}
	return most
}

// field returns what follows a key and a colon in a file of /proc; empty if nothing does.
func field(path, key string) string {
	raw, _ := os.ReadFile(path)
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// spread is a median of several rounds, between its extremes.
type spread struct{ Median, Min, Max float64 }

func spreadOf(costs []cost, of func(cost) float64) spread {
	var values []float64
	for _, c := range costs {
		values = append(values, of(c))
	}
	slices.Sort(values)
	return spread{values[len(values)/2], values[0], values[len(values)-1]}
}

// A binaries is a folder with programs of one version of this project.
type binaries struct{ name, dir string }

// versions builds programs of this version, given as packages within the module, and names the folders with older ones
// that the variable STEPWRIGHT_BENCH_BEFORE lists, as PATH does. Folders that lack one of the programs are left out.
func versions(b *testing.B, packages ...string) []binaries {
	b.Helper()
	about()
	dir := b.TempDir()
	args := []string{"build", "-trimpath", "-ldflags=-s -w", "-o", dir + "/"}
	for _, p := range packages {
		args = append(args, "github.com/stepwright/stepwright/"+p)
	}
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	all := []binaries{{"now", dir}}
	for _, older := range filepath.SplitList(os.Getenv("STEPWRIGHT_BENCH_BEFORE")) {
		lacks := func(p string) bool {
			_, err := os.Stat(filepath.Join(older, filepath.Base(p)))
			return err != nil
		}
		if slices.ContainsFunc(packages, lacks) {
			b.Logf("%s has not all of %s", older, packages)
			continue
		}
		all = append(all, binaries{"before: " + filepath.Base(older), older})
	}
	return all
}

// tool builds a program of another module that this one requires.
func tool(b *testing.B, dir, name string) string {
	b.Helper()
	build := exec.Command("go", "build", "-o", dir+"/", name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, filepath.Base(name))
}

// traffic is a handler in front of a registry that counts bytes of bodies, and requests.
type traffic struct {
	next              http.Handler
	in, out, requests atomic.Int64
}

func (t *traffic) reset() {
	t.in.Store(0)
	t.out.Store(0)
	t.requests.Store(0)
}

// ServeHTTP implements http.Handler.
func (t *traffic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t.requests.Add(1)
	r.Body = &counted{r.Body, &t.in}
	t.next.ServeHTTP(&countedResponse{w, &t.out}, r)
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countedResponse struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countedResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (c *countedResponse) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// about tells the commit and the machine that were measured. It is asked first when programs are built: who works on
// meanwhile moves HEAD.
var about = sync.OnceValue(func() string {
	text := "an unknown commit"
	if out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output(); err == nil {
		text = "commit " + strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%s, %s, on %s", text, time.Now().UTC().Format(time.DateOnly), machine())
})

// machine describes this machine as far as it matters for figures.
func machine() string {
	var kilobytes int64
	fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kilobytes)
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	load, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := strings.Cut(string(load), " ")
	return fmt.Sprintf(
		"%d processors (%s) with a load of %s at the beginning, %d GiB of memory, Linux %s", runtime.NumCPU(),
		cmp.Or(field("/proc/cpuinfo", "model name"), "of an unknown kind"), busy, kilobytes>>20,
		strings.TrimSpace(string(release)),
	)
}
