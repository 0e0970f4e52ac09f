package gitsource

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

// manyFolders is more of them than are open at once, with files whose contents are shared, links and empty ones.
func manyFolders(count int) []gittest.Item {
	var items []gittest.Item
	for i := range count {
		items = append(items, gittest.Dir(fmt.Sprintf("d%d", i), gittest.File("a.b", "shared\n"),
			gittest.Dir("a", gittest.File("x", fmt.Sprintf("file %d\n", i)), gittest.Dir("nothing")),
			gittest.File("a0", ""), gittest.Symlink("up", fmt.Sprintf("../d%d/a.b", (i+1)%count)),
			gittest.Executable("run", strings.Repeat("#!/bin/sh\n", i)),
		))
	}
	return items
}

// What is listed as it is written is what is found by reading it all again.
func TestManifestOfACheckout(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	library := newGreeting(t, server.Repo(t, "library.git"))
	repo := server.Repo(t, "app.git")
	modules := "[submodule \"lib\"]\n\tpath = lib\n\turl = ../library.git\n"
	commit := repo.Commit("main", "many", append(manyFolders(2*mostHandles), gittest.File(".gitmodules", modules),
		gittest.File(".gitattributes", "*.txt text eol=crlf\n"), gittest.File("dos.txt", "one\ntwo\n"),
		gittest.Submodule("lib", library.first), gittest.Submodule("unknown", library.first))...)
	repo.Git(nil, "tag", "v1", commit) // git sends its trees first
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	run.run(t).ok(t, commit)
	if got := run.git(t, "status", "--porcelain", "--ignore-submodules=none"); got != "" {
		t.Errorf("git status says %s", got)
	}
	digest, err := run.Workspace.WriteTree(t.Context())
	if err != nil || digest != run.results["source-digest"] {
		t.Errorf("read again it is %s, %v; listed as written %s", digest, err, run.results["source-digest"])
	}
}

// Files are there before the pack's end is, and gone when it never comes.
func TestFilesAreWrittenAsTheyArrive(t *testing.T) {
	t.Parallel()
	t.Run("trees among blobs", func(t *testing.T) { testArrivingFiles(t, false) })
	t.Run("trees first", func(t *testing.T) { testArrivingFiles(t, true) }) // as git sends those of a tag
}

func testArrivingFiles(t *testing.T, tag bool) {
	t.Helper()
	t.Parallel()
	server := gittest.NewPlainServer(t)
	repo := server.Repo(t, "app.git")
	repo.Commit("main", "many", manyFolders(300)...)
	if tag {
		repo.Git(nil, "tag", "v1", "main")
	}
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			forward.ServeHTTP(w, r)
			return
		}
		recorded := httptest.NewRecorder()
		forward.ServeHTTP(recorded, r)
		answer := recorded.Body.Bytes()
		if !bytes.Contains(answer, []byte("PACK")) {
			w.Write(answer)
			return
		}
		w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
		w.Write(answer[:len(answer)-30]) // within the pack's checksum
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(front.Close)
	run := newCheckout(t, front.URL+"/app.git")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run.runContext(ctx)
	}()
	deadline := time.After(time.Minute)
	const most = 250 // of 300 files: the last ones travel together
	for written := 0; written < most; {
		select {
		case <-ended:
			t.Fatalf("ended before the pack did: %v\n%s", run.err, run.log)
		case <-deadline:
			t.Fatalf("only %d files are written before the pack has ended", written)
		case <-time.After(10 * time.Millisecond):
		}
		found, err := filepath.Glob(filepath.Join(string(run.Workspace), ".checkout-*", "source", "d*", "a", "x"))
		if err != nil {
			t.Fatal(err)
		}
		written = len(found)
	}
	cancel(outcome.Errorf(outcome.Cancelled, "stopped"))
	<-ended
	run.want(t, outcome.Cancelled)
}

// listed are trees that were heard of.
type listed map[plumbing.Hash]string

func (l listed) list(_ context.Context, _ *pack, name plumbing.Hash, content []byte) error {
	l[name] = string(content)
	return nil
}

func (listed) claim(plumbing.Hash) func(content) error { return nil }

// Trees are heard of as they arrive, deltas of earlier ones included. What may be a tree and is not known by then
// leaves the pack late.
func TestTreesAsTheyArrive(t *testing.T) {
	t.Parallel()
	entry := func(name string) string { return "100644 " + name + "\x00" + strings.Repeat("h", 20) }
	first := entry("a")
	tree := object(plumbing.TreeObject, len(first), nil, []byte(first))
	blob := object(plumbing.BlobObject, 4, nil, []byte("blob"))
	// delta makes a tree of the one before it, which begins so many bytes earlier.
	delta := func(base int, name string, distance int) []byte {
		content := deltaOf(base, 1, entry(name))
		before := []byte{byte(distance & 0x7f)}
		for distance >>= 7; distance > 0; distance >>= 7 {
			distance--
			before = append([]byte{0x80 | byte(distance&0x7f)}, before...)
		}
		return object(plumbing.OFSDeltaObject, len(content), before, content)
	}
	second, third := first+entry("b"), first+entry("b")+entry("c")
	one := delta(len(first), "b", len(tree)+len(blob))
	two := delta(len(second), "c", len(one))
	of := func(trees ...string) listed {
		l := listed{}
		for _, content := range trees {
			l[nameOf(t, plumbing.TreeObject, []byte(content))] = content
		}
		return l
	}
	name := nameOf(t, plumbing.TreeObject, []byte(first))
	byName := deltaOf(len(first), 1, entry("b"))
	large := []byte(strings.Repeat(entry("l"), mostRecent/4/28+1)) // is not kept
	largeTree := object(plumbing.TreeObject, len(large), nil, large)
	for _, c := range []struct {
		name    string
		objects [][]byte
		want    listed
		late    bool
	}{
		{"whole", [][]byte{tree, blob}, of(first), false},
		{"deltas of deltas", [][]byte{tree, blob, one, two}, of(first, second, third), false},
		{
			"a delta by name", [][]byte{tree, object(plumbing.REFDeltaObject, len(byName), name[:], byName)}, of(first),
			true,
		},
		{
			"of a large one", [][]byte{largeTree, delta(len(large), "z", len(largeTree))},
			of(string(large), string(large)+entry("z")), false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := listed{}
			p, err := receiveListed(t, packed(c.objects...), got)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || p.late != c.late {
				t.Errorf("late %v, want %v; trees (-want +got):\n%s", p.late, c.late, diff)
			}
		})
	}
}

// A second try begins with nothing of the first.
func TestFilesOfACutPack(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	repo := server.Repo(t, "app.git")
	commit := repo.Commit("main", "many", manyFolders(50)...)
	repo.Git(nil, "tag", "v1", "main") // git sends its trees first
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(to)
	cuts := 0
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || cuts == 2 {
			forward.ServeHTTP(w, r)
			return
		}
		cuts++
		recorded := httptest.NewRecorder()
		forward.ServeHTTP(recorded, r)
		answer := recorded.Body.Bytes()
		w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
		w.Write(answer[:len(answer)-30])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(front.Close)
	run := newCheckout(t, front.URL+"/app.git").run(t).ok(t, commit)
	if cuts != 2 {
		t.Errorf("%d answers were cut", cuts)
	}
	if got := run.git(t, "status", "--porcelain"); got != "" {
		t.Errorf("git status says %s", got)
	}
}

// Directories stay reachable when more of them are in use, or were, than are kept open.
func TestFolders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := newFolders(root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	at := int32(0)
	for range 3 * mostHandles { // one in another
		if at, err = f.add(at, "d"); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.open) > mostHandles+1 {
		t.Errorf("%d directories are open", len(f.open))
	}
	for dir := range at + 1 {
		if _, err := f.use(dir); err != nil {
			t.Fatal(err)
		}
	}
	for dir := range at + 1 {
		f.leave(dir)
	}
	// A directory that becomes a link meanwhile is not followed.
	outside := t.TempDir()
	evil, err := f.add(0, "evil")
	if err != nil {
		t.Fatal(err)
	}
	for range mostHandles + 1 { // until it is not open any more
		if at, err = f.add(0, fmt.Sprint("other", len(f.all))); err != nil {
			t.Fatal(err)
		}
		if _, err := f.use(at); err != nil {
			t.Fatal(err)
		}
		f.leave(at)
	}
	if err := os.Rename(filepath.Join(dir, "evil"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "evil")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.create(evil, "file", 0o644, func(descriptor) error { return nil }); err == nil {
		t.Error("a file is made through a link")
	}
	if got := names(t, outside); len(got) > 0 {
		t.Errorf("outside holds %v", got)
	}
}
