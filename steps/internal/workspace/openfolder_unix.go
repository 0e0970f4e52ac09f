//go:build !windows

package workspace

import (
	"os"
	"syscall"
)

// openFolder opens a folder to list it. A link is not followed.
func openFolder(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
}
