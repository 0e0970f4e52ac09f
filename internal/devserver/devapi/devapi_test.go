package devapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/validation"

	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

// annotationsLimit is the most that an object's annotations may have together, in bytes.
const annotationsLimit = validation.TotalAnnotationSizeLimitB

const given = `
apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: cart, namespace: acme}
spec: {owner: {projectName: store}, componentType: {name: deployment/service}}
---
apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: cart-1
  namespace: acme
  resourceVersion: "7"
  finalizers: [example.com/f]
  labels: {openchoreo.dev/component: cart}
  annotations: {example.com/a: b}
spec: {workflow: {name: dockerfile-builder, parameters: {anything: [1, {goes: true}]}}}
status: {conditions: [{type: WorkflowRunning}]}
---
apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: cart, namespace: elsewhere}
spec: {owner: {projectName: store}, componentType: {name: deployment/service}}
`

type client struct {
	t     *testing.T
	api   *Server
	url   string
	token string
}

func start(t *testing.T) *client {
	t.Helper()
	api, err := New(Options{Dir: t.TempDir(), ClientID: "me", ClientSecret: "secret", Namespaces: []string{"acme"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Apply([]byte(given)); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	c := &client{t: t, api: api, url: server.URL}
	resp, err := http.PostForm(server.URL+TokenPath, url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {"me"},
		"client_secret": {"secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var given struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&given); err != nil || given.Token == "" {
		t.Fatalf("no token: %d, %v", resp.StatusCode, err)
	}
	c.token = given.Token
	return c
}

// do sends a request to a path below /api/v1/namespaces/ and returns status and body.
func (c *client) do(method, path, body string) (int, string) {
	c.t.Helper()
	return c.ask(method, "/"+path, body)
}

// ask is do for what stands right after /api/v1/namespaces.
func (c *client) ask(method, rest, body string) (int, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.url+"/api/v1/namespaces"+rest, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// workload is a POST body; more is merged into spec.
func workload(name, component, more string) string {
	return fmt.Sprintf(
		`{"metadata":{"name":%q},"spec":{"owner":{"projectName":"store","componentName":%q},`+
			`"container":{"image":"i:1"}%s}}`,
		name, component, more,
	)
}

// TestContract has a case for each row of the table of answers in docs/contract.md section 4.
func TestContract(t *testing.T) {
	t.Parallel()
	w := workload("cart-workload", "cart", "")
	type call struct{ method, path, body string }
	create := call{"POST", "acme/workloads", w}
	many := `,"dependencies":{"resources":[` + strings.TrimSuffix(strings.Repeat(`{"ref":"%d"},`, 51), ",") + `]}`
	many = fmt.Sprintf(many, func() (n []any) {
		for i := range 51 {
			n = append(n, i)
		}
		return n
	}()...)
	cases := []struct {
		name    string
		before  []call
		call    call
		status  int
		answers []string // parts of the body
	}{
		{"POST new", nil, create, 201,
			[]string{
				`"name":"cart-workload"`, `"openchoreo.dev/component":"cart"`, `"openchoreo.dev/project":"store"`,
			}},
		{"POST existing", []call{create}, create, 409, []string{`"code":"CONFLICT"`, "already exists"}},
		{"component absent", nil, call{"POST", "acme/workloads", workload("w", "ghost", "")}, 400,
			[]string{`"code":"BAD_REQUEST"`, "Referenced component not found"}},
		{"no component", nil, call{"POST", "acme/workloads", `{"metadata":{"name":"w"}}`}, 500,
			[]string{`"code":"INTERNAL_ERROR"`}},
		{"empty name", nil, call{"POST", "acme/workloads", workload("", "cart", "")}, 500,
			[]string{`"code":"INTERNAL_ERROR"`}},
		{"name that leads out", nil, call{"POST", "acme/workloads", workload("../../x", "cart", "")}, 422,
			[]string{"metadata.name"}},
		{"CRD violations are joined", nil,
			call{"POST", "acme/workloads", workload("w", "cart", `,"endpoints":{"a":{"type":"REST","port":70000}}`)},
			422,
			[]string{`"code":"UNPROCESSABLE_CONTENT"`, "spec.endpoints.a.port: ", "; spec.endpoints.a.type: "}},
		{"port missing", nil,
			call{"POST", "acme/workloads", workload("w", "cart", `,"endpoints":{"a":{"type":"HTTP"}}`)}, 422,
			[]string{"spec.endpoints.a.port"}},
		{"visibility twice", nil,
			call{"POST", "acme/workloads",
				workload(
					"w", "cart", `,"endpoints":{"a":{"type":"HTTP","port":1,"visibility":["project","project"]}}`,
				)},
			422, []string{"Duplicate value"}},
		{"51 dependencies", nil, call{"POST", "acme/workloads", workload("w", "cart", many)}, 422,
			[]string{"at most 50"}},
		{"empty binding", nil,
			call{"POST", "acme/workloads",
				workload("w", "cart", `,"dependencies":{"resources":[{"ref":"a","envBindings":{"x":""}}]}`)},
			422, []string{"cannot be empty"}},
		{"resource twice", nil,
			call{"POST", "acme/workloads",
				workload("w", "cart", `,"dependencies":{"resources":[{"ref":"a"},{"ref":"a"}]}`)},
			422, []string{"Duplicate value"}},
		{"value and valueFrom", nil,
			call{"POST", "acme/workloads",
				`{"metadata":{"name":"w"},"spec":{"owner":{"projectName":"store","componentName":"cart"},` +
					`"container":{"image":"i","env":[{"key":"a","value":"b","valueFrom":{"secretKeyRef":{"name":"s",` +
					`"key":"k"}}}]}}}`},
			422, []string{"mutually exclusive"}},
		{"a value that may not be, and a rule", nil,
			call{"POST", "acme/workloads",
				workload(
					"w", "cart", `,"endpoints":{"a":{"type":"REST","port":1,"visibility":["project","project"]}}`,
				)},
			422,
			[]string{
				"spec.endpoints.a.type: Unsupported value", "spec.endpoints[a].visibility[1]: Duplicate value",
				"; \\u003cnil\\u003e: Invalid value: null: some validation rules were not checked",
			}},
		{"an empty value is none", nil,
			call{"POST", "acme/workloads",
				`{"metadata":{"name":"w"},"spec":{"owner":{"projectName":"store","componentName":"cart"},` +
					`"container":{"image":"i","env":[{"key":"a","value":"","valueFrom":{"secretKeyRef":{"name":"s",` +
					`"key":"k"}}}]}}}`},
			201, []string{`"env":[{"key":"a","valueFrom"`}},
		{"no label", nil,
			call{"POST", "acme/workloads",
				`{"metadata":{"name":"w"},"spec":{"owner":{"projectName":"my store","componentName":"cart"},` +
					`"container":{"image":"i"}}}`},
			422, []string{`metadata.labels: Invalid value: \"my store\"`}},
		{"parameters that are none", nil,
			call{"PUT", "acme/workflowruns/cart-1",
				`{"metadata":{},"spec":{"workflow":{"name":"dockerfile-builder","parameters":5}}}`},
			400, []string{"can't decode JSON body: spec.workflow.parameters: "}},
		{"unknown fields", nil, call{"POST", "acme/workloads", workload("w", "cart", `,"nonsense":{"a":1}`)}, 201,
			[]string{`"name":"w"`}},
		{"second Workload of a component", []call{create},
			call{"POST", "acme/workloads", workload("other", "cart", "")}, 201, nil},
		{"PUT absent", nil, call{"PUT", "acme/workloads/cart-workload", w}, 404,
			[]string{`"code":"NOT_FOUND"`, "Workload not found"}},
		{"PUT ignores resourceVersion", []call{create},
			call{"PUT", "acme/workloads/cart-workload",
				strings.Replace(w, `"metadata":{`, `"metadata":{"resourceVersion":"1",`, 1)},
			200, nil},
		{"PUT of another owner", []call{create},
			call{"PUT", "acme/workloads/cart-workload", workload("cart-workload", "other", "")}, 422,
			[]string{"spec.owner is immutable"}},
		{"1.5 MB", nil,
			call{"POST", "acme/workloads",
				workload("w", "cart", `,"endpoints":{"a":{"type":"HTTP","port":1,"schema":{"content":"`+
					strings.Repeat("x", 1_499_000)+`"}}}`)},
			201, nil},
		{"2 MB", nil,
			call{"POST", "acme/workloads",
				workload("w", "cart", `,"endpoints":{"a":{"type":"HTTP","port":1,"schema":{"content":"`+
					strings.Repeat("x", 2_000_000)+`"}}}`)},
			500, nil},
		{"annotations at the limit", nil,
			call{"PUT", "acme/workflowruns/cart-1",
				`{"metadata":{"annotations":{"a":"` + strings.Repeat("x", annotationsLimit-1) +
					`"}},"spec":{"workflow":{"name":"dockerfile-builder"}}}`},
			200, nil},
		{"annotations too large", nil,
			call{"PUT", "acme/workflowruns/cart-1",
				`{"metadata":{"annotations":{"a":"` + strings.Repeat("x", annotationsLimit) +
					`"}},"spec":{"workflow":{"name":"dockerfile-builder"}}}`},
			422, []string{"metadata.annotations"}},
		{"WorkflowRun of another workflow", nil,
			call{"PUT", "acme/workflowruns/cart-1", `{"metadata":{},"spec":{"workflow":{"name":"other"}}}`}, 422,
			[]string{"name is immutable"}},
		{"undecodable JSON", nil, call{"POST", "acme/workloads", `{"metadata":`}, 400,
			[]string{"can't decode JSON body"}},
		{"wrong type", nil,
			call{"POST", "acme/workloads", workload("w", "cart", `,"endpoints":{"a":{"type":"HTTP","port":"80"}}`)},
			400,
			[]string{"can't decode JSON body"}},
		{"GET without resourceVersion", nil, call{"GET", "acme/workflowruns/cart-1", ""}, 200,
			[]string{`"WorkflowRunning"`, `"example.com/a":"b"`}},
		{"GET absent", nil, call{"GET", "acme/workflowruns/none", ""}, 404, []string{"WorkflowRun not found"}},
		{"GET without permission", nil, call{"GET", "elsewhere/components/cart", ""}, 403,
			[]string{`"code":"FORBIDDEN"`}},
		{"POST without permission", nil, call{"POST", "elsewhere/workloads", w}, 403,
			[]string{"You do not have permission"}},
		{"list without permission", nil, call{"GET", "elsewhere/components", ""}, 200, []string{`"items":[]`}},
		{"PATCH", nil, call{"PATCH", "acme/workloads/cart-workload", w}, 405, nil},
		{"unknown resource", nil, call{"GET", "acme/secrets", ""}, 404, nil},
		{"path that leads out", nil, call{"GET", "acme/workloads/..%2F..%2F..%2Fetc%2Fpasswd", ""}, 404, nil},
		{"namespace that leads out", nil, call{"GET", "..%2F..%2Fetc/workloads", ""}, 200, []string{`"items":[]`}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			for _, b := range tc.before {
				if status, body := c.do(b.method, b.path, b.body); status >= 300 {
					t.Fatalf("before: %s %s: %d %s", b.method, b.path, status, body)
				}
			}
			status, body := c.do(tc.call.method, tc.call.path, tc.call.body)
			if status != tc.status {
				t.Fatalf("status %d, want %d: %.300s", status, tc.status, body)
			}
			for _, part := range tc.answers {
				if !strings.Contains(body, part) {
					t.Errorf("the answer has no %q: %.300s", part, body)
				}
			}
			if strings.Contains(body, "nonsense") || strings.Contains(body, "resourceVersion") {
				t.Errorf("the answer shows what the API hides: %.300s", body)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	c := start(t)
	good := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {"me"},
		"client_secret": {"secret"},
		"scope":         {"a b"},
	}
	change := func(key, value string) url.Values {
		v := url.Values{}
		for k := range good {
			v.Set(k, good.Get(k))
		}
		v.Set(key, value)
		return v
	}
	cases := []struct {
		name   string
		form   url.Values
		basic  bool
		status int
		answer string
	}{
		{"secret in the body", good, false, 200, `"scope":"a b"`},
		{"basic authentication", good, true, 401, "client_secret_post"},
		{"wrong secret", change("client_secret", "x"), false, 401, "invalid_client"},
		{"wrong client", change("client_id", "x"), false, 401, "invalid_client"},
		{"wrong grant", change("grant_type", "password"), false, 400, "unsupported_grant_type"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequest("POST", c.url+TokenPath, strings.NewReader(tc.form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if tc.basic {
				req.SetBasicAuth("me", "secret")
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			raw, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tc.status || !strings.Contains(string(raw), tc.answer) {
				t.Errorf("%d %s", resp.StatusCode, raw)
			}
		})
	}

	token := c.token
	for name, want := range map[string]string{"": "MISSING_TOKEN", "nonsense": "INVALID_TOKEN"} {
		c.token = name
		if status, body := c.do("GET", "acme/workloads", ""); status != 401 ||
			!strings.Contains(body, `"error":"`+want+`"`) || !strings.Contains(body, `"message":`) {
			t.Errorf("token %q: %d %s", name, status, body)
		}
	}
	c.token = token
	if status, _ := c.do("GET", "acme/workloads", ""); status != 200 {
		t.Errorf("good token: %d", status)
	}
	c.api.ExpireTokens()
	if status, _ := c.do("GET", "acme/workloads", ""); status != 401 {
		t.Errorf("expired token: %d", status)
	}
	short := &tokens{until: map[string]time.Time{}}
	if short.valid(short.issue(-time.Second)) {
		t.Error("a token outlived its time")
	}
}

// TestReplacedWhole shows which fields a PUT removes, and which it keeps.
func TestReplacedWhole(t *testing.T) {
	t.Parallel()
	c := start(t)
	if status, body := c.do(
		"PUT", "acme/workflowruns/cart-1",
		`{"metadata":{"annotations":{"mine":"1"}},"spec":{"workflow":{"name":"dockerfile-builder"}},`+
			`"status":{"conditions":[]}}`,
	); status != 200 {
		t.Fatal(status, body)
	}
	raw, err := os.ReadFile(filepath.Join(c.api.options.Dir, "acme", "workflowruns", "cart-1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	stored := string(raw)
	for _, gone := range []string{"example.com/a", "openchoreo.dev/component", "anything"} {
		if strings.Contains(stored, gone) {
			t.Errorf("%s survived:\n%s", gone, stored)
		}
	}
	for _, kept := range []string{
		"mine:", "creationTimestamp", "kind: ClusterWorkflow", "example.com/f", "WorkflowRunning",
	} {
		if !strings.Contains(stored, kept) {
			t.Errorf("%s is missing:\n%s", kept, stored)
		}
	}
	run, err := c.api.WorkflowRun("acme", "cart-1")
	if err != nil || run.Annotations["mine"] != "1" {
		t.Errorf("%v, %v", run, err)
	}
}

func TestListPages(t *testing.T) {
	t.Parallel()
	c := start(t)
	for i := range 45 {
		if status, body := c.do(
			"POST", "acme/workloads", workload(fmt.Sprintf("w-%02d", i), "cart", ""),
		); status != 201 {
			t.Fatal(status, body)
		}
	}
	seen, pages, cursor := map[string]bool{}, 0, ""
	for {
		_, body := c.do("GET", "acme/workloads?component=cart&cursor="+cursor, "")
		var page struct {
			Items []struct {
				Metadata struct{ Name string }
			}
			Pagination struct{ NextCursor string }
		}
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err, body)
		}
		for _, item := range page.Items {
			seen[item.Metadata.Name] = true
		}
		pages++
		if cursor = page.Pagination.NextCursor; cursor == "" {
			break
		}
	}
	if len(seen) != 45 || pages != 3 {
		t.Errorf("%d Workloads on %d pages", len(seen), pages)
	}
	if _, body := c.do("GET", "acme/workloads?component=other", ""); !strings.Contains(body, `"items":[]`) {
		t.Errorf("another component's: %s", body)
	}
	if _, body := c.do(
		"GET", "acme/workflowruns?labelSelector=openchoreo.dev/component%3Dcart", "",
	); !strings.Contains(body, "cart-1") {
		t.Errorf("by label: %s", body)
	}
	if status, body := c.do("GET", "acme/workflowruns?labelSelector=((", ""); status != 400 {
		t.Errorf("bad selector: %d %s", status, body)
	}
}

// TestConflict: of two PUTs at once one fails as if the server had.
// TestNamespaces: what people ask first, to see whether this is the API.
func TestNamespaces(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, tc := range []struct {
		name, rest string
		status     int
		parts      []string
	}{
		{"only those that the client may see", "", 200, []string{`"items":[{"metadata":{`, `"name":"acme"`}},
		{"by label", "?labelSelector=openchoreo.dev/control-plane=true", 200, []string{`"name":"acme"`}},
		{"none of that label", "?labelSelector=a=b", 200, []string{`{"items":[],"pagination":{}}`}},
		{"a limit that is none", "?limit=x", 400, []string{"limit"}},
		{"one", "/acme", 200, []string{`"name":"acme"`, `"phase":"Active"`}},
		{"one that is not the client's", "/elsewhere", 403, []string{"FORBIDDEN"}},
	} {
		status, body := c.ask("GET", tc.rest, "")
		if status != tc.status || strings.Contains(body, "elsewhere") {
			t.Errorf("%s: %d %s", tc.name, status, body)
		}
		for _, part := range tc.parts {
			if !strings.Contains(body, part) {
				t.Errorf("%s: no %q in %s", tc.name, part, body)
			}
		}
	}
	c.token = ""
	if status, body := c.ask("GET", "", ""); status != 401 || !strings.Contains(body, "MISSING_TOKEN") {
		t.Errorf("without a token: %d %s", status, body)
	}

	// A client for all namespaces sees those that there are, page by page.
	all, err := New(Options{Dir: t.TempDir(), ClientID: "me", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(all)
	t.Cleanup(server.Close)
	c = &client{t: t, api: all, url: server.URL, token: all.Token()}
	if status, body := c.ask("GET", "", ""); status != 200 || !strings.Contains(body, `"items":[]`) {
		t.Errorf("none: %d %s", status, body)
	}
	if status, body := c.ask("GET", "/acme", ""); status != 404 || !strings.Contains(body, "Namespace not found") {
		t.Errorf("absent: %d %s", status, body)
	}
	if err := all.Apply([]byte(given)); err != nil {
		t.Fatal(err)
	}
	status, body := c.ask("GET", "?limit=1", "")
	var page struct {
		Pagination struct {
			NextCursor string `json:"nextCursor"`
		} `json:"pagination"`
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil || status != 200 || !strings.Contains(body, `"acme"`) ||
		strings.Contains(body, "elsewhere") {
		t.Errorf("first page: %d %s", status, body)
	}
	status, body = c.ask("GET", "?limit=1&cursor="+page.Pagination.NextCursor, "")
	if status != 200 || !strings.Contains(body, `"elsewhere"`) || strings.Contains(body, `"acme"`) {
		t.Errorf("second page: %d %s", status, body)
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.do("POST", "acme/workloads", workload("w", "cart", ""))
	c.api.updating.Store("acme/w", true)
	if status, _ := c.do("PUT", "acme/workloads/w", workload("w", "cart", "")); status != 500 {
		t.Errorf("during another update: %d", status)
	}
	c.api.updating.Delete("acme/w")
	if status, _ := c.do("PUT", "acme/workloads/w", workload("w", "cart", "")); status != 200 {
		t.Errorf("after it: %d", status)
	}
}

func TestApplyTellsFaults(t *testing.T) {
	t.Parallel()
	c := start(t)
	for text, want := range map[string]string{
		"kind: Deployment\napiVersion: apps/v1":            "is not served here",
		"kind: [":                                          "document 1",
		strings.ReplaceAll(given, "cart", ".."):            "metadata.name",
		strings.ReplaceAll(given, ", namespace: acme", ""): "Component cart: metadata.namespace: Required value",
	} {
		if err := c.api.Apply([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
}

func TestStartOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	c := start(t)
	if _, closer, err := c.api.Start("0.0.0.0:0"); err == nil {
		closer.Close()
		t.Error("served to the network")
	}
	base, closer, err := c.api.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer closer.Close()
	resp, err := http.Get(base + "/api/v1/namespaces/acme/workloads")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Error(resp.StatusCode)
	}
}

// TestMetadata: without a token the API names itself as its identity provider, by the URL that it is asked at.
func TestMetadata(t *testing.T) {
	t.Parallel()
	api, err := New(Options{Dir: t.TempDir(), ClientID: "me", ClientSecret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*httptest.Server{httptest.NewServer(api), httptest.NewTLSServer(api)} {
		t.Cleanup(server.Close)
		get := func(path string, into any) {
			t.Helper()
			response, err := server.Client().Get(server.URL + path)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			if err := json.NewDecoder(response.Body).Decode(into); err != nil {
				t.Fatal(err)
			}
		}
		var resource struct {
			Resource string   `json:"resource"`
			Servers  []string `json:"authorization_servers"`
			Clients  []struct {
				Name string `json:"name"`
				ID   string `json:"client_id"`
			} `json:"openchoreo_clients"`
		}
		get("/.well-known/oauth-protected-resource", &resource)
		if len(resource.Servers) != 1 || resource.Servers[0] != server.URL || resource.Resource != server.URL+"/mcp" ||
			len(resource.Clients) != 1 || resource.Clients[0].Name != "cli" {
			t.Errorf("%+v", resource)
		}
		for _, path := range devidp.MetadataPaths {
			var provider map[string]any
			get(path, &provider)
			if provider["issuer"] != server.URL || provider["token_endpoint"] != server.URL+TokenPath {
				t.Errorf("%s: %v", path, provider)
			}
		}
	}
}
