package gitsource

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"access denied\x00":            "access denied",
		"\x1b[31mred\x1b[0m":           "[31mred[0m",
		"two\nlines\tand  space":       "two lines and space",
		"caf\xe9":                      "caf\uFFFD",
		"café":                         "café",
		"a\u202etxt.exe":               "atxt.exe",
		"\x9b1mC1\u009b2m":             "\uFFFD1mC12m",
		strings.Repeat("x", 2000):      strings.Repeat("x", longestText),
		"\x1b]0;title\x07\r\nthe rest": "]0;title the rest",
	} {
		if got := clean([]byte(raw)); got != want {
			t.Errorf("%q becomes %q, want %q", raw, got, want)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var said []string
	p := progress{say: func(line string) { said = append(said, line) }}
	for _, part := range []string{
		"Counting objects:  50% (1/2)\rCounting objects: 100% (2/2)\r", "Counting objects: 100% (2/2), done.\n",
		"This reposi", "tory moves\x00 soon\n\n", "last",
	} {
		p.hear([]byte(part))
	}
	p.flush()
	want := []string{"Counting objects: 100% (2/2), done.", "This repository moves soon", "last"}
	if diff := cmp.Diff(want, said); diff != "" {
		t.Error(diff)
	}
	for range 10_000 {
		p.hear([]byte("noise\n"))
	}
	if len(said) != mostLines {
		t.Errorf("%d lines are shown", len(said))
	}
}

// rewritten stands before a Git server and changes what it answers, or is asked.
func rewritten(
	t *testing.T, server *gittest.Server, ask func(*http.Request), answer func(r *http.Request, body []byte) []byte,
) string {
	t.Helper()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ask != nil {
			ask(r)
		}
		rec := httptest.NewRecorder()
		server.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if answer != nil {
			body = answer(r, body)
		}
		for name, values := range rec.Header() {
			w.Header()[name] = values
		}
		w.Header().Del("Content-Length")
		w.WriteHeader(rec.Code)
		w.Write(body)
	}))
	t.Cleanup(front.Close)
	return front.URL
}

// What a server says beside its answer is for people, also what it says instead of one.
func TestServerSpeaks(t *testing.T) {
	t.Parallel()
	server := gittest.NewPlainServer(t)
	g := newGreeting(t, server.Repo(t, "app.git"))
	packet := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	t.Run("beside the pack", func(t *testing.T) {
		t.Parallel()
		front := rewritten(t, server, nil, func(r *http.Request, body []byte) []byte {
			return bytes.Replace(body, []byte("0008NAK\n"), []byte("0008NAK\n"+packet("\x02This repository mo")+
				packet("\x02ves soon.\n")), 1)
		})
		run := newCheckout(t, front+"/app.git").run(t).ok(t, g.second)
		if !strings.Contains(run.log, "This repository moves soon.") {
			t.Errorf("the log lacks it:\n%s", run.log)
		}
	})
	for name, c := range map[string]struct {
		match func(*http.Request) bool
		body  string
	}{
		"instead of references": {isGet, "001e# service=git-upload-pack\n0000" +
			packet("ERR access \x1b[1mdenied\x00\n")},
		"instead of the pack": {isPost, packet("ERR access \x1b[1mdenied\x00")},
		"in the pack":         {isPost, "0000" + packet("NAK\n") + packet("\x03access \x1b[1mdenied\n\x00")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			front := rewritten(t, server, nil, func(r *http.Request, body []byte) []byte {
				if c.match(r) {
					return []byte(c.body)
				}
				return body
			})
			run := newCheckout(t, front+"/app.git").run(t)
			run.want(t, outcome.GitServerUnavailable, "the server says: access [1mdenied")
			if got := outcome.Of(run.err); strings.ContainsAny(got.Message, "\x00\x1b") {
				t.Errorf("control characters are in %q", got.Message)
			}
		})
	}
}

// A server that speaks version 2 of the protocol, whatever it is asked.
func TestVersion2(t *testing.T) {
	t.Parallel()
	over := map[string]func(t *testing.T) (greeting, func(*checkout)){
		"http": func(t *testing.T) (greeting, func(*checkout)) {
			server := gittest.NewPlainServer(t)
			g := newGreeting(t, server.Repo(t, "app.git"))
			front := rewritten(t, server, func(r *http.Request) { r.Header.Set("Git-Protocol", "version=2") }, nil)
			return g, func(c *checkout) { c.GitRepo = front + "/app.git" }
		},
		"ssh": func(t *testing.T) (greeting, func(*checkout)) {
			server := gittest.NewSSHServer(
				t, `ForceCommand GIT_PROTOCOL=version=2 sh -c "$SSH_ORIGINAL_COMMAND"`,
			)
			g := newGreeting(t, server.Repo(t, "app.git"))
			secret := secretDir(
				t, "ssh-privatekey", string(server.Key), "known_hosts", string(server.KnownHosts(server.Host.Ed25519)),
			)
			return g, func(c *checkout) { c.GitRepo, c.GitSecretDir = g.URL, secret }
		},
	}
	for name, start := range over {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, reach := start(t)
			for name, c := range map[string]struct{ branch, commit, want string }{
				"branch":                {branch: "main", want: g.second},
				"annotated tag":         {branch: "v2.0.0", want: g.second},
				"commit in the history": {commit: g.first, want: g.first},
				"abbreviated":           {commit: g.first[:7], want: g.first},
			} {
				run := newCheckout(t, "")
				run.Branch, run.Commit = c.branch, c.commit
				reach(run)
				if run.run(t); run.err != nil {
					t.Fatalf("%s: %v", name, run.err)
				}
				run.ok(t, c.want)
				if c.want == g.second {
					run.wantFiles(t, secondFiles)
				}
			}
			run := newCheckout(t, "")
			reach(run)
			run.Branch = "absent"
			run.run(t).want(t, outcome.RevisionNotFound, `there is "dev", "main"`)
			run.Branch, run.Commit = "", strings.Repeat("ab", 20)
			run.run(t).want(t, outcome.RevisionNotFound, "abab")
		})
	}
}

func TestDumbHTTP(t *testing.T) {
	t.Parallel()
	dumb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat("ab", 20)+"\trefs/heads/main\n")
	}))
	t.Cleanup(dumb.Close)
	newCheckout(t, dumb.URL+"/x.git").run(t).want(t, outcome.RepositoryNotFound, "dumb HTTP protocol")
}
