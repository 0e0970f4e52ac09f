// Package pipeline runs steps as programs, one after the other, the way Argo runs their containers: parameters as
// variables, results in files.
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

	"github.com/stepwright/stepwright/schemas"
)

// Step is one step of a pipeline.
type Step struct {
	Name string // as status.tasks shows it (contract section 1)
	// Process makes the step's process, given the outputs of the steps before it.
	Process func(Outputs) (*Process, error)
}

// Process is what a step runs.
type Process struct {
	Before   []*Process // what runs first, one after the other; the first that fails ends the step
	Program  string     // path of the step's binary
	Args     []string
	Env      map[string]string // wins over what is inherited
	Results  string            // folder in which the process leaves outcome.json; empty: it leaves none
	Deadline time.Duration     // how long it may take; 0: as long as it likes
	Outputs  map[string]Output // by name

	// Enter, when it is not nil, makes ready what the process runs in, and returns the command that runs it there in
	// place of Program with Args and Env; leave is called at its end. An Unready error is the step's outcome. log hears
	// what takes long.
	Enter func(ctx context.Context, log func(string)) (cmd *exec.Cmd, leave func() error, err error)
}

// Unready says why a step's process could not start.
type Unready struct {
	Reason string // of the closed list
	Err    error
}

func (e *Unready) Error() string { return e.Err.Error() }

func (e *Unready) Unwrap() error { return e.Err }

// Output is where a process leaves an output parameter.
type Output struct {
	Path    string
	Default *string // what counts when there is no file; nil: the file must be there
}

// Outputs are what steps have put out: step name to output parameter to value.
type Outputs map[string]map[string]string

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

// Observers tells several what happens.
type Observers []Observer

// Started implements Observer.
func (all Observers) Started(step string) {
	for _, o := range all {
		o.Started(step)
	}
}

// Line implements Observer.
func (all Observers) Line(step, text string) {
	for _, o := range all {
		o.Line(step, text)
	}
}

// Ended implements Observer.
func (all Observers) Ended(step string, how Outcome) {
	for _, o := range all {
		o.Ended(step, how)
	}
}

// FailedError says which step ended the pipeline.
type FailedError struct {
	Step string
	Outcome
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("%s: %s", e.Step, strings.TrimRight(e.Message, ".\n"))
}

// Run runs the steps until one fails, which is a *FailedError.
func Run(ctx context.Context, steps []Step, see Observer) (Outputs, error) {
	all := Outputs{}
	for _, s := range steps {
		process, err := s.Process(all)
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
		see.Started(s.Name)
		how, err := process.run(ctx, func(line string) { see.Line(s.Name, line) })
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
		see.Ended(s.Name, how)
		if how.Failed() {
			return all, &FailedError{s.Name, how}
		}
		if all[s.Name], err = process.outputs(); err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return all, nil
}

// outputs reads the output parameters as Argo does, which leaves out one newline at the end.
func (p *Process) outputs() (map[string]string, error) {
	all := map[string]string{}
	for name, output := range p.Outputs {
		raw, err := os.ReadFile(output.Path)
		switch {
		case errors.Is(err, os.ErrNotExist) && output.Default != nil:
			all[name] = *output.Default
		case err != nil:
			return nil, fmt.Errorf("output %s: %w", name, err)
		default:
			all[name] = strings.TrimSuffix(string(raw), "\n")
		}
	}
	return all, nil
}

// grace is how long a process may take to end after SIGTERM.
const grace = 15 * time.Second

func (p *Process) run(ctx context.Context, line func(string)) (Outcome, error) {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if p.Deadline > 0 {
		limited, cancel = context.WithTimeout(ctx, p.Deadline)
	}
	defer cancel()
	started := time.Now()
	how, err := p.all(limited, line)
	if err != nil {
		return Outcome{}, err
	}
	if limited.Err() != nil && ctx.Err() == nil {
		how = outcomeOf("Timeout", fmt.Sprintf("it was ended after %s, which is all it may take", p.Deadline), how)
	}
	how.Took = time.Since(started)
	return how, nil
}

// all runs the process, and before it those that come before it.
func (p *Process) all(ctx context.Context, line func(string)) (how Outcome, err error) {
	for _, before := range p.Before {
		if how, err := before.all(ctx, line); err != nil || how.Failed() {
			return how, err
		}
	}
	if p.Enter == nil {
		cmd := exec.CommandContext(ctx, p.Program, p.Args...)
		cmd.Env = environment(p.Env)
		return p.execute(ctx, cmd, line)
	}
	cmd, leave, err := p.Enter(ctx, line)
	if unready, ok := errors.AsType[*Unready](err); ok && ctx.Err() == nil {
		return outcomeOf(unready.Reason, unready.Error(), Outcome{}), nil
	}
	if err != nil && ctx.Err() != nil {
		return outcomeOf("Cancelled", "it was told to end before it had started", Outcome{}), nil
	}
	if err != nil {
		return Outcome{}, err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return p.execute(ctx, cmd, line)
}

// outcomeOf is how a step ended for which its process cannot speak.
func outcomeOf(reason, message string, how Outcome) Outcome {
	known := schemas.ReasonNamed(reason)
	how.Reason, how.ExitCode, how.Hint, how.Message = known.Name, known.ExitCode, known.Hint, message
	return how
}

func (p *Process) execute(ctx context.Context, cmd *exec.Cmd, line func(string)) (Outcome, error) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	// Ctrl-C goes to the whole foreground group; the step is told once, by us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write

	if err := cmd.Start(); err != nil {
		return Outcome{}, err
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewReader(read)
		for {
			text, err := lines.ReadString('\n')
			if text = strings.TrimRight(text, "\r\n"); text != "" {
				line(text)
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
	return p.outcome(cmd.ProcessState), nil
}

// outcome reads outcome.json. A process that left none, or whose exit code says otherwise, was killed.
func (p *Process) outcome(state *os.ProcessState) Outcome {
	var how Outcome
	if p.Results == "" && state.Success() {
		return Outcome{Reason: "Succeeded"}
	}
	raw, err := os.ReadFile(filepath.Join(p.Results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &how)
	}
	if err != nil || how.ExitCode != state.ExitCode() {
		how.Reason, how.Message, how.ExitCode = "Failed", "the process ended without an outcome: "+
			state.String(), max(state.ExitCode(), 1)
	}
	return how
}

// inherited are the variables that a step gets from this process: what it needs to find programs and the network.
// Everything else in a developer's environment could be taken for a parameter.
var inherited = []string{
	"PATH", "HOME", "TMPDIR", "TZ", "XDG_RUNTIME_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"SSL_CERT_FILE", "SSL_CERT_DIR",
}

func environment(own map[string]string) []string {
	var env []string
	for _, name := range inherited {
		_, set := own[name]
		if value, ok := os.LookupEnv(name); ok && !set {
			env = append(env, name+"="+value)
		}
	}
	for name, value := range own {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}
