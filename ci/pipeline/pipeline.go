// Package pipeline runs steps as programs, one after the other, the way Argo runs their containers: parameters as variables, results in files.
package pipeline

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Step is one step of a pipeline.
type Step struct {
	Name    string // as status.tasks shows it (contract section 1)
	Program string // path of the step's binary
	// Parameters returns the step's parameters, given the results of the steps before it.
	Parameters func(Results) map[string]string
}

// Results are what steps have found so far: result name to value.
type Results map[string]string

// Outcome is how a step ended: its outcome.json, and the wall time of its process.
type Outcome struct {
	Reason     string            `json:"reason"`
	Message    string            `json:"message"`
	Hint       string            `json:"hint"`
	ExitCode   int               `json:"exitCode"`
	PeakMemory int64             `json:"peakMemoryBytes"`
	Results    map[string]string `json:"results"`

	Took time.Duration `json:"-"`
}

// Failed tells whether the step did.
func (o Outcome) Failed() bool { return o.ExitCode != 0 }

// Observer hears what happens, while it happens. Calls never overlap.
type Observer interface {
	Started(step string)
	Line(step, text string) // one line that the step wrote
	Ended(step string, how Outcome)
}

// FailedError says which step ended the pipeline.
type FailedError struct {
	Step string
	Outcome
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("%s: %s", e.Step, strings.TrimRight(e.Message, ".\n"))
}

// Run runs the steps until one fails, which is a *FailedError. Each step keeps its results below dir, in a folder of its name.
func Run(ctx context.Context, dir string, steps []Step, see Observer) (Results, error) {
	all := Results{}
	for _, s := range steps {
		see.Started(s.Name)
		how, err := s.run(ctx, filepath.Join(dir, s.Name), all, see)
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
		see.Ended(s.Name, how)
		for name, value := range how.Results {
			all[name] = value
		}
		if how.Failed() {
			return all, &FailedError{s.Name, how}
		}
	}
	return all, nil
}

// grace is how long a step may take to end after SIGTERM.
const grace = 15 * time.Second

func (s Step) run(ctx context.Context, results string, done Results, see Observer) (Outcome, error) {
	cmd := exec.CommandContext(ctx, s.Program)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	// Ctrl-C goes to the whole foreground group; the step is told once, by us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = environment(s.Parameters(done), results)
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write

	started := time.Now()
	if err := cmd.Start(); err != nil {
		return Outcome{}, err
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewReader(read)
		for {
			line, err := lines.ReadString('\n')
			if line = strings.TrimRight(line, "\r\n"); line != "" {
				see.Line(s.Name, line)
			}
			if err != nil {
				return
			}
		}
	})
	err := cmd.Wait()
	write.Close()
	reading.Wait()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended && ctx.Err() == nil {
		return Outcome{}, err
	}
	how := s.outcome(results, cmd.ProcessState)
	how.Took = time.Since(started)
	return how, nil
}

// outcome reads outcome.json. A process that left none, or whose exit code says otherwise, was killed.
func (s Step) outcome(results string, process *os.ProcessState) Outcome {
	var how Outcome
	raw, err := os.ReadFile(filepath.Join(results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &how)
	}
	if err != nil || how.ExitCode != process.ExitCode() {
		how.Reason, how.Message, how.ExitCode = "Failed", "the process ended without an outcome: "+process.String(), max(process.ExitCode(), 1)
	}
	return how
}

// inherited are the variables that a step gets from this process: what it needs to find programs and the network. Everything else in a
// developer's environment could be taken for a parameter.
var inherited = []string{
	"PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

func environment(parameters map[string]string, results string) []string {
	var env []string
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range parameters {
		env = append(env, strings.ToUpper(strings.ReplaceAll(name, "-", "_"))+"="+value)
	}
	env = append(env, "RESULTS_DIR="+results)
	slices.Sort(env)
	return env
}
