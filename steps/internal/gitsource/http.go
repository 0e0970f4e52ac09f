package gitsource

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// httpConnection speaks Git's smart HTTP protocol: gitprotocol-http(5).
type httpConnection struct {
	client *http.Client
	remote Remote
	credentials
	base *url.URL // where the repository is after the redirects of the first answer

	bodies []io.ReadCloser
}

func newHTTPConnection(transport *http.Transport, remote Remote, creds credentials) *httpConnection {
	c := &httpConnection{remote: remote, credentials: creds}
	c.client = &http.Client{Transport: transport, CheckRedirect: c.checkRedirect}
	return c
}

// checkRedirect follows redirects as git does: of the first request only, never from https to http. The credentials go
// along to where they may be shown.
func (c *httpConnection) checkRedirect(r *http.Request, via []*http.Request) error {
	first, last := via[0], via[len(via)-1]
	switch {
	case first.Method != http.MethodGet || len(via) > 5:
		return outcome.Errorf(
			outcome.RepositoryNotFound, "%s redirects to %s, which is not followed", redact.URL(first.URL.String()),
			redact.URL(r.URL.String()),
		)
	case last.URL.Scheme == "https" && r.URL.Scheme != "https":
		return outcome.Errorf(
			outcome.RepositoryNotFound, "%s redirects to %s, which is not encrypted", redact.URL(last.URL.String()),
			redact.URL(r.URL.String()),
		)
	}
	r.Header.Del("Authorization")
	c.authenticate(r)
	return nil
}

// authenticate shows the credentials to the host that they are for, whatever its port, and to no other. They never go
// from https to http.
func (c *httpConnection) authenticate(r *http.Request) {
	if c.password != "" && strings.EqualFold(r.URL.Hostname(), c.remote.Host) &&
		(r.URL.Scheme == "https" || c.remote.Scheme == "http") {
		r.SetBasicAuth(c.username, c.password)
	}
}

const (
	uploadPack   = "git-upload-pack"
	infoRefs     = "/info/refs"
	announceType = "application/x-git-upload-pack-advertisement"
	requestType  = "application/x-git-upload-pack-request"
	resultType   = "application/x-git-upload-pack-result"
)

func (c *httpConnection) advertisement(ctx context.Context) (io.Reader, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.remote.String()+infoRefs+"?service="+uploadPack, nil)
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "git-repo: %s is not a URL", c.remote)
	}
	c.authenticate(r)
	body, at, err := c.do(r, announceType)
	if err != nil {
		return nil, err
	}
	base := *at
	base.RawQuery = ""
	path, ok := strings.CutSuffix(base.EscapedPath(), infoRefs)
	if !ok {
		return nil, outcome.Errorf(
			outcome.RepositoryNotFound, "%s redirects to %s, which is no repository", c.remote,
			redact.URL(at.String()),
		)
	}
	if c.base, err = base.Parse(path + "/" + uploadPack); err != nil {
		return nil, err
	}
	// The announcement of the service comes before the advertisement, with a flush packet of its own.
	const announcement = "001e# service=git-upload-pack\n0000"
	head := make([]byte, len(announcement))
	n, err := io.ReadFull(body, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		return nil, unavailable(c.remote, cut(err))
	}
	if string(head) != announcement {
		return io.MultiReader(bytes.NewReader(head[:n]), body), nil
	}
	return body, nil
}

// dumb tells whether an answer begins like the file info/refs of a repository that is served as plain files.
func dumb(head []byte) bool {
	var hash plumbing.Hash
	text, ok := bytes.CutSuffix(head, []byte("\t"))
	return ok && decodeHash(&hash, string(text))
}

func (c *httpConnection) send(ctx context.Context, m message) (io.Reader, error) {
	for _, body := range c.bodies { // read to its end, so that the connection serves again
		io.CopyN(io.Discard, body, 64<<10)
	}
	c.close()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.String(), bytes.NewReader(m.body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", requestType)
	r.Header.Set("Accept", resultType)
	if m.version2 {
		r.Header.Set("Git-Protocol", "version=2")
	}
	c.authenticate(r)
	body, _, err := c.do(r, resultType)
	return body, err
}

// do returns the answer's body, of that media type, and where it came from in the end.
func (c *httpConnection) do(r *http.Request, mediaType string) (io.Reader, *url.URL, error) {
	resp, err := c.roundTrip(r)
	if err != nil {
		return nil, nil, err
	}
	c.bodies = append(c.bodies, resp.Body)
	if got, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); got != mediaType {
		head := make([]byte, 2*len(plumbing.ZeroHash)+1)
		n, _ := io.ReadFull(resp.Body, head)
		if dumb(head[:n]) {
			return nil, nil, outcome.Errorf(
				outcome.RepositoryNotFound, "%s is served by Git's dumb HTTP protocol, which is not supported",
				c.remote,
			).
				WithHint("The server must run git http-backend or an equal of it: a folder of files is not enough.")
		}
		return nil, nil, outcome.Errorf(
			outcome.RepositoryNotFound, "%s is not a Git repository: the server answers with %q instead of %s",
			c.remote, got, mediaType,
		).
			WithHint("Check the repository URL: this one leads to something else, such as a web page.")
	}
	return resp.Body, resp.Request.URL, nil
}

// roundTrip returns an answer that is no refusal.
func (c *httpConnection) roundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", agent)
	resp, err := c.client.Do(r)
	if err != nil {
		if cause := context.Cause(r.Context()); cause != nil {
			err = cause
		}
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the URL, which is in the message already
		}
		return nil, unavailable(c.remote, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		defer resp.Body.Close()
		return nil, c.refusal(resp)
	}
	return resp, nil
}

// refusal turns a status into its reason.
func (c *httpConnection) refusal(resp *http.Response) error {
	says := clean([]byte(resp.Status))
	if text := readable(resp); text != "" {
		says += ": " + text
	}
	_, _, sent := resp.Request.BasicAuth()
	denied := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
	switch code := resp.StatusCode; {
	case code == http.StatusForbidden && rateLimited(resp.Header):
		return c.busy(resp, says)
	case denied && !sent && c.password != "":
		return outcome.Errorf(
			outcome.AuthenticationFailed, "%s leads to %s, which asks for credentials, and those of the Git "+
				"secret are only for %s (%s)", c.remote, redact.URL(resp.Request.URL.Host), c.remote.Host, says,
		).
			WithHint("If the repository has moved, give its new URL.")
	case code == http.StatusUnauthorized && !sent:
		return outcome.Errorf(
			outcome.AuthenticationFailed, "%s asks for credentials, and there are none (%s)", c.remote, says,
		).
			WithHint("If the repository is private, set repository.secretRef; if it is public, check its URL.")
	case denied && !sent:
		return outcome.Errorf(
			outcome.AuthenticationFailed, "%s may not be read without credentials, and there are none (%s)", c.remote,
			says,
		).
			WithHint("If the repository is private, set repository.secretRef; if it is public, check its URL.")
	case code == http.StatusForbidden:
		return outcome.Errorf(
			outcome.AuthenticationFailed, "%s may not be read by user %q (%s)", c.remote, c.username, says,
		)
	case code == http.StatusUnauthorized:
		return outcome.Errorf(
			outcome.AuthenticationFailed, "%s refused the credentials of user %q (%s)", c.remote, c.username, says,
		)
	case code == http.StatusProxyAuthRequired:
		return outcome.Errorf(outcome.AuthenticationFailed, "the proxy asks for credentials (%s)", says).WithHint(
			proxyHint,
		)
	case code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500:
		return c.busy(resp, says)
	}
	return outcome.Errorf(outcome.RepositoryNotFound, "%s is not found (%s)", c.remote, says)
}

// busy is the error of a server that wants to be asked again later.
func (c *httpConnection) busy(resp *http.Response, says string) error {
	return outcome.Errorf(outcome.GitServerUnavailable, "%s answers %s", c.remote, says).After(
		outcome.RetryAfter(resp.Header.Get("Retry-After"), time.Now()),
	)
}

// rateLimited tells a refusal that ends with time from one that lasts: some forges answer 403 where 429 is meant.
func rateLimited(h http.Header) bool {
	return h.Get("Retry-After") != "" || h.Get("X-RateLimit-Remaining") == "0" || h.Get("RateLimit-Remaining") == "0"
}

// readable is the first line of an answer that is meant to be read, and short.
func readable(resp *http.Response) string {
	if got, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); got != "text/plain" {
		return ""
	}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	line, _, _ := bytes.Cut(bytes.TrimSpace(raw), []byte("\n"))
	return clean(line)
}

func (c *httpConnection) close() {
	for _, b := range c.bodies {
		b.Close()
	}
	c.bodies = nil
}

const proxyHint = "Put user and password into HTTP_PROXY and HTTPS_PROXY, or the server into NO_PROXY."

// checkProxy gives a proxy's refusal its reason.
func checkProxy(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusProxyAuthRequired:
		return outcome.Errorf(
			outcome.AuthenticationFailed, "the proxy %s asks for credentials (%s)", redact.URL(proxy.String()),
			resp.Status,
		).
			WithHint(proxyHint)
	case resp.StatusCode != http.StatusOK:
		return outcome.Errorf(
			outcome.GitServerUnavailable, "the proxy %s answers %s", redact.URL(proxy.String()), resp.Status,
		)
	}
	return nil
}
