package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/replay"
)

// The test binary is the steps' program: STEP_TEST, a parameter, chooses its behaviour.
func TestMain(m *testing.M) {
	dir := os.Getenv("RESULTS_DIR")
	report := func(failure *outcome.Error) {
		r := outcome.NewReport("test", time.Now(), failure, nil, strings.Clone)
		if err := r.Write(dir, os.Getenv("TERMINATION")); err != nil {
			panic(err)
		}
		os.Exit(r.ExitCode)
	}
	switch os.Getenv("STEP_TEST") {
	case "":
		os.Exit(m.Run())
	case "revision":
		fmt.Println("checking out")
		fmt.Fprintln(os.Stderr, "half a")
		os.WriteFile(dir+"/git-revision", []byte("1a2b3c4d\n"), 0o644)
		report(nil)
	case "environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		report(nil)
	case "fail":
		report(failure)
	case "fail with a result":
		os.WriteFile(dir+"/git-revision", []byte("5e6f7a8b"), 0o644)
		report(failure)
	case "killed":
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {}
	case "killed at work":
		if err := outcome.Started("test", time.Now()).Write(dir, ""); err != nil {
			panic(err)
		}
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {}
	case "crashed":
		if err := outcome.Started("test", time.Now()).Write(dir, ""); err != nil {
			panic(err)
		}
		os.Exit(2)
	case "pipe":
		os.MkdirAll(dir, 0o755)
		syscall.Mkfifo(dir+"/outcome.json", 0o644)
		os.Exit(3)
	case "hostile":
		fmt.Print("\x1b[31mred\x1b[m\ta\x1b[2J\r\n::error::x\rgood\u202e\n" + strings.Repeat("x", 3*quote.LineLimit))
		report(nil)
	case "unknown reason":
		os.MkdirAll(dir, 0o755)
		os.WriteFile(dir+"/outcome.json", []byte(`{"reason":"Fialed","exitCode":3}`), 0o644)
		os.Exit(3)
	case "liar":
		os.MkdirAll(dir, 0o755)
		os.WriteFile(dir+"/outcome.json", []byte(`{"reason":"Succeeded","exitCode":0}`), 0o644)
		os.Exit(3)
	case "exit": // without an outcome that anybody looks at
		code, err := strconv.Atoi(os.Getenv("CODE"))
		if err != nil {
			panic(err)
		}
		fmt.Println("building", code)
		os.Exit(code)
	case "again":
		fmt.Println(replay.Mark(replay.Build, "building 0"))
		fmt.Println("sealing")
		report(nil)
	case "wait":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		fmt.Println("waiting")
		<-told
		report(outcome.Errorf(outcome.Cancelled, "told to end"))
	}
}

// failure is how the step "fail" ends: longer than Kubernetes keeps, with a hint of its own and a byte that is no text.
var failure = outcome.Errorf(outcome.RevisionNotFound, "line\n%s\xff.", strings.Repeat("é ", 3000)).WithHint("Look.")

type recorder struct {
	mu     sync.Mutex
	events []string
	line   func(string)
	ended  outcome.Report
}

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}
func (r *recorder) Started(step string) { r.add("start %s", step) }
func (r *recorder) Line(step, text string) {
	r.add("%s: %s", step, text)
	if r.line != nil {
		r.line(text)
	}
}
func (r *recorder) Ended(step string, how outcome.Report, _ time.Duration) {
	r.add("end %s %s %d", step, how.Reason, how.ExitCode)
	r.ended = how
}

func step(t *testing.T, name, what string, env func(Outputs) map[string]string) Step {
	results := t.TempDir()
	return Step{Name: name, Process: func(done Outputs) (*Process, error) {
		none := "none"
		p := &Process{
			Program: os.Args[0],
			Results: results,
			Env:     map[string]string{"STEP_TEST": what, "RESULTS_DIR": results},
			Outputs: map[string]Output{
				"git-revision": {Path: results + "/git-revision", Default: &none},
			},
		}
		if env != nil {
			maps.Copy(p.Env, env(done))
		}
		return p, nil
	}}
}

// As in a cluster, what a step has left counts also where it has failed.
func TestOutputsOfAFailedStep(t *testing.T) {
	outputs, err := Run(t.Context(), []Step{
		step(t, "checkout-source", "revision", nil), step(t, "build", "fail with a result", nil),
		step(t, "publish-image", "revision", nil),
	}, Observers{})
	if err == nil || len(outputs) != 2 || outputs["build"]["git-revision"] != "5e6f7a8b" {
		t.Error(outputs, err)
	}
}

func TestRun(t *testing.T) {
	t.Setenv("BRANCH", "of the developer's shell")
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com")
	see := &recorder{}
	outputs, err := Run(t.Context(), []Step{
		step(t, "checkout-source", "revision", nil),
		step(t, "publish-image", "environment", func(done Outputs) map[string]string {
			return map[string]string{"GIT_REVISION": done["checkout-source"]["git-revision"], "APP_PATH": "a b\n$(id)",
				"HOME": "/of/the/container"}
		}),
	}, Observers{see})
	if err != nil || outputs["checkout-source"]["git-revision"] != "1a2b3c4d" ||
		outputs["publish-image"]["git-revision"] != "none" {
		t.Fatal(outputs, err)
	}
	for _, want := range []string{
		"start checkout-source", "checkout-source: checking out", "checkout-source: half a",
		"end checkout-source Succeeded 0",
		"publish-image: GIT_REVISION=1a2b3c4d", "publish-image: APP_PATH=a b",
		"publish-image: $(id)",
		"publish-image: HTTPS_PROXY=http://proxy.example.com",
		"publish-image: HOME=/of/the/container",
		"end publish-image Succeeded 0",
	} {
		if !slices.Contains(see.events, want) {
			t.Errorf("%q did not happen:\n%s", want, strings.Join(see.events, "\n"))
		}
	}
	if slices.ContainsFunc(see.events, func(e string) bool { return strings.Contains(e, "BRANCH=") }) {
		t.Error("a variable of the developer's shell became a parameter")
	}
}

func TestRunStopsAtTheFirstFailure(t *testing.T) {
	tests := []struct {
		name, what string
		reason     outcome.Reason
		message    string
	}{
		{"a step that fails", "fail", outcome.RevisionNotFound, "build: line\n"},
		{"a step that is killed", "killed", outcome.Failed,
			"build: the process ended without an outcome: signal: killed"},
		{"a step that is killed at work", "killed at work", outcome.Killed,
			"build: the step was killed before it could say how it ended, most likely for want of memory"},
		{"a step that crashes", "crashed", outcome.Failed,
			"build: the process ended without an outcome: exit status 2"},
		{"a step that leaves a pipe", "pipe", outcome.Failed,
			"build: the process left no valid outcome: exit status 3: "},
		{
			"a step whose word does not match its exit code", "liar", outcome.Failed,
			"build: the process ended without an outcome: exit status 3",
		},
		{
			"a step whose reason is not in the list", "unknown reason", outcome.Failed,
			`build: the process left no valid outcome: exit status 3: outcome.json: there is no reason "Fialed"`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			see := &recorder{}
			_, err := Run(t.Context(), []Step{
				step(t, "build", test.what, nil), step(t, "publish", "revision", nil),
			}, see)
			if failed := outcome.Of(err); failed.Reason != test.reason ||
				!strings.HasPrefix(failed.Message, test.message) {
				t.Errorf("got %s: %v", failed.Reason, err)
			}
			if slices.Contains(see.events, "start publish") {
				t.Error("the next step was started")
			}
		})
	}
}

// What a step prints is quoted and divided into lines of bounded length.
func TestRunQuotes(t *testing.T) {
	see := &recorder{}
	if _, err := Run(t.Context(), []Step{step(t, "build", "hostile", nil)}, see); err != nil {
		t.Fatal(err)
	}
	piece := "build: " + strings.Repeat("x", quote.LineLimit)
	want := []string{
		"start build", "build: red\ta\\x1b[2J", "build: \\x3a:error::x\\rgood\\u202e", piece, piece, piece,
		"end build Succeeded 0",
	}
	if !slices.Equal(see.events, want) {
		t.Errorf("got %.200q", see.events)
	}
}

// The task of a run on this machine says what the step's container would have left for Kubernetes.
func TestTerminationMessage(t *testing.T) {
	termination := filepath.Join(t.TempDir(), "termination")
	if err := os.WriteFile(termination, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	see := &recorder{}
	failing := step(t, "build", "fail", func(Outputs) map[string]string {
		return map[string]string{"TERMINATION": termination}
	})
	if _, err := Run(t.Context(), []Step{failing}, see); err == nil {
		t.Fatal("no error")
	}
	want, err := os.ReadFile(termination)
	if err != nil {
		t.Fatal(err)
	}
	if got := see.ended.TerminationMessage(); got != string(want) || len(got) < 4000 || len(got) > 4096 ||
		!strings.HasSuffix(got, "\nLook.") {
		t.Errorf("the task says\n%q\nthe step\n%q", got, want)
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := time.Now()
	_, err := Run(ctx, []Step{step(t, "build", "wait", nil)}, &recorder{line: func(string) { cancel() }})
	if outcome.Of(err).Reason != outcome.Cancelled || time.Since(started) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
}

func TestRunPastTheDeadline(t *testing.T) {
	slow := step(t, "build", "wait", nil)
	_, err := Run(t.Context(), []Step{{Name: slow.Name, Process: func(done Outputs) (*Process, error) {
		p, err := slow.Process(done)
		p.Deadline = 100 * time.Millisecond
		return p, err
	}}}, &recorder{})
	if failed := outcome.Of(err); failed.Reason != outcome.Timeout || failed.Hint == "" {
		t.Errorf("got %#v", err)
	}
}

// Of a process in front that may run strangers' code only the exit code counts, and what the main one prints once more
// is left out.
func TestRunWithABuildInFront(t *testing.T) {
	for code, want := range map[int]outcome.Reason{
		0: outcome.Succeeded, 1: outcome.Failed, 99: outcome.Failed,
		outcome.Unauthorized.ExitCode():      outcome.Failed,
		outcome.InvalidParameters.ExitCode(): outcome.InvalidParameters,
		outcome.Cancelled.ExitCode():         outcome.Cancelled,
	} {
		main := step(t, "build", "again", nil)
		see := &recorder{}
		_, err := Run(t.Context(), []Step{{Name: main.Name, Process: func(done Outputs) (*Process, error) {
			p, err := main.Process(done)
			p.Before = []*Process{{
				Program: os.Args[0], Env: map[string]string{"STEP_TEST": "exit", "CODE": strconv.Itoa(code)},
			}}
			return p, err
		}}}, see)
		if failure := outcome.Of(err); failure == nil && code != 0 || failure != nil && failure.Reason != want {
			t.Errorf("exit code %d: %v, want %s", code, err, want)
		}
		if said := strings.Join(see.events, "\n"); strings.Count(said, "building") != 1 ||
			code == 0 != strings.Contains(said, "sealing") {
			t.Errorf("exit code %d: it says\n%s", code, said)
		}
	}
}

func TestRunWithoutAnOutput(t *testing.T) {
	s := step(t, "build", "revision", nil)
	_, err := Run(t.Context(), []Step{{Name: s.Name, Process: func(done Outputs) (*Process, error) {
		p, err := s.Process(done)
		p.Outputs["image"] = Output{Path: p.Results + "/image"}
		return p, err
	}}}, &recorder{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "build: output image: ") {
		t.Errorf("got %v", err)
	}
}

func TestRunWithoutTheProgram(t *testing.T) {
	s := Step{Name: "build",
		Process: func(Outputs) (*Process, error) { return &Process{Program: "/nowhere/containerfile-build"}, nil }}
	if _, err := Run(t.Context(), []Step{s}, &recorder{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
