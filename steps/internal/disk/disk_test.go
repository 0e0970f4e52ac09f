package disk_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/steps/internal/disk"
)

// mount mounts a disk of its own with these options.
func mount(t *testing.T, options string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it mounts a disk, for which it must be root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a disk, so it needs root")
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func TestFull(t *testing.T) {
	t.Parallel()
	roomy, full := t.TempDir(), mount(t, "size=1m")
	if d, is := disk.Full("", roomy, full, filepath.Join(full, "absent")); is {
		t.Errorf("an empty disk is said to be full: %+v", d)
	}
	if err := os.WriteFile(filepath.Join(full, "content"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, is := disk.Full("", roomy, full)
	if !is || d.Path != full || d.String() != "0 bytes of 1.0 MiB are left" {
		t.Errorf("got %+v, %t: %s", d, is, d)
	}
	failure := fmt.Errorf("write: %w", &os.PathError{
		Op: "write", Path: filepath.Join(full, "gone", "since"), Err: syscall.ENOSPC,
	})
	if of, ok := disk.OfError(failure); !ok || of.Device != d.Device || of.Path != full {
		t.Errorf("got %+v, %t", of, ok)
	}
	if _, ok := disk.OfError(syscall.ENOSPC); ok {
		t.Error("an error without a path has a disk")
	}
}

// A watch remembers that a disk was full, when there is room again.
func TestWatch(t *testing.T) {
	t.Parallel()
	full := mount(t, "size=16m")
	for name, wrote := range map[string]int{"little": 1 << 20, "nearly all": 15 << 20} {
		scarcest := disk.Watch("", full, filepath.Join(full, "absent"))
		content := filepath.Join(full, "content")
		if err := os.WriteFile(content, make([]byte, wrote), 0o600); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(50 * time.Millisecond); time.Now().Before(until); {
			if _, err := disk.Of(full); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(content); err != nil {
			t.Fatal(err)
		}
		d, was := scarcest()
		if was != (wrote > 12<<20) || d.Path != full || d.Free > 16<<20-uint64(wrote) {
			t.Errorf("%s: got %s, %t", name, d, was)
		}
	}
}

// A disk is full, too, when it can have no more files.
func TestInodes(t *testing.T) {
	t.Parallel()
	full := mount(t, "nr_inodes=4")
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(full, fmt.Sprint(i)), nil, 0o600); err != nil {
			break
		}
	}
	if d, is := disk.Full(full); !is || !strings.HasPrefix(d.String(), "0 of 4 inodes are left, and ") {
		t.Errorf("got %+v, %t: %s", d, is, d)
	}
}
