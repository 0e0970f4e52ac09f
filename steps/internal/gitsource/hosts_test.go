package gitsource

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func TestHosts(t *testing.T) {
	t.Parallel()
	wellKnown := ""
	for _, p := range schemas.MustLoad("checkout-source").Properties {
		if p.Name == "git-secret-hosts" {
			wellKnown = fmt.Sprint(p.Default)
		}
	}
	for _, c := range []struct {
		list, url string
		want      bool
	}{
		{"git.example.com", "https://git.example.com/x", true},
		{"git.example.com", "https://git.example.com:443/x", true},
		{"git.example.com", "https://GIT.example.COM./x", true},
		{"GIT.Example.com.", "https://git.example.com/x", true},
		{"git.example.com", "git@git.example.com:x", true},
		{"git.example.com", "ssh://git@git.example.com:22/x", true},
		{"git.example.com", "https://git.example.com:8443/x", false},
		{"git.example.com", "ssh://git@git.example.com:7999/x", false},
		{"git.example.com:7999", "ssh://git@git.example.com:7999/x", true},
		{"git.example.com:7999", "git@git.example.com:x", false},
		{"git.example.com:*", "ssh://git@git.example.com:7999/x", true},
		{"a.example, git.example.com\n", "https://git.example.com/x", true},
		{"git.example.com", "https://git.example.com.evil.example/x", false},
		{"git.example.com", "https://evil-git.example.com/x", false},
		{"git.example.com", "https://xgit.example.com/x", false},
		{"git.example.com", "https://git.example.com@evil.example/x", false},
		{"git.example.com", "https://g\u0456t.example.com/x", false},
		{"git.example.com", "https://\uff47it.example.com/x", false},
		{"git.example.com", "https://git\u3002example.com/x", false},
		{"*.example.com", "https://git.example.com/x", true},
		{"*.example.com", "https://example.com/x", false},
		{"*.example.com", "https://a.b.example.com/x", false},
		{"*.example.com", "https://evilexample.com/x", false},
		{"*.example.com", "https://git.example.com:8443/x", false},
		{"127.0.0.1:*", "http://127.0.0.1:3000/x", true},
		{"127.0.0.1", "http://127.0.0.11/x", false},
		{"::1", "http://[::1]/x", true},
		{"[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000/x", true},
		{"[::1]:3000", "http://[::1]/x", false},
		{"::ffff:10.0.0.1", "http://10.0.0.1/x", false},
		{"*", "https://anything.example:1/x", true},
		{"", "https://git.example.com/x", false},
		{wellKnown, "https://github.com/x", true},
		{wellKnown, "git@gitlab.com:x", true},
		{wellKnown, "https://org.visualstudio.com/p/_git/r", true},
		{wellKnown, "ssh://git-codecommit.eu-west-1.amazonaws.com/v1/repos/x", true},
		{wellKnown, "https://git-codecommit.cn-north-1.amazonaws.com.cn/v1/repos/x", true},
		{wellKnown, "https://git-codecommit.evil.s3.amazonaws.com/x", false},
		{wellKnown, "https://git-codecommit.amazonaws.com/x", false},
		{wellKnown, "https://github.com.evil.example/x", false},
		{wellKnown, "https://gist.github.com/x", false},
		{wellKnown, "https://github.com:8443/x", false},
	} {
		list, err := parseHosts(c.list)
		if err != nil {
			t.Errorf("%q: %v", c.list, err)
			continue
		}
		to, err := ParseRemote(c.url)
		if err != nil {
			if c.want {
				t.Errorf("%s: %v", c.url, err)
			}
			continue
		}
		if got := list.names(to); got != c.want {
			t.Errorf("%q names %s: %v", c.list, c.url, got)
		}
	}
	for _, bad := range []string{
		"https://git.example.com", "git.example.com/x", "git.*.com", "*.com", "*.*", "**", "g*.example.com", "a..b",
		"git.example.com:", "git.example.com:x", "git.example.com:1234567", "user@git.example.com", "*:443",
		"g\u0456t.example.com", "git.example.com;evil.example", ":22", "[", "\x00", "-\u202e", "%31", "a:b:c",
	} {
		if list, err := parseHosts(bad); err == nil && len(list) > 0 {
			t.Errorf("%q is taken for %v", bad, list)
		}
	}
}

// front is a server on plain HTTP that notes the Authorization of each request before it answers.
type front struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newFront(t *testing.T, answer http.Handler) *front {
	f := &front{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, r.Header.Get("Authorization"))
		f.mu.Unlock()
		answer.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *front) shown() (times int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.seen {
		if s != "" {
			times++
		}
	}
	return times
}

// What the secret and the parameter name, and when the secret is shown to whom it may be shown to.
func TestSecretIsForItsHosts(t *testing.T) {
	t.Parallel()
	public := gittest.NewPlainServer(t)
	g := newGreeting(t, public.Repo(t, "app.git"))
	private := gittest.NewServer(t, "git", canary)
	for _, s := range []*gittest.Server{private} {
		newGreeting(t, s.Repo(t, "app.git"))
	}
	commit := g.second
	challenge := func(values ...string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			for _, v := range values {
				w.Header().Add("WWW-Authenticate", v)
			}
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	const local = "127.0.0.1:*"
	for name, c := range map[string]struct {
		refuse  func(http.ResponseWriter) // what the server says to those who show nothing; nil: it is public
		named   string                    // git-hosts of the secret; none: it has no such key
		setting string
		reason  outcome.Reason
		parts   []string
		shown   bool
	}{
		"public, named":           {setting: local},
		"public, not named":       {setting: "git.example.com"},
		"public, of another host": {named: "git.example.com", setting: local},
		"private, by the setting": {refuse: challenge(`Basic realm="x"`), setting: local, shown: true},
		"private, by the secret":  {refuse: challenge("Basic"), named: local, shown: true},
		"private, not named": {
			refuse: challenge("Basic"), setting: "git.example.com", reason: outcome.AuthenticationFailed,
			parts: []string{"not sent to 127.0.0.1:", "stepwright.dev/git-hosts", "git-secret-hosts"},
		},
		"private, the secret is for another host": {
			refuse: challenge("Basic"), named: "git.example.com", setting: "*", reason: outcome.AuthenticationFailed,
			parts: []string{"the Git secret does not name that host"},
		},
		"a secret for no host": {
			refuse: challenge("Basic"), named: " ", setting: "*", reason: outcome.AuthenticationFailed,
			parts: []string{"does not name that host"},
		},
		"another port":        {refuse: challenge("Basic"), named: "127.0.0.1", reason: outcome.AuthenticationFailed},
		"a secret for any":    {named: "*", reason: outcome.AuthenticationFailed, parts: []string{"git-hosts"}},
		"a list that is none": {named: "https://127.0.0.1", reason: outcome.AuthenticationFailed},
		"a setting that is none": {
			setting: "https://127.0.0.1", reason: outcome.InvalidParameters, parts: []string{"git-secret-hosts"},
		},
		"no challenge": {refuse: challenge(), setting: local, shown: true},
		"one of several challenges": {
			refuse: challenge("Bearer x", `NTLM`, `Negotiate, Basic realm="x"`), setting: local, shown: true,
		},
		"tickets only": {
			refuse: challenge("Negotiate", `NTLM`), setting: local, reason: outcome.AuthenticationFailed,
			parts: []string{"Negotiate, NTLM", "Basic only"},
		},
		"hidden by 404":            {refuse: status(404), named: local, shown: true},
		"hidden by 403":            {refuse: status(403), named: local, shown: true},
		"hidden by a page":         {refuse: status(203), named: local, shown: true},
		"hidden by 404, not named": {refuse: status(404), named: "h.example", reason: outcome.RepositoryNotFound},
		"hidden by 403, not named": {refuse: status(403), named: "h.example", reason: outcome.AuthenticationFailed},
		"out of order":             {refuse: status(503), named: local, reason: outcome.GitServerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, password, _ := r.BasicAuth(); c.refuse != nil && password != canary {
					c.refuse(w)
					return
				}
				public.ServeHTTP(w, r)
			}))
			run := newCheckout(t, f.URL+"/app.git")
			secret := []string{"password", canary}
			if c.named != "" {
				secret = append(secret, "git-hosts", c.named)
			}
			run.GitSecretDir, run.GitSecretHosts = secretDir(t, secret...), c.setting
			if run.run(t); c.reason != "" {
				run.want(t, c.reason, c.parts...)
			} else {
				run.ok(t, commit)
			}
			if got := f.shown(); (got > 0) != c.shown {
				t.Errorf("the secret was shown %d times", got)
			}
			if f.seen = append(f.seen, ""); f.seen[0] != "" {
				t.Error("the secret was shown unasked")
			}
		})
	}
}

// Over plain HTTP only with permission, or to this machine.
func TestSecretOverPlainHTTP(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"http://git.example.com/x": false, "http://10.0.0.1/x": false, "http://127.0.0.1.example.com/x": false,
		"http://localhost.example.com/x": false, "https://git.example.com/x": true, "ssh://git.example.com/x": true,
		"http://127.0.0.1/x": true, "http://127.8.9.1/x": true, "http://[::1]/x": true, "http://localhost/x": true,
		"http://0.0.0.0/x": false, "http://[::ffff:127.0.0.1]/x": true,
	} {
		to, err := ParseRemote(url)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{credentials: credentials{password: canary, hosts: hostList{everyHost}}}
		if err := c.allowed(to); (err == nil) != want || err != nil && !strings.Contains(err.Error(), "plain HTTP") {
			t.Errorf("%s: %v", url, err)
		}
		c.insecure = true
		if err := c.allowed(to); err != nil {
			t.Errorf("%s with permission: %v", url, err)
		}
	}
}

// A key is offered to servers that the secret names, and nothing is sent to any other.
func TestKeyIsForItsHosts(t *testing.T) {
	t.Parallel()
	server := gittest.NewSSHServer(t)
	g := newGreeting(t, server.Repo(t, "app.git"))
	for named, reason := range map[string]outcome.Reason{
		"127.0.0.1:*": "", "git.example.com, 127.0.0.1:*": "", "127.0.0.1": outcome.AuthenticationFailed,
		"git.example.com": outcome.AuthenticationFailed,
	} {
		run := newCheckout(t, g.URL)
		run.GitSecretDir = secretDir(
			t, "ssh-privatekey", string(server.Key), "known_hosts", string(server.KnownHosts(server.Host.Ed25519)),
			"git-hosts", named,
		)
		if run.run(t); reason != "" {
			run.want(t, reason, "not sent to 127.0.0.1:", "git-hosts")
			continue
		}
		run.ok(t, g.second)
	}
}
