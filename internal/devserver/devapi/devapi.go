// Package devapi is an OpenChoreo API for development: the part that a pipeline's last step uses, with the answers of
// the real one (docs/contract.md section 4), in one process and with its objects as files. It has a token endpoint,
// too, in place of an identity provider.
//
// It differs on purpose in this: there are no controllers, so nothing has a status; Projects and ClusterWorkflows are
// not looked up; a client may do everything in the namespaces it is allowed. Namespaces need not be made: there are
// those that have objects, and those that the client is for.
package devapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

// Kind is a kind of object, as its URL and its folder name it.
type Kind string

// The kinds there are.
const (
	Workloads    Kind = "workloads"
	WorkflowRuns Kind = "workflowruns"
	Components   Kind = "components"
)

var kinds = []Kind{Workloads, WorkflowRuns, Components}

// types are the Go types of the kinds.
var types = map[Kind]func() any{
	Workloads:    func() any { return new(v1alpha1.Workload) },
	WorkflowRuns: func() any { return new(v1alpha1.WorkflowRun) },
	Components:   func() any { return new(v1alpha1.Component) },
}

// names are the kinds as an object's kind field has them.
var names = map[Kind]string{Workloads: "Workload", WorkflowRuns: "WorkflowRun", Components: "Component"}

// objectLimit is the most that the real API can store of an object, in bytes of etcd's.
const objectLimit = 3 << 19

// The labels that the API sets itself.
const (
	projectLabel   = "openchoreo.dev/project"
	componentLabel = "openchoreo.dev/component"
)

// Options say what to serve, and to whom.
type Options struct {
	Dir           string           // folder of the objects; it is made when absent
	ClientID      string           // the one client
	ClientSecret  string           //
	Namespaces    []string         // in which the client may do everything; empty: in all
	TokenLifetime time.Duration    // 0: an hour
	Trusted       []devidp.Trusted // whose tokens prove who the client is, in place of its secret
	Log           *slog.Logger     // hears of each request; may be nil
}

// Server is the API and the token endpoint, an http.Handler.
type Server struct {
	options Options
	store   store
	tokens  tokens
	mux     *http.ServeMux

	mu       sync.Mutex // held while an object is checked and written
	updating sync.Map   // Workloads that a PUT is at
}

// New returns a server.
func New(options Options) (*Server, error) {
	if options.Dir == "" || options.ClientID == "" || options.ClientSecret == "" {
		return nil, errors.New("devapi: folder, client ID and client secret are required")
	}
	if options.TokenLifetime == 0 {
		options.TokenLifetime = time.Hour
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: options, store: store{options.Dir}, tokens: tokens{until: map[string]time.Time{}},
		mux: http.NewServeMux()}
	s.mux.Handle("POST "+TokenPath, devidp.Endpoint{
		Clients: map[string]string{options.ClientID: options.ClientSecret}, Trusted: options.Trusted,
		Lifetime: options.TokenLifetime,
		Issue:    func(string) (string, error) { return s.Token(), nil },
	})
	s.mux.HandleFunc("GET /.well-known/oauth-protected-resource", describe)
	for _, path := range devidp.MetadataPaths {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			devidp.WriteMetadata(w, devidp.Base(r))
		})
	}
	handle := func(kind Kind, pattern string, serve func(*request)) {
		s.mux.HandleFunc(pattern, s.authenticated(func(w http.ResponseWriter, r *http.Request) {
			serve(&request{Request: r, w: w, server: s, kind: kind, namespace: r.PathValue("namespace"),
				name: r.PathValue("name")})
		}))
	}
	handle("", "GET /api/v1/namespaces", (*request).listNamespaces)
	handle("", "GET /api/v1/namespaces/{namespace}", (*request).getNamespace)
	for _, kind := range kinds {
		collection := "/api/v1/namespaces/{namespace}/" + string(kind)
		handle(kind, "GET "+collection, (*request).list)
		handle(kind, "POST "+collection, (*request).create)
		handle(kind, "GET "+collection+"/{name}", (*request).get)
		handle(kind, "PUT "+collection+"/{name}", (*request).update)
	}
	return s, nil
}

// TokenPath is where the token endpoint is.
const TokenPath = devidp.TokenPath

// describe answers with the metadata of the API, which names this server as its own identity provider.
func describe(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"resource_name": "OpenChoreo MCP Server", "resource": devidp.Base(r) + "/mcp",
		"authorization_servers": []string{devidp.Base(r)}, "bearer_methods_supported": []string{"header"},
		"scopes_supported": []string{"openid", "profile", "email"}, "openchoreo_security_enabled": true,
		"openchoreo_clients": []any{map[string]any{
			"name": "cli", "client_id": "openchoreo-cli", "scopes": []string{"openid", "profile", "email"},
		}},
	})
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	recorded := &recorder{ResponseWriter: w}
	s.mux.ServeHTTP(recorded, r)
	s.options.Log.Info(r.Method+" "+r.URL.Path, "status", recorded.status, "took", time.Since(started))
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Start serves on an address, which must be on loopback, such as 127.0.0.1:0, and returns the base URL. Close the
// server to end it.
func (s *Server) Start(address string) (base string, closer io.Closer, err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		l.Close()
		return "", nil, fmt.Errorf(
			"devapi: %s is not on loopback; this server is for development on one machine", address,
		)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(l) // ends with Close
	return "http://" + l.Addr().String(), server, nil
}

// Token returns a token without asking for the client's secret, as one that somebody else has fetched.
func (s *Server) Token() string { return s.tokens.issue(s.options.TokenLifetime) }

// ExpireTokens makes every token invalid that was given so far, as a new key of an identity provider does.
func (s *Server) ExpireTokens() { s.tokens.expire() }

// Apply makes the objects of a YAML text as kubectl apply would: Components, WorkflowRuns and Workloads, new or instead
// of those of that name. New ones keep what else the text says of them, such as their age and status.
func (s *Server) Apply(text []byte) error {
	for i, doc := range strings.Split("\n"+string(text), "\n---") {
		o, err := decodeYAML([]byte(doc))
		if err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
		if o == nil {
			continue
		}
		if err := s.apply(o); err != nil {
			return fmt.Errorf("document %d: %w", i+1, err)
		}
	}
	return nil
}

func (s *Server) apply(o map[string]any) error {
	var kind Kind
	for k, name := range names {
		if o["kind"] == name && o["apiVersion"] == v1alpha1.GroupVersion.String() {
			kind = k
		}
	}
	if kind == "" {
		return fmt.Errorf(
			"%v of %v is not served here; there are %s of %s", o["kind"], o["apiVersion"],
			slices.Sorted(maps.Values(names)), v1alpha1.GroupVersion,
		)
	}
	meta := object(o["metadata"])
	namespace, _ := meta["namespace"].(string)
	name, _ := meta["name"].(string)
	if namespace == "" {
		return fmt.Errorf("%s %s: metadata.namespace: Required value", names[kind], name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	existing, err := s.store.read(namespace, kind, name)
	if err != nil {
		return err
	}
	if existing == nil {
		existing = maps.Clone(o) // it keeps what else the text says
	}
	admitted, faults := admit(kind, namespace, name, o, existing)
	if len(faults) > 0 {
		return fmt.Errorf("%s %s/%s: %s", names[kind], namespace, name, faultsText(faults))
	}
	return s.store.write(namespace, kind, name, admitted)
}

// Delete removes an object, if it is there.
func (s *Server) Delete(namespace string, kind Kind, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.remove(namespace, kind, name)
}

// Object returns an object as it is stored; nil when there is none.
func (s *Server) Object(namespace string, kind Kind, name string) (map[string]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.read(namespace, kind, name)
}

// Workload returns a Workload; nil when there is none.
func (s *Server) Workload(namespace, name string) (*v1alpha1.Workload, error) {
	return typed[v1alpha1.Workload](s, namespace, Workloads, name)
}

// WorkflowRun returns a WorkflowRun; nil when there is none.
func (s *Server) WorkflowRun(namespace, name string) (*v1alpha1.WorkflowRun, error) {
	return typed[v1alpha1.WorkflowRun](s, namespace, WorkflowRuns, name)
}

// Component returns a Component; nil when there is none.
func (s *Server) Component(namespace, name string) (*v1alpha1.Component, error) {
	return typed[v1alpha1.Component](s, namespace, Components, name)
}

// WorkloadsOf returns a component's Workloads. There should be one.
func (s *Server) WorkloadsOf(namespace, component string) ([]v1alpha1.Workload, error) {
	all, err := s.store.list(namespace, Workloads)
	if err != nil {
		return nil, err
	}
	var found []v1alpha1.Workload
	for _, o := range all {
		if ownerOf(o, "componentName") == component {
			w, err := convert[v1alpha1.Workload](o)
			if err != nil {
				return nil, err
			}
			found = append(found, *w)
		}
	}
	return found, nil
}

func typed[T any](s *Server, namespace string, kind Kind, name string) (*T, error) {
	o, err := s.store.read(namespace, kind, name)
	if o == nil || err != nil {
		return nil, err
	}
	return convert[T](o)
}

func convert[T any](o map[string]any) (*T, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	t := new(T)
	return t, json.Unmarshal(raw, t)
}

func ownerOf(o map[string]any, field string) string {
	text, _ := object(object(o["spec"])["owner"])[field].(string)
	return text
}

// admit makes the object to store of one that was received: what the server keeps of the existing one, with the spec,
// labels and annotations received, as Kubernetes admits it. The existing object is nil when the other is new.
func admit(kind Kind, namespace, name string, received, existing map[string]any) (map[string]any, field.ErrorList) {
	meta := map[string]any{"uid": string(uuid.NewUUID()), "creationTimestamp": time.Now().UTC().Format(time.RFC3339)}
	maps.Copy(meta, object(existing["metadata"]))
	meta["name"], meta["namespace"] = name, namespace
	for _, part := range []string{"labels", "annotations"} {
		delete(meta, part)
		if texts := object(object(received["metadata"])[part]); len(texts) > 0 {
			meta[part] = texts
		}
	}
	o := map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": names[kind], "metadata": meta, "spec": received["spec"],
	}
	if received["spec"] == nil {
		o["spec"] = map[string]any{}
	}
	if kind != WorkflowRuns {
		stamped := map[string]any{}
		maps.Copy(stamped, object(meta["labels"]))
		stamped[projectLabel] = ownerOf(o, "projectName")
		if kind == Workloads {
			stamped[componentLabel] = ownerOf(o, "componentName")
		}
		meta["labels"] = stamped
	}
	faults := objects.Admit(names[kind], o, existing)
	if status := existing["status"]; status != nil {
		o["status"] = status // nobody here changes it
	}
	return o, faults
}

// faultsText is what the real API says of faults.
func faultsText(faults field.ErrorList) string {
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Field + ": " + f.ErrorBody()
	}
	return strings.Join(texts, "; ")
}

// request is one request to the API.
type request struct {
	*http.Request
	w               http.ResponseWriter
	server          *Server
	kind            Kind
	namespace, name string
}

func (r *request) allowed() bool { return r.server.allows(r.namespace) }

func (s *Server) allows(namespace string) bool {
	return len(s.options.Namespaces) == 0 || slices.Contains(s.options.Namespaces, namespace)
}

func (r *request) refuse(status int, code, message string) {
	writeJSON(r.w, status, map[string]string{"code": code, "error": message})
}

func (r *request) forbidden() {
	r.refuse(http.StatusForbidden, "FORBIDDEN", "You do not have permission to perform this operation")
}

func (r *request) notFound() {
	r.refuse(http.StatusNotFound, "NOT_FOUND", names[r.kind]+" not found")
}

func (r *request) broken(err error) {
	r.server.options.Log.Error("Cannot serve "+r.URL.Path, "error", err)
	r.refuse(http.StatusInternalServerError, "INTERNAL_ERROR", "Internal server error")
}

// show is an object as the API gives it: some of its metadata stay inside.
func show(o map[string]any) map[string]any {
	shown := maps.Clone(o)
	meta := map[string]any{}
	for _, field := range []string{
		"name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "labels", "annotations",
	} {
		if v := object(o["metadata"])[field]; v != nil {
			meta[field] = v
		}
	}
	shown["metadata"] = meta
	return shown
}

func (r *request) get() {
	o, err := r.server.store.read(r.namespace, r.kind, r.name)
	switch {
	case err != nil:
		r.broken(err)
	case o == nil:
		r.notFound()
	case !r.allowed():
		r.forbidden()
	default:
		writeJSON(r.w, http.StatusOK, show(o))
	}
}

func (r *request) list() {
	all, err := r.server.store.list(r.namespace, r.kind)
	if err != nil {
		r.broken(err)
		return
	}
	component := r.URL.Query().Get("component")
	r.page(all, func(o map[string]any) bool {
		// What the client may not see is left out, without a word.
		return r.allowed() && (r.kind != Workloads || component == "" || ownerOf(o, "componentName") == component)
	})
}

// page answers with those of the objects, sorted by name, that the client may see and the query selects.
func (r *request) page(all []map[string]any, visible func(map[string]any) bool) {
	query := r.URL.Query()
	limit := 20
	if raw := query.Get("limit"); raw != "" {
		n, err := strconv.Atoi(raw)
		if err != nil {
			http.Error(r.w, "Invalid format for parameter limit: "+err.Error(), http.StatusBadRequest)
			return
		}
		limit = min(max(n, 1), 100)
	}
	selector, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		r.refuse(http.StatusBadRequest, "BAD_REQUEST", "invalid label selector: "+err.Error())
		return
	}
	after, err := base64.RawURLEncoding.DecodeString(query.Get("cursor"))
	if err != nil {
		r.broken(err)
		return
	}
	items, pagination := []any{}, map[string]any{}
	for _, o := range all {
		meta := object(o["metadata"])
		name, _ := meta["name"].(string)
		set := labels.Set{}
		for k, v := range object(meta["labels"]) {
			set[k] = fmt.Sprint(v)
		}
		if name <= string(after) || !selector.Matches(set) || !visible(o) {
			continue
		}
		if len(items) == limit {
			last := object(object(items[limit-1])["metadata"])["name"].(string)
			pagination["nextCursor"] = base64.RawURLEncoding.EncodeToString([]byte(last))
			break
		}
		items = append(items, show(o))
	}
	writeJSON(r.w, http.StatusOK, map[string]any{"items": items, "pagination": pagination})
}

// listNamespaces answers what people ask first, to see whether this is the API. The namespaces are those that have
// objects, and those that the client is for.
func (r *request) listNamespaces() {
	names, err := r.server.namespaces()
	if err != nil {
		r.broken(err)
		return
	}
	var all []map[string]any
	for _, name := range names {
		all = append(all, namespaceNamed(name))
	}
	r.page(all, func(o map[string]any) bool { return r.server.allows(object(o["metadata"])["name"].(string)) })
}

func (r *request) getNamespace() {
	names, err := r.server.namespaces()
	switch {
	case err != nil:
		r.broken(err)
	case !r.allowed(): // the real API asks in this order
		r.forbidden()
	case !slices.Contains(names, r.namespace):
		r.refuse(http.StatusNotFound, "NOT_FOUND", "Namespace not found")
	default:
		writeJSON(r.w, http.StatusOK, namespaceNamed(r.namespace))
	}
}

// namespaces are the names of all there are, sorted.
func (s *Server) namespaces() ([]string, error) {
	names, err := s.store.namespaces()
	names = append(names, s.options.Namespaces...)
	slices.Sort(names)
	return slices.Compact(names), err
}

func namespaceNamed(name string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": name, "labels": map[string]any{"openchoreo.dev/control-plane": "true"}},
		"status":   map[string]any{"phase": "Active"},
	}
}

// body reads the object that the client sent; nil when it was refused.
func (r *request) body() map[string]any {
	raw, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, 32<<20))
	if err != nil {
		r.broken(err)
		return nil
	}
	o, err := typedFields(r.kind, raw)
	if err != nil {
		r.undecodable(err.Error())
		return nil
	}
	if len(raw) > objectLimit {
		r.broken(fmt.Errorf("%d bytes do not fit into etcd", len(raw)))
		return nil
	}
	return o
}

// typedFields reads an object through its Go type, as the real API does. Unknown fields are dropped, and so
// are empty optional ones; a required field is there, if only empty.
func typedFields(kind Kind, raw []byte) (map[string]any, error) {
	typed := types[kind]()
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(typed); err != nil {
		return nil, err
	}
	return runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
}

func (r *request) undecodable(why string) {
	http.Error(r.w, "can't decode JSON body: "+why, http.StatusBadRequest)
}

func (r *request) create() {
	o := r.body()
	if o == nil {
		return
	}
	if !r.allowed() {
		r.forbidden()
		return
	}
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.kind == Workloads {
		owner := ownerOf(o, "componentName")
		component, err := s.store.read(r.namespace, Components, owner)
		if owner == "" {
			err = errors.New("the Workload has no component") // the real API asks Kubernetes for one without a name
		}
		if err != nil {
			r.broken(err)
			return
		}
		if component == nil {
			r.refuse(http.StatusBadRequest, "BAD_REQUEST", "Referenced component not found")
			return
		}
	}
	name, _ := object(o["metadata"])["name"].(string)
	existing, err := s.store.read(r.namespace, r.kind, name)
	switch {
	case err != nil:
		r.broken(err)
	case name == "":
		r.broken(errors.New("the object has no name"))
	case existing != nil && r.kind == WorkflowRuns:
		r.broken(errors.New("there is such a WorkflowRun already")) // the real API forgot this case
	case existing != nil:
		r.refuse(http.StatusConflict, "CONFLICT", names[r.kind]+" already exists")
	default:
		r.put(http.StatusCreated, name, o, nil)
	}
}

func (r *request) update() {
	o := r.body()
	if o == nil {
		return
	}
	s := r.server
	if r.kind == Workloads {
		// Of two updates at once the real API lets one fail with a conflict that it reports as its own fault.
		key := r.namespace + "/" + r.name
		if _, busy := s.updating.LoadOrStore(key, true); busy {
			r.broken(errors.New("the object has been modified"))
			return
		}
		defer s.updating.Delete(key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	existing, err := s.store.read(r.namespace, r.kind, r.name)
	switch {
	case err != nil:
		r.broken(err)
	case r.kind == WorkflowRuns && !r.allowed(): // the real API asks in this order
		r.forbidden()
	case existing == nil:
		r.notFound()
	case !r.allowed():
		r.forbidden()
	default:
		r.put(http.StatusOK, r.name, o, existing)
	}
}

// put checks and writes an object.
func (r *request) put(status int, name string, received, existing map[string]any) {
	o, faults := admit(r.kind, r.namespace, name, received, existing)
	// The real API has a type of its own for parameters, and finds this when it decodes them.
	if i := slices.IndexFunc(faults, mistyped); i >= 0 {
		r.undecodable(faultsText(faults[i : i+1]))
		return
	}
	if len(faults) > 0 {
		r.refuse(http.StatusUnprocessableEntity, "UNPROCESSABLE_CONTENT", faultsText(faults))
		return
	}
	if err := r.server.store.write(r.namespace, r.kind, name, o); err != nil {
		r.broken(err)
		return
	}
	writeJSON(r.w, status, show(o))
}

func mistyped(err *field.Error) bool { return err.Type == field.ErrorTypeTypeInvalid }

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
