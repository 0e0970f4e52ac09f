// Package gittest gives tests real Git servers, git's own http-backend behind TLS and OpenSSH's sshd, and repositories
// of any shape, also such as no git would make.
package gittest

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// Server is a Git server over HTTPS whose certificate only its own CA bundle makes trusted.
type Server struct {
	URL      string // without a path
	CABundle string // PEM file
	Root     string // of the bare repositories

	handler  *devgit.Handler
	mu       sync.Mutex
	requests []*http.Request
}

// NewServer starts a server until the test ends. With a username or password it asks for them.
func NewServer(t testing.TB, username, password string) *Server {
	t.Helper()
	s := newServer(t, username, password)
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // some tests have clients that do not trust it
	server.StartTLS()
	t.Cleanup(server.Close)
	s.URL = server.URL
	s.CABundle = filepath.Join(t.TempDir(), "ca.crt")
	write(t, s.CABundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644)
	return s
}

// NewPlainServer is NewServer without TLS, to put a fault proxy before.
func NewPlainServer(t testing.TB) *Server {
	t.Helper()
	s := newServer(t, "", "")
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

func newServer(t testing.TB, username, password string) *Server {
	root := t.TempDir()
	return &Server{Root: root, handler: &devgit.Handler{Root: root, Username: username, Password: password}}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	s.handler.ServeHTTP(w, r)
}

// Requests are those received so far. Their bodies are gone.
func (s *Server) Requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Repo makes an empty repository of that path, such as team/app.git.
func (s *Server) Repo(t testing.TB, path string) *Repo {
	t.Helper()
	r := NewRepo(t, filepath.Join(s.Root, path))
	r.URL = s.URL + "/" + path
	return r
}

// Repo is a bare repository.
type Repo struct {
	Dir string
	URL string // empty when no server was asked for it

	t testing.TB
}

// NewRepo makes an empty repository in dir, as devgit.Init does.
func NewRepo(t testing.TB, dir string) *Repo {
	t.Helper()
	if err := devgit.Init(t.Context(), dir); err != nil {
		t.Fatalf("the tests need git: %v", err)
	}
	return &Repo{Dir: dir, t: t}
}

// When is the time of the first commit, tag and import; later ones of a repository may say another.
var When = time.Unix(1_700_000_000, 0).UTC()

// Git runs git in the repository, with a fixed identity.
func (r *Repo) Git(stdin []byte, args ...string) string {
	r.t.Helper()
	out, err := devgit.Git(r.t.Context(), r.Dir, devgit.Identity(When), bytes.NewReader(stdin), args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// Item is a name in a tree. Nothing about it is checked.
type Item struct {
	Mode, Name string
	Hash       string // of an object that is there; else Content or Items make it
	Content    string
	Items      []Item
}

// File is a regular file.
func File(name, content string) Item { return Item{Mode: "100644", Name: name, Content: content} }

// Executable is a file that can be run.
func Executable(name, content string) Item { return Item{Mode: "100755", Name: name, Content: content} }

// Symlink is a symbolic link.
func Symlink(name, target string) Item { return Item{Mode: "120000", Name: name, Content: target} }

// Submodule is a commit of another repository.
func Submodule(name, commit string) Item { return Item{Mode: "160000", Name: name, Hash: commit} }

// Dir is a directory.
func Dir(name string, items ...Item) Item { return Item{Mode: "40000", Name: name, Items: items} }

// Tree writes a tree object, in git's order, and returns its name.
func (r *Repo) Tree(items ...Item) string {
	r.t.Helper()
	items = slices.Clone(items)
	key := func(i Item) string {
		if i.Mode == "40000" {
			return i.Name + "/"
		}
		return i.Name
	}
	slices.SortStableFunc(items, func(a, b Item) int { return strings.Compare(key(a), key(b)) })
	var raw []byte
	for _, i := range items {
		name := i.Hash
		switch {
		case name != "":
		case i.Mode == "40000":
			name = r.Tree(i.Items...)
		default:
			name = r.Git([]byte(i.Content), "hash-object", "-w", "--stdin")
		}
		hash, err := hex.DecodeString(name)
		if err != nil {
			r.t.Fatal(err)
		}
		raw = append(append(raw, i.Mode+" "+i.Name+"\x00"...), hash...)
	}
	return r.Git(raw, "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
}

// Commit makes a commit of these items on a branch, after those that are there, and returns its SHA.
func (r *Repo) Commit(branch, message string, items ...Item) string {
	r.t.Helper()
	return r.CommitTree(branch, message, r.Tree(items...))
}

// CommitTree is Commit for a tree that is there.
func (r *Repo) CommitTree(branch, message, tree string) string {
	r.t.Helper()
	args := []string{"commit-tree", "-m", message, tree}
	if parent := r.Git(nil, "for-each-ref", "--format=%(objectname)", "refs/heads/"+branch); parent != "" {
		args = append(args, "-p", parent)
	}
	commit := r.Git(nil, args...)
	r.Git(nil, "update-ref", "refs/heads/"+branch, commit)
	return commit
}

// Configure sets one of the repository's settings.
func (r *Repo) Configure(key, value string) {
	r.t.Helper()
	r.Git(nil, "config", key, value)
}

func write(t testing.TB, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}
