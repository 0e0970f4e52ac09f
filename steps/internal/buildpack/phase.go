package buildpack

import (
	"bytes"
	"context"
	"encoding/binary"
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

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/steps/internal/disk"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// lifecycle runs the phases of the builder's lifecycle, one program each.
type lifecycle struct {
	environ []string
	stderr  io.Writer
}

// phaseError is a phase that did not end well. The lifecycle's exit codes say why (CNB platform specification).
type phaseError struct {
	phase  string
	code   int    // -1 when a signal ended it
	output string // the last of what it wrote
	cause  error
	scarce *disk.Disk // that was full, or nearly, while it ran; nil: none was
}

func (e *phaseError) Error() string { return fmt.Sprintf("%s: %v", e.phase, e.cause) }

func (e *phaseError) Unwrap() error { return e.cause }

// patience is how long a phase may take to end once it is told to.
const patience = 2 * time.Second

// outputLimit is how much of a phase's output is kept for messages, in bytes.
const outputLimit = 256 << 10

// run runs a phase to its end. When ctx ends, so does it, with all that it started. ran takes its output, too.
func (l lifecycle) run(ctx context.Context, ran *journal, phase string, args ...string) error {
	output := &transcript.Tail{Limit: outputLimit}
	cmd := exec.CommandContext(ctx, filepath.Join(lifecycleDir, phase), args...)
	cmd.Env = l.environ
	cmd.Dir = "/"
	cmd.Stdout = io.MultiWriter(ran, output, l.stderr) // the journal first, which must not wait for a reader of the log
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	err := cmd.Run()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what a buildpack left running
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// it ended, and something that it left running kept the output open
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return fmt.Errorf("%s does not start: %w", phase, err)
	}
	return &phaseError{phase: phase, code: exit.ExitCode(), output: output.String(), cause: err}
}

// journal tells which buildpack the builder phase ran last, and what was written since that one began. For each the
// lifecycle makes a folder in TMPDIR, named by the buildpack's ID, and removes it at its end; the kernel keeps the
// names. A nil journal tells nothing.
type journal struct {
	mu   sync.Mutex
	fd   int    // -1 at its end
	name string // that was made last, as far as it was read
	tail *transcript.Tail
	all  []begun
}

// begun is a folder that was made, and when that was noticed.
type begun struct {
	name string
	at   time.Time
}

const (
	mostBegun = 1000                   // folders that are noted: a builder has fewer buildpacks
	looksFor  = 100 * time.Millisecond // how often a journal looks for them, besides at each output
)

// watch begins a journal of a folder that the phase gets as its TMPDIR, and nothing else writes to.
func watch(dir string) (*journal, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, err
	}
	j := &journal{fd: fd, tail: &transcript.Tail{Limit: outputLimit}}
	go j.look()
	return j, nil
}

// look reads from time to time, so that the times are known of buildpacks that print nothing.
func (j *journal) look() {
	tick := time.NewTicker(looksFor)
	defer tick.Stop()
	for range tick.C {
		j.mu.Lock()
		ended := j.fd < 0
		j.read()
		j.mu.Unlock()
		if ended {
			return
		}
	}
}

// begun are the folders that were made, in order.
func (j *journal) begun() []begun {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.all)
}

// Write implements io.Writer: it takes what the phase and its buildpacks write. What comes in one piece with the
// beginning of a buildpack counts as this one's, although the end of another may be in it: nothing may be missing.
func (j *journal) Write(p []byte) (int, error) {
	if j == nil {
		return len(p), nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read()
	return j.tail.Write(p)
}

// end ends the journal. name is of the folder that was made last, and output the last of what was written since then;
// each is empty where there was none.
func (j *journal) end() (name, output string) {
	if j == nil {
		return "", ""
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.read()
	if j.fd >= 0 {
		unix.Close(j.fd)
		j.fd = -1
	}
	return j.name, j.tail.String()
}

// read takes notice of the folders that were made by now.
func (j *journal) read() {
	for buf := make([]byte, 4<<10); j.fd >= 0; {
		n, err := unix.Read(j.fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			length := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			j.name = string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:length], "\x00"))
			j.tail = &transcript.Tail{Limit: outputLimit}
			if len(j.all) < mostBegun {
				j.all = append(j.all, begun{j.name, time.Now()})
			}
			rest = rest[length:]
		}
	}
}

// environment is what the phases see: the builder's own variables, and what the step sets. Of these, buildpacks see
// HOME, proxies and PATH only.
func environment(api, epoch, temporary string) ([]string, error) {
	set := map[string]string{
		"CNB_PLATFORM_API":      api,
		"CNB_EXPERIMENTAL_MODE": "quiet", // an image as a layout counts as experimental
		"TMPDIR":                temporary,
	}
	if epoch != "" {
		set["SOURCE_DATE_EPOCH"] = epoch
	}
	// Tools keep their own caches at home, and the root file system of a pod is read-only.
	if home := os.Getenv("HOME"); home == "" || unix.Access(home, unix.W_OK) != nil {
		home = filepath.Join(os.TempDir(), "home") // not of a random name, which might get into an image
		if err := os.MkdirAll(home, 0o755); err != nil {
			return nil, err
		}
		set["HOME"] = home
	}
	environ := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		_, replaced := set[name]
		return replaced
	})
	for name, value := range set {
		environ = append(environ, name+"="+value)
	}
	return environ, nil
}
