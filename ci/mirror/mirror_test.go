package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// execute runs the command, with a folder of its own.
func execute(ctx context.Context, t *testing.T, args ...string) error {
	t.Helper()
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd := command(said)
	cmd.SetArgs(append([]string{"--dir", t.TempDir()}, args...))
	return cmd.ExecuteContext(ctx)
}

// within waits until a file is there, and returns what it holds.
func within(t *testing.T, limit time.Duration, path string) string {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if raw, err := os.ReadFile(path); err == nil && len(raw) > 0 {
			return strings.TrimSpace(string(raw))
		}
	}
	t.Fatalf("%s is not there after %s", path, limit)
	return ""
}

// A command has the mirror while it runs, gets its flags in place of {}, and says how all ends.
func TestCommandHasTheMirror(t *testing.T) {
	given := filepath.Join(t.TempDir(), "given")
	err := execute(t.Context(), t, "--", "sh", "-c", `for arg; do echo "$arg"; done >"$0"; exit 7`, given,
		"first", "{}", "last")
	if ended, ok := errors.AsType[*endedError](err); !ok || ended.code != 7 {
		t.Errorf("got %v", err)
	}
	raw, err := os.ReadFile(given)
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(string(raw))
	if len(args) < 4 || args[0] != "first" || args[1] != "--registry-mirror" || args[len(args)-1] != "last" ||
		slices.Contains(args, placeholder) {
		t.Errorf("the command got %q", args)
	}
}

func TestServesUntilItIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	file := filepath.Join(t.TempDir(), "address")
	ended := make(chan error, 1)
	go func() {
		ended <- execute(ctx, t, "--address-file", file)
	}()
	address := within(t, 30*time.Second, file)
	response, err := http.Get("http://" + address + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("%s answers %s", address, response.Status)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	if _, err := http.Get("http://" + address + "/v2/"); err == nil {
		t.Error("it serves after its end")
	}
}

// An interrupt ends the command first, whose exit code counts.
func TestInterruptIsTheCommands(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	file := filepath.Join(t.TempDir(), "started")
	ended := make(chan error, 1)
	go func() {
		const script = `trap 'exit 9' INT; echo yes >"$0"; while :; do sleep 0.05; done`
		ended <- execute(ctx, t, "--", "sh", "-c", script, file)
	}()
	within(t, 30*time.Second, file)
	cancel()
	select {
	case err := <-ended:
		if ended, ok := errors.AsType[*endedError](err); !ok || ended.code != 9 {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
}

func TestNeeded(t *testing.T) {
	faulty := filepath.Join(t.TempDir(), "run.yaml")
	text := "apiVersion: openchoreo.dev/v1alpha1\nkind: WorkflowRun\n"
	if err := os.WriteFile(faulty, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, run string
		want      []string
	}{
		{"a Dockerfile", "../../examples/greeting-service", []string{"base-images"}},
		{"Google Cloud's builder", "../../examples/reading-list-service", []string{"gcp"}},
		{"Paketo's builder", "../../examples/link-shortener", []string{"paketo"}},
		{"Ballerina's builder", "../../examples/patient-management-service", []string{"ballerina"}},
		{"a faulty run", faulty, nil},
		{"no such file", "none", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options{forRun: []string{test.run}}
			if got := o.needed(); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"another builder", []string{"heroku", "--", "true"}, `no builder "heroku" has a stand-in; there is gcp, `},
		{"nothing to run", []string{"--if-unreachable"}, "needs a command"},
		{"no such program", []string{"--", "no-such-program"}, "no-such-program"},
		{"an address of others", []string{"--listen", "192.0.2.1:1"}, "192.0.2.1:1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := execute(t.Context(), t, test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want …%s…", err, test.want)
			}
		})
	}
}
