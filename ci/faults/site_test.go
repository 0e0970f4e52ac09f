package faults

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// The names of the servers are the same at each site, so that what is built there has the same digests.
const (
	gitHost      = "git.faults.test"
	registryHost = "registry.faults.test"
	apiHost      = "api.faults.test"
	idpHost      = "idp.faults.test"
	repositoryOf = "https://" + gitHost + "/acme/shop.git"
)

const user = "robot"

// A site is what one cell's step talks to: servers that nobody else uses, at addresses of their own.
type site struct {
	dir      string // of what the servers keep
	address  string // of the resolver
	resolver *resolver
	git      *server
	registry *server
	api      *server
	idp      *server

	secret  atomic.Pointer[string] // that git, registry and identity provider want
	images  *devregistry.Registry
	objects atomic.Pointer[devapi.Server]
	life    time.Duration // of tokens; 0: an hour
}

// A server is an HTTP server with faults.
type server struct {
	*line
	host        string
	certificate atomic.Pointer[tls.Certificate]
	handler     http.Handler

	mu       sync.Mutex
	requests int
	rule     rule
}

// A rule is asked for each request, and its number from 1. It may answer the request itself, and returns true then.
type rule func(n int, w http.ResponseWriter, r *http.Request) bool

// sites counts sites, for their addresses.
var sites atomic.Int32

// newSite starts the servers.
func newSite(t *testing.T, w *works) *site {
	t.Helper()
	s := &site{dir: t.TempDir()}
	s.secret.Store(new("first-secret"))
	s.claimAddresses(t)
	registry, err := devregistry.New(devregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.images = registry
	t.Cleanup(func() { registry.Close() })
	repository := filepath.Join(s.dir, "git", "acme", "shop.git")
	if err := os.MkdirAll(filepath.Dir(repository), 0o755); err != nil {
		t.Fatal(err)
	}
	copyTree(t, w.repository, repository)
	s.startAPI(t)
	basic := func(next http.Handler) http.Handler { return s.guarded(next) }
	for _, one := range []struct {
		host    string
		server  **server
		handler http.Handler
	}{
		{gitHost, &s.git, basic(&devgit.Handler{Root: filepath.Join(s.dir, "git")})},
		{registryHost, &s.registry, basic(registry)},
		{apiHost, &s.api, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.objects.Load().ServeHTTP(w, r)
		})},
		{idpHost, &s.idp, http.HandlerFunc(s.token)},
	} {
		*one.server = &server{host: one.host, handler: one.handler}
		(*one.server).certificate.Store(w.certificate)
		(*one.server).start(t, s.addressOf(one.host))
	}
	s.push(t, "library/busybox:1", w.base)
	s.push(t, "acme/run:1", w.base)
	return s
}

// claimAddresses finds addresses of loopback that are free, one for the resolver and those after it for the servers.
func (s *site) claimAddresses(t *testing.T) {
	t.Helper()
	for {
		n := sites.Add(1)
		s.address = fmt.Sprintf("127.%d.%d.1", 64+n/250%128, n%250+1)
		names := map[string]netip.Addr{}
		for _, host := range []string{gitHost, registryHost, apiHost, idpHost} {
			names[host+"."] = netip.MustParseAddr(s.addressOf(host))
		}
		var err error
		if s.resolver, err = newResolver(s.address, names); err == nil {
			t.Cleanup(func() { s.resolver.socket.Close() })
			return
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func (s *site) addressOf(host string) string {
	last := map[string]string{gitHost: "2", registryHost: "3", apiHost: "4", idpHost: "5"}[host]
	return s.address[:len(s.address)-1] + last
}

func (s *server) start(t *testing.T, address string) {
	t.Helper()
	serve := func(l net.Listener) {
		hs := &http.Server{
			Handler: s, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
			TLSConfig: &tls.Config{
				MinVersion: tls.VersionTLS12,
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
					return s.certificate.Load(), nil
				},
			},
		}
		hs.ServeTLS(l, "", "")
	}
	var err error
	if s.line, err = newLine(address+":443", serve); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.line.set(weather{}); s.line.down() })
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	n, rule := s.requests, s.rule
	s.mu.Unlock()
	if rule != nil && rule(n, w, r) {
		return
	}
	s.handler.ServeHTTP(w, r)
}

// obey has the server ask a rule from now on; nil: none. Requests are counted from 1 again.
func (s *server) obey(r rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rule, s.requests = r, 0
}

func (s *server) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

func (s *site) servers() []*server { return []*server{s.git, s.registry, s.api, s.idp} }

// guarded lets through who knows the secret.
func (s *site) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, ok := r.BasicAuth()
		if !ok || name != user || secret != *s.secret.Load() {
			w.Header().Set("WWW-Authenticate", `Basic realm="faults"`)
			http.Error(w, "credentials needed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// token is the identity provider: the API's own token endpoint, behind the secret of the day.
func (s *site) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil || r.PostForm.Get("client_secret") != *s.secret.Load() {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":"invalid_client"}`)
		return
	}
	r.PostForm.Set("client_secret", clientSecret)
	form := r.PostForm.Encode()
	r = r.Clone(r.Context())
	r.Form, r.PostForm = nil, nil
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(form)), int64(len(form))
	s.objects.Load().ServeHTTP(w, r)
}

const clientSecret = "of the API itself"

// startAPI starts the API, or starts it anew: of tokens that it gave before it knows nothing then.
func (s *site) startAPI(t *testing.T) {
	t.Helper()
	api, err := devapi.New(devapi.Options{
		Dir: filepath.Join(s.dir, "api"), ClientID: user, ClientSecret: clientSecret, TokenLifetime: s.life,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.objects.Store(api)
}

// push stores an image without the network.
func (s *site) push(t *testing.T, reference string, image remote.Taggable) {
	t.Helper()
	ref, err := name.ParseReference(registryHost + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, image, remote.WithTransport(direct{s.images})); err != nil {
		t.Fatal(err)
	}
}

// direct asks a handler itself.
type direct struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	r.Host = r.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	recorded := httptest.NewRecorder()
	d.handler.ServeHTTP(recorded, r)
	answer := recorded.Result()
	answer.Request = r
	return answer, nil
}

// dockerConfig is a docker configuration file with the secret.
func dockerConfig(secret string) []byte {
	raw, err := json.Marshal(map[string]any{
		"auths": map[string]any{registryHost: map[string]string{"username": user, "password": secret}},
	})
	if err != nil {
		panic(err)
	}
	return raw
}
