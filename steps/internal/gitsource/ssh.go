package gitsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// sshConnection runs git-upload-pack at the other end of an SSH connection.
type sshConnection struct {
	remote  Remote
	client  *ssh.Client
	session *ssh.Session
	stdin   io.WriteCloser
	stdout  io.Reader
	stderr  transcript.Tail
	release func() bool // stops closing the connection with the context
}

// ask runs a command at the other end, and returns what it prints.
func (c *client) ask(ctx context.Context, w way, command string) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.patience, func() { cancel(c.silent(w.Remote)) })
	defer watchdog.Stop()
	conn, err := c.dial(ctx, w, command)
	if err != nil {
		return nil, err
	}
	defer conn.close()
	out, err := io.ReadAll(io.LimitReader(conn.stdout, largestAnswer))
	if err == nil {
		err = conn.session.Wait()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, unavailable(w.Remote, cause)
		}
		return nil, outcome.Errorf(
			outcome.RepositoryNotFound, "%s cannot run %q: %w%s", w.address(), command, err, conn.said(),
		)
	}
	return out, nil
}

// dial is dialSSH for servers that the key may be shown to.
func (c *client) dial(ctx context.Context, w way, command string) (*sshConnection, error) {
	if err := c.allowed(w.Remote); err != nil {
		return nil, err
	}
	return dialSSH(ctx, w.Remote, w.credentials, c.keys, command)
}

// dialSSH connects, logs in and starts a command, which is cut short only by the context.
func dialSSH(
	ctx context.Context, remote Remote, creds credentials, keys *hostKeys, command string,
) (_ *sshConnection, err error) {
	address := remote.address()
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, unavailable(remote, err)
	}
	c := &sshConnection{
		remote:  remote,
		stderr:  transcript.Tail{Limit: longestText},
		release: context.AfterFunc(ctx, func() { conn.Close() }),
	}
	defer func() {
		if err != nil {
			c.release()
			conn.Close()
		}
	}()
	trusted, offered := false, false
	config := &ssh.ClientConfig{
		User: remote.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			offered = true
			return []ssh.Signer{creds.key}, nil
		})},
		ClientVersion: "SSH-2.0-stepwright",
	}
	// What the library can do safely, not only what it does by default: hardened servers have the rest.
	safe := ssh.SupportedAlgorithms()
	config.KeyExchanges, config.Ciphers, config.MACs = safe.KeyExchanges, safe.Ciphers, safe.MACs
	keys.require(config, address)
	check := config.HostKeyCallback
	config.HostKeyCallback = func(host string, addr net.Addr, key ssh.PublicKey) error {
		err := check(host, addr, key)
		trusted = err == nil
		return err
	}
	wire, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, unavailable(remote, cause)
		}
		_, network := errors.AsType[net.Error](err)
		mismatch, negotiated := errors.AsType[*ssh.AlgorithmNegotiationError](err)
		switch {
		case negotiated && mismatch.What == "host key":
			return nil, outcome.Errorf(outcome.HostKeyUnknown, "%s has no host key of a kind that is known for it "+
				"(%s); it has %s", hostNames(address)[0],
				strings.Join(config.HostKeyAlgorithms, ", "), strings.Join(mismatch.RequestedAlgorithms, ", "))
		case trusted && offered && !network && !errors.Is(err, io.EOF):
			return nil, outcome.Errorf(
				outcome.AuthenticationFailed, "%s does not accept the key %s for user %q: %w", address,
				ssh.FingerprintSHA256(creds.key.PublicKey()), remote.User, err,
			).
				WithHint("Add the key's public half to the repository's deploy keys or to the user's account.")
		}
		return nil, unavailable(remote, err)
	}
	c.client = ssh.NewClient(wire, channels, requests)
	if c.session, err = c.client.NewSession(); err != nil {
		return nil, unavailable(remote, err)
	}
	c.session.Stderr = &c.stderr
	if c.stdin, err = c.session.StdinPipe(); err != nil {
		return nil, err
	}
	if c.stdout, err = c.session.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := c.session.Start(command); err != nil {
		return nil, unavailable(remote, err)
	}
	return c, nil
}

// quote quotes the repository's path as git does, for the login shell that the server may have.
func quote(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

func (c *sshConnection) advertisement(context.Context) (io.Reader, error) {
	return &sshOutput{c: c}, nil
}

func (c *sshConnection) send(_ context.Context, m message) (io.Reader, error) {
	if _, err := c.stdin.Write(m.body); err != nil {
		return nil, unavailable(c.remote, err)
	}
	if !m.last {
		return &sshOutput{c: c, spoke: true}, nil
	}
	if err := c.stdin.Close(); err != nil && err != io.EOF {
		return nil, unavailable(c.remote, err)
	}
	return &sshOutput{c: c, spoke: true}, nil
}

func (c *sshConnection) close() {
	c.release()
	c.client.Close()
}

// sshOutput is what git-upload-pack writes. If it ends without a word, its exit status says more than the end does.
type sshOutput struct {
	c     *sshConnection
	spoke bool
}

func (o *sshOutput) Read(p []byte) (int, error) {
	n, err := o.c.stdout.Read(p)
	if n > 0 {
		o.spoke = true
	}
	if err == io.EOF && !o.spoke {
		if _, ok := errors.AsType[*ssh.ExitError](o.c.session.Wait()); ok {
			return 0, outcome.Errorf(
				outcome.RepositoryNotFound, "%s is not a repository, or the key does not give access to it%s",
				o.c.remote, o.c.said(),
			)
		}
		return 0, fmt.Errorf("the connection ended before the repository's references%s", o.c.said())
	}
	return n, err
}

// said quotes the server's standard error, in one line and after a colon.
func (c *sshConnection) said() string {
	text := clean([]byte(c.stderr.String()))
	if text == "" {
		return ""
	}
	return ": the server says: " + text
}
