package gitsource

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

func TestParseRemote(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]Remote{
		"https://github.com/o/r.git": {Scheme: "https", Host: "github.com", Path: "/o/r.git"},
		"https://GitHub.com/o/r/":    {Scheme: "https", Host: "github.com", Path: "/o/r"},
		"https://org@dev.azure.com/org/p/_git/r": {
			Scheme: "https",
			User:   "org",
			Host:   "dev.azure.com",
			Path:   "/org/p/_git/r",
		},
		"https://host:8443/a%20b": {Scheme: "https", Host: "host", Port: "8443", Path: "/a%20b"},
		"http://[::1]:80/x":       {Scheme: "http", Host: "::1", Port: "80", Path: "/x"},
		"ssh://git@host:2222/a/b.git": {
			Scheme: "ssh",
			User:   "git",
			Host:   "host",
			Port:   "2222",
			Path:   "/a/b.git",
		},
		"ssh://host/~me/r":       {Scheme: "ssh", Host: "host", Path: "~me/r"},
		"git@github.com:o/r.git": {Scheme: "ssh", User: "git", Host: "github.com", Path: "o/r.git"},
		"host:/abs/r":            {Scheme: "ssh", Host: "host", Path: "/abs/r"},
		"git@[::1]:r":            {Scheme: "ssh", User: "git", Host: "::1", Path: "r"},
		"git@ssh.dev.azure.com:v3/org/project/re": {
			Scheme: "ssh",
			User:   "git",
			Host:   "ssh.dev.azure.com",
			Path:   "v3/org/project/re",
		},
	} {
		if got, err := ParseRemote(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", "x", "/a/b", "./x", "https://", "https://host", "https://host/", "https://u:p@host/x", "u:p@host:x",
		"https://-h/x",
		"git@-h:x", "-u@h:x",
		"git@h:-x", "https://h/x#f", "https://h/x?q", "ftp://h/x", "https://h /x",
		"https://h/\nx", "ssh://h/a%0ab", "ssh://h/a%00b", "https://%zz/x",
	} {
		if got, err := ParseRemote(raw); err == nil {
			t.Errorf("%q is taken as %+v", raw, got)
		}
	}
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"https://github.com/o/r":                          "git@ssh://github.com/o/r.git",
		"https://github.com/o/r.git":                      "git@ssh://github.com/o/r.git",
		"https://someone@gitlab.com/g/s/r.git":            "git@ssh://gitlab.com/g/s/r.git",
		"https://host:8443/o/r":                           "git@ssh://host/o/r.git",
		"https://host/a%20b":                              "git@ssh://host/a b.git",
		"https://org@dev.azure.com/org/pro%20ject/_git/r": "git@ssh://ssh.dev.azure.com/v3/org/pro ject/r",
		"https://org.visualstudio.com/p/_git/r":           "git@ssh://vs-ssh.visualstudio.com/v3/org/p/r",
		"https://git-codecommit.eu-west-1.amazonaws.com/v1/re/x": "" +
			"@https://git-codecommit.eu-west-1.amazonaws.com/v1/re/x",
		"ssh://git-codecommit.eu-west-1.amazonaws.com/v1/repos/x": "" +
			"APKAKEY@ssh://git-codecommit.eu-west-1.amazonaws.com/v1/repos/x",
		"ssh://me@git-codecommit.eu-west-1.amazonaws.com/v1/re/x": "" +
			"me@ssh://git-codecommit.eu-west-1.amazonaws.com/v1/re/x",
		"ssh://host:2222/x.git": "git@ssh://host:2222/x.git",
		"me@host:x.git":         "me@ssh://host/x.git",
		"http://host/x":         "@http://host/x",
		"https://evil-git-codecommit.amazonaws.com/x": "git@ssh://evil-git-codecommit.amazonaws.com/x.git",
		"https://git-codecommit.amazonaws.com.example.com/o/r": "" +
			"git@ssh://git-codecommit.amazonaws.com.example.com/o/r.git",
	} {
		r, err := ParseRemote(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		if got := r.Rewrite("APKAKEY"); got.User+"@"+got.String() != want {
			t.Errorf("%s: %s@%s, want %s", raw, got.User, got, want)
		}
	}
}

// FuzzRewrite: URLs of repositories: what one becomes for a key is valid, and its host and path stay.
func FuzzRewrite(f *testing.F) {
	for _, raw := range []string{
		"https://github.com/o/r", "git@host:x", "ssh://h:1/x", "https://dev.azure.com/o/p/_git/r",
		"https://h/%2e%2e/x",
		"git@[::1]:x",
	} {
		f.Add(raw, "KEY")
	}
	f.Fuzz(func(t *testing.T, raw, keyID string) {
		var r Remote
		var err error
		fuzztest.Small.Bound(t, len(raw), func() { r, err = ParseRemote(raw) })
		if err != nil {
			if u, uerr := url.Parse(raw); uerr == nil {
				if password, ok := u.User.Password(); ok && len(password) > 5 &&
					strings.Contains(err.Error(), password) {
					t.Errorf("the error for %q has its password: %v", raw, err)
				}
			}
			return
		}
		got := r.Rewrite(keyID)
		if _, err := got.checked(); err != nil && !strings.HasPrefix(keyID, "-") &&
			!strings.ContainsAny(keyID, "\x00\r\n") {
			t.Errorf("%q becomes %+v, which %v", raw, got, err)
		}
		if got.Rewrite(keyID) != got {
			t.Errorf("%q becomes %+v, and that %+v", raw, got, got.Rewrite(keyID))
		}
		if got.Scheme == "ssh" && r.Scheme != "https" && got.Path != r.Path {
			t.Errorf("%q: the path changes to %q", raw, got.Path)
		}
		if r.Scheme == "ssh" && got.Host != r.Host {
			t.Errorf("%q: the host changes to %q", raw, got.Host)
		}
	})
}

func TestSubmoduleURL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ parent, url, want string }{
		{"https://h/a/b.git", "../c.git", "https://h/a/c.git"},
		{"https://h/a/b.git", "./c.git", "https://h/a/b.git/c.git"},
		{"https://h/a/b.git", "../../c.git", "https://h/c.git"},
		{"https://h/a/b.git", "../../../c.git", ""},
		{"https://h:1/a/b", "../c/", "https://h:1/a/c"},
		{"git@h:a/b.git", "../c.git", "ssh://h/a/c.git"},
		{"git@h:b.git", "../c.git", "ssh://h/c.git"},
		{"git@h:b.git", "../../c.git", ""},
		{"https://h/a/b", "git@other:x", "ssh://other/x"},
		{"https://h/a/b", "../..", ""},
	} {
		parent, err := ParseRemote(c.parent)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parent.submodule(c.url)
		if (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%s in %s: %s, %v; want %s", c.url, c.parent, got, err, c.want)
		}
		if err == nil && parent.Scheme == "ssh" && !strings.HasPrefix(parent.Path, "/") &&
			strings.HasPrefix(got.Path, "/") {
			t.Errorf("%s in %s: %q is not relative", c.url, c.parent, got.Path)
		}
	}
}

// Which credentials go where.
func TestVia(t *testing.T) {
	t.Parallel()
	key, err := parseKey(testKey(t))
	if err != nil {
		t.Fatal(err)
	}
	password, sshKey := credentials{password: "p"}, credentials{key: key}
	for name, c := range map[string]struct {
		owner, to string
		creds     credentials
		want      string // of the remote; empty: refused
		user      string
		key       bool
	}{
		"own, password": {"https://h/a", "https://h/a", password, "https://h/a", "git", false},
		"own, password, user in the URL": {
			"https://org@h/a", "https://org@h/a", password, "https://h/a", "org", false,
		},
		"own, the port that is meant anyway": {
			"https://h/a", "https://H:443/b", password, "https://h:443/b", "git", false,
		},
		"own, key": {"https://h/a", "https://h/a", sshKey, "ssh://h/a.git", "", true},
		"same host, another port": {
			"https://h/a", "https://h:8443/a", password, "https://h:8443/a", "", false,
		},
		"same host, not encrypted":   {"https://h/a", "http://h/a", password, "http://h/a", "", false},
		"another host":               {"https://h/a", "https://g/a", password, "https://g/a", "", false},
		"another host, key":          {"https://h/a", "https://g/a", sshKey, "https://g/a", "", false},
		"another host by SSH":        {"https://h/a", "git@g:a", sshKey, "", "", false},
		"same host by SSH, password": {"https://h/a", "git@h:x%y", password, "https://h/x%25y", "git", false},
		"same host by SSH, key":      {"https://h/a", "git@h:b", sshKey, "ssh://h/b", "", true},
		"Azure by SSH, key": {"https://dev.azure.com/o/p/_git/r", "git@ssh.dev.azure.com:v3/o/p/s", sshKey,
			"ssh://ssh.dev.azure.com/v3/o/p/s", "", true},
		"CodeCommit by https, key only": {
			"https://git-codecommit.r.amazonaws.com/v1/x", "https://git-codecommit.r.amazonaws.com/v1/x", sshKey, "",
			"",
			false,
		},
		"CodeCommit by https, key, password": {
			"https://git-codecommit.r.amazonaws.com/v1/x",
			"https://git-codecommit.r.amazonaws.com/v1/x",
			credentials{key: key, password: "p"},
			"https://git-codecommit.r.amazonaws.com/v1/x",
			"git",
			false,
		},
		"public":                               {"https://h/a", "https://h/a", credentials{}, "https://h/a", "", false},
		"public, a submodule by SSH elsewhere": {"https://h/a", "git@g:a", credentials{}, "", "", false},
	} {
		owner, err := ParseRemote(c.owner)
		if err != nil {
			t.Fatal(err)
		}
		to, err := ParseRemote(c.to)
		if err != nil {
			t.Fatal(err)
		}
		got, creds, err := (&client{owner: owner, credentials: c.creds}).via(to)
		switch {
		case (err != nil) != (c.want == ""):
			t.Errorf("%s: %v", name, err)
		case err == nil && (got.String() != c.want || creds.username != c.user || (creds.key != nil) != c.key):
			t.Errorf("%s: %s, user %q, key %v", name, got, creds.username, creds.key != nil)
		}
	}
}
