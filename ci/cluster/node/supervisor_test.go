package node

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestSupervisor(t *testing.T) {
	state := State{t.TempDir()}
	if err := os.Mkdir(state.Path("log"), 0o755); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var said []string
	s := &Supervisor{State: state, Say: func(format string, _ ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, format)
	}}
	if err := s.Serve(); err != nil {
		t.Fatal(err)
	}
	started := state.Path("started")
	ready := func(context.Context) error { _, err := os.Stat(started); return err }
	server := Process{
		Name:  "server",
		Args:  []string{"sh", "-c", "sleep 0.1; echo started >> " + started + "; exec sleep 60"},
		Ready: ready,
	}
	if err := s.Start(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	pid := func() int {
		t.Helper()
		all, err := state.Processes(t.Context())
		if err != nil || len(all) == 0 {
			t.Fatal(all, err)
		}
		for _, status := range all {
			if status.Name == "server" {
				return status.PID
			}
		}
		return -1
	}
	first := pid()
	if first <= 0 {
		t.Fatal("it does not run")
	}
	act := func(process, action, fault string) {
		t.Helper()
		err := state.Act(t.Context(), process, action)
		if fault == "" && err != nil || fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%s %s: %v", action, process, err)
		}
	}
	act("server", "start", "")
	if pid() != first {
		t.Error("what runs was started again")
	}
	act("server", "restart", "")
	second := pid()
	if second <= 0 || second == first {
		t.Errorf("process %d, then %d", first, second)
	}
	act("server", "stop", "")
	act("server", "stop", "")
	if pid() != 0 {
		t.Error("it runs")
	}
	act("nobody", "stop", "there is no process nobody; there is server")
	act("server", "drop", "start, stop and restart, not drop")
	mu.Lock()
	if len(said) != 0 {
		t.Errorf("what was told to end was told of: %q", said)
	}
	mu.Unlock()

	err := s.Start(t.Context(), Process{
		Name:  "broken",
		Args:  []string{"sh", "-c", "echo no such flag >&2; exit 2"},
		Ready: never,
	})
	if err == nil || !strings.Contains(err.Error(), "broken ended instead of getting ready") ||
		!strings.Contains(err.Error(), "no such flag") {
		t.Error(err)
	}
	err = s.Start(t.Context(), Process{
		Name:  "slow",
		Args:  []string{"sleep", "60"},
		Ready: never,
		Limit: 50 * time.Millisecond,
	})
	if err == nil || !strings.Contains(err.Error(), "slow is not ready in 50ms: nobody is there") {
		t.Error(err)
	}
	act("slow", "stop", "")
}

func never(context.Context) error { return errors.New("nobody is there") }
