// Package registrytest gives tests a real registry on loopback: with TLS of an authority of its own and with a user,
// unless told otherwise.
package registrytest

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/pki"
)

// Registry is a running registry. It ends with the test.
type Registry struct {
	Host         string // host:port
	URL          string // with the scheme, without a path
	CAFile       string // PEM file of its authority; empty with PlainHTTP
	DockerConfig string // docker configuration file with its credentials; empty with Anonymous
	User         string // empty with Anonymous
	Password     string

	transport http.RoundTripper
	mu        sync.Mutex
	requests  []Request
	scopes    [][]string
}

// Request is one request that reached the registry.
type Request struct {
	Method, Path string
	Query        url.Values
	Bytes        int64 // of its body, as far as the registry read it
}

// Option changes what New makes.
type Option func(*settings)

type settings struct {
	plain, anonymous bool
	onDisk           bool
	tokens           bool
	refused          []string
	wrap             func(http.Handler) http.Handler
}

// PlainHTTP leaves out TLS.
func PlainHTTP(s *settings) { s.plain = true }

// Anonymous lets anyone push and pull.
func Anonymous(s *settings) { s.anonymous = true }

// OnDisk keeps the images in a folder: for large ones, memory takes far longer.
func OnDisk(s *settings) { s.onDisk = true }

// ByToken has the registry take tokens for single repositories, from a token server on loopback, instead of passwords.
// The token server refuses requests for any of these scopes. It speaks plain HTTP, and so must the registry.
func ByToken(refused ...string) Option {
	return func(s *settings) { s.tokens, s.refused = true, refused }
}

// Behind puts a handler in front of the registry.
func Behind(wrap func(http.Handler) http.Handler) Option {
	return func(s *settings) { s.wrap = wrap }
}

// New starts a registry, which keeps its images in memory unless told otherwise.
func New(t testing.TB, options ...Option) *Registry {
	t.Helper()
	var s settings
	for _, o := range options {
		o(&s)
	}
	dir := t.TempDir()
	r := &Registry{}
	var o devregistry.Options
	scheme := "http://"
	transport := &http.Transport{}
	if !s.plain {
		scheme = "https://"
		authority, certificate := certify(t)
		r.CAFile = filepath.Join(dir, "ca.pem")
		write(t, r.CAFile, authority.PEM())
		o.Certificate = &certificate
		transport.TLSClientConfig = &tls.Config{RootCAs: authority.Pool()}
	}
	if !s.anonymous {
		r.User, r.Password = "publisher", rand.Text()
		if !s.tokens {
			o.Users = map[string]string{r.User: r.Password}
		}
	}
	if s.onDisk {
		o.Dir = filepath.Join(dir, "images")
	}
	registry, err := devregistry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	var handler http.Handler = registry
	if s.wrap != nil {
		handler = s.wrap(handler)
	}
	if s.tokens {
		handler = r.byToken(t, handler, s.refused)
	}
	if r.Host, err = registry.StartHandler("", r.record(handler)); err != nil {
		t.Fatal(err)
	}
	r.URL = scheme + r.Host
	r.transport = marked{transport}
	if !s.anonymous {
		r.DockerConfig = filepath.Join(dir, "config.json")
		write(t, r.DockerConfig, DockerConfig(t, r.Host, r.User, r.Password))
	}
	return r
}

// ownHeader marks requests of Push, Get and Has, which need no token: ggcr refuses token servers on loopback.
const ownHeader = "X-Registrytest"

type marked struct{ next http.RoundTripper }

func (m marked) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	request.Header.Set(ownHeader, "own")
	return m.next.RoundTrip(request)
}

// Scopes returns what tokens were asked for, each time.
func (r *Registry) Scopes() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.scopes)
}

// byToken starts the token server. A token is the list of its scopes.
func (r *Registry) byToken(t testing.TB, next http.Handler, refused []string) http.Handler {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		scopes := req.URL.Query()["scope"]
		r.mu.Lock()
		r.scopes = append(r.scopes, scopes)
		r.mu.Unlock()
		no := func(scope string) bool { return slices.Contains(refused, scope) }
		if user, password, _ := req.BasicAuth(); user != r.User || password != r.Password ||
			slices.ContainsFunc(scopes, no) {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details":"canary of the token server"}`)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"access_token": strings.Join(scopes, " "), "expires_in": 300.0})
	}))
	t.Cleanup(server.Close)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		path := strings.TrimPrefix(req.URL.Path, "/v2/")
		for _, kind := range []string{"/manifests/", "/blobs/"} {
			if i := strings.LastIndex(path, kind); i > 0 {
				path = path[:i]
			}
		}
		token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		if req.Header.Get(ownHeader) == "" && (token == "" || path != "" && !strings.Contains(token, ":"+path+":")) {
			w.Header().Add("WWW-Authenticate", `Negotiate abc==, Basic realm="x, y"`)
			w.Header().Add("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="a \"quoted\" one"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// DockerConfig is a docker configuration file with credentials for one registry.
func DockerConfig(t testing.TB, host, user, password string) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"auths": map[string]any{host: map[string]string{"username": user, "password": password}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// RandomImage makes an image of that many layers of that many random bytes each.
func RandomImage(t testing.TB, layers int, size int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// Push stores an image or index as repository:tag.
func (r *Registry) Push(t testing.TB, reference string, image remote.Taggable) {
	t.Helper()
	if err := remote.Push(r.reference(t, reference), image, r.options()...); err != nil {
		t.Fatal(err)
	}
}

// Get returns the content stored as repository:tag or repository@digest: the manifest's own bytes, and what can be read
// from there on.
func (r *Registry) Get(t testing.TB, reference string) *remote.Descriptor {
	t.Helper()
	descriptor, err := remote.Get(r.reference(t, reference), r.options()...)
	if err != nil {
		t.Fatal(err)
	}
	return descriptor
}

// Has tells whether there is a manifest as repository:tag or repository@digest.
func (r *Registry) Has(t testing.TB, reference string) bool {
	t.Helper()
	_, err := remote.Get(r.reference(t, reference), r.options()...)
	return err == nil
}

// Requests returns those of the requests so far that have this method and hold this text in their path.
func (r *Registry) Requests(method, path string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Request
	for _, request := range r.requests {
		if request.Method == method && strings.Contains(request.Path, path) {
			found = append(found, request)
		}
	}
	return found
}

// Forget empties what Requests returns.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

func (r *Registry) reference(t testing.TB, reference string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.Host + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (r *Registry) options() []remote.Option {
	options := []remote.Option{remote.WithTransport(r.transport)}
	if r.User != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: r.User, Password: r.Password}))
	}
	return options
}

func (r *Registry) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := &counter{ReadCloser: req.Body}
		req.Body = body
		request := Request{Method: req.Method, Path: req.URL.Path, Query: req.URL.Query()}
		defer func() { // also when the handler panics to break the connection
			request.Bytes = body.n
			r.mu.Lock()
			defer r.mu.Unlock()
			r.requests = append(r.requests, request)
		}()
		next.ServeHTTP(w, req)
	})
}

type counter struct {
	io.ReadCloser
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}

// certify makes an authority, and a certificate of it for loopback.
func certify(t testing.TB) (*pki.Authority, tls.Certificate) {
	t.Helper()
	authority, err := pki.NewAuthority("registrytest")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Server("registry", "localhost", "127.0.0.1", "::1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := issued.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return authority, certificate
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
