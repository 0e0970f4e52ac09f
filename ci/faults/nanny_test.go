package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A nanny is this executable once more: it makes what a step's container would be, runs the step in it, and tells how
// the step ended and which of its processes outlived it. Those are its own children then, as it is their reaper.
type nanny struct {
	Mounts  []mount
	Root    string // folder that is the step's root; empty: the machine's
	Memory  string // cgroup of the step; empty: the one that it is started in
	User    int    // of the step; 0: root
	Program string
	Args    []string
	Env     []string
}

// mount is a folder or a file of this machine in the step's file system.
type mount struct {
	From, To string
	ReadOnly bool
}

// word is what a nanny says.
type word struct {
	PID    int      // of the step, once it has started
	Ended  bool     // the rest is known
	Code   int      // its exit code
	Signal int      // that ended it; 0: none did
	Left   []string // command lines of processes that outlived it
	Error  string
}

const nannyVariable = "STEPWRIGHT_FAULTS_NANNY"

// lastWords is how long processes may outlive a step that was killed: the kernel tells them one after another.
const lastWords = 3 * time.Second

// runIfNanny ends this process when it was started as a nanny.
func runIfNanny() {
	raw, ok := os.LookupEnv(nannyVariable)
	if !ok {
		return
	}
	say := json.NewEncoder(os.NewFile(3, "words"))
	var n nanny
	err := json.Unmarshal([]byte(raw), &n)
	if err == nil {
		err = n.run(func(w word) { say.Encode(w) })
	}
	if err != nil {
		say.Encode(word{Ended: true, Error: err.Error()})
		os.Exit(1)
	}
	os.Exit(0)
}

func (n nanny) run(say func(word)) error {
	for _, m := range n.Mounts {
		if err := m.make(); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.From, m.To, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	cmd := exec.Command(n.Program, n.Args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = n.Env, "/", os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: n.Root}
	if n.User != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(n.User), Gid: uint32(n.User)}
	}
	start := cmd.Start
	if n.Memory != "" {
		start = func() error { return within(n.Memory, cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	say(word{PID: cmd.Process.Pid})
	if err := cmd.Wait(); err != nil {
		if _, ended := errors.AsType[*exec.ExitError](err); !ended {
			return err
		}
	}
	w := word{Ended: true, Code: cmd.ProcessState.ExitCode(), Left: outlived()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		w.Signal = int(status.Signal())
	}
	say(w)
	return nil
}

func (m mount) make() error {
	if m.From == "proc" {
		return unix.Mount("proc", m.To, "proc", 0, "")
	}
	if err := unix.Mount(m.From, m.To, "", unix.MS_BIND|unix.MS_REC, ""); err != nil || !m.ReadOnly {
		return err
	}
	return unix.Mount("", m.To, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// within starts a process in a cgroup, without staying there.
func within(cgroup string, start func() error) error {
	join := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err := join(cgroup); err != nil {
		return err
	}
	return errors.Join(start(), join(filepath.Dir(cgroup)))
}

// outlived waits for children that the step has left, and ends those that do not end.
func outlived() (left []string) {
	for deadline := time.Now().Add(lastWords); ; {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return nil
		case pid > 0:
			continue
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	// Killing one makes its children ours.
	for {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		for _, child := range strings.Fields(string(raw)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			left = append(left, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
			pid, _ := strconv.Atoi(child)
			unix.Kill(pid, unix.SIGKILL)
			unix.Wait4(pid, nil, 0, nil)
		}
		if len(strings.Fields(string(raw))) == 0 {
			return left
		}
	}
}

// attempt is a step that runs.
type attempt struct {
	cmd   *exec.Cmd
	pid   int
	words *json.Decoder
	out   *output
}

// start starts a step by a nanny.
func (n nanny) start(ctx context.Context, t *testing.T) *attempt {
	t.Helper()
	raw, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	defer write.Close()
	a := &attempt{cmd: exec.CommandContext(ctx, "/proc/self/exe"), words: json.NewDecoder(read), out: &output{}}
	a.cmd.Env = []string{nannyVariable + "=" + string(raw), "PATH=" + os.Getenv("PATH")}
	a.cmd.Stdout, a.cmd.Stderr, a.cmd.ExtraFiles = a.out, a.out, []*os.File{write}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	a.cmd.WaitDelay = time.Second
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	var first word
	if err := a.words.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if a.pid = first.PID; a.pid == 0 {
		a.cmd.Wait()
		t.Fatalf("the step does not start: %s %s", first.Error, a.out)
	}
	return a
}

// wait waits for the step's end.
func (a *attempt) wait(t *testing.T) word {
	t.Helper()
	var last word
	err := a.words.Decode(&last)
	a.cmd.Wait()
	if err != nil || last.Error != "" {
		t.Fatalf("how the step ended is not known: %v %s\n%s", err, last.Error, a.out)
	}
	return last
}

// kill sends the step a signal; one that has ended hears nothing.
func (a *attempt) kill(signal syscall.Signal) { syscall.Kill(a.pid, signal) }
