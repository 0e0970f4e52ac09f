package gittest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// SSHServer is an OpenSSH server on the loopback interface. It lets the test's own user in, with Key.
type SSHServer struct {
	Address string // host:port
	User    string
	Root    string     // of the bare repositories
	Key     []byte     // PEM, without a passphrase
	Host    PublicKeys // what the server identifies itself by
}

// PublicKeys are a server's host keys.
type PublicKeys struct{ Ed25519, RSA ssh.PublicKey }

// NewSSHServer starts sshd, with further lines of configuration, until the test ends.
func NewSSHServer(t testing.TB, config ...string) *SSHServer {
	t.Helper()
	if testing.Short() {
		t.Skip("wants OpenSSH's server, a Debian package")
	}
	s := &SSHServer{Root: t.TempDir()}
	var login ssh.PublicKey
	s.Key, login = newKey(t, false)
	ed, public := newKey(t, false)
	s.Host.Ed25519 = public
	rsa, public := newKey(t, true)
	s.Host.RSA = public

	server := devgit.SSH{
		Dir: t.TempDir(), HostKeys: [][]byte{ed, rsa}, AuthorizedKeys: ssh.MarshalAuthorizedKey(login), Config: config,
	}
	// sshd cannot take over a listener, so that another process may get the port in between.
	for attempt := 1; ; attempt++ {
		s.Address = freeAddress(t)
		var err error
		if s.User, _, err = server.Start(t.Context(), s.Address); err == nil {
			break
		}
		if attempt == 5 {
			t.Fatal(err)
		}
	}
	return s
}

// freeAddress returns an address on loopback where nothing listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Repo makes an empty repository of that path below Root.
func (s *SSHServer) Repo(t testing.TB, path string) *Repo {
	t.Helper()
	r := NewRepo(t, filepath.Join(s.Root, path))
	r.URL = s.RepoURL(path)
	return r
}

// RepoURL is where a repository of that path below Root is.
func (s *SSHServer) RepoURL(path string) string {
	return fmt.Sprintf("ssh://%s@%s%s", s.User, s.Address, filepath.Join(s.Root, path))
}

// KnownHosts are lines of known_hosts for the server with these keys.
func (s *SSHServer) KnownHosts(keys ...ssh.PublicKey) []byte {
	var lines []byte
	for _, k := range keys {
		lines = append(lines, knownhosts.Line([]string{s.Address}, k)+"\n"...)
	}
	return lines
}

// NewKey returns a private key in OpenSSH's PEM form; with a passphrase it is encrypted.
func NewKey(t testing.TB, passphrase string) []byte {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(private, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block)
}

func newKey(t testing.TB, useRSA bool) ([]byte, ssh.PublicKey) {
	t.Helper()
	raw := NewKey(t, "")
	if useRSA {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		block, err := ssh.MarshalPrivateKey(private, "")
		if err != nil {
			t.Fatal(err)
		}
		raw = pem.EncodeToMemory(block)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return raw, signer.PublicKey()
}
