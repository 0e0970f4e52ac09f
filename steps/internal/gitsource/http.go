package gitsource

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// httpConnection speaks Git's smart HTTP protocol: gitprotocol-http(5). Credentials are shown as git shows them, only
// to a server that has asked for them.
type httpConnection struct {
	client *http.Client
	remote Remote
	credentials
	allowed func(Remote) error // of the credentials
	base    *url.URL           // where the repository is after the redirects of the first answer

	mu    sync.Mutex
	asked map[string]bool // servers that the credentials are shown to, by scheme and address

	bodies []io.ReadCloser
}

func (c *client) newHTTPConnection(to way) *httpConnection {
	h := &httpConnection{
		remote: to.Remote, credentials: to.credentials, allowed: c.allowed, asked: map[string]bool{},
	}
	h.client = &http.Client{Transport: c.http, CheckRedirect: h.checkRedirect}
	return h
}

// checkRedirect follows redirects as git does: of the first request only, never from https to http. The credentials go
// along to a server that has asked for them.
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

// authenticate shows the credentials to a server that has asked for them.
func (c *httpConnection) authenticate(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked[serverOf(r.URL).origin()] {
		r.SetBasicAuth(c.username, c.password)
	}
}

// serverOf is the server of a URL.
func serverOf(u *url.URL) Remote {
	return Remote{Scheme: u.Scheme, Host: strings.ToLower(u.Hostname()), Port: u.Port()}
}

func (r Remote) origin() string { return r.Scheme + "://" + r.address() }

// retry returns a refused request once more, to where redirects led it and with the credentials, when the server has
// asked for them and they may be shown there. Some servers say of a private repository, without having seen
// credentials, that it is forbidden or not there; they count as if they had asked. Nil: the refusal stands.
func (c *httpConnection) retry(r *http.Request, resp *http.Response) (*http.Request, error) {
	code, at := resp.StatusCode, serverOf(resp.Request.URL)
	asks := code == http.StatusUnauthorized
	hides := code == http.StatusForbidden && !rateLimited(resp.Header) || code == http.StatusNotFound ||
		code == http.StatusNonAuthoritativeInfo
	if _, _, shown := resp.Request.BasicAuth(); shown || c.password == "" || !asks && !hides {
		return nil, nil
	}
	err := c.allowed(at)
	if at.Host != c.remote.Host {
		err = outcome.Errorf(
			outcome.AuthenticationFailed, "%s leads to %s, which asks for credentials, and those of the Git "+
				"secret are only for %s (%s)", c.remote, at.server(), c.remote.Host, clean([]byte(resp.Status)),
		).
			WithHint("If the repository has moved, give its new URL.")
	}
	if err == nil && asks {
		err = c.takesPassword(resp.Header)
	}
	switch {
	case err != nil && (asks || code == http.StatusForbidden):
		return nil, err
	case err != nil:
		return nil, nil
	}
	c.mu.Lock()
	c.asked[at.origin()] = true
	c.mu.Unlock()
	var body io.Reader
	if r.GetBody != nil {
		if body, err = r.GetBody(); err != nil {
			return nil, err
		}
	}
	again, err := http.NewRequestWithContext(r.Context(), r.Method, resp.Request.URL.String(), body)
	if err != nil {
		return nil, err
	}
	again.Header, again.ContentLength, again.GetBody = r.Header.Clone(), r.ContentLength, r.GetBody
	again.Header.Del("Authorization")
	return again, nil
}

// takesPassword tells a server that asks for a password from one that asks for a ticket or token only.
func (c *httpConnection) takesPassword(h http.Header) error {
	var schemes []string
	for _, challenge := range append(h.Values("WWW-Authenticate"), h.Values("LFS-Authenticate")...) {
		if basic.MatchString(challenge) {
			return nil
		}
		scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		schemes = append(schemes, scheme)
	}
	if len(schemes) == 0 {
		return nil
	}
	return outcome.Errorf(
		outcome.AuthenticationFailed, "%s asks for %s, and the Git secret's password can be shown as Basic only",
		c.remote, clean([]byte(strings.Join(schemes, ", "))),
	).
		WithHint("Let the server take Basic over https, or use the repository's SSH URL and a key.")
}

var basic = regexp.MustCompile(`(?i)(?:^|,)\s*basic(?:[\s,]|$)`)

// largestHeader is how large the head of an answer may be, in bytes.
const largestHeader = 256 << 10

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
		if mediaType == resultType { // it has shown that it is a repository
			return nil, nil, outcome.Errorf(
				outcome.GitServerUnavailable, "%s answers with %q instead of %s", c.remote, got, mediaType,
			)
		}
		return nil, nil, outcome.Errorf(
			outcome.RepositoryNotFound, "%s is not a Git repository: the server answers with %q instead of %s",
			c.remote, got, mediaType,
		).
			WithHint("Check the repository URL: this one leads to something else, such as a web page.")
	}
	return resp.Body, resp.Request.URL, nil
}

// mostRetries is how often one request is repeated with credentials: after a redirect another port may ask, too.
const mostRetries = 3

// roundTrip returns an answer that is no refusal. A request that brings an Authorization of its own is sent as it is.
func (c *httpConnection) roundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("User-Agent", agent)
	own := r.Header.Get("Authorization") != ""
	for tries := 0; ; tries++ {
		if !own {
			c.authenticate(r)
		}
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
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			return resp, nil
		}
		var again *http.Request
		if !own && tries < mostRetries {
			again, err = c.retry(r, resp)
		}
		if again == nil {
			defer resp.Body.Close()
			return nil, cmp.Or(err, c.refusal(resp))
		}
		io.CopyN(io.Discard, resp.Body, 64<<10)
		resp.Body.Close()
		r = again
	}
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
			clean([]byte(resp.Status)),
		).
			WithHint(proxyHint)
	case resp.StatusCode != http.StatusOK:
		return outcome.Errorf(
			outcome.GitServerUnavailable, "the proxy %s answers %s", redact.URL(proxy.String()),
			clean([]byte(resp.Status)),
		)
	}
	return nil
}
