package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/regularfile"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// What is taken of a check's words.
const (
	outputLimit  = 256 << 10 // bytes of its output that are kept for a message
	linesLimit   = 20        // lines of it that are in a message
	summaryLimit = 500       // bytes of its summary
)

// patience is how long a check may take to end once it is told to.
const patience = 2 * time.Second

// Check runs the check in the folder of the source. In a pod it is the first process of an init container of the
// check's image, and ends every other one before it leaves, for Decide to say, how the check ended. It fails itself
// only when it is told to end, or cannot even leave that.
func Check(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	if in.prepared().Read() != nil {
		env.Log.Info("There is nothing to check: what failed is said at the end")
		return nil, nil
	}
	// The check has the same user: it must not reach into this process, which says how it ended.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot be kept apart from the check: %w", err)
	}
	left := in.handover()
	if err := errors.Join(handover.Clear(left.Dir), handover.Clear(in.CheckResultsDir)); err != nil {
		return nil, err
	}
	record, err := left.Record()
	if err != nil {
		return nil, err
	}
	defer record.Close()
	env, flush := env.Tee(record)
	err = in.runAll(ctx, env)
	flush()
	return nil, errors.Join(record.Close(), leave(ctx, left, err, env))
}

// runAll runs the check, once for each of several images. A check that fails for one of them is run for the others,
// too.
func (in Parameters) runAll(ctx context.Context, env step.Environment) error {
	limit := time.Duration(in.CheckTimeout) * time.Second
	timed, cancel := context.WithTimeoutCause(ctx, limit, outcome.Errorf(
		outcome.Timeout, "the check did not end within %s", limit,
	))
	defer cancel()
	platforms, err := in.platforms()
	if err != nil {
		return err
	}
	if platforms == nil {
		return in.run(timed, env)
	}
	var failures []string
	for i, platform := range platforms {
		if err := in.show(i); err != nil {
			return err
		}
		env.Log.Info("Checking the image for a platform", "platform", platform)
		failure := outcome.Of(in.run(timed, env))
		if err := in.setAside(i); err != nil {
			return err
		}
		if failure == nil {
			continue
		}
		told := ofPlatform(platform, failure.Message)
		if failure.Reason != outcome.CheckFailed {
			return outcome.Errorf(failure.Reason, "%s", told).WithHint(failure.Hint)
		}
		failures = append(failures, told)
	}
	if failures == nil {
		return nil
	}
	return outcome.Errorf(outcome.CheckFailed, "%s", strings.Join(failures, "\n"))
}

// run runs the check to its end, and all that it started.
func (in Parameters) run(timed context.Context, env step.Environment) error {
	started := time.Now()
	output := &transcript.Tail{Limit: outputLimit}
	cmd := exec.CommandContext(timed, in.CheckCommand[0], in.CheckCommand[1:]...)
	cmd.Dir = in.Workspace.Source()
	cmd.Env = in.environment(os.Environ())
	cmd.Stdout = io.MultiWriter(output, env.Stderr)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	env.Log.Info("Running the check", "image", in.CheckImage, "command", strings.Join(in.CheckCommand, " "))
	err := cmd.Run()
	endAll(cmd.Process)
	if timed.Err() != nil {
		return context.Cause(timed)
	}
	// Something that it left running kept the output open.
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	env.Log.Info("The check has ended", "took", time.Since(started))
	return in.explain(err, output.String())
}

// endAll ends what a check left running: its process group, and all other processes where this one is the first of a
// container.
func endAll(check *os.Process) {
	if check != nil {
		_ = syscall.Kill(-check.Pid, syscall.SIGKILL)
	}
	if os.Getpid() != 1 {
		return
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil && err != syscall.EINTR {
			return // there is none any more
		}
	}
}

// explain says how a check ended that did not end well.
func (in Parameters) explain(err error, output string) error {
	if err == nil {
		return nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return outcome.Errorf(
			outcome.InvalidParameters, "check-command: %s does not start: %w", in.CheckCommand[0], err,
		).WithHint("It is the path of a program in the image " + in.CheckImage + ", or a name in its PATH.")
	}
	how := fmt.Sprintf("the check ended with exit code %d", exit.ExitCode())
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		if status.Signal() == syscall.SIGKILL {
			return outcome.Errorf(outcome.Killed, "the check was killed, most likely for want of memory")
		}
		how = fmt.Sprintf("the check was ended by the signal %s", status.Signal())
	}
	if said := summaryIn(in.CheckResultsDir); said != "" {
		return outcome.Errorf(outcome.CheckFailed, "%s: %s", how, said)
	}
	if said := transcript.LastLines(output, linesLimit); said != "" {
		return outcome.Errorf(outcome.CheckFailed, "%s:\n%s", how, said)
	}
	return outcome.Errorf(outcome.CheckFailed, "%s", how)
}

// environment are the variables of the check: those of its image, and those of the parameter check-env, which win. The
// parameters of this step are not for it.
func (in Parameters) environment(environ []string) []string {
	own := map[string]bool{}
	for _, property := range schemas.MustLoad("scan-gate").Properties {
		own[schemas.EnvName(property.Name)] = true
	}
	// The root file system is read-only. The last value of a variable counts.
	all := []string{"TMPDIR=/tmp", "HOME=/tmp"}
	for _, variable := range environ {
		if name, value, _ := strings.Cut(variable, "="); !own[name] && (name != "HOME" || value != "/") {
			all = append(all, variable)
		}
	}
	for _, variable := range in.CheckEnv {
		all = append(all, variable.Name+"="+variable.Value)
	}
	return all
}

// summaryIn is the one line that a check may leave of itself in the file summary of its results; empty when there is
// none. It is a stranger's text.
func summaryIn(results string) string {
	raw, err := regularfile.Read(filepath.Join(results, "summary"), 64<<10)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		return "(the summary is no file of at most 64 KiB)"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	return quote.Line(quote.Uncoloured(strings.TrimSpace(line)), summaryLimit)
}
