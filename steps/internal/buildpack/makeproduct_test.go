package buildpack

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMakeProduct makes the folders in a volume as a kubelet prepares it by fsGroup.
func TestMakeProduct(t *testing.T) {
	volume := t.TempDir()
	if os.Getuid() == 0 {
		if err := os.Chown(volume, -1, 4711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(volume, 0o777|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	defer syscall.Umask(syscall.Umask(0o077))
	for _, round := range []string{"first", "again, after the pod's containers restarted"} {
		if err := MakeProduct(volume); err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		for _, name := range []string{"application", "layers"} {
			info, err := os.Stat(filepath.Join(volume, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != os.ModeDir|0o755 {
				t.Errorf("%s: %s has the mode %s", round, name, info.Mode())
			}
			if group := info.Sys().(*syscall.Stat_t).Gid; int(group) != os.Getgid() {
				t.Errorf("%s: %s belongs to the group %d", round, name, group)
			}
		}
	}
}
