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
			file, err := registry.Load(path, &redact.Secrets{})
			if err != nil {
				t.Fatal(err)
			}
			auth, key, found := registry.Find(file, test.repository)
			if auth.Password != test.password || key != test.key || found != (test.key != "") {
				t.Errorf(
					"got password %q of key %q (%t), want %q of %q", auth.Password, key, found, test.password,
					test.key,
				)
			}
		})
	}
}

func TestLoadMakesSecret(t *testing.T) {
	t.Parallel()
	var secrets redact.Secrets
	if _, err := registry.Load(
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
		config, err := registry.Load(path, &redact.Secrets{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, found := registry.Find(config, "r.example.com/app"); found {
			t.Error("found credentials in nothing")
		}
	}
}

func TestLoadDoesNotQuoteTheFile(t *testing.T) {
	t.Parallel()
	_, err := registry.Load(write(t, `{"auths": {"r.example.com": {"password": canary-1234}}}`), &redact.Secrets{})
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
