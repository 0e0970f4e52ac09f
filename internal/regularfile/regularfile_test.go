package regularfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("file"), []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Symlink("file", path("link")), os.Symlink("absent", path("dangling")), os.Mkdir(path("folder"), 0o755),
		syscall.Mkfifo(path("pipe"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	tests := []struct {
		path  string
		limit int64
		err   error
	}{
		{path("file"), 10, nil},
		{path("file"), 9, ErrTooLarge},
		{path("link"), 10, ErrNotRegular},
		{path("dangling"), 10, ErrNotRegular},
		{path("folder"), 10, ErrNotRegular},
		{path("pipe"), 10, ErrNotRegular},
		{path("socket"), 10, ErrNotRegular},
		{"/dev/zero", 10, ErrNotRegular},
		{path("absent"), 10, fs.ErrNotExist},
	}
	for _, test := range tests {
		raw, err := Read(test.path, test.limit)
		if !errors.Is(err, test.err) || err == nil && string(raw) != "0123456789" || err != nil && raw != nil {
			t.Errorf("%s, at most %d bytes: %q, %v; want %v", test.path, test.limit, raw, err, test.err)
		}
	}
}

func TestOverwrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		os.WriteFile(path("file"), []byte("0123456789"), 0o644), os.Symlink("file", path("link")),
		os.Mkdir(path("folder"), 0o755), syscall.Mkfifo(path("pipe"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"file": nil, "link": ErrNotRegular, "folder": ErrNotRegular, "pipe": ErrNotRegular, "absent": fs.ErrNotExist,
	} {
		if err := Overwrite(path(name), "new"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if raw, err := os.ReadFile(path("file")); err != nil || string(raw) != "new" {
		t.Errorf("the file has %q, error %v", raw, err)
	}
}
