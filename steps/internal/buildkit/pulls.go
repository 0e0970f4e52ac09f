package buildkit

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// pulls is how the builder reaches registries, and servers of files. It logs in by itself, so that each repository gets
// its own credentials, and keeps what went wrong, since BuildKit's own errors tell neither image nor cause.
type pulls struct {
	config Config
	next   http.RoundTripper

	mu     sync.Mutex
	logins map[string]*registry.Login // by host
	failed map[string]*missing        // by what was asked for
	latest *missing                   // of failed; nil when that has gone well meanwhile
}

// missing is a manifest or blob that could not be had.
type missing struct {
	image  string            // its repository, with the registry
	faults []*registry.Fault // of the hosts that were asked, each one's last, in order
}

func newPulls(c Config, next http.RoundTripper) *pulls {
	return &pulls{config: c, next: next, logins: map[string]*registry.Login{}, failed: map[string]*missing{}}
}

// client returns what asks for images of a registry, by whichever of its hosts.
func (p *pulls) client(of string) *http.Client {
	return &http.Client{Transport: pull{p, of}}
}

func (p *pulls) login(host string) *registry.Login {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logins[host] == nil {
		p.logins[host] = &registry.Login{
			Gate: registry.Gate{Host: host, Insecure: registry.IsInsecure(host, p.config.Insecure), Next: p.next},
			Find: p.config.Credentials.Authenticator,
		}
	}
	return p.logins[host]
}

// pull sends requests for the images of a registry.
type pull struct {
	*pulls
	registry string
}

// RoundTrip implements http.RoundTripper. An answer that says no is a registry.Fault, except one to which containerd
// knows another way.
func (p pull) RoundTrip(request *http.Request) (*http.Response, error) {
	first := firstOf(request)
	host := first.URL.Host
	asked, image := first.URL.Path, registry.Name(p.registry)
	if i := max(strings.LastIndex(asked, "/manifests/"), strings.LastIndex(asked, "/blobs/")); i > 0 {
		asked = asked[i:]
	}
	for _, scope := range docker.GetTokenScopes(request.Context(), nil) {
		if parts := strings.Split(scope, ":"); len(parts) == 3 { // repository:NAME:pull
			image += "/" + parts[1]
			break
		}
	}
	response, err := p.login(host).RoundTrip(request)
	if err == nil && response.StatusCode == http.StatusMethodNotAllowed && request.Method == http.MethodHead {
		return response, nil
	}
	if err == nil && request.Method == http.MethodHead &&
		(response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusUnauthorized) {
		response.Body.Close()
		again := request.Clone(request.Context())
		again.Method = http.MethodGet // only its answer says why
		response, err = p.login(host).RoundTrip(again)
	}
	if err == nil && response.StatusCode >= 400 {
		err = registry.Answered(host, response)
		response.Body.Close()
	}
	if err == nil {
		if kind := response.Header.Get("Content-Type"); !mayAnswer(asked, kind) {
			err = &registry.Fault{Host: host, Cause: fmt.Errorf("it answers with %q to a request for an image", kind)}
			response.Body.Close()
		}
	}
	if err == nil {
		p.went(image+asked, nil, image)
		response.Body = &arriving{response.Body, func(err error) {
			p.went(image+asked, registry.FaultOf(host, err), image)
		}}
		return response, nil
	}
	if request.Context().Err() != nil {
		return nil, err
	}
	fault := registry.FaultOf(host, err)
	p.went(image+asked, fault, image)
	return nil, fault
}

// mayAnswer tells whether a manifest or a blob may have a media type. BuildKit takes a page that stands in its place
// for a fault of the Dockerfile.
func mayAnswer(asked, kind string) bool {
	kind, _, err := mime.ParseMediaType(kind)
	if !strings.HasPrefix(asked, "/manifests/") { // what keeps blobs may call them anything else
		return kind != "text/html" || !strings.HasPrefix(asked, "/blobs/")
	}
	return err != nil || strings.HasPrefix(kind, "application/vnd.") || strings.HasSuffix(kind, "json")
}

// firstOf returns the request that led, by redirections, to a request.
func firstOf(request *http.Request) *http.Request {
	for request.Response != nil && request.Response.Request != nil {
		request = request.Response.Request
	}
	return request
}

// arriving is the body of an answer. Of one that breaks off the error is the one by which containerd knows to go on
// from there.
type arriving struct {
	io.ReadCloser
	broke func(error)
}

func (a *arriving) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if err != nil && err != io.EOF {
		a.broke(err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// went notes how a request for something of an image went.
func (p *pulls) went(asked string, fault *registry.Fault, image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fault == nil {
		if p.latest == p.failed[asked] {
			p.latest = nil
		}
		delete(p.failed, asked)
		return
	}
	m := p.failed[asked]
	if m == nil {
		m = &missing{image: image}
		p.failed[asked] = m
	}
	m.faults = slices.DeleteFunc(m.faults, func(f *registry.Fault) bool { return f.Host == fault.Host })
	m.faults = append(m.faults, fault)
	p.latest = m
}

// explain returns what could not be had when an error is about that.
func (p *pulls) explain(err error) *missing {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fault, ok := errors.AsType[*registry.Fault](err); ok {
		for _, m := range p.failed {
			if slices.Contains(m.faults, fault) {
				return m
			}
		}
		return p.latest
	}
	// Not net.Error: every error number of the kernel is one, also that of a file that does not exist.
	var request *url.Error
	var connection *net.OpError
	if errors.As(err, &request) || errors.As(err, &connection) || errors.Is(err, io.ErrUnexpectedEOF) {
		return p.latest
	}
	return nil
}

// downloads sends requests for files that a Dockerfile adds by their URLs.
type downloads struct{ next http.RoundTripper }

// download is the fault of a server of files.
type download struct {
	*registry.Fault
	url string // without credentials and query
}

func (d *download) Unwrap() error { return d.Fault }

// RoundTrip implements http.RoundTripper. An answer that says no is a download.
func (d downloads) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	if err == nil && response.StatusCode >= 400 {
		err = registry.Answered(request.URL.Host, response)
		response.Body.Close()
	}
	if err == nil {
		return response, nil
	}
	at := *firstOf(request).URL
	at.User, at.RawQuery, at.Fragment = nil, "", ""
	return nil, &download{registry.FaultOf(request.URL.Host, err), at.String()}
}

// outcome is what the fault of a server of files means.
func (d *download) outcome() *outcome.Error {
	reason := outcome.DownloadFailed
	switch d.Kind {
	case registry.Unknown, registry.Unavailable, registry.NoHost, registry.Expired:
		reason = outcome.DownloadUnavailable
	}
	return outcome.Errorf(reason, "%s: %w", d.url, d.Fault).After(d.RetryAfter)
}

// detail is an outcome on its way to the step.
func detail(reason string, subject map[string]string, failure *outcome.Error) *errdetails.ErrorInfo {
	subject["reason"], subject["message"], subject["hint"] = string(failure.Reason), failure.Message, failure.Hint
	subject["retryAfter"] = failure.RetryAfter.String()
	return &errdetails.ErrorInfo{Domain: domain, Reason: reason, Metadata: subject}
}
