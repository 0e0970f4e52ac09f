// Package regularfile reads, and overwrites, files whose names may be a stranger's: only what is a regular file, and
// only so much of it.
// A link is not followed, a pipe is not waited for, and a device is not opened.
package regularfile

import (
	"errors"
	"fmt"
	"io"
	"os"
)

var (
	// ErrNotRegular is in the error for a link, a folder, a pipe, a socket or a device.
	ErrNotRegular = errors.New("is not a regular file")
	// ErrTooLarge is in the error for a file of more bytes than are wanted.
	ErrTooLarge = errors.New("is larger than the limit")
)

// Read reads a file of at most limit bytes. The error wraps ErrNotRegular, ErrTooLarge or the operating system's.
func Read(path string, limit int64) ([]byte, error) {
	f, _, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		return nil, fmt.Errorf("%s %w of %d bytes", path, ErrTooLarge, limit)
	}
	return raw, err
}

// Open opens a file for reading, and returns its size in bytes. The error wraps ErrNotRegular or the operating
// system's.
func Open(path string) (*os.File, int64, error) {
	return openAs(path, os.O_RDONLY)
}

// Overwrite gives a file that is there another content. The error wraps ErrNotRegular or the operating system's, which
// is fs.ErrNotExist for a file that is not there: none is made.
func Overwrite(path, content string) error {
	f, _, err := openAs(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteString(content)
	}
	return errors.Join(err, f.Close())
}

func openAs(path string, mode int) (*os.File, int64, error) {
	irregular := fmt.Errorf("%s %w", path, ErrNotRegular)
	// To open a device may have effects of its own, so the name is looked at first; then what was opened counts.
	named, err := os.Lstat(path)
	if err != nil {
		return nil, 0, err
	}
	if !named.Mode().IsRegular() {
		return nil, 0, irregular
	}
	f, err := open(path, mode)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = irregular
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}
