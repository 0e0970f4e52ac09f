package secret

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The folder looks as the kubelet mounts a Secret: links through ..data to a folder with a time in its name.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "..2026_01_01")
	for path, text := range map[string]string{"username": "me", "password": "p\n", "nested/x": "y"} {
		path = filepath.Join(real, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"..data":   "..2026_01_01",
		"username": "..data/username",
		"password": "..data/password",
		"nested":   "..data/nested",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadDir(dir)
	if diff := cmp.Diff(map[string][]byte{
		"username": []byte("me"),
		"password": []byte("p\n"),
	}, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for _, absent := range []string{"", filepath.Join(dir, "nowhere")} {
		if got, err := ReadDir(absent); err != nil || len(got) != 0 {
			t.Errorf("%q: %v, %v", absent, got, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, Limit+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDir(dir); err == nil {
		t.Error("a value over the limit was read")
	}
}

// What is no file of a Secret is neither waited for nor read.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero", dir, filepath.Join(dir, "absent")} {
		if raw, err := ReadFile(path); err == nil {
			t.Errorf("of %s %d bytes were read", path, len(raw))
		}
	}
	if got, err := ReadDir(dir); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
