// Package openchoreotest runs an OpenChoreo API with its token endpoint for tests.
package openchoreotest

import (
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

// The one client. The secret is a canary: it must not appear in anything that a step writes.
const (
	ClientID     = "publisher"
	ClientSecret = "canary-s3cret/+&=ä"
)

// Audience is what an assertion of the client must be for, and Subject whose it must be.
const (
	Audience = "https://idp.example.com"
	Subject  = "system:serviceaccount:workflows-acme:workflow-sa"
)

// Server is the development API, served over TLS and over plain HTTP on loopback.
type Server struct {
	*devapi.Server
	URL              string // with TLS
	PlainURL         string // without, for what stands before it in a test
	CABundle         string // file with the authority of URL
	ClientSecretFile string
	Issuer           *devidp.Provider // whose tokens are assertions of the client

	mu       sync.Mutex
	requests []string
}

// Start serves the objects in a new folder until the test ends. Objects is the YAML of the first objects; it may be
// empty. The client may do everything in those namespaces, or in all when none is given.
func Start(t testing.TB, objects string, namespaces ...string) *Server {
	t.Helper()
	issuer, err := devidp.New(devidp.Options{Issuer: "https://kubernetes.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Issuer: issuer}
	api, err := devapi.New(devapi.Options{
		Dir: t.TempDir(), ClientID: ClientID, ClientSecret: ClientSecret, Namespaces: namespaces,
		Trusted: []devidp.Trusted{issuer.Trusted(Audience, map[string]string{Subject: ClientID})},
		Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Server = api
	s.Apply(t, objects)
	record := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		api.ServeHTTP(w, r)
	})
	secure, plain := httptest.NewTLSServer(record), httptest.NewServer(record)
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	s.URL, s.PlainURL = secure.URL, plain.URL

	dir := t.TempDir()
	s.CABundle, s.ClientSecretFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client-secret")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	for path, content := range map[string]string{
		s.CABundle:         string(authority),
		s.ClientSecretFile: ClientSecret + "\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Assertion is a JWT that proves for an hour that it comes from the client, to an identity provider of that audience.
func (s *Server) Assertion(t testing.TB, audience string) string {
	t.Helper()
	text, err := s.Issuer.Sign(map[string]any{
		"sub": Subject, "aud": []string{audience}, "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": "workflows-acme"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Apply makes the objects of a YAML text.
func (s *Server) Apply(t testing.TB, objects string) {
	t.Helper()
	if err := s.Server.Apply([]byte(objects)); err != nil {
		t.Fatal(err)
	}
}

// Writes lists the requests so far that may have changed something, as METHOD path; those for tokens are not among
// them.
func (s *Server) Writes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.requests), func(r string) bool {
		return strings.HasPrefix(r, "GET ") || strings.HasSuffix(r, devapi.TokenPath)
	})
}

// Component is a Component as YAML.
func Component(namespace, project, name string) string {
	return fmt.Sprintf(`
---
apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: %[3]s, namespace: %[1]s}
spec:
  owner: {projectName: %[2]s}
  componentType: {kind: ClusterComponentType, name: deployment/service}
`, namespace, project, name)
}

// WorkflowRun is a WorkflowRun of a component as YAML, with an annotation of somebody else's.
func WorkflowRun(namespace, project, component, name string) string {
	return fmt.Sprintf(`
---
apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: %[4]s
  namespace: %[1]s
  labels: {openchoreo.dev/project: %[2]s, openchoreo.dev/component: %[3]s}
  annotations: {example.com/kept: "yes"}
spec:
  workflow:
    kind: ClusterWorkflow
    name: dockerfile-builder
    parameters: {repository: {url: "https://git.example.com/%[3]s.git"}, retries: 9007199254740993}
`, namespace, project, component, name)
}
