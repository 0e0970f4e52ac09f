// Package devgit is a Git server for one machine: bare repositories below a folder, over HTTP by git's own
// http-backend, or over SSH by OpenSSH. `stepwright run` publishes examples with it, and tests clone from it.
package devgit

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Handler serves the bare repositories below Root for reading, whatever their depth: Root/team/app.git is
// /team/app.git.
type Handler struct {
	Root     string
	Username string // with Password: who may read; both empty: everybody
	Password string
	Log      io.Writer // git's own output; nil discards it
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.Username != "" || h.Password != "" {
		user, password, _ := r.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(user+"\x00"+password), []byte(h.Username+"\x00"+h.Password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="devgit"`)
			http.Error(w, "credentials needed", http.StatusUnauthorized)
			return
		}
	}
	if strings.HasSuffix(r.URL.Path, "/git-receive-pack") || r.URL.Query().Get("service") == "git-receive-pack" {
		http.Error(w, "these repositories are for reading", http.StatusForbidden)
		return
	}
	git, err := exec.LookPath("git")
	root, aerr := filepath.Abs(h.Root)
	if err := errors.Join(err, aerr); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := h.Log
	if out == nil {
		out = io.Discard
	}
	backend := &cgi.Handler{
		Path: git, Args: []string{"http-backend"}, Root: "/", Dir: root,
		Env:    append(Hermetic(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: out, Logger: log.New(out, "", 0),
	}
	backend.ServeHTTP(w, r)
}

// Start serves h on an address, such as 127.0.0.1:0, until ctx ends, and returns its URL.
func Start(ctx context.Context, address string, h http.Handler) (string, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), nil
}

// Hermetic are the variables that keep a machine's own configuration away from git. Its repositories may belong to
// another user.
func Hermetic() []string {
	return []string{
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}
}

// Identity are the variables that make a commit, or a tag, the same each time: a fixed author and time.
func Identity(when time.Time) []string {
	date := fmt.Sprintf("%d +0000", when.Unix())
	return []string{
		"GIT_AUTHOR_NAME=Dev Git", "GIT_AUTHOR_EMAIL=devgit@example.com", "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=Dev Git", "GIT_COMMITTER_EMAIL=devgit@example.com", "GIT_COMMITTER_DATE=" + date,
	}
}

// Git runs git in dir, hermetically and with further variables, and returns what it prints, without the last line end.
func Git(ctx context.Context, dir string, env []string, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Stdin = dir, stdin
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, append(Hermetic(), env...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}

// Init makes an empty bare repository whose first branch is main. Like those of the public forges, it gives out any
// commit that a branch or tag leads to, and commits without their trees.
func Init(ctx context.Context, repo string) error {
	if err := os.MkdirAll(filepath.Dir(repo), 0o755); err != nil {
		return err
	}
	if _, err := Git(ctx, "", nil, nil, "init", "--quiet", "--bare", "--initial-branch=main", repo); err != nil {
		return err
	}
	for _, key := range []string{"uploadpack.allowReachableSHA1InWant", "uploadpack.allowFilter"} {
		if err := Configure(ctx, repo, key, "true"); err != nil {
			return err
		}
	}
	return nil
}

// Configure sets one of the repository's settings, such as uploadpack.allowAnySHA1InWant.
func Configure(ctx context.Context, repo, key, value string) error {
	_, err := Git(ctx, repo, nil, nil, "config", key, value)
	return err
}

// Import makes the folder source the only commit of branch main in the bare repository repo, which it makes when
// absent, and returns the commit's SHA: the same for the same files, message and time. What a .gitignore excludes is
// left out.
func Import(ctx context.Context, source, repo, message string, when time.Time) (string, error) {
	source, err := filepath.Abs(source)
	if err != nil {
		return "", err
	}
	if repo, err = filepath.Abs(repo); err != nil {
		return "", err
	}
	if err := Init(ctx, repo); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp("", "devgit-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	env := append(Identity(when), "GIT_DIR="+repo, "GIT_WORK_TREE="+source, "GIT_INDEX_FILE="+
		filepath.Join(scratch, "index"))
	git := func(args ...string) (out string) {
		if err == nil {
			out, err = Git(ctx, source, env, nil, args...)
		}
		return out
	}
	git("add", "--all", ".")
	tree := git("write-tree")
	commit := git("commit-tree", "-m", message, tree)
	git("update-ref", "refs/heads/main", commit)
	return commit, err
}
