package gittest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/stepwright/stepwright/ci/devgit"
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

// NewSSHServer starts sshd until the test ends.
func NewSSHServer(t testing.TB) *SSHServer {
	t.Helper()
	sshd := "/usr/sbin/sshd" // it insists on being called by its full path
	if _, err := os.Stat(sshd); err != nil {
		t.Fatalf("the tests need Debian's openssh-server: %v", err)
	}
	if os.Getuid() == 0 { // else sshd does without
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &SSHServer{User: me.Username, Root: t.TempDir()}
	var login ssh.PublicKey
	s.Key, login = newKey(t, false)
	write(t, filepath.Join(dir, "authorized_keys"), ssh.MarshalAuthorizedKey(login), 0o600)
	ed, public := newKey(t, false)
	s.Host.Ed25519 = public
	write(t, filepath.Join(dir, "host_ed25519"), ed, 0o600)
	rsa, public := newKey(t, true)
	s.Host.RSA = public
	write(t, filepath.Join(dir, "host_rsa"), rsa, 0o600)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = listener.Addr().String()
	listener.Close() // sshd cannot take over a listener; nobody else gets this port so soon
	_, port, _ := net.SplitHostPort(s.Address)
	config := fmt.Sprintf(`ListenAddress 127.0.0.1:%s
HostKey %[2]s/host_ed25519
HostKey %[2]s/host_rsa
AuthorizedKeysFile %[2]s/authorized_keys
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
SetEnv %[3]s
`, port, dir, strings.Join(devgit.Hermetic(), " "))
	write(t, filepath.Join(dir, "sshd_config"), []byte(config), 0o600)

	cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
	var said transcript
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Address)
		if err == nil {
			conn.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v\n%s", err, said.String())
		}
	}
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

// transcript is what a process writes, also while it is read.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
