package gitsource

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func TestSSH(t *testing.T) {
	t.Parallel()
	server := gittest.NewSSHServer(t)
	g := newGreeting(t, server.Repo(t, "it's a !team/app.git"))
	key := string(server.Key)
	known := string(server.KnownHosts(server.Host.Ed25519))
	stranger := string(gittest.NewKey(t, ""))
	signer, err := ssh.ParsePrivateKey([]byte(stranger))
	if err != nil {
		t.Fatal(err)
	}
	wrong := string(server.KnownHosts(signer.PublicKey()))
	for name, c := range map[string]struct {
		url       string
		secretDir []string
		reason    outcome.Reason // empty: succeeds
		parts     []string
	}{
		"key": {g.URL, []string{"ssh-privatekey", key, "known_hosts", known}, "", nil},
		"known by its RSA key only": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", string(server.KnownHosts(server.Host.RSA))},
			"",
			nil,
		},
		"known by both": {g.URL,
			[]string{
				"ssh-privatekey", key, "known_hosts", string(server.KnownHosts(server.Host.RSA, server.Host.Ed25519)),
			},
			"", nil},
		"Windows line ends": {g.URL,
			[]string{"ssh-privatekey", strings.ReplaceAll(key, "\n", "\r\n"), "known_hosts",
				strings.ReplaceAll(known, "\n", "\r\n")},
			"", nil},
		"no final line end": {
			g.URL,
			[]string{"ssh-privatekey", strings.TrimSpace(key), "known_hosts", strings.TrimSpace(known)},
			"",
			nil,
		},
		"key wins over password": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", known, "password", "x"},
			"",
			nil,
		},
		"encrypted key": {
			g.URL,
			[]string{"ssh-privatekey", string(gittest.NewKey(t, "secret phrase")), "known_hosts", known},
			outcome.AuthenticationFailed,
			[]string{"passphrase"},
		},
		"no key at all": {
			g.URL,
			[]string{"ssh-privatekey", "hello", "known_hosts", known},
			outcome.AuthenticationFailed,
			[]string{"not a private key"},
		},
		"a key that is not accepted": {
			g.URL,
			[]string{"ssh-privatekey", stranger, "known_hosts", known},
			outcome.AuthenticationFailed,
			[]string{ssh.FingerprintSHA256(signer.PublicKey()), server.User},
		},
		"password only": {
			g.URL,
			[]string{"password", canary},
			outcome.AuthenticationFailed,
			[]string{"reached by SSH"},
		},
		"no secret": {
			g.URL,
			nil,
			outcome.AuthenticationFailed,
			[]string{"reached by SSH", "repository.secretRef"},
		},
		"unknown host": {g.URL, []string{"ssh-privatekey", key}, outcome.HostKeyUnknown,
			[]string{"[127.0.0.1]:", "SHA256:", "no key of that host is known"}},
		"another host is known": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", strings.Replace(known, "127.0.0.1", "127.0.0.2", 1)},
			outcome.HostKeyUnknown,
			[]string{"[127.0.0.1]:"},
		},
		"changed host key": {g.URL, []string{"ssh-privatekey", key, "known_hosts", wrong}, outcome.HostKeyUnknown,
			[]string{ssh.FingerprintSHA256(server.Host.Ed25519), ssh.FingerprintSHA256(signer.PublicKey())}},
		"revoked host key": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", known + "@revoked " + known},
			outcome.HostKeyUnknown,
			[]string{"revoked"},
		},
		"known_hosts that is garbage": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", "what is this"},
			outcome.HostKeyUnknown,
			[]string{"known_hosts in the Git secret"},
		},
		"absent repository": {server.RepoURL("absent.git"), []string{"ssh-privatekey", key, "known_hosts", known},
			outcome.RepositoryNotFound, []string{"absent.git"}},
		"nobody listens": {"ssh://git@127.0.0.1:1/x", []string{"ssh-privatekey", key}, outcome.GitServerUnavailable,
			[]string{"127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := newCheckout(t, "")
			run.GitRepo = strings.ReplaceAll(strings.ReplaceAll(c.url, " ", "%20"), "!", "%21")
			if c.secretDir != nil {
				run.GitSecretDir = secretDir(t, c.secretDir...)
			}
			if run.run(t); c.reason == "" {
				run.ok(t, g.second).wantFiles(t, secondFiles)
				return
			}
			run.want(t, c.reason, c.parts...)
			if strings.Contains(run.log, "Trying again") != (name == "nobody listens") {
				t.Errorf("wrong about trying again:\n%s", run.log)
			}
		})
	}
	t.Run("history from a strict server", func(t *testing.T) {
		t.Parallel()
		strict := newGreeting(t, server.Repo(t, "strict.git"))
		strict.Configure("uploadpack.allowReachableSHA1InWant", "false")
		run := newCheckout(t, strict.URL)
		run.Commit, run.GitSecretDir = strict.first, secretDir(t, "ssh-privatekey", key, "known_hosts", known)
		run.run(t).ok(t, strict.first)
	})
	t.Run("commit that is absent", func(t *testing.T) {
		t.Parallel()
		run := newCheckout(t, strings.ReplaceAll(strings.ReplaceAll(g.URL, " ", "%20"), "!", "%21"))
		run.Commit, run.GitSecretDir = strings.Repeat("ab", 20), secretDir(
			t, "ssh-privatekey", key, "known_hosts", known,
		)
		run.run(t).want(t, outcome.RevisionNotFound, "abab")
	})
}

// The built-in keys are those whose fingerprints their owners publish.
func TestWellKnownHosts(t *testing.T) {
	t.Parallel()
	keys, err := newHostKeys("")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"github.com:22":              "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
		"gitlab.com:22":              "SHA256:eUXGGm1YGsMAS7vkcx6JOJdOGHPem5gQp4taiCfCLB8",
		"bitbucket.org:22":           "SHA256:ybgmFkzwOSotHTHLJgHO0QN8L0xErw6vd0VhFA9m3SM",
		"ssh.dev.azure.com:22":       "SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og",
		"vs-ssh.visualstudio.com:22": "SHA256:ohD8VZEXGWo6Ez8GSEJQ9WpafgLFsOfLOtGGQCQo6Og",
	} {
		known, _ := keys.known(host)
		if !strings.Contains(fingerprints(known), want) {
			t.Errorf("%s: %s lacks %s", host, fingerprints(known), want)
		}
	}
	if known, _ := keys.known("example.com:22"); known != nil {
		t.Error("example.com is known")
	}
	// The secret's file is the only word on the hosts it names.
	own := filepath.Join(t.TempDir(), "known_hosts")
	signer, err := ssh.ParsePrivateKey(gittest.NewKey(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(
		own, append([]byte("github.com "), ssh.MarshalAuthorizedKey(signer.PublicKey())...), 0o600,
	); err != nil {
		t.Fatal(err)
	}
	if keys, err = newHostKeys(own); err != nil {
		t.Fatal(err)
	}
	if known, _ := keys.known("github.com:22"); fingerprints(known) != "ssh-ed25519 "+
		ssh.FingerprintSHA256(signer.PublicKey()) {
		t.Errorf("github.com: %s", fingerprints(known))
	}
	if known, _ := keys.known("gitlab.com:22"); len(known) != 3 {
		t.Errorf("gitlab.com: %s", fingerprints(known))
	}
}
