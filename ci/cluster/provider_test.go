package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
)

// recorder writes down the calls of a provider.
type recorder struct {
	asked []string
	err   error
}

func (r *recorder) ask(what ...string) error {
	r.asked = append(r.asked, strings.Join(what, " "))
	return r.err
}

func (r *recorder) Up(context.Context) error   { return r.ask("Up") }
func (r *recorder) Down(context.Context) error { return r.ask("Down") }
func (r *recorder) Exec(_ context.Context, args ...string) error {
	return r.ask(append([]string{"Exec"}, args...)...)
}
func (r *recorder) Act(_ context.Context, part, action string) error {
	return r.ask("Act", part, action)
}
func (r *recorder) Logs(_ context.Context, dir string) error {
	return r.ask("Logs", filepath.Base(dir))
}
func (r *recorder) Extend(_, _ *cobra.Command) {}

func TestCommandsAskTheProvider(t *testing.T) {
	failure := errors.New("no space left on device")
	tests := []struct {
		name, line string
		inside     bool
		err        error
		asked      []string
		fault      string
	}{
		{name: "up", line: "up", asked: []string{"Up"}},
		{name: "up fails", line: "up", err: failure, asked: []string{"Up"}, fault: failure.Error()},
		{name: "up, inside", line: "up", inside: true, fault: "inside a cluster already"},
		{name: "down", line: "down", asked: []string{"Down"}},
		{name: "down, inside", line: "down", inside: true, fault: "cannot be ended from inside"},
		{name: "a command with flags of its own", line: "exec ls --state x", asked: []string{"Exec ls --state x"}},
		{name: "no command", line: "exec"},
		{name: "kubectl", line: "--state x kubectl get pods -A", asked: []string{"Exec kubectl get pods -A"}},
		{name: "restart", line: "restart openchoreo-api", asked: []string{"Act openchoreo-api restart"}},
		{name: "stop, inside", line: "stop manager", inside: true, asked: []string{"Act manager stop"}},
		{name: "logs", line: "logs logs", asked: []string{"Logs logs"}},
		{name: "start nothing", line: "start", fault: "accepts 1 arg(s)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(node.StateVariable, "")
			if test.inside {
				t.Setenv(node.StateVariable, "/state")
			}
			provider := &recorder{err: test.err}
			cmd := command(provider, &node.State{Dir: t.TempDir()}, newProgress(io.Discard))
			cmd.SetArgs(strings.Fields(test.line))
			cmd.SetOut(io.Discard)
			err := cmd.ExecuteContext(t.Context())
			if !slices.Equal(provider.asked, test.asked) {
				t.Errorf("it asked for %q, want %q", provider.asked, test.asked)
			}
			if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("error %v, want %q", err, test.fault)
			}
		})
	}
}

func TestChosen(t *testing.T) {
	cache := t.TempDir()
	tests := []struct {
		name, variable, inside string
		state, fault           string
	}{
		{name: "this machine", state: filepath.Join(cache, "stepwright", "cluster", "state")},
		{name: "kind", variable: kind.Name, state: filepath.Join(cache, "stepwright", "cluster", "kind")},
		{name: "kind, inside", variable: kind.Name, inside: "/state", state: "/state"},
		{name: "one that there is not", variable: "minikube", fault: "CLUSTER=minikube: there is only kind"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("XDG_CACHE_HOME", cache)
			t.Setenv(kind.Variable, test.variable)
			t.Setenv(node.StateVariable, test.inside)
			provider, state, err := chosen(newProgress(io.Discard))
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if state.Dir != test.state {
				t.Errorf("its state is in %s, want %s", state.Dir, test.state)
			}
			if _, isKind := provider.(*kindProvider); isKind != (test.variable == kind.Name) {
				t.Errorf("it is a %T", provider)
			}
		})
	}
}
