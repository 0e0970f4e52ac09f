package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// Gate is the last thing that every request to a registry passes, also requests that authentication sends on its own.
// It keeps them to the protocol that was asked for, even where ggcr would guess another from the host's name. It lets
// the registry's answers lead to other hosts over HTTPS only. It sends bodies whole, and returns a Fault instead of
// answers that are worth another try.
type Gate struct {
	Host     string // of the registry
	Insecure bool   // HTTP, not HTTPS; then others may be spoken to over HTTP, too
	Next     http.RoundTripper
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
	out := request.Clone(request.Context())
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
