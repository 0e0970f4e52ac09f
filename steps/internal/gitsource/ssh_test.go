package gitsource

import (
	"crypto/rand"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

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
	hostKey := string(ssh.MarshalAuthorizedKey(server.Host.Ed25519))
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
		"known_hosts with unreadable lines": {
			g.URL,
			[]string{
				"ssh-privatekey", key, "known_hosts", "what is this\n@odd " + known + "h ssh-ed25519 AAAA\n" + known,
			},
			"",
			nil,
		},
		"known without its port": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", "127.0.0.1 " + hostKey},
			"",
			nil,
		},
		"known under another port": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", "[127.0.0.1]:1 " + hostKey},
			outcome.HostKeyUnknown,
			[]string{"no key of that host is known"},
		},
		"the port's line wins": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", wrong + "127.0.0.1 " + hostKey},
			outcome.HostKeyUnknown,
			[]string{"not the one that is known"},
		},
		"another key without the port": {
			g.URL,
			[]string{
				"ssh-privatekey", key, "known_hosts",
				"127.0.0.1 " + string(ssh.MarshalAuthorizedKey(signer.PublicKey())) + known,
			},
			"",
			nil,
		},
		"revoked without its port": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", known + "@revoked 127.0.0.1 " + hostKey},
			outcome.HostKeyUnknown,
			[]string{"revoked"},
		},
		"comment of several words": {
			g.URL,
			[]string{"ssh-privatekey", key, "known_hosts", strings.TrimSpace(known) + " our own Git server\n"},
			"",
			nil,
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
	keys := newHostKeys(nil)
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
	signer, err := ssh.ParsePrivateKey(gittest.NewKey(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	keys = newHostKeys(append([]byte("github.com "), ssh.MarshalAuthorizedKey(signer.PublicKey())...))
	if known, _ := keys.known("github.com:22"); fingerprints(known) != "ssh-ed25519 "+
		ssh.FingerprintSHA256(signer.PublicKey()) {
		t.Errorf("github.com: %s", fingerprints(known))
	}
	if known, _ := keys.known("gitlab.com:22"); len(known) != 3 {
		t.Errorf("gitlab.com: %s", fingerprints(known))
	}
}

// Who is known, by the rules of sshd(8) and of ssh -o StrictHostKeyChecking=yes.
func TestKnownHosts(t *testing.T) {
	t.Parallel()
	public := func() ssh.PublicKey {
		signer, err := ssh.ParsePrivateKey(gittest.NewKey(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		return signer.PublicKey()
	}
	right, wrong := public(), public()
	line := func(hosts string, key ssh.PublicKey) string {
		return hosts + " " + string(ssh.MarshalAuthorizedKey(key))
	}
	for name, c := range map[string]struct {
		address, file string
		want          bool
	}{
		"name":                     {"h.example:22", line("h.example", right), true},
		"another name":             {"h.example:22", line("g.example", right), false},
		"name, other port":         {"h.example:7999", line("h.example", right), true},
		"name with port":           {"h.example:7999", line("[h.example]:7999", right), true},
		"name with the usual port": {"h.example:22", line("[h.example]:22", right), false},
		"several names":            {"h.example:22", line("g,h.example,1.2.3.4", right), true},
		"capitals":                 {"h.example:22", line("H.Example", right), true},
		"wildcard":                 {"h.example:22", line("*.example", right), true},
		"wildcard, other port":     {"h.example:7999", line("*.example", right), true},
		"wildcard for ports":       {"h.example:7999", line("[h.example]:*", right), true},
		"question mark":            {"h1.example:22", line("h?.example", right), true},
		"negated":                  {"h.example:22", line("*.example,!h.example", right), false},
		"negated first":            {"h.example:22", line("!h.example,*", right), false},
		"negated another":          {"h.example:22", line("*.example,!g.example", right), true},
		"hashed":                   {"h.example:22", line(knownhosts.HashHostname("h.example"), right), true},
		"hashed with port":         {"h.example:7", line(knownhosts.HashHostname("[h.example]:7"), right), true},
		"hashed, other port":       {"h.example:7", line(knownhosts.HashHostname("h.example"), right), true},
		"IPv6":                     {"[::1]:22", line("::1", right), true},
		"IPv6 with port":           {"[::1]:7999", line("[::1]:7999", right), true},
		"another key":              {"h.example:22", line("h.example", wrong), false},
		"one of two keys":          {"h.example:22", line("h.example", wrong) + line("h.example", right), true},
		"revoked": {
			"h.example:22", line("h.example", right) + "@revoked " + line("*", right), false,
		},
		"authority's key is no host's":  {"h.example:22", "@cert-authority " + line("h.example", right), false},
		"unknown marker":                {"h.example:22", "@trusted " + line("h.example", right), false},
		"unreadable line before":        {"h.example:22", "nonsense\n" + line("h.example", right), true},
		"key of a kind that is unknown": {"h.example:22", "h.example ssh-new AAAA\n" + line("h.example", right), true},
	} {
		var config ssh.ClientConfig
		newHostKeys([]byte(c.file)).require(&config, c.address)
		if err := config.HostKeyCallback(c.address, nil, right); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A host may show a certificate of an authority that the secret trusts for it.
func TestHostCertificates(t *testing.T) {
	t.Parallel()
	signer := func() ssh.Signer {
		s, err := ssh.ParsePrivateKey(gittest.NewKey(t, ""))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	authority, stranger, host := signer(), signer(), signer().PublicKey()
	line := func(hosts string, key ssh.PublicKey) string {
		return hosts + " " + string(ssh.MarshalAuthorizedKey(key))
	}
	trusted := "@cert-authority " + line("*.example", authority.PublicKey())
	const address = "h.example:7999"
	for name, c := range map[string]struct {
		file   string
		signer ssh.Signer
		change func(*ssh.Certificate)
		want   bool
	}{
		"trusted":           {trusted, authority, nil, true},
		"another authority": {trusted, stranger, nil, false},
		"for other hosts":   {strings.Replace(trusted, "*.example", "*.test", 1), authority, nil, false},
		"nothing is known":  {"", authority, nil, false},
		"of another host": {trusted, authority, func(c *ssh.Certificate) {
			c.ValidPrincipals[0] = "g.example"
		}, false},
		"expired":                {trusted, authority, func(c *ssh.Certificate) { c.ValidBefore = 1 }, false},
		"a user's":               {trusted, authority, func(c *ssh.Certificate) { c.CertType = ssh.UserCert }, false},
		"revoked":                {trusted + "@revoked " + line("*", host), authority, nil, false},
		"revoked authority":      {trusted + "@revoked " + line("*", authority.PublicKey()), authority, nil, false},
		"its plain key is known": {line("h.example", host), stranger, nil, true},
	} {
		cert := &ssh.Certificate{
			Key: host, CertType: ssh.HostCert, ValidPrincipals: []string{"h.example"},
			ValidBefore: ssh.CertTimeInfinity,
		}
		if c.change != nil {
			c.change(cert)
		}
		if err := cert.SignCert(rand.Reader, c.signer); err != nil {
			t.Fatal(err)
		}
		var config ssh.ClientConfig
		newHostKeys([]byte(c.file)).require(&config, address)
		if err := config.HostKeyCallback(address, nil, cert); (err == nil) != c.want {
			t.Errorf("%s: %v", name, err)
		}
		asked := slices.Contains(config.HostKeyAlgorithms, ssh.CertAlgoED25519v01)
		if want := strings.Contains(c.file, "@cert-authority *.example"); asked != want {
			t.Errorf("%s: a certificate is asked for: %v", name, asked)
		}
	}
}

// A hardened server has few algorithms; SHA-1 is off, as in OpenSSH.
func TestSSHAlgorithms(t *testing.T) {
	t.Parallel()
	for config, reason := range map[string]outcome.Reason{
		"KexAlgorithms diffie-hellman-group-exchange-sha256":                  "",
		"KexAlgorithms diffie-hellman-group16-sha512":                         "",
		"KexAlgorithms sntrup761x25519-sha512@openssh.com,ecdh-sha2-nistp521": "",
		"Ciphers aes256-ctr\nMACs hmac-sha2-512":                              "",
		"HostKeyAlgorithms rsa-sha2-512":                                      "",
		"KexAlgorithms diffie-hellman-group14-sha1":                           outcome.GitServerUnavailable,
	} {
		t.Run(config, func(t *testing.T) {
			t.Parallel()
			server := gittest.NewSSHServer(t, config)
			g := newGreeting(t, server.Repo(t, "app.git"))
			run := newCheckout(t, g.URL)
			run.GitSecretDir = secretDir(
				t, "ssh-privatekey", string(server.Key),
				"known_hosts", string(server.KnownHosts(server.Host.RSA, server.Host.Ed25519)),
			)
			if run.run(t); reason != "" {
				run.want(t, reason, "no common algorithm")
				return
			}
			run.ok(t, g.second)
		})
	}
}
