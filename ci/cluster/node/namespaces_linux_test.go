package node

import (
	"os"
	"path/filepath"
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

// TestSettingsOfTwoClusters: whichever of two clusters ends first, the last one puts the machine's settings back.
func TestSettingsOfTwoClusters(t *testing.T) {
	dir := t.TempDir()
	setting := filepath.Join(dir, "setting")
	write := func(file, content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cluster := func(name string) State {
		t.Helper()
		state := State{filepath.Join(dir, name)}
		if err := os.Mkdir(state.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := state.writeConfig(Config{Sysctls: map[string]string{setting: "the machine's"}}); err != nil {
			t.Fatal(err)
		}
		return state
	}
	one, other := cluster("one"), cluster("other")
	if configs := one.beside(); len(configs) > 0 {
		t.Errorf("nothing runs beside it, but %+v", configs)
	}
	// This process stands in for the other cluster.
	if err := other.writePID(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if configs := one.beside(); len(configs) != 1 || configs[0].Sysctls[setting] != "the machine's" {
		t.Errorf("beside it is %+v", configs)
	}
	for _, want := range []struct {
		down    State
		setting string
	}{{one, "a kubelet's"}, {other, "the machine's"}} {
		write(setting, "a kubelet's")
		if want.down == other {
			write(other.Path("init.pid"), "1 0\n") // it has ended
		}
		if err := want.down.Down(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(setting); err != nil || string(got) != want.setting {
			t.Errorf("after the end of %s it is %q, %v", want.down.Dir, got, err)
		}
	}
}
