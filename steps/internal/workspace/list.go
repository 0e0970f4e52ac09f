package workspace

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Entry is one entry of the source, as the step that made it knows it: a file, a link, or a folder with nothing in it.
type Entry struct {
	Path   string      // from the source's folder, with slashes and none at the end
	Mode   fs.FileMode // on the disk
	Size   int64       // on the disk, in bytes; of a link, the length of its target
	Hashed bool        // Sum is known: it was made of the very bytes that were written. Otherwise the file is read
	Sum    [32]byte    // SHA-256 of the content, or of a link's target
}

// key is the path as the manifest has it.
func (e *Entry) key() string {
	if e.Mode.IsDir() {
		return e.Path + "/"
	}
	return e.Path
}

// WriteList is WriteTree for the step that has made the whole source itself, and that no other process could disturb:
// it reads no file again whose digest is known. It sorts the entries. None may be Git's own.
func (w Workspace) WriteList(ctx context.Context, entries []Entry) (digest string, err error) {
	slices.SortFunc(entries, func(a, b Entry) int {
		if !a.Mode.IsDir() && !b.Mode.IsDir() {
			return strings.Compare(a.Path, b.Path)
		}
		return strings.Compare(a.key(), b.key())
	})
	if err := w.hashRest(ctx, entries); err != nil {
		return "", err
	}
	return w.writeManifest(func(line func(record) error) error {
		for i := range entries {
			e := &entries[i]
			if i%1000 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r := record{size: e.Size, path: e.key()}
			var ok bool
			if r.mode, ok = modeOf(e.Mode); !ok {
				return changed("%q is neither a file nor a folder nor a symbolic link", e.Path)
			}
			if r.mode == modeFolder {
				r.size, r.hash = 0, hashOfNothing
			} else {
				r.hash = hex.EncodeToString(e.Sum[:])
			}
			if err := line(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// hashRest reads the files whose digests are not known.
func (w Workspace) hashRest(ctx context.Context, entries []Entry) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(hashers)
	for i := range entries {
		e := &entries[i]
		if e.Hashed || e.Mode.IsDir() {
			continue
		}
		group.Go(func() error {
			path := filepath.Join(w.Source(), filepath.FromSlash(e.Path))
			got, err := hashFile(ctx, path, e.Size, sha256.New(), make([]byte, copySize))
			if err == nil {
				_, err = hex.Decode(e.Sum[:], []byte(got))
			}
			return err
		})
	}
	return group.Wait()
}

// writeManifest writes the records that list gives it, in their order, and returns the manifest's digest.
func (w Workspace) writeManifest(list func(line func(record) error) error) (digest string, err error) {
	// A temporary file of the folder itself, which may be the place of a volume.
	out, err := os.CreateTemp(w.TreeFolder(), ".unfinished-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	whole := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(out, whole), copySize)
	var size int64
	err = list(func(r record) error {
		line := r.append(buffered.AvailableBuffer())
		if size += int64(len(line)); size > manifestLimit {
			return outcome.Errorf(
				outcome.RepositoryInvalid,
				"the repository has too many files: the list of them is larger than %d bytes", manifestLimit,
			)
		}
		_, err := buffered.Write(line)
		return err
	})
	if err != nil {
		return "", err
	}
	if err := buffered.Flush(); err != nil {
		return "", err
	}
	if err := errors.Join(out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(out.Name(), w.manifest()); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(whole.Sum(nil)), nil
}

// append appends the record as it stands in the manifest: `<mode> <size> <hash>\t<path>\0`.
func (r record) append(b []byte) []byte {
	b = append(append(b, r.mode...), ' ')
	b = append(strconv.AppendInt(b, r.size, 10), ' ')
	b = append(append(b, r.hash...), '\t')
	return append(append(b, r.path...), 0)
}
