package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/trace"
)

type checkout struct {
	Common
	GitRepo           string `json:"git-repo"`
	Branch            string `json:"branch"`
	Commit            string `json:"commit"`
	GitSecretDir      string `json:"git-secret-dir"`
	GitSecretTimeout  int    `json:"git-secret-timeout"`
	Submodules        string `json:"submodules"`
	LFS               string `json:"lfs"`
	OwnSubmodules     string `json:"repository-submodules"`
	OwnLFS            string `json:"repository-lfs"`
	GitTimeout        int    `json:"git-timeout"`
	GitSecretRequired bool   `json:"git-secret-required"`
	GitSecretHosts    string `json:"git-secret-hosts"`
	InsecureGitHTTP   bool   `json:"insecure-git-http"`
}

type work = func(context.Context, checkout, Environment) (Results, error)

// run runs a step and returns its exit code, its report, and what it printed.
func run(t *testing.T, ctx context.Context, do work, args ...string) (int, outcome.Report, string, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "deep", "results")
	var stdout, stderr bytes.Buffer
	code := Run(ctx, "checkout-source", append(args, "--results-dir="+dir), nil, Streams{&stdout, &stderr}, do)
	raw, err := os.ReadFile(filepath.Join(dir, "outcome.json"))
	if err != nil {
		t.Fatal(err)
	}
	var report outcome.Report
	if err := json.Unmarshal(raw, &report); err != nil {
		t.Fatal(err)
	}
	if report.ExitCode != code {
		t.Errorf("exit code %d, but outcome.json says %d", code, report.ExitCode)
	}
	for name, want := range report.Results {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("result %s: %q, %v", name, got, err)
		}
	}
	return code, report, stdout.String(), stderr.String()
}

const repo = "--git-repo=https://git.example.com/a.git"

func TestRun(t *testing.T) {
	tests := []struct {
		name    string
		do      work
		args    []string
		reason  outcome.Reason
		code    int
		message string
		results int
	}{
		{
			name: "success", args: []string{repo},
			do: func(context.Context, checkout, Environment) (Results, error) {
				return Results{"git-revision": "1a2b3c4d"}, nil
			},
			reason: outcome.Succeeded, results: 1,
		},
		{
			name: "failure keeps the results there are", args: []string{repo},
			do: func(context.Context, checkout, Environment) (Results, error) {
				return Results{"git-revision": "1a2b3c4d"}, outcome.Errorf(outcome.RevisionNotFound, "no branch x")
			},
			reason: outcome.RevisionNotFound, code: 12, message: "no branch x", results: 1,
		},
		{
			name: "panic", args: []string{repo},
			do:     func(context.Context, checkout, Environment) (Results, error) { panic("oops") },
			reason: outcome.Failed, code: 1, message: "panic: oops",
		},
		{
			name: "wrong parameters start nothing", args: []string{"--submodules=x"},
			do:     func(context.Context, checkout, Environment) (Results, error) { panic("started") },
			reason: outcome.InvalidParameters, code: 2, message: "2 faults:",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, report, stdout, stderr := run(t, t.Context(), test.do, test.args...)
			if code != test.code || report.Reason != test.reason || !strings.HasPrefix(report.Message, test.message) ||
				len(report.Results) != test.results {
				t.Errorf("got %+v", report)
			}
			if test.code != 0 && !strings.Contains(stderr, string(test.reason)+": "+test.message) {
				t.Errorf("the log does not say so: %s", stderr)
			}
			if stdout != "" {
				t.Errorf("stdout is for what the step makes, not %q", stdout)
			}
		})
	}
}

// A step that did its work and cannot say so has failed, and tells why where it still can.
func TestResultsThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	message := filepath.Join(dir, "message")
	for _, file := range []string{"file", "message"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	code := Run(t.Context(), "checkout-source", []string{
		repo, "--results-dir=" + filepath.Join(dir, "file", "results"), "--termination-message-path=" + message,
	}, nil, Streams{&out, &out}, func(context.Context, checkout, Environment) (Results, error) { return nil, nil })
	raw, err := os.ReadFile(message)
	if code != outcome.Failed.ExitCode() || err != nil ||
		!strings.HasPrefix(string(raw), "Failed: the step did its work, and cannot write its results: ") {
		t.Errorf("exit code %d, message %q, %v", code, raw, err)
	}
}

// What a step leaves is there however it ends, and stands neither in the report nor among the outputs of a CI.
func TestLeave(t *testing.T) {
	for name, end := range map[string]func() error{
		"succeeded": func() error { return nil },
		"failed":    func() error { return outcome.Errorf(outcome.BuildFailed, "exit code 1") },
		"panicked":  func() error { panic("oops") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			Run(t.Context(), "checkout-source", []string{repo, "--results-dir=" + dir}, nil, Streams{&out, &out}, func(
				_ context.Context, _ checkout, env Environment,
			) (Results, error) {
				env.Leave("large.json", []byte("{}"))
				env.Leave("large.json", []byte(`{"the last":"one"}`))
				return nil, end()
			})
			if got, err := os.ReadFile(filepath.Join(dir, "large.json")); string(got) != `{"the last":"one"}` {
				t.Errorf("%q, %v", got, err)
			}
			if raw, err := os.ReadFile(filepath.Join(dir, "outcome.json")); err != nil ||
				strings.Contains(string(raw), "the last") {
				t.Errorf("%s, %v", raw, err)
			}
		})
	}
}

func TestRunDecodesParameters(t *testing.T) {
	_, _, _, stderr := run(t, t.Context(), func(_ context.Context, in checkout, env Environment) (Results, error) {
		if in.GitRepo != "https://git.example.com/a.git" || !in.GitSecretRequired || in.GitSecretTimeout != 60 ||
			in.Workspace != "/w" || env.Retry.Attempts != 7 {
			t.Errorf("got %+v, %+v", in, env.Retry)
		}
		return nil, nil
	}, repo, "--workspace=/w", "--log-format=json", "--git-secret-required=true")
	var first map[string]any
	if err := json.Unmarshal([]byte(strings.SplitN(stderr, "\n", 2)[0]), &first); err != nil ||
		first["git-repo"] != "https://git.example.com/a.git" || !strings.HasPrefix(stderr, `{"time"`) {
		t.Errorf("%v: %s", err, stderr)
	}
}

func TestRunKeepsSecretsToItself(t *testing.T) {
	_, report, _, stderr := run(t, t.Context(), func(_ context.Context, _ checkout, env Environment) (Results, error) {
		env.Secrets.Add("canary-7f3a")
		env.Log.Info("Read canary-7f3a", "password", "canary-7f3a")
		fmt.Fprint(env.Stderr, "a tool says can")
		fmt.Fprint(env.Stderr, "ary-7f3a")
		return Results{"git-author": "canary-7f3a"}, fmt.Errorf("login canary-7f3a failed")
	}, repo)
	if all := fmt.Sprint(report) + stderr; strings.Contains(all, "canary") ||
		!strings.Contains(stderr, "a tool says ***") {
		t.Error(all)
	}
}

// A step that succeeds may have something to say, which is then in its report and its pod's termination message.
func TestRunSays(t *testing.T) {
	termination := filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(termination, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	do := func(_ context.Context, _ checkout, env Environment) (Results, error) {
		env.Secrets.Add("canary-7f3a")
		env.Say("another run is newer")
		env.Say("run canary-7f3a is newer and wins")
		return nil, nil
	}
	code, report, _, stderr := run(t, t.Context(), do, repo, "--termination-message-path="+termination)
	const want = "Succeeded: run *** is newer and wins"
	raw, err := os.ReadFile(termination)
	if code != 0 || report.Message != "run *** is newer and wins" || report.Hint != "" || string(raw) != want ||
		err != nil || !strings.Contains(stderr, want) {
		t.Errorf("code %d, %+v, %q, %v: %s", code, report, raw, err, stderr)
	}
	Environment{}.Say("to nobody")

	// Of a failure only the failure is told.
	_, report, _, _ = run(t, t.Context(), func(_ context.Context, _ checkout, env Environment) (Results, error) {
		env.Say("all is well")
		return nil, outcome.Errorf(outcome.RevisionNotFound, "no branch x")
	}, repo)
	if report.Message != "no branch x" {
		t.Errorf("%+v", report)
	}
}

func TestRunSaysCancelled(t *testing.T) {
	tests := []struct {
		name   string
		reason outcome.Reason
		do     work
	}{
		{"a step that obeys", outcome.Cancelled, func(ctx context.Context, _ checkout, _ Environment) (Results, error) {
			<-ctx.Done()
			return Results{"git-commit": "abc"}, errors.New("connection torn down")
		}},
		{"a step that ends well all the same", outcome.Succeeded,
			func(ctx context.Context, _ checkout, _ Environment) (Results, error) {
				<-ctx.Done()
				return Results{"git-commit": "abc"}, nil
			}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(10*time.Millisecond, func() {
				cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
			})
			code, report, _, _ := run(t, ctx, test.do, repo)
			if report.Reason != test.reason || len(report.Results) != 1 {
				t.Errorf("code %d, %+v", code, report)
			}
		})
	}
}

// A step that only tidies may take longer to end than one that works.
func TestTidying(t *testing.T) {
	t.Parallel()
	for _, tidies := range []bool{true, false} {
		t.Run(fmt.Sprint(tidies), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			var ended atomic.Bool
			_, report, _, _ := run(t, ctx, func(ctx context.Context, _ checkout, env Environment) (Results, error) {
				if tidies {
					env.Tidy()
				}
				cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
				<-time.After(grace + time.Second)
				ended.Store(true)
				return nil, errors.New("torn down")
			}, repo)
			if report.Reason != outcome.Cancelled || ended.Load() != tidies {
				t.Errorf("%+v, and the step ended: %t", report, ended.Load())
			}
		})
	}
}

// A real process, a real SIGTERM, and work that does not listen: results are there before Kubernetes would kill.
func TestSIGTERM(t *testing.T) {
	if dir := os.Getenv("STEP_TEST_RESULTS"); dir != "" {
		os.Args = []string{"step", repo, "--results-dir=" + dir}
		os.Exit(Main("checkout-source", func(context.Context, checkout, Environment) (Results, error) {
			fmt.Println("working")
			select {}
		}))
	}
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSIGTERM$")
	cmd.Env = append(os.Environ(), "STEP_TEST_RESULTS="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	cmd.Process.Signal(syscall.SIGTERM)
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != outcome.Cancelled.ExitCode() || time.Since(started) > 20*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
	raw, err := os.ReadFile(filepath.Join(dir, "outcome.json"))
	if err != nil || !strings.Contains(string(raw), `"reason": "Cancelled"`) ||
		!strings.Contains(string(raw), "stopped by terminated") {
		t.Errorf("%v: %s", err, raw)
	}
}

// A step sends its span after all else, with no secret in it. A collector that is down costs one warning.
func TestTrace(t *testing.T) {
	var bodies [][]byte
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, body)
	}))
	down := collector.URL
	do := func(ctx context.Context, _ checkout, env Environment) (Results, error) {
		env.Secrets.Add("hunter22")
		env.Retry.Base = time.Millisecond
		first := true
		err := env.Retry.Do(ctx, func(context.Context) error {
			if first {
				first = false
				return outcome.Errorf(outcome.RegistryUnavailable, "down")
			}
			return nil
		})
		trace.FromContext(ctx).Add(trace.Span{Name: "inside with hunter22"})
		if err == nil {
			err = outcome.Errorf(outcome.RevisionNotFound, "no hunter22")
		}
		return Results{"git-commit": "1a2b3c4d"}, err
	}
	step := func() (int, string) {
		var stderr bytes.Buffer
		code := Run(t.Context(), "checkout-source", []string{repo, "--results-dir=" + t.TempDir()}, []string{
			"OTEL_EXPORTER_OTLP_ENDPOINT=" + down, "OTEL_EXPORTER_OTLP_HEADERS=token=swordfish9",
			"STEPWRIGHT_RUN_UID=5c1a6bd7-0b3c-4f0e-9a53-0d9f6f2a7c11",
		}, Streams{io.Discard, &stderr}, do)
		return code, stderr.String()
	}
	if code, log := step(); code != outcome.RevisionNotFound.ExitCode() || strings.Contains(log, "trace") {
		t.Errorf("code %d, %s", code, log)
	}
	collector.Close()
	if len(bodies) != 1 {
		t.Fatalf("there were %d requests", len(bodies))
	}
	for text, want := range map[string]bool{
		"hunter22": false, "swordfish9": false, "inside with ": true, "1a2b3c4d": true, "WorkflowRun": true,
		"RevisionNotFound: no ": true, "stepwright.retries\x12\x02\x18\x01": true,
	} {
		if bytes.Contains(bodies[0], []byte(text)) != want {
			t.Errorf("%q: want %v in %q", text, want, bodies[0])
		}
	}
	code, log := step()
	if code != outcome.RevisionNotFound.ExitCode() || strings.Count(log, "The trace of this step was not sent") != 1 ||
		strings.Contains(log, "swordfish9") {
		t.Errorf("code %d, %s", code, log)
	}
	down = "collector:4317"
	if code, log := step(); code != outcome.RevisionNotFound.ExitCode() ||
		strings.Count(log, "There is no trace of this step") != 1 {
		t.Errorf("code %d, %s", code, log)
	}
}
