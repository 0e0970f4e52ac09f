//go:build !windows

package regularfile

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// open opens a file for reading (os.O_RDONLY) or writing (os.O_WRONLY). It neither follows a link, for which the error
// wraps ErrNotRegular, nor waits for a pipe.
func open(path string, mode int) (*os.File, error) {
	f, err := os.OpenFile(path, mode|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s %w", path, ErrNotRegular)
	}
	return f, err
}
