package registry

import (
	"errors"
	"net/http"
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
	if err != nil || !isTransient(response.StatusCode) {
		return response, err
	}
	defer response.Body.Close()
	return nil, Answered(g.Host, response)
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
