// Package workflowplanetest serves what was recorded from a real Kubernetes with a real Argo, as its API server would.
package workflowplanetest

import (
	"embed"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Namespace is the namespace of the recorded workflows: cart-1 has succeeded, the second of cart-2's steps has failed
// with exit code 22, and cart-3 names a template that is not there.
const Namespace = "workflows-acme"

// Token is the one that the server accepts.
const Token = "a-token-that-is-good"

//go:embed recorded
var recorded embed.FS

// Workflow is a recorded one.
func Workflow(t testing.TB, name string) *wfv1.Workflow {
	t.Helper()
	return read[wfv1.Workflow](t, name+".json")
}

func read[T any](t testing.TB, file string) *T {
	t.Helper()
	raw, err := recorded.ReadFile("recorded/" + file)
	if err != nil {
		t.Fatal(err)
	}
	object := new(T)
	if err := json.Unmarshal(raw, object); err != nil {
		t.Fatal(err)
	}
	return object
}

// Server is the API server. Change what it serves with Change.
type Server struct {
	*httptest.Server

	mu         sync.Mutex
	Workflows  []wfv1.Workflow
	Pods       []corev1.Pod
	Runs       map[string]string         // WorkflowRuns as JSON, by namespace/name; nil: there is no OpenChoreo
	Components map[string]string         // Components as JSON, by namespace/name
	Logs       map[string]func(w Stream) // by pod
	Refuse     func(*http.Request) int   // the status of a refusal, or 0
	Written    []string                  // methods and paths of what was created or applied, each followed by its body
	Create     func(path, body string)   // hears of each creation, and may change the server's objects
}

// Stream is where a log is written to.
type Stream struct {
	io.Writer
	Container string
	Follow    bool
}

// New serves the recorded objects until the test ends. Each pod's log is "<pod> line 1" to 3, between lines of Argo's
// own.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{Logs: map[string]func(Stream){}, Refuse: func(*http.Request) int { return 0 }}
	for _, name := range []string{"cart-1", "cart-2", "cart-3"} {
		s.Workflows = append(s.Workflows, *Workflow(t, name))
	}
	s.Pods = read[corev1.PodList](t, "pods.json").Items
	for _, pod := range s.Pods {
		s.Logs[pod.Name] = func(w Stream) {
			const executor = "time=2026-11-21T10:27:35.779Z level=INFO msg=\"waiting for signals\" argo=true\n"
			fmt.Fprintf(w, "%[1]s%[2]s line 1\n%[2]s line 2\n%[1]s%[2]s line 3", executor, pod.Name)
		}
	}
	s.Server = httptest.NewTLSServer(s) // a client sends no token in plain text
	t.Cleanup(s.Close)
	return s
}

// Change changes the server's objects.
func (s *Server) Change(how func(*Server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(s)
}

// Kubeconfig writes one with that token.
func (s *Server) Kubeconfig(t testing.TB, token string) string {
	t.Helper()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return Kubeconfig(t, s.URL, token, authority)
}

// Kubeconfig writes one for the server at a URL and returns its path. Its context is named "plane". A nil authority
// leaves the system's.
func Kubeconfig(t testing.TB, url, token string, authority []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: plane
clusters: [{name: cluster, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: user, user: {token: %q}}]
contexts: [{name: plane, context: {cluster: cluster, user: user}}]
`, url, base64.StdEncoding.EncodeToString(authority), token)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+Token {
		refuse(w, http.StatusUnauthorized)
		return
	}
	if code := s.Refuse(r); code != 0 {
		refuse(w, code)
		return
	}
	query := r.URL.Query()
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.Method == http.MethodPost || r.Method == http.MethodPatch:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest)
			return
		}
		s.Written = append(s.Written, r.Method+" "+r.URL.Path, string(body))
		if s.Create != nil {
			s.Create(r.URL.Path, string(body))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		w.Write(body)
	case kinds[r.URL.Path] != nil && (s.Runs != nil || !strings.Contains(r.URL.Path, "openchoreo")):
		var list metav1.APIResourceList
		for name, kind := range kinds[r.URL.Path] {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: name + "/status",
				Kind: kind,
			}, metav1.APIResource{Name: name, Kind: kind})
		}
		answer(w, list)
	case r.URL.Path == "/apis/argoproj.io/v1alpha1/workflows" || len(path) == 6 && path[1] == "argoproj.io" &&
		path[5] == "workflows":
		name, one := strings.CutPrefix(query.Get("fieldSelector"), "metadata.name=")
		answer(w, map[string]any{
			"items": slices.DeleteFunc(slices.Clone(s.Workflows), func(workflow wfv1.Workflow) bool {
				return len(path) == 6 && workflow.Namespace != path[4] || one && workflow.Name != name
			}),
		})
	case len(path) == 7 && path[1] == "openchoreo.dev" && path[5] == "workflowruns" &&
		s.Runs[path[4]+"/"+path[6]] != "":
		io.WriteString(w, s.Runs[path[4]+"/"+path[6]])
	case s.Runs != nil && path[1] == "openchoreo.dev" && path[len(path)-1] == "workflowruns":
		items := []json.RawMessage{}
		for _, name := range slices.Sorted(maps.Keys(s.Runs)) {
			if len(path) == 4 || strings.HasPrefix(name, path[4]+"/") {
				items = append(items, json.RawMessage(s.Runs[name]))
			}
		}
		answer(w, map[string]any{"items": items})
	case len(path) == 7 && path[1] == "openchoreo.dev" && path[5] == "components" &&
		s.Components[path[4]+"/"+path[6]] != "":
		io.WriteString(w, s.Components[path[4]+"/"+path[6]])
	case len(path) == 5 && path[4] == "pods":
		workflow, _ := strings.CutPrefix(query.Get("labelSelector"), "workflows.argoproj.io/workflow=")
		answer(w, map[string]any{"items": slices.DeleteFunc(slices.Clone(s.Pods), func(pod corev1.Pod) bool {
			return pod.Namespace != path[3] || pod.Labels["workflows.argoproj.io/workflow"] != workflow
		})})
	case len(path) == 7 && path[6] == "log" && s.has(path[5], query.Get("container")) && s.Logs[path[5]] != nil:
		log := s.Logs[path[5]]
		s.mu.Unlock() // it may take long
		defer s.mu.Lock()
		log(Stream{flushing{w}, query.Get("container"), query.Get("follow") == "true"})
	default:
		refuse(w, http.StatusNotFound)
	}
}

// has tells whether a pod has a container: main, or an init container.
func (s *Server) has(pod, container string) bool {
	is := func(c corev1.Container) bool { return c.Name == container }
	return container == "main" || slices.ContainsFunc(s.Pods, func(p corev1.Pod) bool {
		return p.Name == pod && slices.ContainsFunc(p.Spec.InitContainers, is)
	})
}

// kinds are those that the server knows, by group and name.
var kinds = map[string]map[string]string{
	"/api/v1":                            {"serviceaccounts": "ServiceAccount"},
	"/apis/rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
	"/apis/external-secrets.io/v1":       {"externalsecrets": "ExternalSecret"},
	"/apis/argoproj.io/v1alpha1":         {"workflows": "Workflow"},
	"/apis/openchoreo.dev/v1alpha1":      {"workflowruns": "WorkflowRun"},
}

func answer(w http.ResponseWriter, object any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(object)
}

// refuse answers as Kubernetes does: with a Status.
func refuse(w http.ResponseWriter, code int) {
	reasons := map[int]metav1.StatusReason{
		401: metav1.StatusReasonUnauthorized,
		403: metav1.StatusReasonForbidden,
		404: metav1.StatusReasonNotFound,
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reasons[code], Message: "said by the API server",
	})
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}
