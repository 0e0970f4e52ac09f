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
	server := gittest.NewPlainServer(t)
	repo := server.Repo(t, "app.git")
	repo.Commit("main", "many", manyFolders(300)...)
	repo.Git(nil, "tag", "v1", "main") // git sends its trees first
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
	for written := 0; written < 100; {
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
