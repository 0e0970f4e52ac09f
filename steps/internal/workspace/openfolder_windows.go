package workspace

import (
	"fmt"
	"os"
)

// openFolder opens a folder to list it. A link is not followed.
func openFolder(path string) (*os.File, error) {
	named, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	opened, err := dir.Stat()
	if err == nil && (!named.IsDir() || !os.SameFile(named, opened)) {
		err = fmt.Errorf("%s is not a folder", path)
	}
	if err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}
