// Package registrytest gives tests a real registry on loopback: with TLS of an authority of its own and with a user,
// unless told otherwise.
package registrytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
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
	wrap             func(http.Handler) http.Handler
}

// PlainHTTP leaves out TLS.
func PlainHTTP(s *settings) { s.plain = true }

// Anonymous lets anyone push and pull.
func Anonymous(s *settings) { s.anonymous = true }

// OnDisk keeps the images in a folder: for large ones, memory takes far longer.
func OnDisk(s *settings) { s.onDisk = true }

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
		authority := newAuthority(t)
		r.CAFile = filepath.Join(dir, "ca.pem")
		write(t, r.CAFile, authority.pem)
		o.Certificate = authority.issue(t)
		transport.TLSClientConfig = &tls.Config{RootCAs: authority.pool}
	}
	if !s.anonymous {
		r.User, r.Password = "publisher", rand.Text()
		o.Users = map[string]string{r.User: r.Password}
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
	if r.Host, err = registry.StartHandler("", r.record(handler)); err != nil {
		t.Fatal(err)
	}
	r.URL = scheme + r.Host
	r.transport = transport
	if !s.anonymous {
		r.DockerConfig = filepath.Join(dir, "config.json")
		write(t, r.DockerConfig, DockerConfig(t, r.Host, r.User, r.Password))
	}
	return r
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

// Get returns what is stored as repository:tag or repository@digest: the manifest's own bytes, and what can be read
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

// authority signs certificates for loopback.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
	pool        *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t), pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registrytest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.pool.AddCert(a.certificate)
	return a
}

func (a *authority) issue(t testing.TB) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "registry"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
