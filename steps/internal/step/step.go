// Package step runs one step of the pipeline: it reads the parameters, gives the work a context that ends with SIGTERM,
// and leaves results and outcome behind on every exit path.
package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/parameters"
	"github.com/stepwright/stepwright/steps/internal/trace"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Common are the parameters that every step has (schemas/step.schema.json). A step's own Parameters embed it.
type Common struct {
	Workspace              workspace.Workspace `json:"workspace"`
	ResultsDir             string              `json:"results-dir"`
	TerminationMessagePath string              `json:"termination-message-path"`
	CABundle               string              `json:"ca-bundle"`
	MaxAttempts            int                 `json:"max-attempts"`
	LogFormat              string              `json:"log-format"`
}

// NameValue is an element of a parameter that lists values by name: a variable, a build argument or a label.
type NameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Environment is what a step works with besides its parameters.
type Environment struct {
	Log     *slog.Logger    // for people, already masked; a duration goes in an attribute "took"
	Stdout  io.Writer       // for what the step makes, such as the JSON of a dry run; nothing else
	Stderr  io.Writer       // for the raw output of what the step runs; it is masked, quoted, and marked as such
	Secrets *redact.Secrets // every secret is added here the moment it is read
	Retry   outcome.Retry   // for what may fail for a transient reason
	Note    func(string)    // see Say; may be nil
	Left    *Files          // see Leave; may be nil
	Tidying func()          // see Tidy; may be nil
}

// Tidy tells that the step has only to remove what it made for itself: one that is told to stop may take 20 s for that.
func (e Environment) Tidy() {
	if e.Tidying != nil {
		e.Tidying()
	}
}

// Say tells what people should know of a step that succeeds, in its report: one sentence, without a final full stop.
// The last one counts.
func (e Environment) Say(message string) {
	if e.Note != nil {
		e.Note(message)
	}
}

// Leave leaves a result that is too large for the report, and for people, as a file of its own, however the step ends.
// The content is masked already, and fit to be shown. The last one of a name counts.
func (e Environment) Leave(name string, content []byte) {
	if e.Left != nil {
		e.Left.add(name, content)
	}
}

// Files are what a step leaves. The zero value is ready; it is safe for concurrent use: a step may outlive its context.
type Files struct {
	mu     sync.Mutex
	byName map[string][]byte
}

func (f *Files) add(name string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byName == nil {
		f.byName = map[string][]byte{}
	}
	f.byName[name] = content
}

// All returns the files: name to content.
func (f *Files) All() map[string][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.byName)
}

// Results are the facts a step found: file name to content. A step that fails returns those it has.
type Results map[string]string

// Streams are the process's standard streams.
type Streams struct {
	Stdout, Stderr io.Writer
}

// grace is how long a step may take to clean up once it is told to stop. Kubernetes kills after 30 s.
const grace = 5 * time.Second

// tidying is how much longer it may take to remove what it has in the workspace, when nothing else is left to do.
const tidying = 20 * time.Second

// Main runs the step as this process and returns its exit code. P is the step's struct of parameters.
func Main[P any](name string, run func(context.Context, P, Environment) (Results, error)) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		got := <-signals
		signal.Stop(signals) // a second one ends the process at once
		cancel(outcome.Errorf(outcome.Cancelled, "stopped by %s", got))
	}()
	return Run(ctx, name, os.Args[1:], os.Environ(), Streams{os.Stdout, os.Stderr}, run)
}

// Run runs the step with these arguments and variables (KEY=value), and returns its exit code. It writes results,
// outcome.json and the termination message also when the parameters are wrong, the step panics, or ctx ends and the
// step does not return within 5 s, or within 25 s when it tidies.
func Run[P any](
	ctx context.Context, name string, args, environ []string, streams Streams, run func(
		context.Context, P, Environment,
	) (Results, error),
) int {
	started := time.Now()
	set, err := parameters.Parse(schemas.MustLoad(name), args, environ)
	if errors.Is(err, parameters.ErrHelp) {
		fmt.Fprint(streams.Stdout, set.Help())
		return 0
	}
	var common Common
	set.DecodeKnown(&common) // where to report to must be known even when other parameters are wrong

	secrets := &redact.Secrets{}
	secrets.Add(set.Secrets()...)
	log, raw := newLogs(streams.Stderr, common.LogFormat, secrets, isTerminal(streams.Stderr))
	env := Environment{Log: log, Stdout: streams.Stdout, Stderr: raw, Secrets: secrets}
	// Where it cannot be written, the end will say so.
	_ = outcome.Started(name, started).Write(common.ResultsDir, common.TerminationMessagePath)
	var retries atomic.Int64
	env.Retry = outcome.Retry{
		Attempts: common.MaxAttempts, Log: env.Log, Again: func() { retries.Add(1) },
	}
	recorder, terr := trace.New(environ, common.CABundle, started, secrets.Add)
	if terr != nil {
		env.Log.Warn("There is no trace of this step", "because", terr)
	}
	ctx = trace.NewContext(ctx, recorder)
	var said atomic.Value // by a step that may outlive its context
	env.Note = func(message string) { said.Store(secrets.String(message)) }
	env.Left = &Files{}
	var tidies atomic.Bool
	env.Tidying = func() { tidies.Store(true) }

	var in P
	if err == nil {
		err = set.Decode(&in)
	}
	var results Results
	if err == nil {
		env.Log.Info(name, set.Effective()...)
		results, err = guard(ctx, &tidies, func() (Results, error) { return run(ctx, in, env) })
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // whatever broke, broke because the step was told to stop
	}

	report := outcome.NewReport(name, started, outcome.Of(err), results, secrets.String)
	if message, ok := said.Load().(string); ok && err == nil {
		report = report.Saying(message)
	}
	report.Files = env.Left.All()
	raw.Close() // what was printed last comes before how it ended
	werr := errors.Join(
		report.Write(common.ResultsDir, common.TerminationMessagePath),
		report.WriteGitHub(variable(environ, "GITHUB_OUTPUT"), variable(environ, "GITHUB_STEP_SUMMARY")),
	)
	if werr != nil {
		env.Log.Error("Cannot write the results", "error", werr)
		if err == nil { // what comes after the step cannot have its results, and must learn why
			err = fmt.Errorf("the step did its work, and cannot write its results: %w", werr)
			report = report.FailedBy(outcome.Of(err))
			_ = report.Write(common.ResultsDir, common.TerminationMessagePath)
		}
	}
	if err != nil {
		env.Log.Error(report.Line())
	} else {
		if report.Message != "" {
			env.Log.Info(report.Line())
		}
		env.Log.Info("Done", "took", time.Since(started))
	}
	if err := recorder.Send(report, retries.Load(), secrets.String); err != nil {
		env.Log.Warn("The trace of this step was not sent", "because", err)
	}
	return report.ExitCode
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// variable is the value of one of these variables (KEY=value); the last one wins, as for exec.
func variable(environ []string, name string) string {
	value := ""
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// guard turns a panic into an error, and stops waiting for a step that outlives its context by more than grace, or more
// than tidying if it tidies.
func guard(ctx context.Context, tidies *atomic.Bool, run func() (Results, error)) (Results, error) {
	type ending struct {
		results Results
		err     error
	}
	ended := make(chan ending, 1)
	go func() {
		var e ending
		defer func() {
			if p := recover(); p != nil {
				e.err = outcome.Errorf(outcome.Failed, "panic: %v", p)
			}
			ended <- e
		}()
		e.results, e.err = run()
	}()
	select {
	case e := <-ended:
		return e.results, e.err
	case <-ctx.Done():
	}
	select {
	case e := <-ended:
		return e.results, e.err
	case <-time.After(grace):
	}
	if tidies.Load() {
		select {
		case e := <-ended:
			return e.results, e.err
		case <-time.After(tidying):
		}
	}
	return nil, context.Cause(ctx)
}
