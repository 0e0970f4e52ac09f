package gitsource

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

// lfsStore is an LFS server beside a Git server.
type lfsStore struct {
	*httptest.Server
	objects  map[string]string // content by its name
	password string            // empty: everybody may read
	href     string            // where contents are; empty: here
	header   map[string]string // that the store wants to see with a download
	batches  atomic.Int64
	// fault may answer a download instead of the store
	fault func(w http.ResponseWriter, r *http.Request, content string) bool
}

func newLFSStore(t *testing.T, git *gittest.Server, contents ...string) *lfsStore {
	s := &lfsStore{objects: map[string]string{}}
	for _, c := range contents {
		s.objects[oidOf(c)] = c
	}
	mux := http.NewServeMux()
	if git != nil {
		mux.Handle("/", git)
	}
	mux.HandleFunc("POST /{repo}/info/lfs/objects/batch", s.batch)
	mux.HandleFunc("POST /lfs/objects/batch", s.batch)
	mux.HandleFunc("GET /objects/{oid}", s.download)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func oidOf(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func (s *lfsStore) batch(w http.ResponseWriter, r *http.Request) {
	s.batches.Add(1)
	if _, password, _ := r.BasicAuth(); s.password != "" && password != s.password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var q struct {
		Operation string
		Objects   []struct {
			OID  string
			Size int64
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Operation != "download" || len(q.Objects) > 100 {
		http.Error(w, "bad", http.StatusUnprocessableEntity)
		return
	}
	var objects []map[string]any
	for _, o := range q.Objects {
		answer := map[string]any{"oid": o.OID, "size": o.Size}
		if _, ok := s.objects[o.OID]; ok {
			base := s.href
			if base == "" {
				base = "http://" + r.Host
			}
			answer["actions"] = map[string]any{
				"download": map[string]any{"href": base + "/objects/" + o.OID, "header": s.header},
			}
		} else {
			answer["error"] = map[string]any{"code": 404, "message": "gone\x1b[1m"}
		}
		objects = append(objects, answer)
	}
	w.Header().Set("Content-Type", lfsType)
	json.NewEncoder(w).Encode(map[string]any{"transfer": "basic", "objects": objects})
}

func (s *lfsStore) download(w http.ResponseWriter, r *http.Request) {
	content := s.objects[r.PathValue("oid")]
	for name, value := range s.header {
		if r.Header.Get(name) != value {
			w.WriteHeader(http.StatusForbidden)
			return
		}
	}
	if s.fault != nil && s.fault(w, r, content) {
		return
	}
	from := 0
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ = strconv.Atoi(strings.TrimSuffix(text, "-"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write([]byte(content[from:]))
}

func pointerTo(content string) string {
	return fmt.Sprintf(
		"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oidOf(content), len(content),
	)
}

const lfsAttributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n"

func TestLFS(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("large content \x00\r\n", 50_000)
	const small, never = "small\n", "was never pushed\n"
	git := gittest.NewPlainServer(t)
	library := git.Repo(t, "library.git")
	inLibrary := library.Commit("main", "x", gittest.File(".gitattributes", lfsAttributes),
		gittest.File("in.bin", pointerTo(small)))
	items := []gittest.Item{
		gittest.File(".gitattributes", lfsAttributes), gittest.File("a.bin", pointerTo(large)),
		gittest.Dir("d", gittest.Executable("b.bin", pointerTo(large)), gittest.File("c.bin", pointerTo(small))),
		gittest.File("plain.bin", "committed as it is\n"), gittest.File("a.txt", pointerTo(small)),
		gittest.File("empty.bin", ""), modules("l", "../library.git"),
		gittest.Submodule("l", inLibrary),
	}
	fetched := map[string]string{
		"a.bin": "644 " + large, "d/b.bin": "755 " + large, "d/c.bin": "644 " + small, "l/in.bin": "644 " + small,
	}
	stays := map[string]string{
		"a.bin": "644 " + pointerTo(large), "d/b.bin": "755 " + pointerTo(large), "d/c.bin": "644 " + pointerTo(small),
		"l/in.bin": "644 " + pointerTo(small),
	}
	cut := func(times int64) func(w http.ResponseWriter, r *http.Request, content string) bool {
		var cuts atomic.Int64
		return func(w http.ResponseWriter, r *http.Request, content string) bool {
			if len(content) < 1000 || r.Header.Get("Range") != "" || cuts.Add(1) > times {
				return false
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			w.Write([]byte(content[:len(content)/3]))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	other := newLFSStore(t, nil, large, small)
	other.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the other host was given the credentials")
		}
		w.Write([]byte(other.objects[filepath.Base(r.URL.Path)]))
	})
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	for name, c := range map[string]struct {
		wanted string
		own    string // what the developer wants
		change func(s *lfsStore)
		more   []gittest.Item
		secret []string
		want   map[string]string
		reason outcome.Reason
		parts  []string // of the message, or of the log
	}{
		"public": {wanted: yes, want: fetched, parts: []string{"Fetched files from Git LFS"}},
		"try":    {wanted: try, want: fetched},
		"off":    {wanted: no, want: stays, parts: []string{"switched off", "files=3"}},
		"off by the developer": {
			wanted: yes, own: no, want: stays, parts: []string{"switched off", "files=3"},
		},
		"on by the developer": {wanted: no, own: yes, want: fetched},
		"password": {
			wanted: yes, change: func(s *lfsStore) { s.password = canary }, secret: []string{"password", canary},
			want: fetched,
		},
		"no password": {
			wanted: yes, change: func(s *lfsStore) { s.password = canary }, reason: outcome.AuthenticationFailed,
			parts: []string{"Git LFS", "info/lfs"},
		},
		"no password, try": {
			wanted: try, change: func(s *lfsStore) { s.password = canary }, want: stays,
			parts: []string{"stay pointers", "files=3", "AuthenticationFailed"},
		},
		"contents on another host": {
			wanted: yes, change: func(s *lfsStore) { s.href = elsewhere }, secret: []string{"password", canary},
			want: fetched,
		},
		"headers of the store": {
			wanted: yes, secret: []string{"password", canary}, want: fetched, change: func(s *lfsStore) {
				s.header = map[string]string{"Authorization": "RemoteAuth " + canary}
			},
		},
		"cut and resumed": {wanted: yes, change: func(s *lfsStore) { s.fault = cut(1) }, want: fetched},
		"cut, no ranges": {wanted: yes, want: fetched, change: func(s *lfsStore) {
			first := cut(1)
			s.fault = func(w http.ResponseWriter, r *http.Request, content string) bool {
				if first(w, r, content) {
					return true
				}
				w.Write([]byte(content))
				return true
			}
		}},
		"cut for ever": {
			wanted: yes, change: func(s *lfsStore) {
				s.fault = func(http.ResponseWriter, *http.Request, string) bool { panic(http.ErrAbortHandler) }
			},
			reason: outcome.GitServerUnavailable,
		},
		"busy once": {wanted: yes, want: fetched, change: func(s *lfsStore) {
			var once atomic.Bool
			s.fault = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
				if once.Swap(true) {
					return false
				}
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
		}},
		"another content": {
			wanted: yes, reason: outcome.RepositoryInvalid, parts: []string{"another content"},
			change: func(s *lfsStore) {
				s.fault = func(w http.ResponseWriter, _ *http.Request, content string) bool {
					w.Write([]byte(strings.Repeat("x", len(content))))
					return true
				}
			},
		},
		"more than it says": {
			wanted: yes, reason: outcome.RepositoryInvalid, parts: []string{"more than"}, change: func(s *lfsStore) {
				s.fault = func(w http.ResponseWriter, _ *http.Request, content string) bool {
					w.Write([]byte(content + content))
					return true
				}
			},
		},
		"never pushed": {
			wanted: yes, more: []gittest.Item{gittest.File("z.bin", pointerTo(never))},
			reason: outcome.RevisionNotFound, parts: []string{"z.bin", "404", "git lfs push"},
		},
		"larger than the disk": {
			wanted: yes, reason: outcome.OutOfSpace, more: []gittest.Item{gittest.File(
				"z.bin", strings.Replace(pointerTo(never), "size ", "size 1000000000000", 1),
			)},
		},
		"excluded": {wanted: yes, more: []gittest.Item{gittest.File(".lfsconfig", "[lfs]\n\tfetchexclude = d,x\n")},
			want: map[string]string{
				"a.bin": fetched["a.bin"], "d/b.bin": stays["d/b.bin"], "d/c.bin": stays["d/c.bin"],
			}},
		"included": {wanted: yes, more: []gittest.Item{gittest.File(".lfsconfig", "[lfs]\n\tfetchinclude = *.bin, y\n"+
			"\tfetchexclude = d/c*\n")},
			want: map[string]string{
				"a.bin": fetched["a.bin"], "d/b.bin": fetched["d/b.bin"], "d/c.bin": stays["d/c.bin"],
			}},
		"not an LFS server": {
			wanted: yes, more: []gittest.Item{gittest.File(".lfsconfig", "[lfs]\n\turl = "+git.URL+"/nothing\n")},
			reason: outcome.RepositoryNotFound, parts: []string{"/nothing"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := newLFSStore(t, git, large, small)
			if c.change != nil {
				c.change(store)
			}
			repo := git.Repo(t, fmt.Sprintf("%x.git", name))
			commit := repo.Commit("main", "x", append(items, c.more...)...)
			run := newCheckout(t, store.URL+"/"+filepath.Base(repo.Dir))
			run.LFS, run.RepositoryLFS = c.wanted, c.own
			if c.secret != nil {
				run.GitSecretDir = secretDir(t, c.secret...)
			}
			if run.run(t); c.reason != "" {
				run.want(t, c.reason, c.parts...)
				return
			}
			run.ok(t, commit)
			got := run.files(t)
			for file, content := range c.want {
				if got[file] != content {
					t.Errorf("%s is %.150q, want %.150q", file, got[file], content)
				}
			}
			for file, content := range map[string]string{
				"plain.bin": "644 committed as it is\n", "a.txt": "644 " + pointerTo(small), "empty.bin": "644 ",
			} {
				if got[file] != content {
					t.Errorf("%s is %.150q", file, got[file])
				}
			}
			for _, part := range c.parts {
				if !strings.Contains(run.log, part) {
					t.Errorf("the log lacks %q:\n%s", part, run.log)
				}
			}
			if strings.Contains(run.log, canary) {
				t.Errorf("the password is in the log:\n%s", run.log)
			}
			for _, at := range []string{".", "l"} {
				if got := run.git(t, "-C", at, "status", "--porcelain"); got != "" {
					t.Errorf("git status says %q", got)
				}
			}
		})
	}
}

// Where .lfsconfig says, and with more objects than fit one question.
func TestLFSElsewhere(t *testing.T) {
	t.Parallel()
	var contents []string
	items := []gittest.Item{gittest.File(".gitattributes", lfsAttributes)}
	for i := range 250 {
		contents = append(contents, fmt.Sprint("content ", i))
		items = append(items, gittest.File(fmt.Sprintf("%d.bin", i), pointerTo(contents[i])))
	}
	git := gittest.NewServer(t, "git", canary)
	store := newLFSStore(t, nil, contents...)
	store.Config.Handler = watch(store.Config.Handler, func(r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the LFS server was given the repository's credentials")
		}
	})
	repo := git.Repo(t, "app.git")
	items = append(items, gittest.File(".lfsconfig", "[lfs]\n\turl = "+store.URL+"/lfs\n"))
	commit := repo.Commit("main", "x", items...)
	run := newCheckout(t, repo.URL)
	run.CABundle, run.GitSecretDir = git.CABundle, secretDir(t, "password", canary)
	run.run(t).ok(t, commit)
	for i, content := range contents {
		raw, err := os.ReadFile(filepath.Join(run.Workspace.Source(), fmt.Sprintf("%d.bin", i)))
		if err != nil || string(raw) != content {
			t.Fatalf("%d.bin is %q, %v", i, raw, err)
		}
	}
	if got := store.batches.Load(); got != 3 {
		t.Errorf("%d questions", got)
	}
}

func watch(h http.Handler, see func(*http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		see(r)
		h.ServeHTTP(w, r)
	})
}

// A server that is reached by SSH says where its LFS server is, and what to show there.
func TestLFSOverSSH(t *testing.T) {
	t.Parallel()
	const content = "content\n"
	store := newLFSStore(t, nil, content)
	store.Config.Handler = watch(store.Config.Handler, func(r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("Authorization") != "RemoteAuth "+canary {
			t.Errorf("it was shown %q", r.Header.Get("Authorization"))
		}
	})
	answer := filepath.Join(t.TempDir(), "answer.json")
	raw, err := json.Marshal(map[string]any{
		"href": store.URL + "/lfs", "header": map[string]string{"Authorization": "RemoteAuth " + canary},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(answer, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	server := gittest.NewSSHServer(t, `ForceCommand case "$SSH_ORIGINAL_COMMAND" in `+
		`git-lfs-authenticate\ *app.git*download) cat `+answer+`;; `+
		`git-lfs*) echo "no such repository" >&2; exit 1;; *) sh -c "$SSH_ORIGINAL_COMMAND";; esac`)
	repo := server.Repo(t, "app.git")
	commit := repo.Commit(
		"main", "x", gittest.File(".gitattributes", lfsAttributes), gittest.File("a.bin", pointerTo(content)),
	)
	run := newCheckout(t, repo.URL)
	run.GitSecretDir = secretDir(
		t, "ssh-privatekey", string(server.Key), "known_hosts", string(server.KnownHosts(server.Host.Ed25519)),
	)
	run.run(t).ok(t, commit).wantFiles(t, map[string]string{
		".gitattributes": "644 " + lfsAttributes, "a.bin": "644 " + content,
	})
}

func TestPointers(t *testing.T) {
	t.Parallel()
	oid := strings.Repeat("ab", 32)
	for text, want := range map[string]bool{
		pointerTo("x"): true,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 0\n":                   true,
		"version https://git-lfs.github.com/spec/v1\r\noid sha256:" + oid + "\r\nsize 12\r\n":            true,
		"version https://hawser.github.com/spec/v1\noid sha256:" + oid + "\nsize 12\n":                   true,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize -1\n":                  false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid[1:] + "\nsize 1\n":               false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:../../x\nsize 1\n":                       false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\n":                           false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 9999999999999999999\n": false,
		"oid sha256:" + oid + "\nsize 1\n":                                                               false,
		"\x00\x01":                                                                                       false,
	} {
		if _, ok := parsePointer([]byte(text)); ok != want {
			t.Errorf("%q: %v", text, ok)
		}
	}
}
