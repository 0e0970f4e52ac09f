package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestInventory makes what a cluster makes, and looks for it in the list.
func TestInventory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it reads what Linux has")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	before, err := Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, ".kube"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".kube", "config"), []byte("apiVersion: v1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"file " + filepath.Join(home, ".kube", "config") + " 15"}
	if os.Geteuid() == 0 {
		group := "/sys/fs/cgroup/" + filepath.Base(home) + "-inventory"
		if hierarchies, _ := filepath.Glob("/sys/fs/cgroup/pids"); len(hierarchies) > 0 {
			group = "/sys/fs/cgroup/pids/" + filepath.Base(group)
		}
		if err := os.Mkdir(group, 0o755); err == nil {
			t.Cleanup(func() { os.Remove(group) })
			want = append(want, "cgroup "+group)
		}
		if program, err := exec.LookPath("unshare"); err == nil {
			apart := exec.Command(program, "--uts", "sleep", "63.5")
			if err := apart.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				apart.Process.Kill()
				apart.Wait()
			})
			want = append(want, "process sleep 63.5")
		}
	}
	var missing []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		after, err := Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if missing = missing[:0]; !slices.IsSorted(after) {
			t.Fatal("the list is not sorted")
		}
		for _, line := range want {
			if !slices.Contains(after, line) || slices.Contains(before, line) {
				missing = append(missing, line)
			}
		}
		if len(missing) == 0 {
			break
		}
	}
	if len(missing) > 0 {
		t.Errorf("not in the list, or before it was there: %s", strings.Join(missing, ", "))
	}
	for _, kind := range []string{
		"mount / ", "setting /proc/sys/vm/overcommit_memory ", "link /sys/class/net/lo",
		"setting /proc/sys/net/ipv4/conf/all/forwarding ",
	} {
		if !slices.ContainsFunc(before, func(line string) bool { return strings.HasPrefix(line, kind) }) {
			t.Errorf("no line begins with %q", kind)
		}
	}
}
