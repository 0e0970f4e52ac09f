package devgit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const sshd = "/usr/sbin/sshd" // it insists on being called by its full path

// SSH is OpenSSH's server, which lets in the user that runs this process, and serves what that user may read.
type SSH struct {
	Dir            string   // for its configuration; must exist
	HostKeys       [][]byte // private keys in PEM, which it identifies itself by
	AuthorizedKeys []byte   // who is let in, in the format of authorized_keys
	Config         []string // further lines of sshd_config
}

// Start serves on an address, such as 127.0.0.1:2222, until ctx ends, and returns the name of the user it lets in once
// it listens. The channel hears of its end.
func (s SSH) Start(ctx context.Context, address string) (login string, ended <-chan error, err error) {
	if _, err := os.Stat(sshd); err != nil {
		return "", nil, fmt.Errorf("install Debian's openssh-server: %w", err)
	}
	// sshd cannot take over a listener, and another server at the address must not be taken for it.
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	listener.Close()
	if os.Getuid() == 0 { // else sshd does without
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return "", nil, err
		}
	}
	me, err := user.Current()
	if err != nil {
		return "", nil, err
	}
	config := fmt.Sprintf(`ListenAddress %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
SetEnv %s
`, address, filepath.Join(s.Dir, "authorized_keys"), strings.Join(Hermetic(), " "))
	for _, line := range s.Config {
		config += line + "\n"
	}
	files := map[string][]byte{"authorized_keys": s.AuthorizedKeys}
	for i, key := range s.HostKeys {
		name := fmt.Sprintf("host_key_%d", i)
		files[name] = key
		config += "HostKey " + filepath.Join(s.Dir, name) + "\n"
	}
	files["sshd_config"] = []byte(config)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), content, 0o600); err != nil {
			return "", nil, err
		}
	}

	var said transcript
	cmd := exec.CommandContext(ctx, sshd, "-D", "-e", "-f", filepath.Join(s.Dir, "sshd_config"))
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	for deadline := time.After(10 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return me.Username, end, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case ended := <-end:
			return "", nil, fmt.Errorf("sshd: %w\n%s", errors.Join(ended, err), said.String())
		case <-deadline:
			cmd.Process.Kill()
			return "", nil, fmt.Errorf("sshd does not listen: %w\n%s", err, said.String())
		}
	}
}

// transcript is what a process writes, also while it is read.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
