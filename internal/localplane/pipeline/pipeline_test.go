package pipeline

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is the steps' program: STEP_TEST, a parameter, says what it does.
func TestMain(m *testing.M) {
	dir := os.Getenv("RESULTS_DIR")
	report := func(code int, results string) {
		os.MkdirAll(dir, 0o755)
		os.WriteFile(
			dir+"/outcome.json",
			fmt.Appendf(nil, `{"reason":"R%d","message":"m","exitCode":%d,"results":{%s}}`, code, code, results),
			0o644,
		)
		os.Exit(code)
	}
	switch os.Getenv("STEP_TEST") {
	case "":
		os.Exit(m.Run())
	case "revision":
		fmt.Println("checking out")
		fmt.Fprintln(os.Stderr, "half a")
		os.WriteFile(dir+"/git-revision", []byte("1a2b3c4d\n"), 0o644)
		report(0, "")
	case "environment":
		fmt.Println(strings.Join(os.Environ(), "\n"))
		report(0, "")
	case "fail":
		report(12, `"partial":"x"`)
	case "killed":
		p, _ := os.FindProcess(os.Getpid())
		p.Kill()
		select {}
	case "liar":
		os.MkdirAll(dir, 0o755)
		os.WriteFile(dir+"/outcome.json", []byte(`{"reason":"Succeeded","exitCode":0}`), 0o644)
		os.Exit(3)
	case "wait":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		fmt.Println("waiting")
		<-told
		report(130, "")
	}
}

type recorder struct {
	mu     sync.Mutex
	events []string
	line   func(string)
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
func (r *recorder) Ended(step string, how Outcome) {
	r.add("end %s %s %d", step, how.Reason, how.ExitCode)
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
		"end checkout-source R0 0",
		"publish-image: GIT_REVISION=1a2b3c4d", "publish-image: APP_PATH=a b",
		"publish-image: $(id)",
		"publish-image: HTTPS_PROXY=http://proxy.example.com",
		"publish-image: HOME=/of/the/container",
		"end publish-image R0 0",
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
		reason     string
		code       int
	}{
		{"a step that fails", "fail", "R12", 12},
		{"a step that is killed", "killed", "Failed", 1},
		{"a step whose word does not match its exit code", "liar", "Failed", 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			see := &recorder{}
			_, err := Run(t.Context(), []Step{
				step(t, "build", test.what, nil), step(t, "publish", "revision", nil),
			}, see)
			failed, ok := errors.AsType[*FailedError](err)
			if !ok || failed.Step != "build" || failed.Reason != test.reason || failed.ExitCode != test.code {
				t.Errorf("got %v", err)
			}
			if slices.Contains(see.events, "start publish") {
				t.Error("the next step was started")
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	started := time.Now()
	_, err := Run(ctx, []Step{step(t, "build", "wait", nil)}, &recorder{line: func(string) { cancel() }})
	if failed, ok := errors.AsType[*FailedError](err); !ok || failed.Reason != "R130" ||
		time.Since(started) > 10*time.Second {
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
	failed, ok := errors.AsType[*FailedError](err)
	if !ok || failed.Reason != "Timeout" || failed.ExitCode != 51 || failed.Hint == "" {
		t.Errorf("got %#v", err)
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
