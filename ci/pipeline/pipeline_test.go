package pipeline

import (
	"context"
	"errors"
	"fmt"
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
		os.WriteFile(dir+"/outcome.json", fmt.Appendf(nil, `{"reason":"R%d","message":"m","exitCode":%d,"results":{%s}}`, code, code, results), 0o644)
		os.Exit(code)
	}
	switch os.Getenv("STEP_TEST") {
	case "":
		os.Exit(m.Run())
	case "revision":
		fmt.Println("checking out")
		fmt.Fprintln(os.Stderr, "half a")
		report(0, `"git-revision":"1a2b3c4d"`)
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

func step(name, what string, parameters func(Results) map[string]string) Step {
	return Step{Name: name, Program: os.Args[0], Parameters: func(done Results) map[string]string {
		all := map[string]string{"step-test": what}
		if parameters != nil {
			for k, v := range parameters(done) {
				all[k] = v
			}
		}
		return all
	}}
}

func TestRun(t *testing.T) {
	t.Setenv("BRANCH", "of the developer's shell")
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com")
	see := &recorder{}
	results, err := Run(t.Context(), t.TempDir(), []Step{
		step("checkout-source", "revision", nil),
		step("publish-image", "environment", func(done Results) map[string]string {
			return map[string]string{"git-revision": done["git-revision"], "app-path": "a b\n$(id)"}
		}),
	}, see)
	if err != nil || results["git-revision"] != "1a2b3c4d" {
		t.Fatal(results, err)
	}
	for _, want := range []string{"start checkout-source", "checkout-source: checking out", "checkout-source: half a", "end checkout-source R0 0", "publish-image: GIT_REVISION=1a2b3c4d", "publish-image: APP_PATH=a b", "publish-image: $(id)", "publish-image: HTTPS_PROXY=http://proxy.example.com", "end publish-image R0 0"} {
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
			_, err := Run(t.Context(), t.TempDir(), []Step{step("build", test.what, nil), step("publish", "revision", nil)}, see)
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
	_, err := Run(ctx, t.TempDir(), []Step{step("build", "wait", nil)}, &recorder{line: func(string) { cancel() }})
	if failed, ok := errors.AsType[*FailedError](err); !ok || failed.Reason != "R130" || time.Since(started) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
}

func TestRunWithoutTheProgram(t *testing.T) {
	s := step("build", "fail", nil)
	s.Program = "/nowhere/containerfile-build"
	if _, err := Run(t.Context(), t.TempDir(), []Step{s}, &recorder{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
