package outcome

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
)

// folder is the folder of results while they are written. Others may write there, too, so nothing that is in it is
// followed.
type folder struct{ root *os.Root }

// openFolder makes a folder unless it is there. One that is a link is refused: what is written into it, and what Argo
// reads there, would be elsewhere.
func openFolder(dir string) (folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return folder{}, err
	}
	itself, err := os.Lstat(dir)
	if err != nil {
		return folder{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return folder{}, err
	}
	opened, err := root.Stat(".")
	if err == nil && !os.SameFile(itself, opened) {
		err = fmt.Errorf("the folder of results, %s, is a symbolic link", dir)
	}
	if err != nil {
		return folder{}, errors.Join(err, root.Close())
	}
	return folder{root}, nil
}

// write puts a file into the folder by renaming it, in the place of whatever has its name. It does not wait for the
// disk, which takes long on a busy one: what reads the results runs on the same kernel, and ends with it.
func (f folder) write(name string, content []byte) error {
	temporary := "." + name + "-" + rand.Text()
	file, err := f.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	// What reads the results is another user than the step, whose umask does not count.
	err = errors.Join(err, file.Chmod(0o644), file.Close())
	if err == nil {
		if err = f.root.Rename(temporary, name); err == nil {
			return nil
		}
		if removed := f.root.RemoveAll(name); removed == nil { // a folder stands there
			err = f.root.Rename(temporary, name)
		}
	}
	if err != nil {
		err = errors.Join(err, f.root.Remove(temporary))
	}
	return err
}

func (f folder) close() error { return f.root.Close() }
