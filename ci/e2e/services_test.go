//go:build e2e

package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/pki"
)

// Where pods find what this process serves, on the cluster's node.
const (
	node         = "node.stepwright.test"
	publicGit    = node + ":7480"
	privateGit   = node + ":7481"
	sshGit       = node + ":7422"
	registryHost = node + ":7443"
)

// Canaries: none of them may be anywhere but in the Secrets that hold them.
const (
	gitUser, gitPassword   = "octavia", "canary-git-3f1c"
	pushUser, pushPassword = "pusher", "canary-push-9a42"
	pullUser, pullPassword = "puller", "canary-pull-5be8"
)

// services are a Git server by HTTPS, public and private, one by SSH, and a registry, with faults where a repository's
// name asks for them.
type services struct {
	ca          []byte           // PEM, of the authority that all certificates are of
	certificate *tls.Certificate // of the node
	gitRoot     string
	sshUser     string
	sshKey      []byte // PEM
	sshEnded    <-chan error
	knownHosts  string
	transport   http.RoundTripper // trusts the authority

	keeps atomic.Bool // whether the registry deletes nothing

	mu   sync.Mutex
	busy map[string]time.Time // when a repository of the registry was first asked for
}

func startServices(ctx context.Context, dir string) (*services, error) {
	s := &services{gitRoot: filepath.Join(dir, "git"), busy: map[string]time.Time{}}
	certificate, err := s.certify()
	if err != nil {
		return nil, err
	}
	s.certificate = certificate
	git := &devgit.Handler{Root: s.gitRoot}
	private := &devgit.Handler{Root: s.gitRoot, Username: gitUser, Password: gitPassword}
	for address, handler := range map[string]http.Handler{publicGit: git, privateGit: private} {
		if err := serve(ctx, address, certificate, handler); err != nil {
			return nil, err
		}
	}
	if err := s.startSSH(ctx, filepath.Join(dir, "ssh")); err != nil {
		return nil, err
	}
	registry, err := devregistry.New(devregistry.Options{
		Dir: filepath.Join(dir, "registry"), Users: map[string]string{pushUser: pushPassword, pullUser: pullPassword},
		Certificate: certificate,
	})
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(registryHost, ":")
	if _, err := registry.StartHandler(":"+port, s.faults(registry)); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { registry.Close() })
	return s, nil
}

// certify makes the authority and a certificate of the node.
func (s *services) certify() (*tls.Certificate, error) {
	authority, err := pki.NewAuthority("stepwright e2e")
	if err != nil {
		return nil, err
	}
	s.ca = authority.PEM()
	issued, err := authority.Server(node, node)
	if err != nil {
		return nil, err
	}
	certificate, err := issued.TLS()
	s.transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}}
	return &certificate, err
}

func serve(ctx context.Context, address string, certificate *tls.Certificate, handler http.Handler) error {
	_, port, _ := strings.Cut(address, ":")
	listener, err := tls.Listen("tcp", ":"+port, &tls.Config{Certificates: []tls.Certificate{*certificate}})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	go server.Serve(listener)
	context.AfterFunc(ctx, func() { server.Close() })
	return nil
}

func (s *services) startSSH(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	hostKey, hostPublic, err := newKey()
	if err != nil {
		return err
	}
	key, public, err := newKey()
	if err != nil {
		return err
	}
	_, port, _ := strings.Cut(sshGit, ":")
	server := devgit.SSH{Dir: dir, HostKeys: [][]byte{hostKey}, AuthorizedKeys: ssh.MarshalAuthorizedKey(public)}
	s.sshKey = key
	s.knownHosts = knownhosts.Line([]string{sshGit}, hostPublic) + "\n"
	s.sshUser, s.sshEnded, err = server.Start(ctx, "0.0.0.0:"+port)
	return err
}

func newKey() ([]byte, ssh.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, nil, err
	}
	p, err := ssh.NewPublicKey(public)
	return pem.EncodeToMemory(block), p, err
}

const busyFor = 20 * time.Second

// faults denies pushes of the component denied, deletes nothing while the registry keeps all, and answers 503 for a
// while to components that are named …-busy. The puller may only read.
func (s *services) faults(registry http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		repository, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
		repository, _, _ = strings.Cut(repository, "/manifests/")
		user, _, _ := r.BasicAuth()
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case strings.HasSuffix(repository, "_denied") && r.Method == http.MethodPost, user == pullUser && !reads:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
		case r.Method == http.MethodDelete && s.keeps.Load():
			http.Error(w, "nothing is deleted here", http.StatusMethodNotAllowed)
		case strings.HasSuffix(repository, "-busy") && time.Since(s.firstAsked(repository)) < busyFor:
			http.Error(w, "busy", http.StatusServiceUnavailable)
		default:
			registry.ServeHTTP(w, r)
		}
	})
}

func (s *services) firstAsked(repository string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[repository].IsZero() {
		s.busy[repository] = time.Now()
	}
	return s.busy[repository]
}

// dockerConfig is what docker login would have written.
func dockerConfig(user, password string) string {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, registryHost, auth)
}

// has tells whether a reference in the registry points to something.
func (s *services) has(t *testing.T, reference string) bool {
	t.Helper()
	ref := must(name.ParseReference(reference))(t)
	_, err := remote.Head(ref, remote.WithTransport(s.transport), remote.WithAuth(credentials{}))
	return err == nil
}

// image reads what a reference in the registry points to; by digest that is its verification, too.
func (s *services) image(t *testing.T, reference string) v1.Image {
	t.Helper()
	ref := must(name.ParseReference(reference))(t)
	return must(remote.Image(ref, remote.WithTransport(s.transport), remote.WithAuth(credentials{})))(t)
}

// index reads the index that a reference in the registry points to.
func (s *services) index(t *testing.T, reference string) v1.ImageIndex {
	t.Helper()
	ref := must(name.ParseReference(reference))(t)
	return must(remote.Index(ref, remote.WithTransport(s.transport), remote.WithAuth(credentials{})))(t)
}

// repository makes a bare repository of these files' folder, and returns the commit of main.
func (s *services) repository(t *testing.T, path string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for file, content := range files {
		to := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s.publish(t, path, dir)
}

// publish makes folder the only commit of main in a bare repository. Done again it makes another commit, and the old
// one stays fetchable.
func (s *services) publish(t *testing.T, path, folder string) string {
	t.Helper()
	return must(devgit.Import(t.Context(), folder, filepath.Join(s.gitRoot, path), "e2e", time.Unix(1_700_000_000, 0)))(
		t,
	)
}
