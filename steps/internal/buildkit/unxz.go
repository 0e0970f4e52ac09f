package buildkit

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/ulikunitz/xz"
)

// unxzName is the name by which the executable decompresses, as BuildKit asks xz to: all else it knows itself.
const unxzName = "xz"

// provide has the builder find the programs in dir that are this executable by another name, before those of the
// machine: an archive is read in the same way everywhere.
func provide(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := os.Symlink("/proc/self/exe", filepath.Join(dir, unxzName))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// unxz decompresses. Of padding and streams that follow each other it makes one text, as xz does.
func unxz(to io.Writer, from io.Reader) error {
	plain, err := xz.NewReader(bufio.NewReaderSize(from, 1<<20))
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(to, 1<<20)
	if _, err := io.Copy(out, plain); err != nil {
		return err
	}
	return out.Flush()
}
