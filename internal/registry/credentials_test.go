package registry_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
)

func TestFind(t *testing.T) {
	t.Parallel()
	const config = `{"auths": {
		"registry.example.com":           {"username": "u", "password": "whole-host"},
		"registry.example.com/team":      {"username": "u", "password": "team-path"},
		"https://other.example.com/v2/":  {"auth": "dTpvdGhlci1ob3N0"},
		"https://index.docker.io/v1/":    {"username": "u", "password": "docker-hub"},
		"localhost:5000":                 {"username": "u", "password": "with-port"},
		"empty.example.com":              {},
		"token.example.com":              {"identitytoken": "identity"}
	}}`
	tests := map[string]struct{ repository, password, key string }{
		"host":                    {"registry.example.com/app", "whole-host", "registry.example.com"},
		"longest path":            {"registry.example.com/team/app", "team-path", "registry.example.com/team"},
		"path is of whole parts":  {"registry.example.com/teams/app", "whole-host", "registry.example.com"},
		"URL as key":              {"other.example.com/app", "other-host", "https://other.example.com/v2/"},
		"Docker Hub":              {"docker.io/library/app", "docker-hub", "https://index.docker.io/v1/"},
		"Docker Hub's other name": {"index.docker.io/library/app", "docker-hub", "https://index.docker.io/v1/"},
		"port":                    {"localhost:5000/app", "with-port", "localhost:5000"},
		"another port":            {"localhost:5001/app", "", ""},
		"host that only begins so": {"registry.example.com.evil.example/app",
			"", ""},
		"empty credentials": {"empty.example.com/app", "", ""},
		"identity token":    {"token.example.com/app", "", "token.example.com"},
		"unknown host":      {"ghcr.io/app", "", ""},
	}
	path := write(t, config)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := registry.LoadCredentials(path, &redact.Secrets{})
			if err != nil {
				t.Fatal(err)
			}
			auth, key, found := file.Find(test.repository)
			if auth.Password != test.password || key != test.key || found != (test.key != "") {
				t.Errorf(
					"got password %q of key %q (%t), want %q of %q", auth.Password, key, found, test.password,
					test.key,
				)
			}
		})
	}
}

func TestFindHost(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ config, host, password string }{
		"host": {`{"r.example.com": {"password": "host"}, "r.example.com/team": {"password": "team"}}`,
			"r.example.com", "host"},
		"path alone": {`{"r.example.com/team/app": {"password": "app"}}`, "r.example.com", "app"},
		"shortest path": {`{"r.example.com/a/b": {"password": "b"}, "r.example.com/c": {"password": "c"}}`,
			"r.example.com", "c"},
		"empty entry":  {`{"r.example.com": {}, "r.example.com/team": {"password": "team"}}`, "r.example.com", "team"},
		"another host": {`{"r.example.com.evil.example": {"password": "evil"}}`, "r.example.com", ""},
		"another port": {`{"r.example.com:5001": {"password": "other"}}`, "r.example.com:5000", ""},
		"docker login": {`{"https://index.docker.io/v1/": {"password": "hub"}}`, "registry-1.docker.io", "hub"},
		"podman login": {`{"docker.io": {"password": "hub"}}`, "registry-1.docker.io", "hub"},
		"by address":   {`{"registry-1.docker.io": {"password": "hub"}}`, "docker.io", "hub"},
		"by ggcr":      {`{"index.docker.io": {"password": "hub"}}`, "registry-1.docker.io", "hub"},
		"only a path":  {`{"docker.io/acme": {"password": "acme"}}`, "registry-1.docker.io", "acme"},
		"nothing":      {`{}`, "r.example.com", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, err := registry.LoadCredentials(write(t, `{"auths": `+test.config+`}`), &redact.Secrets{})
			if err != nil {
				t.Fatal(err)
			}
			auth, key, found := file.FindHost(test.host)
			if auth.Password != test.password || found != (test.password != "") {
				t.Errorf("got password %q of key %q (%t), want %q", auth.Password, key, found, test.password)
			}
		})
	}
}

// A Secret chooses no program that a step runs; a person's own file does.
func TestCredentialHelpers(t *testing.T) {
	bin := t.TempDir()
	const helper = `#!/bin/sh
read host
[ "$host" = r.example.com ] && echo '{"ServerURL": "", "Username": "jane", "Secret": "from-helper"}' && exit
echo credentials not found in native keychain
exit 1
`
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	path := write(t, `{"credsStore": "test", "auths": {
		"r.example.com": {}, "file.example.com": {"username": "jane", "password": "from-file"}}}`)
	for _, test := range []struct {
		name, repository string
		load             func(string, *redact.Secrets) (*registry.Credentials, error)
		password         string
	}{
		{"a Secret", "r.example.com/app", registry.LoadCredentials, ""},
		{"a Secret's own entry", "file.example.com/app", registry.LoadCredentials, "from-file"},
		{"one's own", "r.example.com/app", registry.LoadOwnCredentials, "from-helper"},
		{"one's own entry", "file.example.com/app", registry.LoadOwnCredentials, "from-file"},
		{"what the helper has not", "ghcr.io/app", registry.LoadOwnCredentials, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			credentials, err := test.load(path, &redact.Secrets{})
			if err != nil {
				t.Fatal(err)
			}
			authenticator, err := credentials.Authenticator(test.repository)
			if err != nil {
				t.Fatal(err)
			}
			config, err := authenticator.Authorization()
			if err != nil || config.Password != test.password {
				t.Errorf("got %+v, %v; want password %q", config, err, test.password)
			}
		})
	}
	if err := os.Remove(filepath.Join(bin, "docker-credential-test")); err != nil {
		t.Fatal(err)
	}
	credentials, err := registry.LoadOwnCredentials(path, &redact.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := credentials.Authenticator("r.example.com/app"); outcome.Of(err) == nil ||
		outcome.Of(err).Reason != outcome.AuthenticationFailed {
		t.Errorf("without the helper: %v", err)
	}
}

func TestLoadMakesSecret(t *testing.T) {
	t.Parallel()
	var secrets redact.Secrets
	if _, err := registry.LoadCredentials(
		write(t, `{"auths": {"r.example.com": {"username": "jane", "password": "canary-1234"}}}`), &secrets,
	); err != nil {
		t.Fatal(err)
	}
	text := secrets.String("canary-1234 " + base64.StdEncoding.EncodeToString([]byte("jane:canary-1234")))
	if text != "*** ***" {
		t.Errorf("not masked: %s", text)
	}
}

func TestLoadWithoutFile(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"", filepath.Join(t.TempDir(), "absent")} {
		config, err := registry.LoadCredentials(path, &redact.Secrets{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, found := config.Find("r.example.com/app"); found {
			t.Error("found credentials in nothing")
		}
	}
}

func TestLoadDoesNotQuoteTheFile(t *testing.T) {
	t.Parallel()
	path := write(t, `{"auths": {"r.example.com": {"password": canary-1234}}}`)
	_, err := registry.LoadCredentials(path, &redact.Secrets{})
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.AuthenticationFailed ||
		strings.Contains(failure.Message, "canary") {
		t.Errorf("got %v", err)
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
