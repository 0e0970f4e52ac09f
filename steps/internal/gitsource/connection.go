package gitsource

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/outcome"
)

// connection is one conversation with a server's git-upload-pack.
type connection interface {
	advertisement(ctx context.Context) (io.Reader, error)
	send(ctx context.Context, m message) (io.Reader, error)
	close()
}

// message is what is sent to a server.
type message struct {
	body     []byte
	version2 bool // of the protocol
	last     bool
}

// client reaches Git servers. Its credentials are for one of them only.
type client struct {
	http     *http.Transport
	keys     *hostKeys
	owner    Remote        // whom the credentials are for
	patience time.Duration // with a silent server
	say      func(string)  // hears what a server says besides; may be nil
	credentials
	hostsOfSecret bool // hosts are those that the secret names, not those of the parameter
	insecure      bool // credentials may go over plain HTTP
}

// way is how a repository is reached, and the credentials that may be sent there.
type way struct {
	Remote
	credentials
}

// ways are how a repository can be reached, the likeliest first. A submodule with an https URL in a repository with an
// SSH URL is likely to be public, so it is asked for as it is, as git does. Where that is refused, the key may help.
func (c *client) ways(r Remote) ([]way, error) {
	to, creds, err := c.via(r)
	if err != nil {
		return nil, err
	}
	first := way{to, creds}
	if c.owner.Scheme != "ssh" || r.Scheme == "ssh" || to.Scheme != "ssh" {
		return []way{first}, nil
	}
	if first.Host == c.owner.Host {
		first.Port = c.owner.Port
	}
	return []way{{Remote: r}, first}, nil
}

// via is how a repository is reached with the credentials: its remote, rewritten where a key asks for SSH, and those
// that may be sent there.
func (c *client) via(r Remote) (Remote, credentials, error) {
	if !c.owns(r) {
		if r.Scheme == "ssh" {
			return r, credentials{}, outcome.Errorf(
				outcome.AuthenticationFailed, "%s is reached by SSH, and the Git secret is only for %s", r,
				c.owner.Host,
			).
				WithHint("Use an https URL for a public submodule of another server.")
		}
		return r, credentials{}, nil
	}
	if c.key != nil {
		r = r.Rewrite(c.keyID)
		if r.Scheme == "ssh" {
			return r, credentials{key: c.key}, nil
		}
	}
	own := r.sameServer(c.owner)
	switch {
	case r.Scheme == "ssh" && c.password != "" && c.owner.Scheme == "https":
		// A submodule that is named by SSH, on the server that is reached by password.
		twin := c.owner
		twin.Path = (&url.URL{Path: "/" + strings.TrimPrefix(r.Path, "/")}).EscapedPath()
		return twin, c.basic(twin), nil
	case r.Scheme == "ssh":
		return r, credentials{}, outcome.Errorf(
			outcome.AuthenticationFailed, "%s is reached by SSH, and there is no Git secret with ssh-privatekey", r,
		).
			WithHint("Set repository.secretRef to a secret with ssh-privatekey, or use the repository's https URL.")
	case c.key != nil && c.password == "" && own:
		return r, credentials{}, outcome.Errorf(
			outcome.AuthenticationFailed,
			"the Git secret holds an SSH key, and %s has no SSH form that follows from its URL", r,
		).
			WithHint("Give the repository's ssh:// URL, or a secret with username and password.")
	case c.password != "" && own:
		return r, c.basic(r), nil
	}
	return r, credentials{}, nil
}

// owns tells whether r is on the server that the credentials are for.
func (c *client) owns(r Remote) bool {
	return r.Host == c.owner.Host || c.key != nil && r.Host == c.owner.Rewrite(c.keyID).Host
}

// basic is the password with the secret's username, the URL's, or git.
func (c *client) basic(r Remote) credentials {
	return credentials{username: cmp.Or(c.username, r.User, defaultUser), password: c.password}
}

// keepAlive is how long a connection may be silent before the other end is asked whether it still lives. Four questions
// without an answer end the connection, so a server may be silent for long, but not dead.
const keepAlive = 15 * time.Second

var dialer = &net.Dialer{
	Timeout:         30 * time.Second,
	KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive, Count: 4},
}

// fetch asks remote for what plan wants of it, and lets receive read the pack.
func (c *client) fetch(
	ctx context.Context, remote Remote, plan func(*advertisement) (request, error), receive func(io.Reader) error,
) error {
	ways, err := c.ways(remote)
	if err != nil {
		return err
	}
	for i, w := range ways {
		tried := c.converse(ctx, remote, w, plan, receive)
		if i == 0 || tried == nil || outcome.Of(tried).Reason != outcome.GitServerUnavailable {
			err = tried // the first refusal says more than a second way that is not there at all
		}
		if tried == nil || outcome.Of(tried).Reason != outcome.AuthenticationFailed {
			break
		}
	}
	return err
}

// converse is fetch by one of the ways.
func (c *client) converse(
	ctx context.Context, remote Remote, to way, plan func(*advertisement) (request, error),
	receive func(io.Reader) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.patience, func() { cancel(c.silent(remote)) })
	defer watchdog.Stop()
	hear := func(r io.Reader) io.Reader { return &attentive{ctx, r, remote, watchdog, c.patience} }
	listen := func(r io.Reader) packets { return packets{bufio.NewReaderSize(r, 64<<10)} }
	left := &bounded{left: largestAdvertisement}

	conn, err := c.connect(ctx, to)
	if err != nil {
		return err
	}
	defer conn.close()
	answer, err := conn.advertisement(ctx)
	if err != nil {
		return err
	}
	left.r = hear(answer)
	adv, err := readAdvertisement(listen(left))
	if err == nil && adv.version2 {
		watchdog.Reset(c.patience)
		if answer, err = conn.send(ctx, message{body: adv.listRefs(), version2: true}); err != nil {
			return err
		}
		left.r = hear(answer)
		err = adv.readRefs(listen(left))
	}
	if err != nil {
		return explain(err, remote)
	}
	req, err := plan(adv)
	if err != nil {
		return err
	}
	watchdog.Reset(c.patience)
	answer, err = conn.send(ctx, message{body: req.encode(adv), version2: adv.version2, last: true})
	if err != nil {
		return err
	}
	pack, err := req.readPack(listen(hear(answer)), adv, c.say)
	if err == nil {
		err = receive(pack)
	}
	return explain(err, remote)
}

// silent is the error of a server whose silence is too long.
func (c *client) silent(remote Remote) error {
	return outcome.Errorf(
		outcome.GitServerUnavailable, "%s: no answer for %s", remote.address(), c.patience,
	).
		WithHint("If the server needs longer for this repository, raise git-timeout.")
}

func (c *client) connect(ctx context.Context, to way) (connection, error) {
	if to.Scheme == "ssh" {
		return c.dial(ctx, to, uploadPack+" "+quote(to.Path))
	}
	return c.newHTTPConnection(to), nil
}

// attentive reads from a server. Its errors, other than the end, say that the server became unavailable.
type attentive struct {
	ctx      context.Context
	r        io.Reader
	remote   Remote
	watchdog *time.Timer
	patience time.Duration
}

func (a *attentive) Read(p []byte) (int, error) {
	a.watchdog.Reset(a.patience)
	n, err := a.r.Read(p)
	a.watchdog.Stop() // our own time with the data is not the server's fault
	if err != nil && err != io.EOF {
		if cause := context.Cause(a.ctx); cause != nil {
			err = cause
		}
		err = unavailable(a.remote, err)
	}
	return n, err
}

// explain gives an error of the conversation its reason.
func explain(err error, remote Remote) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*outcome.Error](err); ok {
		return err
	}
	if bad, ok := errors.AsType[*malformed](err); ok {
		return outcome.Errorf(outcome.RepositoryInvalid, "%s does not answer as a Git server: %w", remote, bad)
	}
	if said, ok := errors.AsType[*serverError](err); ok {
		return outcome.Errorf(outcome.GitServerUnavailable, "%s refused to go on; %w", remote, said)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return unavailable(remote, io.ErrUnexpectedEOF)
	}
	return err
}

// unavailable is the error of a server that cannot be reached or spoken with.
func unavailable(remote Remote, err error) error {
	if e, ok := errors.AsType[*outcome.Error](err); ok {
		return e
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		e := outcome.Errorf(
			outcome.GitServerUnavailable, "the certificate of %s cannot be trusted: %w", remote.address(), err,
		)
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown &&
			len(bad.UnverifiedCertificates) > 0 {
			last := bad.UnverifiedCertificates[len(bad.UnverifiedCertificates)-1]
			return e.WithHint(
				fmt.Sprintf(
					"It was issued by %q, which is no authority this step knows: add that one's certificate to "+
						"ca-bundle.",
					last.Issuer,
				),
			)
		}
		if host, ok := errors.AsType[x509.HostnameError](err); ok && len(host.Certificate.DNSNames) == 0 &&
			len(host.Certificate.IPAddresses) == 0 {
			return e.WithHint(
				"The certificate names its host only as common name (CN), which does not count. It needs the host as " +
					"a subject alternative name.",
			)
		}
		return e.WithHint("The server's certificate must be valid now and for the host in the URL.")
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return outcome.Errorf(outcome.RepositoryNotFound, "there is no host %q: %w", dns.Name, err).
			WithHint("Check the host in the repository's URL, and that this network's DNS knows it.")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return outcome.Errorf(
			outcome.GitServerUnavailable, "%s ended the connection too early: %w", remote.address(), err,
		)
	}
	return outcome.Errorf(outcome.GitServerUnavailable, "%s: %w", remote.address(), err)
}

// lasting tells errors that are not worth another try although the server is to blame.
func lasting(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err)
	return ok || errors.Is(err, http.ErrSchemeMismatch)
}
