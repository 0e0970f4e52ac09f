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

	"github.com/stepwright/stepwright/internal/devserver/devapi"
)

// The one client. The secret is a canary: it must not appear in anything that a step writes.
const (
	ClientID     = "publisher"
	ClientSecret = "canary-s3cret/+&=ä"
)

// Server is the development API, served over TLS and over plain HTTP on loopback.
type Server struct {
	*devapi.Server
	URL              string // with TLS
	PlainURL         string // without, for what stands before it in a test
	CABundle         string // file with the authority of URL
	ClientSecretFile string

	mu       sync.Mutex
	requests []string
}

// Start serves the objects in a new folder until the test ends. Objects is the YAML of the first objects; it may be
// empty. The client may do everything in those namespaces, or in all when none is given.
func Start(t testing.TB, objects string, namespaces ...string) *Server {
	t.Helper()
	api, err := devapi.New(devapi.Options{
		Dir: t.TempDir(), ClientID: ClientID, ClientSecret: ClientSecret, Namespaces: namespaces,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Server: api}
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
