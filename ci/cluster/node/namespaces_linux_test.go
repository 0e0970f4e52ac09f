package node

import (
	"os"
	"strings"
	"testing"
)

// A process number that the kernel has given to another process is not the cluster's.
func TestRunning(t *testing.T) {
	state := State{t.TempDir()}
	if pid, err := state.Running(); pid != 0 || err != nil {
		t.Error(pid, err)
	}
	if err := state.writePID(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if pid, err := state.Running(); pid != os.Getpid() || err != nil {
		t.Error(pid, err)
	}
	content, err := os.ReadFile(state.Path("init.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state.Path("init.pid"), []byte(strings.TrimSpace(string(content))+
		"1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if pid, err := state.Running(); pid != 0 || err != nil {
		t.Error(pid, err)
	}
	// Nothing runs here: down removes the folder and may be repeated.
	for range 2 {
		if err := state.Down(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(state.Dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}
