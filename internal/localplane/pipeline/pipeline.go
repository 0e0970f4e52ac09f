// Package pipeline runs steps as programs, one after the other, the way Argo runs their containers: parameters as
// variables, results in files.
package pipeline

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/replay"
)

// Step is one step of a pipeline.
type Step struct {
	Name string // as status.tasks shows it (docs/contract.md section 1)
	// Process makes the step's process, given the outputs of the steps before it.
	Process func(Outputs) (*Process, error)
}

// Process is what a step runs.
type Process struct {
	Before   []*Process // what runs first, one after the other; the first that fails ends the step
	Program  string     // path of the step's binary
	Args     []string
	Env      map[string]string // wins over inherited variables
	Results  string            // folder in which the process leaves outcome.json; empty: only its exit code counts
	Deadline time.Duration     // how long it may take; 0: as long as it likes
	Outputs  map[string]Output // by name

	// Enter, when it is not nil, makes ready what the process runs in, and returns the command that runs it there in
	// place of Program with Args and Env; leave is called at its end. An *outcome.Error is how the step ends. log hears
	// what takes long.
	Enter func(ctx context.Context, log func(string)) (cmd *exec.Cmd, leave func() error, err error)
}

// Output is where a process leaves an output parameter.
type Output struct {
	Path    string
	Default *string // what counts when there is no file; nil: the file must be there
}

// Outputs are the values of the steps' output parameters: step name to parameter to value.
type Outputs map[string]map[string]string

// Observer hears what happens, while it happens. Calls never overlap.
type Observer interface {
	Started(step string)
	Line(step, text string) // one line that the step wrote
	Ended(step string, how outcome.Report, took time.Duration)
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
func (all Observers) Ended(step string, how outcome.Report, took time.Duration) {
	for _, o := range all {
		o.Ended(step, how, took)
	}
}

// Run runs the steps until one fails. The error then wraps the step's *outcome.Error, and the outputs that it has left
// all the same are among those returned, as Argo has them.
func Run(ctx context.Context, steps []Step, see Observer) (Outputs, error) {
	all := Outputs{}
	for _, s := range steps {
		process, err := s.Process(all)
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
		see.Started(s.Name)
		started := time.Now()
		how, err := process.run(ctx, func(line string) { see.Line(s.Name, line) })
		if err != nil {
			return all, fmt.Errorf("%s: %w", s.Name, err)
		}
		see.Ended(s.Name, how, time.Since(started))
		if failure := how.Failure(); failure != nil {
			if left, err := process.outputs(); err == nil {
				all[s.Name] = left
			}
			return all, fmt.Errorf("%s: %w", s.Name, failure)
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
		raw, err := outcome.ReadResult(output.Path)
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

// run runs the process within its deadline, and says how the step ended.
func (p *Process) run(ctx context.Context, line func(string)) (outcome.Report, error) {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if p.Deadline > 0 {
		limited, cancel = context.WithTimeout(ctx, p.Deadline)
	}
	defer cancel()
	how, err := p.all(limited, line)
	if err == nil && limited.Err() != nil && ctx.Err() == nil {
		how = how.FailedBy(
			outcome.Errorf(outcome.Timeout, "it was ended after %s, which is all it may take", p.Deadline),
		)
	}
	return how, err
}

// all runs the process, and before it those that come before it, whose lines it does not print once more.
func (p *Process) all(ctx context.Context, line func(string)) (how outcome.Report, err error) {
	for _, before := range p.Before {
		if how, err := before.all(ctx, line); err != nil || how.Failed() {
			return how, err
		}
	}
	if len(p.Before) > 0 {
		every := line
		line = func(text string) {
			if !replay.Marked(text) {
				every(text)
			}
		}
	}
	if p.Enter == nil {
		cmd := exec.CommandContext(ctx, p.Program, p.Args...)
		cmd.Env = environment(p.Env)
		return p.execute(ctx, cmd, line)
	}
	cmd, leave, err := p.Enter(ctx, line)
	if err != nil && ctx.Err() != nil {
		err = outcome.Errorf(outcome.Cancelled, "it was told to end before it had started")
	}
	if failure, ok := errors.AsType[*outcome.Error](err); ok {
		return outcome.Report{}.FailedBy(failure), nil
	}
	if err != nil {
		return outcome.Report{}, err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return p.execute(ctx, cmd, line)
}

func (p *Process) execute(ctx context.Context, cmd *exec.Cmd, line func(string)) (outcome.Report, error) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = grace
	cmd.SysProcAttr = apart()
	lines := quote.Lines(func(text string) error {
		if text != "" {
			line(quote.Output(text, false))
		}
		return nil
	})
	cmd.Stdout, cmd.Stderr = lines, lines

	if err := cmd.Start(); err != nil {
		return outcome.Report{}, err
	}
	err := cmd.Wait()
	lines.Close()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended && ctx.Err() == nil {
		return outcome.Report{}, err
	}
	return p.outcome(cmd.ProcessState), nil
}

// outcome reads what the process left about its end. One that left nothing, or whose exit code says otherwise, was
// killed.
func (p *Process) outcome(state *os.ProcessState) outcome.Report {
	if p.Results == "" {
		if state.Success() {
			return outcome.Report{Reason: outcome.Succeeded}
		}
		switch reason, _ := outcome.OfExitCode(state.ExitCode()); reason {
		case outcome.Cancelled:
			return outcome.Report{}.FailedBy(outcome.Errorf(reason, "it was told to end"))
		case outcome.InvalidParameters:
			return outcome.Report{}.FailedBy(outcome.Errorf(reason, "it says which in its log"))
		}
		return outcome.Report{}.FailedBy(
			outcome.Errorf(outcome.Failed, "the process ended without an outcome: %s", state),
		)
	}
	how, err := outcome.Read(p.Results)
	if err == nil && (how.ExitCode == state.ExitCode() || how.Reason == outcome.Killed && killed(state)) {
		return how
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return how.FailedBy(outcome.Errorf(outcome.Failed, "the process left no valid outcome: %s: %w", state, err))
	}
	return how.FailedBy(outcome.Errorf(outcome.Failed, "the process ended without an outcome: %s", state))
}

// killed tells whether a process was ended by a signal that it cannot hear of.
func killed(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
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
