package gitsource

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
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

// An author is read as the commit says that it is written.
func TestAuthorEncoding(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ author, header, want string }{
		"UTF-8":              {"Jos\u00e9", "", "Jos\u00e9"},
		"ISO-8859-1":         {"Jos\xe9", "encoding ISO-8859-1\n", "Jos\u00e9"},
		"ISO8859-1":          {"Jos\xe9", "encoding ISO8859-1\n", "Jos\u00e9"},
		"latin1":             {"Jos\xe9", "encoding latin1\n", "Jos\u00e9"},
		"ISO-8859-15":        {"\xa4", "encoding ISO-8859-15\n", "\u20ac"},
		"CP1252":             {"\x80", "encoding CP1252\n", "\u20ac"},
		"KOI8-R":             {"\xe9\xd7\xc1\xce", "encoding KOI8-R\n", "\u0418\u0432\u0430\u043d"},
		"SJIS":               {"\x93\xfa\x96\x7b", "encoding SJIS\n", "\u65e5\u672c"},
		"EUC-JP":             {"\xc6\xfc\xcb\xdc", "encoding EUC-JP\n", "\u65e5\u672c"},
		"GBK":                {"\xd6\xd0", "encoding GBK\n", "\u4e2d"},
		"not said":           {"Jos\xe9", "", "Jos\u00e9"},
		"unknown":            {"Jos\xe9", "encoding nonsense\n", "Jos\uFFFD"},
		"control characters": {"Jo\x1b[1ms\x00", "", "Jo[1ms"},
	} {
		raw := "tree " + strings.Repeat("ab", 20) + "\nauthor " + c.author + " <a@b> 1 +0000\n" +
			"committer x <a@b> 2 +0000\n" + c.header + "\nencoding is not a header here\n"
		got, err := parseCommit(plumbing.ZeroHash, []byte(raw))
		if err != nil || got.authorName != c.want || got.authorEmail != "a@b" {
			t.Errorf("%s: %q <%s>, %v; want %q", name, got.authorName, got.authorEmail, err, c.want)
		}
	}
}

// What comes before the key in its file does not count.
func TestKeyWithParameters(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	for name, before := range map[string]string{
		"nothing":       "",
		"EC PARAMETERS": "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
		"attributes":    "Bag Attributes\n    friendlyName: deploy\nKey Attributes: <No Attributes>\n",
		"certificate":   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
	} {
		if _, err := parseKey([]byte(before + block)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A certificate that names its host only as common name is of no use; the hint says so.
func TestCommonNameOnly(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	bundle := secretDir(t, "ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	run := newCheckout(t, server.URL+"/x.git")
	run.CABundle = filepath.Join(bundle, "ca.crt")
	run.run(t).want(t, outcome.GitServerUnavailable, "subject alternative name")
	if strings.Contains(run.log, "Trying again") {
		t.Errorf("it was tried again:\n%s", run.log)
	}
}
