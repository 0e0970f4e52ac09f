package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/regularfile"
)

// TreeFolder is the folder of the manifest.
func (w Workspace) TreeFolder() string { return filepath.Join(string(w), "tree") }

func (w Workspace) manifest() string { return filepath.Join(w.TreeFolder(), "manifest") }

// Bounds of a manifest. Tests lower the first.
var manifestLimit int64 = 128 << 20 // bytes: about a million files; a step holds it in memory

const (
	mostEntries = 2_000_000 // in one folder
	mostLinks   = 40        // on the way to one file, as in Linux
)

// hashers is how many files are hashed at once.
const hashers = 2

// WriteTree writes the manifest of the source as it finds it, and returns its digest: by it, and by nothing in the
// workspace, later steps know the source. What Git keeps for itself is not in it. WriteList is for the step that has
// made the source.
func (w Workspace) WriteTree(ctx context.Context) (digest string, err error) {
	h := newHashing(ctx)
	defer h.cancel(nil)
	var records []*record
	h.end(walk(h.ctx, w.Source(), nil, func(r record) error {
		records = append(records, &r)
		return h.hash(w.Source(), r, func(got string) error {
			r.hash = got
			return nil
		})
	}))
	if err := h.wait(); err != nil {
		return "", err
	}
	return w.writeManifest(func(line func(record) error) error {
		for _, r := range records {
			if err := line(*r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Tree is the source as checkout-source left it, by the digest that it handed over.
type Tree struct {
	source   string
	manifest manifest
}

// changed is the failure of a source, or of its manifest, that is not what checkout-source left. It wraps nothing: what
// is absent from the disk is not absent from the repository, which many do without.
func changed(format string, args ...any) error {
	return outcome.Errorf(outcome.SourceChanged, "the source is not what was checked out: "+format, args...)
}

// VerifySource makes sure that the source is the one that was checked out, by the digest of its manifest, and logs it.
// Without a digest, as from workflows that pass none, the workspace is believed. It fails as OpenTree and Verify do.
func (w Workspace) VerifySource(ctx context.Context, digest string, log *slog.Logger) error {
	if digest == "" {
		return nil
	}
	started := time.Now()
	tree, err := w.OpenTree(digest)
	if err != nil {
		return err
	}
	if err := tree.Verify(ctx); err != nil {
		return err
	}
	log.Info("Verified the source", "digest", digest, "files", tree.Len(), "took", time.Since(started))
	return nil
}

// OpenTree reads the manifest with this digest. A digest of another form is an InvalidParameters, and a manifest that
// has another digest a SourceChanged.
func (w Workspace) OpenTree(digest string) (*Tree, error) {
	want, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !isHash(want) {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "source-digest: %q is not sha256: and 64 digits in hex", digest,
		)
	}
	f, size, err := regularfile.Open(w.manifest())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, regularfile.ErrNotRegular) {
		return nil, changed("its manifest: %v", err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > manifestLimit {
		return nil, changed("its manifest is larger than %d bytes", manifestLimit)
	}
	var text strings.Builder
	text.Grow(int(size))
	whole := sha256.New()
	if _, err := io.Copy(io.MultiWriter(&text, whole), io.LimitReader(f, size+1)); err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(whole.Sum(nil)); got != want {
		return nil, changed("its manifest has the digest sha256:%s instead of %s", got, digest)
	}
	m, err := parseManifest(text.String())
	if err != nil {
		return nil, changed("its manifest: %v", err)
	}
	return &Tree{source: w.Source(), manifest: m}, nil
}

// Len is the number of files, links and empty folders.
func (t *Tree) Len() int { return t.manifest.len() }

// Verify compares the whole source with the manifest. Anything changed, absent or added is a SourceChanged; only what
// Git keeps for itself is not looked at.
func (t *Tree) Verify(ctx context.Context) error {
	h := newHashing(ctx)
	next := 0
	err := walk(h.ctx, t.source, t, func(r record) error {
		if next == t.manifest.len() {
			return changed("%q was added", r.path)
		}
		want := t.manifest.record(next)
		switch {
		case r.path < want.path:
			return changed("%q was added", r.path)
		case r.path > want.path:
			return changed("%q is not there any more", want.path)
		case r.mode != want.mode:
			return changed("%q has the mode %s instead of %s", r.path, r.mode, want.mode)
		case r.size != want.size:
			return changed("%q has %d bytes instead of %d", r.path, r.size, want.size)
		}
		next++
		return h.hash(t.source, r, func(got string) error {
			if got != want.hash {
				return changed("%q has another content", want.path)
			}
			return nil
		})
	})
	if err == nil && next < t.manifest.len() {
		err = changed("%q is not there any more", t.manifest.record(next).path)
	}
	h.end(err)
	return h.wait()
}

// IsFolder tells whether a path, found as by ReadFile, is a folder. An absent one wraps fs.ErrNotExist.
func (t *Tree) IsFolder(path string) (bool, error) {
	_, r, err := t.resolve(path)
	return r.mode == modeFolder, err
}

// ReadFile reads a file of at most limit bytes, found as Workspace.Resolve does, but in the manifest. Only the bytes
// that the manifest has the digest of are returned: otherwise it is a SourceChanged.
func (t *Tree) ReadFile(path string, limit int64) ([]byte, error) {
	real, r, err := t.resolve(path)
	switch {
	case err != nil:
		return nil, err
	case r.mode == modeFolder:
		return nil, fmt.Errorf("%s %w", path, regularfile.ErrNotRegular)
	case r.size > limit:
		return nil, tooLarge(path, limit)
	}
	root, err := os.OpenRoot(t.source)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(filepath.FromSlash(real), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, changed("%v", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if mode, _ := modeOf(info.Mode()); mode != r.mode || info.Size() != r.size {
		return nil, changed("%q is another file", real)
	}
	raw, err := io.ReadAll(io.LimitReader(f, r.size+1))
	if err != nil {
		return nil, err
	}
	if hashOf(string(raw)) != r.hash {
		return nil, changed("%q has another content", real)
	}
	return raw, nil
}

// Check is an error, a SourceChanged, unless a path of the source is in the manifest as it is on the disk: a file or
// folder of this mode, or a link with this target. What Git keeps for itself is not looked at.
func (t *Tree) Check(path string, info fs.FileMode, target string) error {
	if namesGitFolder(path) {
		return nil
	}
	mode, _ := modeOf(info)
	r, listed := t.manifest.find(path)
	switch {
	case mode == modeFolder && t.manifest.isFolder(path):
		return nil
	case !listed || mode != r.mode:
		return changed("%q is another file", path)
	case mode == modeLink && hashOf(target) != r.hash:
		return changed("the symbolic link %q leads elsewhere", path)
	}
	return nil
}

// Guard passes a file's content on, and ends in a SourceChanged instead of its last bytes unless it is what the
// manifest has the digest of. What Git keeps for itself is not looked at.
func (t *Tree) Guard(path string, content io.ReadCloser) io.ReadCloser {
	if namesGitFolder(path) {
		return content
	}
	r, _ := t.manifest.find(path) // no record is no digest, which no content has
	return &guarded{ReadCloser: content, record: r, whole: sha256.New()}
}

// guarded is a content that is compared as it is read.
type guarded struct {
	io.ReadCloser
	record record
	whole  hash.Hash
	read   int64
}

func (g *guarded) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	g.whole.Write(p[:n])
	if g.read += int64(n); g.read > g.record.size ||
		g.read == g.record.size && hex.EncodeToString(g.whole.Sum(nil)) != g.record.hash ||
		errors.Is(err, io.EOF) && g.read < g.record.size {
		return 0, changed("%q has another content", g.record.path)
	}
	return n, err
}

// hashOf is the SHA-256 of a text, in hex.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// resolve finds what a path leads to, link by link, by the manifest alone: of the disk it reads only the targets of
// links, whose digests are known.
func (t *Tree) resolve(path string) (real string, found record, err error) {
	local, err := within(path)
	if err != nil {
		return "", record{}, err
	}
	absent := fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	rest := strings.Split(local, "/")
	links := 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			if real == "" {
				return "", record{}, escapes(path)
			}
			real = real[:max(strings.LastIndexByte(real, '/'), 0)]
			continue
		case IsGit(part):
			return "", record{}, leadsIntoGit(path)
		}
		next := strings.TrimPrefix(real+"/"+part, "/")
		r, listed := t.manifest.find(next)
		switch {
		case listed && r.mode == modeLink:
			if links++; links > mostLinks {
				return "", record{}, fmt.Errorf("%s goes through more than %d symbolic links", path, mostLinks)
			}
			target, err := t.readLink(r)
			if err != nil {
				return "", record{}, err
			}
			if strings.HasPrefix(target, "/") {
				return "", record{}, escapes(path)
			}
			rest = append(strings.Split(target, "/"), rest...)
		case listed && len(rest) > 0: // a file is no folder
			return "", record{}, absent
		case listed:
			return next, r, nil
		case t.manifest.isFolder(next):
			real = next
		default:
			return "", record{}, absent
		}
	}
	return real, record{mode: modeFolder, path: real}, nil
}

func (t *Tree) readLink(r record) (string, error) {
	target, err := os.Readlink(filepath.Join(t.source, filepath.FromSlash(r.path)))
	if err != nil {
		return "", changed("%v", err)
	}
	if hashOf(target) != r.hash {
		return "", changed("the symbolic link %q leads elsewhere", r.path)
	}
	return target, nil
}

// walk visits all that is in a folder, but for Git's own, in the order of the manifest; the records lack digests. With
// a tree, it does not go into folders that the tree does not have, and reads no more of one than the tree can have.
func walk(ctx context.Context, source string, tree *Tree, visit func(record) error) error {
	var folder func(path string) error
	folder = func(path string) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		most := mostEntries
		if tree != nil {
			most = tree.Len()
		}
		entries, err := readFolder(filepath.Join(source, path), most+1) // and .git
		if err != nil {
			return err
		}
		sortEntries(entries)
		empty := true
		for _, e := range entries {
			if e.Name() == gitFolder {
				continue
			}
			empty = false
			r := record{path: e.Name()}
			if path != "" {
				r.path = path + "/" + e.Name()
			}
			info, err := e.Info()
			if err != nil {
				return changed("%v", err)
			}
			var ok bool
			if r.mode, ok = modeOf(info.Mode()); !ok {
				return changed("%q is neither a file nor a folder nor a symbolic link", r.path)
			}
			if r.size = info.Size(); r.mode != modeFolder {
				err = visit(r)
			} else if tree != nil && !tree.manifest.isFolder(r.path) {
				err = changed("the folder %q was added", r.path)
			} else {
				err = folder(r.path)
			}
			if err != nil {
				return err
			}
		}
		if empty && path != "" {
			return visit(record{mode: modeFolder, path: path + "/"})
		}
		return nil
	}
	return folder("")
}

// readFolder lists a folder of at most so many entries.
func readFolder(path string, most int) ([]fs.DirEntry, error) {
	dir, err := openFolder(path)
	if err != nil {
		return nil, changed("%v", err)
	}
	defer dir.Close()
	var all []fs.DirEntry
	for {
		some, err := dir.ReadDir(4096)
		if all = append(all, some...); len(all) > most {
			return nil, changed("%s has more than %d entries", path, most)
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// hashing hashes files as a walk finds them. The first failure ends it.
type hashing struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	jobs   chan hashJob
	done   sync.WaitGroup
}

type hashJob struct {
	path string // on the disk
	size int64
	then func(hash string) error
}

func newHashing(ctx context.Context) *hashing {
	h := &hashing{jobs: make(chan hashJob, 16*hashers)}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	for range hashers {
		h.done.Go(func() {
			state, buf := sha256.New(), make([]byte, copySize)
			for job := range h.jobs {
				got, err := hashFile(h.ctx, job.path, job.size, state, buf)
				if err == nil {
					err = job.then(got)
				}
				h.fail(err)
			}
		})
	}
	return h
}

const copySize = 64 << 10 // bytes

// hash has the digest of a record's content made, and then called back; of a file by another goroutine.
func (h *hashing) hash(source string, r record, then func(hash string) error) error {
	path := filepath.Join(source, filepath.FromSlash(r.path))
	switch r.mode {
	case modeFolder:
		return then(hashOfNothing)
	case modeLink:
		target, err := os.Readlink(path)
		if err != nil {
			return changed("%v", err)
		}
		return then(hashOf(target))
	}
	select {
	case h.jobs <- hashJob{path, r.size, then}:
		return nil
	case <-h.ctx.Done():
		return context.Cause(h.ctx)
	}
}

// fail ends the hashing, unless err is nil.
func (h *hashing) fail(err error) {
	if err != nil {
		h.cancel(err)
	}
}

// end says that no more files come, and how finding them ended.
func (h *hashing) end(err error) {
	h.fail(err)
	close(h.jobs)
}

// wait returns the first failure once all files are hashed.
func (h *hashing) wait() error {
	h.done.Wait()
	defer h.cancel(nil)
	return context.Cause(h.ctx)
}

// hashFile is the SHA-256 in hex of a regular file of this size. One that has another size by now is a SourceChanged.
func hashFile(ctx context.Context, path string, size int64, state hash.Hash, buf []byte) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	f, _, err := regularfile.Open(path)
	if errors.Is(err, regularfile.ErrNotRegular) || errors.Is(err, fs.ErrNotExist) {
		return "", changed("%v", err)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	state.Reset()
	var read int64
	for {
		n, err := f.Read(buf)
		state.Write(buf[:n])
		if read += int64(n); read > size || err == io.EOF && read < size {
			return "", changed("%s changes", path)
		}
		if err == io.EOF {
			return hex.EncodeToString(state.Sum(nil)), nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return "", err
		}
	}
}
