package gitsource

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

const canary = "c4nary-pa55word"

func TestRevisionNotFound(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	forge := newGreeting(t, server.Repo(t, "forge.git"))
	strict := newGreeting(t, server.Repo(t, "strict.git"))
	strict.Configure("uploadpack.allowReachableSHA1InWant", "false")
	strict.Configure("uploadpack.allowFilter", "false")
	tree := strict.Git(nil, "rev-parse", "main^{tree}")
	forge.Git(nil, "tag", "of-a-tree", tree)
	twin := server.Repo(t, "twins.git")
	prefix := ambiguousPrefix(t, twin)
	absent := strings.Repeat("0123456789", 4)

	for name, c := range map[string]struct {
		repo           *gittest.Repo
		branch, commit string
		parts          []string
	}{
		"branch":                         {forge.Repo, "maim", "", []string{`"maim"`, `there is "main", "dev"`}},
		"branch that looks like SHA":     {forge.Repo, forge.first, "", []string{"repository.revision.commit"}},
		"full SHA":                       {forge.Repo, "", absent, []string{absent}},
		"full SHA at a strict server":    {strict.Repo, "", absent, []string{absent}},
		"SHA-256":                        {forge.Repo, "", strings.Repeat("ab", 32), []string{"abab"}},
		"prefix":                         {forge.Repo, "", absent[:9], []string{absent[:9]}},
		"prefix at a strict server":      {strict.Repo, "", absent[:9], []string{absent[:9]}},
		"ambiguous prefix":               {twin, "", prefix, []string{prefix, "ambiguous"}},
		"tag of a tree":                  {forge.Repo, "of-a-tree", "", []string{"of-a-tree is a tree"}},
		"tree instead of a commit":       {forge.Repo, "", tree, []string{"tree"}},
		"path of a branch":               {forge.Repo, "../../etc/passwd", "", []string{"there is"}},
		"branch that tries to be option": {forge.Repo, "--upload-pack=touch", "", []string{"there is"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := newCheckout(t, c.repo.URL)
			run.CABundle, run.Branch, run.Commit = server.CABundle, c.branch, c.commit
			run.run(t).want(t, outcome.RevisionNotFound, c.parts...)
		})
	}
}

// ambiguousPrefix commits until two commits begin with the same four characters, and returns those.
func ambiguousPrefix(t *testing.T, r *gittest.Repo) string {
	t.Helper()
	var stream strings.Builder
	for range 1500 {
		stream.WriteString("commit refs/heads/main\ncommitter A <a@example.com> 1700000000 +0000\ndata 1\nx\n\n")
	}
	r.Git([]byte(stream.String()), "fast-import", "--quiet")
	seen := map[string]bool{}
	for sha := range strings.FieldsSeq(r.Git(nil, "rev-list", "main")) {
		if seen[sha[:4]] {
			return sha[:4]
		}
		seen[sha[:4]] = true
	}
	t.Fatal("no two commits begin alike")
	return ""
}

func TestParameters(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*checkout)
		part   string
	}{
		"neither branch nor commit": {func(c *checkout) { c.Branch = "" }, "branch, commit"},
		"password in the URL":       {func(c *checkout) { c.GitRepo = "https://u:" + canary + "@host/x" }, "password"},
		"a file":                    {func(c *checkout) { c.GitRepo = "/etc" }, "git-repo"},
		"file URL":                  {func(c *checkout) { c.GitRepo = "file:///etc" }, `"file"`},
		"ext transport":             {func(c *checkout) { c.GitRepo = "ext::sh -c id" }, "git-repo"},
		"query":                     {func(c *checkout) { c.GitRepo = "https://host/x?y=z" }, "query"},
		"option as host":            {func(c *checkout) { c.GitRepo = "ssh://-oProxyCommand=id/x" }, "host"},
		"option as path":            {func(c *checkout) { c.GitRepo = "git@host:-x" }, "path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := newCheckout(t, "https://127.0.0.1:1/x")
			c.change(run)
			run.run(t).want(t, outcome.InvalidParameters, c.part)
			if strings.Contains(run.err.Error()+run.log, canary) {
				t.Error("the password is in the message or log")
			}
		})
	}
}

func TestBasicAuth(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		user      string // that the server wants
		url       func(string) string
		secretDir []string
		reason    outcome.Reason // empty: succeeds
		parts     []string
	}{
		"username and password": {
			user:      "alice",
			secretDir: []string{"username", "alice\n", "password", canary + "\n"},
		},
		"username defaults to git": {user: "git", secretDir: []string{"password", canary}},
		"username of the URL":      {user: "org", url: withUser("org"), secretDir: []string{"password", canary}},
		"the secret's username wins": {
			user:      "alice",
			url:       withUser("org"),
			secretDir: []string{"username", "alice", "password", canary},
		},
		"wrong password": {
			user:      "git",
			secretDir: []string{"password", "wr0ng-password"},
			reason:    outcome.AuthenticationFailed,
			parts:     []string{`"git"`, "401"},
		},
		"none": {
			user:   "git",
			reason: outcome.AuthenticationFailed,
			parts:  []string{"there are none", "repository.secretRef"},
		},
		"a secret with neither": {
			user:      "git",
			secretDir: []string{"token", canary},
			reason:    outcome.AuthenticationFailed,
			parts:     []string{"neither ssh-privatekey nor password"},
		},
		"username only": {user: "git", secretDir: []string{"username", "git"}, reason: outcome.AuthenticationFailed,
			parts: []string{"neither"}},
		"SSH wins and is not accepted": {
			user:      "git",
			secretDir: []string{"password", canary, "ssh-privatekey", string(gittest.NewKey(t, ""))},
			reason:    outcome.GitServerUnavailable,
			parts:     []string{"127.0.0.1:22"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := gittest.NewServer(t, c.user, canary)
			g := newGreeting(t, server.Repo(t, "private.git"))
			run := newCheckout(t, g.URL)
			run.CABundle = server.CABundle
			if c.url != nil {
				run.GitRepo = c.url(g.URL)
			}
			if c.secretDir != nil {
				run.GitSecretDir = secretDir(t, c.secretDir...)
			}
			if run.run(t); c.reason == "" {
				run.ok(t, g.second)
				if raw, _ := os.ReadFile(
					filepath.Join(run.Workspace.Source(), ".git/config"),
				); strings.Contains(string(raw), "@") {
					t.Errorf("a user is in .git/config:\n%s", raw)
				}
				return
			}
			if strings.Contains(name, "SSH wins") && outcome.Of(run.err).Reason == outcome.HostKeyUnknown {
				return // this machine has an SSH server of its own
			}
			run.want(t, c.reason, c.parts...)
		})
	}
}

func withUser(user string) func(string) string {
	return func(url string) string { return strings.Replace(url, "://", "://"+user+"@", 1) }
}

func TestRequiredSecret(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "git", canary)
	g := newGreeting(t, server.Repo(t, "private.git"))
	start := func(t *testing.T, timeout int) *checkout {
		run := newCheckout(t, g.URL)
		run.CABundle, run.GitSecretRequired, run.GitSecretTimeout = server.CABundle, true, timeout
		run.GitSecretDir = filepath.Join(t.TempDir(), "mount")
		return run
	}
	t.Run("appears", func(t *testing.T) {
		t.Parallel()
		run := start(t, 30)
		time.AfterFunc(100*time.Millisecond, func() { os.Symlink(secretDir(t, "password", canary), run.GitSecretDir) })
		run.run(t).ok(t, g.second)
		for _, part := range []string{"Waiting for the Git secret", "The Git secret is there"} {
			if strings.Count(run.log, part) != 1 {
				t.Errorf("the log does not say %q once:\n%s", part, run.log)
			}
		}
	})
	t.Run("never appears", func(t *testing.T) {
		t.Parallel()
		public := gittest.NewServer(t, "", "")
		run := start(t, 0)
		run.GitRepo, run.CABundle = newGreeting(t, public.Repo(t, "public.git")).URL, public.CABundle
		run.run(t).want(t, outcome.AuthenticationFailed, "did not appear", "repository.secretRef")
		if got := public.Requests(); len(got) > 0 {
			t.Errorf("it cloned anonymously: %v", got[0].URL)
		}
	})
	t.Run("stopped while waiting", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(outcome.Errorf(outcome.Cancelled, "stopped")) })
		start(t, 3600).runContext(ctx).want(t, outcome.Cancelled)
	})
}

func TestServerRefusals(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	empty := server.Repo(t, "empty.git")
	sha256 := gittest.NewRepo(t, filepath.Join(server.Root, "other.git"))
	os.RemoveAll(sha256.Dir)
	gittest.NewRepo(t, filepath.Join(server.Root, "base.git")).Git(
		nil, "init", "--quiet", "--bare", "--object-format=sha256", sha256.Dir,
	)
	sha256.Git(
		nil, "update-ref", "refs/heads/main",
		sha256.Git(nil, "commit-tree", "-m", "x", sha256.Git([]byte{}, "mktree")),
	)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "<html>")
	}))
	t.Cleanup(page.Close)
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", announceType)
		io.WriteString(w, "what is this")
	}))
	t.Cleanup(garbage.Close)

	for name, c := range map[string]struct {
		url    string
		ca     string
		reason outcome.Reason
		parts  []string
	}{
		"empty": {empty.URL, server.CABundle, outcome.RepositoryInvalid, []string{"empty"}},
		"absent": {
			server.URL + "/absent.git",
			server.CABundle,
			outcome.RepositoryNotFound,
			[]string{"absent.git", "404"},
		},
		"SHA-256 objects": {server.URL + "/other.git", server.CABundle, outcome.RepositoryInvalid, []string{"sha256"}},
		"a web page":      {page.URL + "/x", "", outcome.RepositoryNotFound, []string{"text/html"}},
		"garbage":         {garbage.URL + "/x", "", outcome.RepositoryInvalid, []string{"not the length of a packet"}},
		"unknown CA":      {empty.URL, "", outcome.GitServerUnavailable, []string{"unknown authority", "ca-bundle"}},
		"wrong host": {
			strings.Replace(empty.URL, "127.0.0.1", "localhost", 1),
			server.CABundle,
			outcome.GitServerUnavailable,
			[]string{"localhost"},
		},
		"nobody listens": {"http://127.0.0.1:1/x.git", "", outcome.GitServerUnavailable, []string{"127.0.0.1:1"}},
		"plain as if TLS": {
			strings.Replace(page.URL, "http:", "https:", 1) + "/x", "", outcome.GitServerUnavailable, nil,
		},
		"CA bundle absent": {empty.URL, "/nonexistent.crt", outcome.InvalidParameters, []string{"ca-bundle"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := newCheckout(t, c.url)
			run.CABundle = c.ca
			run.run(t).want(t, c.reason, c.parts...)
			again := strings.Count(run.log, "Trying again")
			if want := map[bool]int{true: 2, false: 0}[name == "nobody listens"]; again != want {
				t.Errorf("tried %d times again, want %d:\n%s", again, want, run.log)
			}
		})
	}
}

func isPost(r *http.Request) bool { return r.Method == http.MethodPost }
func isGet(r *http.Request) bool  { return r.Method == http.MethodGet }

func TestFaults(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	g := newGreeting(t, server.Repo(t, "app.git"))
	for name, c := range map[string]struct {
		match func(*http.Request) bool
		fault faulttest.Fault
		times int
		ok    bool
		parts []string
	}{
		"429 on references": {isGet, faulttest.Fault{Status: 429, RetryAfter: "0"}, 1, true, nil},
		"429 for ever":      {isGet, faulttest.Fault{Status: 429}, 99, false, []string{"429"}},
		"500 on the pack":   {isPost, faulttest.Fault{Status: 500}, 2, true, nil},
		"503 for ever": {
			isPost,
			faulttest.Fault{Status: 503, Body: "down for maintenance"},
			99,
			false,
			[]string{"503"},
		},
		"cut before the references":   {isGet, faulttest.Fault{}, 1, true, nil},
		"cut in the references":       {isGet, faulttest.Fault{CutBody: 60}, 1, true, nil},
		"cut before the pack":         {isPost, faulttest.Fault{}, 1, true, nil},
		"cut at the pack's beginning": {isPost, faulttest.Fault{CutBody: 50}, 1, true, nil},
		"cut in the pack":             {isPost, faulttest.Fault{CutBody: 400}, 2, true, nil},
		"cut for ever":                {isPost, faulttest.Fault{CutBody: 400}, 99, false, []string{"connection"}},
		"slow": {
			isPost,
			faulttest.Fault{Delay: 50 * time.Millisecond, Pass: true},
			1,
			true,
			nil,
		},
		"length too small":          {isPost, faulttest.Fault{Length: 300}, 1, true, nil},
		"length too large":          {isPost, faulttest.Fault{Length: 100_000}, 1, true, nil},
		"length too large for ever": {isPost, faulttest.Fault{Length: 100_000}, 99, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := faulttest.Before(t, server.URL, faulttest.First(c.times, c.match, c.fault))
			run := newCheckout(t, front.URL+"/app.git").run(t)
			if c.ok {
				run.ok(t, g.second).wantFiles(t, secondFiles)
			} else {
				run.want(t, outcome.GitServerUnavailable, c.parts...)
			}
			if want := int64(min(c.times, 3)); front.Faults.Load() != want {
				t.Errorf("%d faults, want %d\n%s", front.Faults.Load(), want, run.log)
			}
		})
	}
	t.Run("Retry-After is waited for", func(t *testing.T) {
		t.Parallel()
		front := faulttest.Before(t, server.URL, faulttest.First(1, isGet, faulttest.Fault{
			Status:     429,
			RetryAfter: "1",
		}))
		run := newCheckout(t, front.URL+"/app.git")
		started := time.Now()
		run.run(t).ok(t, g.second)
		if took := time.Since(started); took < time.Second {
			t.Errorf("tried again after %s", took)
		}
	})
	t.Run("stopped in the middle", func(t *testing.T) {
		t.Parallel()
		front := faulttest.Before(t, server.URL, faulttest.First(1, isPost, faulttest.Fault{Delay: 3 * time.Second}))
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { cancel(outcome.Errorf(outcome.Cancelled, "stopped")) })
		started := time.Now()
		newCheckout(t, front.URL+"/app.git").runContext(ctx).want(t, outcome.Cancelled)
		if took := time.Since(started); took > 2*time.Second {
			t.Errorf("stopping took %s", took)
		}
	})
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	server := gittest.NewServer(t, "git", canary)
	g := newGreeting(t, server.Repo(t, "new.git"))
	other := gittest.NewServer(t, "git", canary)
	others := newGreeting(t, other.Repo(t, "new.git"))

	var leaked atomic.Int64
	redirect := func(to string) string {
		front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to+strings.TrimPrefix(r.URL.Path, "/old.git")+"?"+
				r.URL.RawQuery, http.StatusMovedPermanently)
		}))
		t.Cleanup(front.Close)
		return front.URL
	}
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { leaked.Add(1) }))
	t.Cleanup(plain.Close)
	// gone is a server without encryption that sends everybody to to.
	gone := func(to string) string {
		front := httptest.NewServer(http.RedirectHandler(
			to+"/info/refs?service=git-upload-pack", http.StatusMovedPermanently,
		))
		t.Cleanup(front.Close)
		return front.URL
	}
	theirs := func(t *testing.T) (shown int) {
		for _, r := range other.Requests() {
			if r.Header.Get("Authorization") != "" {
				shown++
			}
		}
		return shown
	}

	t.Run("to another host, without the credentials", func(t *testing.T) {
		run := newCheckout(t, strings.Replace(gone(other.URL+"/new.git"), "127.0.0.1", "localhost", 1)+"/old.git")
		run.CABundle, run.GitSecretDir = other.CABundle, secretDir(t, "username", "alice", "password", canary)
		run.run(t).want(t, outcome.AuthenticationFailed, "leads to 127.0.0.1:", "only for localhost")
		if strings.Contains(run.err.Error(), "refused the credentials") {
			t.Errorf("they were not shown: %v", run.err)
		}
		if theirs(t) > 0 {
			t.Error("the credentials went to another host")
		}
	})
	t.Run("to the same host's encrypted port, with the credentials", func(t *testing.T) {
		run := newCheckout(t, gone(other.URL+"/new.git")+"/old.git")
		run.CABundle, run.GitSecretDir = other.CABundle, secretDir(t, "password", canary)
		run.run(t).ok(t, others.second)
		if theirs(t) == 0 {
			t.Error("it went without the credentials")
		}
	})
	t.Run("to another port of the same host", func(t *testing.T) {
		run := newCheckout(t, redirect(other.URL+"/new.git")+"/old.git")
		run.CABundle, run.GitSecretDir = other.CABundle, secretDir(t, "password", canary)
		run.run(t).ok(t, others.second)
	})
	t.Run("to the host in capitals", func(t *testing.T) {
		front := httptest.NewServer(nil)
		front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Host, "localhost") {
				http.Redirect(w, r, strings.Replace(front.URL, "127.0.0.1", "LOCALHOST", 1)+
					r.URL.String(), http.StatusMovedPermanently)
				return
			}
			server.ServeHTTP(w, r)
		})
		t.Cleanup(front.Close)
		run := newCheckout(t, strings.Replace(front.URL, "127.0.0.1", "localhost", 1)+"/new.git")
		run.GitSecretDir = secretDir(t, "password", canary)
		run.run(t).ok(t, g.second)
	})
	t.Run("from encrypted to not, by a detour", func(t *testing.T) {
		encrypted := redirect(plain.URL)
		run := newCheckout(t, gone(encrypted+"/old.git")+"/old.git")
		run.CABundle, run.GitSecretDir = other.CABundle, secretDir(t, "password", canary)
		run.run(t).want(t, outcome.RepositoryNotFound, "not encrypted")
	})
	t.Run("to a URL that is not encrypted", func(t *testing.T) {
		run := newCheckout(t, redirect(plain.URL)+"/old.git")
		run.CABundle = other.CABundle
		run.run(t).want(t, outcome.RepositoryNotFound, "not encrypted")
		if leaked.Load() > 0 {
			t.Error("the redirect was followed")
		}
	})
	t.Run("within the server", func(t *testing.T) {
		mux := http.NewServeMux()
		mux.HandleFunc("/old.git/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/new.git/"+strings.TrimPrefix(r.URL.Path, "/old.git/")+"?"+
				r.URL.RawQuery, http.StatusMovedPermanently)
		})
		mux.Handle("/", server)
		front := httptest.NewServer(mux)
		t.Cleanup(front.Close)
		run := newCheckout(t, front.URL+"/old.git")
		run.GitSecretDir = secretDir(t, "password", canary)
		run.run(t).ok(t, g.second)
	})
}

// Whom a refusal is about, and whether it lasts.
func TestForbidden(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	g := newGreeting(t, server.Repo(t, "app.git"))
	for name, c := range map[string]struct {
		secret []string
		header http.Header
		ok     bool
		parts  []string
	}{
		"no secret": {parts: []string{"may not be read without credentials", "there are none", "403"}},
		"not this user's": {
			secret: []string{"password", canary}, parts: []string{`may not be read by user "git"`, "403"},
		},
		"no secret, later": {header: http.Header{"Retry-After": {"0"}}, ok: true},
		"secret, later": {
			secret: []string{"password", canary}, header: http.Header{"Retry-After": {"0"}}, ok: true,
		},
		"rate limit is used up": {header: http.Header{"X-Ratelimit-Remaining": {"0"}}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refused atomic.Bool
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if refused.Swap(true) && c.ok {
					server.ServeHTTP(w, r)
					return
				}
				for name, values := range c.header {
					w.Header()[name] = values
				}
				w.WriteHeader(http.StatusForbidden)
			}))
			t.Cleanup(front.Close)
			run := newCheckout(t, front.URL+"/app.git")
			if c.secret != nil {
				run.GitSecretDir = secretDir(t, c.secret...)
			}
			if run.run(t); c.ok {
				run.ok(t, g.second)
				return
			}
			run.want(t, outcome.AuthenticationFailed, c.parts...)
		})
	}
}

func TestProxy(t *testing.T) {
	server := gittest.NewPlainServer(t)
	newGreeting(t, server.Repo(t, "app.git"))
	var status atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			w.WriteHeader(int(status.Load()))
		}
	}))
	t.Cleanup(proxy.Close)
	for code, reason := range map[int]outcome.Reason{
		407: outcome.AuthenticationFailed,
		502: outcome.GitServerUnavailable,
	} {
		status.Store(int64(code))
		run := newCheckout(t, "https://git.example.com/x.git")
		j, err := newClient(t.Context(), run.Parameters, step.Environment{}, Remote{
			Scheme: "https",
			Host:   "git.example.com",
			Path:   "/x.git",
		})
		if err != nil {
			t.Fatal(err)
		}
		// The environment's proxy is read once per process, so this test names its own.
		u, _ := http.NewRequest("GET", proxy.URL, nil)
		j.http.Proxy = http.ProxyURL(u.URL)
		err = j.fetch(t.Context(), j.owner, nil, nil)
		if got := outcome.Of(err); got == nil || got.Reason != reason || !strings.Contains(got.Message, "proxy") {
			t.Errorf("%d: %v, want %s", code, err, reason)
		}
	}
}

// A server that says nothing must not hold the step.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	for _, url := range []string{
		"http://" + listener.Addr().String() + "/x", "ssh://git@" + listener.Addr().String() + "/x",
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(100*time.Millisecond, func() { cancel(outcome.Errorf(outcome.Cancelled, "stopped")) })
		run := newCheckout(t, url)
		run.GitSecretDir = secretDir(t, "ssh-privatekey", string(gittest.NewKey(t, "")), "password", canary)
		run.runContext(ctx).want(t, outcome.Cancelled)
	}
}

// A server may take as long as the parameter says, before its answer and within it, and no longer.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	g := newGreeting(t, server.Repo(t, "app.git"))
	front := faulttest.Before(t, server.URL, func(*http.Request) *faulttest.Fault {
		return &faulttest.Fault{Delay: 1500 * time.Millisecond, Pass: true}
	})
	patient := newCheckout(t, front.URL+"/app.git")
	patient.GitTimeout = 20
	impatient := newCheckout(t, front.URL+"/app.git")
	impatient.GitTimeout = 1
	impatient.run(t).want(t, outcome.GitServerUnavailable, "no answer for 1s", "git-timeout")
	patient.run(t).ok(t, g.second)
	remote := Remote{Scheme: "https", Host: "h", Path: "/x"}
	c, err := newClient(t.Context(), patient.Parameters, step.Environment{}, remote)
	if err != nil {
		t.Fatal(err)
	}
	if c.patience != 20*time.Second || c.http.ResponseHeaderTimeout != 0 {
		t.Errorf("it waits %s, and %s before the answer begins", c.patience, c.http.ResponseHeaderTimeout)
	}
}

// Nor must one that stops in the middle of an answer.
func TestStalledServer(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	newGreeting(t, server.Repo(t, "app.git"))
	for name, stalls := range map[string]func(*http.Request) bool{"references": isGet, "pack": isPost} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				out, err := http.NewRequest(r.Method, server.URL+r.URL.String(), strings.NewReader(string(raw)))
				if err != nil {
					t.Error(err)
					return
				}
				out.Header = r.Header
				resp, err := http.DefaultTransport.RoundTrip(out)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
				if !stalls(r) {
					io.Copy(w, resp.Body)
					return
				}
				io.CopyN(w, resp.Body, 60)
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}))
			t.Cleanup(front.Close)
			run := newCheckout(t, front.URL+"/app.git")
			remote, err := ParseRemote(run.GitRepo)
			if err != nil {
				t.Fatal(err)
			}
			c, err := newClient(t.Context(), run.Parameters, step.Environment{}, remote)
			if err != nil {
				t.Fatal(err)
			}
			c.patience = 200 * time.Millisecond
			err = c.fetch(t.Context(), remote, func(adv *advertisement) (request, error) {
				chosen, err := revision{branch: "main"}.choose(adv)
				return chosen.request, err
			}, func(r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			})
			if got := outcome.Of(err); got == nil || got.Reason != outcome.GitServerUnavailable ||
				!strings.Contains(got.Message, "no answer for 200ms") {
				t.Errorf("%v", err)
			}
		})
	}
}
