package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Gate is the last thing that every request to a registry passes, also requests that authentication sends on its own.
// It keeps them to the protocol that was asked for, even where ggcr would guess another from the host's name. It lets
// the registry's answers lead to other hosts over HTTPS only. It sends bodies whole, and returns a Fault instead of
// answers that are worth another try. An answer of which nothing more comes ends: on a network that was cut, a machine
// may wait for the rest forever.
type Gate struct {
	Host     string // of the registry
	Insecure bool   // HTTP, not HTTPS; then others may be spoken to over HTTP, too
	Next     http.RoundTripper
	Patience time.Duration // how long nothing of an answer may come while somebody reads it; 0: a minute
}

// Scheme is the scheme of the registry's URLs.
func (g *Gate) Scheme() string {
	if g.Insecure {
		return "http"
	}
	return "https"
}

// RoundTrip implements http.RoundTripper.
func (g *Gate) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	response, err := g.roundTrip(request, request.Clone(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	patience := g.Patience
	if patience == 0 {
		patience = time.Minute
	}
	response.Body = &flowing{ReadCloser: response.Body, patience: patience, ctx: ctx, cancel: cancel}
	return response, nil
}

// roundTrip sends out, which is a copy of the request.
func (g *Gate) roundTrip(request, out *http.Request) (*http.Response, error) {
	switch {
	case request.URL.Host == g.Host:
		// ggcr tries both, HTTP for hosts that look local. A registry behind a proxy that ends TLS may name itself by
		// HTTP, too.
		out.URL.Scheme = g.Scheme()
	case request.URL.Scheme != "https" && !g.Insecure:
		fault := &Fault{Kind: Unprotected, Host: g.Host, To: request.URL.Host}
		return nil, errors.Join(closeBody(request), fault)
	}
	if request.GetBody != nil {
		// Authentication sends a request again after a 401, and its body is read by then.
		content, err := request.GetBody()
		if err = errors.Join(err, closeBody(request)); err != nil {
			return nil, err
		}
		out.Body = content
	}
	response, err := g.Next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	if !isBlob(request) {
		response.Body = &bounded{response.Body, answerLimit}
	}
	if !isTransient(response.StatusCode) {
		return response, nil
	}
	defer response.Body.Close()
	return nil, Answered(g.Host, response)
}

// answerLimit is how large an answer is at most, in bytes, if it is no blob: manifests, tokens and errors are small,
// and are held whole.
const answerLimit = 16 << 20

// isBlob tells whether a request is for a blob, also one that leads on to where blobs are kept.
func isBlob(request *http.Request) bool {
	for {
		if strings.Contains(request.URL.Path, "/blobs/") {
			return true
		}
		if request.Response == nil || request.Response.Request == nil {
			return false
		}
		request = request.Response.Request
	}
}

// bounded is an answer of which no more than left bytes are read.
type bounded struct {
	io.ReadCloser
	left int64
}

var errTooLarge = fmt.Errorf("its answer is larger than %d bytes", answerLimit)

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// flowing is an answer of which something has to come.
type flowing struct {
	io.ReadCloser
	patience time.Duration
	ctx      context.Context // of the request
	cancel   context.CancelCauseFunc
}

func (f *flowing) Read(p []byte) (int, error) {
	late := time.AfterFunc(f.patience, func() { f.cancel(errStalled{f.patience}) })
	n, err := f.ReadCloser.Read(p)
	late.Stop()
	// Also io.EOF: a server that hears of the end first may close an answer in parts, as if that were all of it.
	if stalled, ok := errors.AsType[errStalled](context.Cause(f.ctx)); ok && err != nil {
		err = stalled
	}
	return n, err
}

// Close implements io.Closer.
func (f *flowing) Close() error {
	defer f.cancel(nil)
	return f.ReadCloser.Close()
}

// errStalled is an answer of which nothing more came. To libraries it is one that broke off.
type errStalled struct{ after time.Duration }

func (e errStalled) Error() string {
	return fmt.Sprintf("nothing more of its answer came for %s", e.after)
}
func (errStalled) Unwrap() error { return io.ErrUnexpectedEOF }

func closeBody(request *http.Request) error {
	if request.Body == nil {
		return nil
	}
	return request.Body.Close()
}

// isTransient tells of which status another try is worth it.
func isTransient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}
