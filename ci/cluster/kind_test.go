package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
)

// standIn makes a program that has an engine's commands and runs here what is to run in a container, in a session of
// its own: the end of an engine's client is not the end of the command.
func standIn(t *testing.T) {
	t.Helper()
	bin := t.TempDir()
	script := `#!/bin/sh
# exec [--interactive] [--workdir <folder>] <container> <command…>
shift
while :; do
	case $1 in
	--interactive) shift ;;
	--workdir) shift 2 ;;
	*) break ;;
	esac
done
shift
exec setsid --wait "$@"
`
	if err := os.WriteFile(filepath.Join(bin, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}

// running makes a provider of a cluster that is up in the stand-in for an engine.
func running(t *testing.T) *kindProvider {
	t.Helper()
	standIn(t)
	t.Setenv(node.StateVariable, "")
	k := &kindProvider{
		state: &node.State{Dir: t.TempDir()}, say: func(string, ...any) {}, how: how{Engine: "docker"},
	}
	if err := k.write(); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestInterruptedCommand ends a command inside when its client is told to end: an engine does not tell it.
func TestInterruptedCommand(t *testing.T) {
	k := running(t)
	dir := t.TempDir()
	const script = `trap 'touch "$2"; exit 7' TERM; touch "$1"; while :; do sleep 0.1; done`
	begun, told := filepath.Join(dir, "begun"), filepath.Join(dir, "told")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- k.Exec(ctx, "sh", "-c", script, "sh", begun, told)
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(begun); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command did not begin")
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the command goes on")
	}
	if _, err := os.Stat(told); err != nil {
		t.Errorf("the command was not told to end: %v", err)
	}
}

func TestRecall(t *testing.T) {
	k := running(t)
	again := &kindProvider{state: k.state}
	if there, err := again.recall(); !there || err != nil || again.how != k.how {
		t.Errorf("%+v, %v, error %v", again.how, there, err)
	}
	// Down needs no engine where there has never been a cluster, and none is installed.
	t.Setenv("PATH", t.TempDir())
	nobody := &kindProvider{state: &node.State{Dir: filepath.Join(t.TempDir(), "kind")}}
	if err := nobody.Down(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOffline(t *testing.T) {
	for value, want := range map[string]bool{"true": true, "false": false, "1": true} {
		t.Setenv(offlineVariable, value)
		if got, err := offline(t.Context()); got != want || err != nil {
			t.Errorf("%s: %v, error %v", value, got, err)
		}
	}
	t.Setenv(offlineVariable, "perhaps")
	if _, err := offline(t.Context()); err == nil || !strings.Contains(err.Error(), "it is true or false") {
		t.Errorf("error %v", err)
	}
}

// TestPlaced runs the cluster's own engine in its namespaces, and Go on the machine.
func TestPlaced(t *testing.T) {
	t.Setenv(node.StateVariable, "")
	k := &kindProvider{state: &node.State{Dir: "/state"}, how: how{Engine: "podman", Made: true, Private: true}}
	for want, command := range map[string]kind.Command{
		"/state/bin/cluster --state /state within podman ps": {Args: []string{"podman", "ps"}},
		"go build": {Args: []string{"go", "build"}, Here: true},
	} {
		if got := strings.Join(k.placed(command).Args, " "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	k.how.Private = false
	if got := k.placed(kind.Command{Args: []string{"podman", "ps"}}).Args; len(got) != 2 {
		t.Errorf("%q", got)
	}
	if _, err := goFor(t.Context(), func(context.Context, kind.Command) ([]byte, error) {
		return nil, errors.New("no Go")
	}); err == nil {
		t.Error("no error")
	}
}
