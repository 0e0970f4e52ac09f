package workload

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// TestConformance makes the Workloads of 27 real descriptors and compares them with the reference's.
func TestConformance(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/sample-descriptors/*")
	if err != nil || len(cases) != 27 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, dir := range cases {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			t.Parallel()
			ws := workspace.Workspace(t.TempDir())
			if err := os.CopyFS(filepath.Join(ws.Source(), "app"), os.DirFS(filepath.Join(dir, "src"))); err != nil {
				t.Fatal(err)
			}
			parts := strings.Split(filepath.Base(dir), "__")
			component := parts[len(parts)-1]
			m, err := Load(ws.Source(), "/app", Target{
				Namespace: "acme", Project: "online-store", Component: component,
				Image: "registry.example.com/acme-online-store-" + component + ":v1-1a2b3c4d",
			})
			if err != nil {
				t.Fatal(err)
			}
			if !m.FromSource {
				t.Error("the descriptor was not found")
			}
			want, err := os.ReadFile(filepath.Join(dir, "expected-workload.json"))
			if err != nil {
				t.Fatal(err)
			}
			// Equal to the byte, which is more than docs/contract.md section 3 asks for.
			if diff := cmp.Diff(strings.TrimSpace(string(want)), payload(t, m)); diff != "" {
				t.Errorf("(-reference +ours)\n%s", diff)
			}
		})
	}
}

func payload(t testing.TB, m *Manifest) string {
	t.Helper()
	o, err := m.Object()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// repository is a workspace with these files in its source.
func repository(t testing.TB, files map[string]string) workspace.Workspace {
	t.Helper()
	ws := workspace.Workspace(t.TempDir())
	if err := os.MkdirAll(ws.Source(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(ws.Source(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return ws
}

var target = Target{Namespace: "acme", Project: "store", Component: "cart", Image: "registry.example.com/cart:v1"}

func TestDescriptor(t *testing.T) {
	t.Parallel()
	const bare = `{"container":{"image":"registry.example.com/cart:v1"},"owner":{"componentName":"cart",` +
		`"projectName":"store"}}`
	cases := []struct {
		name       string
		descriptor string
		spec       string   // JSON; only what stands beside image and owner, merged
		warnings   []string // a part of each
	}{
		{"empty", "", ``, nil},
		{"comment only", "# nothing yet\n", ``, nil},
		{"scalars as YAML 1.1", `
configurations:
  env:
  - {name: A, value: yes}
  - {name: B, value: 1.10}
  - {name: C, value: 0755}
  - {name: D, value: 8080}
  - {name: E, value: "1.10"}
  - {name: F, value: 2024-01-02}
  - {name: G, value: ~}
`, `{"container":{"env":[{"key":"A","value":"true"},{"key":"B","value":"1.1"},{"key":"C","value":"493"},{"key":"D",` +
			`"value":"8080"},{"key":"E","value":"1.10"},{"key":"F","value":"2024-01-02"},{"key":"G"}]}}`,
			[]string{`line 4: configurations.env[0].value: yes is read as "true"`,
				`line 5: configurations.env[1].value: 1.10 is read as "1.1"`,
				`line 6: configurations.env[2].value: 0755 is read as "493"`}},
		{"keys in any case", "ENDPOINTS:\n- {Name: web, PORT: 80, type: HTTP, BASEPATH: /x, DisplayName: Web}\n",
			`{"endpoints":{"web":{"port":80,"type":"HTTP","basePath":"/x","displayName":"Web"}}}`, nil},
		{"byte order mark and CRLF", "\ufeffendpoints:\r\n- name: web\r\n  port: 80\r\n  type: TCP\r\n",
			`{"endpoints":{"web":{"port":80,"type":"TCP"}}}`, nil},
		{"first document only", "endpoints:\n- {name: web, port: 80, type: UDP}\n---\nendpoints: nonsense\n",
			`{"endpoints":{"web":{"port":80,"type":"UDP"}}}`,
			[]string{"only the first YAML document counts"}},
		{"unknown keys",
			"kind: Workload\nendpoints:\n- name: web\n  port: 80\n  type: HTTP\n  protocol: h2\nmetadata:\n" +
				"  name: x\n  labels: {}\n",
			`{"endpoints":{"web":{"port":80,"type":"HTTP"}}}`,
			[]string{"line 1: kind is not known", "line 6: endpoints[0].protocol is not known",
				"line 9: metadata.labels is not known"}},
		{"a key twice", "endpoints:\n- name: web\n  port: 80\n  port: 81\n  type: HTTP\n",
			`{"endpoints":{"web":{"port":81,"type":"HTTP"}}}`, []string{"line 4: endpoints[0].port is given twice"}},
		{"anchors and merges", "endpoints:\n- &a {name: web, port: 80, type: HTTP}\n- {<<: *a, name: other}\n",
			`{"endpoints":{"web":{"port":80,"type":"HTTP"},"other":{"port":80,"type":"HTTP"}}}`, nil},
		{"numbers as other numbers", "endpoints:\n- {name: 8080, port: 8.0e1, type: HTTP, targetPort: 8_080}\n",
			`{"endpoints":{"8080":{"port":80,"type":"HTTP","targetPort":8080}}}`, nil},
		{"a target port of 0 is none", "endpoints:\n- {name: web, port: 80, type: HTTP, targetPort: 0}\n",
			`{"endpoints":{"web":{"port":80,"type":"HTTP"}}}`, nil},
		{"secret wins", `
configurations:
  env:
  - {name: A, value: x, valueFrom: {secretKeyRef: {name: s, key: k}, path: f}}
  files:
  - {name: f, mountPath: /m, value: x, valueFrom: {path: text.txt}}
  - {name: g, mountPath: /m, value: x}
`, `{"container":{"env":[{"key":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}],"files":[{"key":"f",` +
			`"mountPath":"/m","value":"hello <&>\n"},{"key":"g","mountPath":"/m","value":"x"}]}}`,
			[]string{"env[0].value: is ignored: valueFrom.secretKeyRef wins", "env[0].valueFrom.path: is ignored",
				"files[0].value: is ignored: valueFrom.path wins"}},
		{"no value", `
configurations:
  env: [{name: A}, {name: B, value: ""}, {name: C, valueFrom: {path: text.txt}}]
  files: [{name: f, mountPath: /m}]
`, `{"container":{"env":[{"key":"A"},{"key":"B"},{"key":"C"}],"files":[{"key":"f","mountPath":"/m"}]}}`,
			[]string{"env[0]: has neither", "env[2].valueFrom.path: has no effect on a variable", "env[2]: has neither",
				"files[0]: has neither"}},
		{"schemas by type", `
endpoints:
- {name: a, port: 1, type: HTTP, schemaFile: ./text.txt}
- {name: b, port: 2, type: gRPC, schemaFile: /text.txt}
- {name: c, port: 3, type: GraphQL, schemaFile: ../shared.txt}
- {name: d, port: 4, type: TCP, schemaFile: text.txt}
`, `{"endpoints":{"a":{"port":1,"type":"HTTP","schema":{"type":"openapi","content":"hello <&>\n"}},"b":{"port":2,` +
			`"type":"gRPC","schema":{"type":"proto","content":"hello <&>\n"}},"c":{"port":3,"type":"GraphQL",` +
			`"schema":{"type":"graphql","content":"shared\n"}},"d":{"port":4,"type":"TCP","schema":{"content":"hello ` +
			`<&>\n"}}}}`, nil},
		{"dependencies", `
dependencies:
  endpoints: [{component: a, name: b, visibility: project},
    {project: p, component: a, name: c, visibility: namespace, envBindings: {basePath: X}}]
  resources: [{ref: db, envBindings: {host: DB_HOST}, fileBindings: {ca: /etc/ca}}, {ref: mq}]
`, `{"dependencies":{"endpoints":[{"component":"a","name":"b","visibility":"project","envBindings":{}},` +
			`{"project":"p","component":"a","name":"c","visibility":"namespace","envBindings":{"basePath":"X"}}],` +
			`"resources":[{"ref":"db","envBindings":{"host":"DB_HOST"},"fileBindings":{"ca":"/etc/ca"}},` +
			`{"ref":"mq"}]}}`, nil},
		{"empty dependencies", "dependencies: {endpoints: []}\n", ``, nil},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ws := repository(t, map[string]string{
				"app/workload.yaml": tc.descriptor,
				"app/text.txt":      "hello <&>\n",
				"shared.txt":        "shared\n",
			})
			m, err := Load(ws.Source(), "app", target)
			if err != nil {
				t.Fatal(err)
			}
			var want, got map[string]any
			json.Unmarshal([]byte(bare), &want)
			if tc.spec != "" {
				var more map[string]any
				if err := json.Unmarshal([]byte(tc.spec), &more); err != nil {
					t.Fatal(err)
				}
				for k, v := range more {
					if k == "container" {
						for k, v := range v.(map[string]any) {
							want["container"].(map[string]any)[k] = v
						}
						continue
					}
					want[k] = v
				}
			}
			var p struct{ Spec json.RawMessage }
			json.Unmarshal([]byte(payload(t, m)), &p)
			json.Unmarshal(p.Spec, &got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if len(m.Warnings) != len(tc.warnings) {
				t.Errorf("warnings:\n%s", strings.Join(m.Warnings, "\n"))
			}
			for _, w := range tc.warnings {
				if !slices.ContainsFunc(m.Warnings, func(s string) bool { return strings.Contains(s, w) }) {
					t.Errorf("no warning %q in\n%s", w, strings.Join(m.Warnings, "\n"))
				}
			}
		})
	}
}

func TestDescriptorFaults(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret.txt")
	if err := os.WriteFile(secret, []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	many := "dependencies:\n  resources:\n" + strings.Repeat("  - {ref: x}\n", 51)
	cases := []struct {
		name       string
		descriptor string
		reason     outcome.Reason
		faults     []string
	}{
		{"not YAML", "endpoints:\n- name: [\n", outcome.DescriptorInvalid, []string{"line 2"}},
		{"a list", "- a\n", outcome.DescriptorInvalid, []string{"line 1: must be a mapping, is a list"}},
		{"an empty document first", "---\n---\nendpoints: []\n", outcome.DescriptorInvalid,
			[]string{"line 2: the first YAML document is empty"}},
		{"a text", "hello\n", outcome.DescriptorInvalid, []string{`line 1: must be a mapping, is "hello"`}},
		{"port in quotes", "endpoints:\n- name: web\n  type: HTTP\n  port: \"8080\"\n", outcome.DescriptorInvalid,
			[]string{`line 4: endpoints[0].port: must be a number, without quotes; is "8080"`}},
		{"everything at once", `
endpoints:
- {name: web, type: REST, port: 70000, targetPort: -1}
- {name: web, type: HTTP, port: x, visibility: [public, project, project]}
- type: [HTTP]
  visibility: external
dependencies:
  endpoints:
  - {component: a, visibility: external}
  resources:
  - envBindings: {host: ""}
configurations:
  env:
  - {value: 1}
  - {name: A, valueFrom: {secretKeyRef: {name: s}}}
  files:
  - {name: f, value: x}
`, outcome.DescriptorInvalid, []string{
			"18 faults",
			"line 3: endpoints[0].type: must be one of HTTP, gRPC, GraphQL, Websocket, TCP, UDP; is \"REST\"",
			"line 3: endpoints[0].port: must be a port, from 1 to 65535; is 70000",
			"line 3: endpoints[0].targetPort: must be a port",
			`line 4: endpoints[1].name: there is an endpoint "web" already`,
			"line 4: endpoints[1].port: must be a whole number; is x",
			`line 4: endpoints[1].visibility[0]: must be one of project, namespace, internal, external; is "public"`,
			`line 4: endpoints[1].visibility[2]: "project" is listed twice`,
			"line 5: endpoints[2].name: is required",
			"line 5: endpoints[2].port: is required",
			"line 5: endpoints[2].type: must be a text, is a list",
			`line 6: endpoints[2].visibility: must be a list, is "external"`,
			"line 9: dependencies.endpoints[0].name: is required",
			`line 9: dependencies.endpoints[0].visibility: must be one of project, namespace; is "external"`,
			"line 11: dependencies.resources[0].ref: is required",
			"line 11: dependencies.resources[0].envBindings: names must not be empty",
			"configurations.env[0].name: is required",
			"configurations.env[1].valueFrom.secretKeyRef.key: is required",
			"configurations.files[0].mountPath: is required",
		}},
		{"too many dependencies", many, outcome.DescriptorInvalid,
			[]string{"has 51 entries; at most 50", `there is a dependency on "x" already`}},
		{"schema file absent", "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: none.yaml}\n",
			outcome.DescriptorInvalid, []string{`line 2: endpoints[0].schemaFile: there is no file "none.yaml"`}},
		{"schema file is a directory", "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: .}\n",
			outcome.DescriptorInvalid, []string{"not a regular file"}},
		{"schema file is no text", "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: binary}\n",
			outcome.DescriptorInvalid, []string{"not a UTF-8 text"}},
		{"schema file is huge", "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: huge}\n",
			outcome.DescriptorInvalid, []string{"larger than"}},
		{"path leads out", "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: ../../../etc/passwd}\n",
			outcome.PathEscapesRepository,
			[]string{`line 2: endpoints[0].schemaFile: "../../../etc/passwd" leads out of the repository`}},
		{"symbolic link leads out",
			"configurations:\n  files:\n  - {name: a, mountPath: /m, valueFrom: {path: link}}\n",
			outcome.PathEscapesRepository,
			[]string{`line 3: configurations.files[0].valueFrom.path: "link" leads out`}},
		{"directory link leads out",
			"configurations:\n  files:\n  - {name: a, mountPath: /m, valueFrom: {path: linkdir/secret.txt}}\n",
			outcome.PathEscapesRepository, []string{"leads out"}},
		{"aliases that explode",
			"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n" +
				"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
				"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" +
				"g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
			outcome.DescriptorInvalid, []string{"excessive aliasing"}},
		{"an anchor in itself", "endpoints: &a\n- *a\n", outcome.DescriptorInvalid, []string{"contains itself"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			ws := repository(t, map[string]string{"app/workload.yaml": tc.descriptor, "app/binary": "\xff\xfe\x00",
				"app/huge": strings.Repeat("x", descriptor.Limit+1)})
			for link, to := range map[string]string{"link": secret, "linkdir": filepath.Dir(secret)} {
				if err := os.Symlink(to, filepath.Join(ws.Source(), "app", link)); err != nil {
					t.Fatal(err)
				}
			}
			m, err := Load(ws.Source(), "app", target)
			if err == nil {
				t.Fatalf("accepted: %s", payload(t, m))
			}
			if got := outcome.Of(err); got.Reason != tc.reason {
				t.Errorf("%s: %s", got.Reason, err)
			}
			if !strings.HasPrefix(err.Error(), "app/workload.yaml") {
				t.Errorf("does not name the file: %s", err)
			}
			for _, f := range tc.faults {
				if !strings.Contains(err.Error(), f) {
					t.Errorf("no fault %q in\n%s", f, err)
				}
			}
		})
	}
}

// TestForeignDescriptor: a file of another kind would make a Workload without anything.
func TestForeignDescriptor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ text, seems string }{
		{"apiVersion: openchoreo.dev/v1alpha1\nkind: Workload\nmetadata: {name: x}\nspec:\n  endpoints: {}\n",
			"a Workload custom resource, not a workload descriptor: it has kind, spec at its top"},
		{"kind: Workload\nendpoints: []\nspec: {}\n", "a Workload custom resource"},
		{"kind: Workload\nmetadata: {name: x}\n", "a Workload custom resource"},
		{"apiVersion: apps/v1\nkind: Deployment\nspec: {}\n", "Deployment of apps/v1"},
		{"apiVersion: v1\nkind: List\nitems: []\n", "List of v1"},
		{"apiVersion: score.dev/v1b1\nmetadata: {name: x}\ncontainers: {}\n", "a file of score.dev/v1b1"},
		{"services: {web: {image: x}}\n", "a Compose file"},
		{"openapi: 3.0.0\npaths: {}\n", "an API definition"},
		{"replicaCount: 1\n", "a file of another tool"},
		{"apiVersion: openchoreo.dev/v1alpha1\nspec: {}\n", "a file of another tool"},
		{"- &a {x: 1}\n", "must be a mapping"},
		{"a: &a {x: 1}\n<<: *a\n", "a file of another tool"},
	} {
		_, err := Load(repository(t, map[string]string{"workload.yaml": tc.text}).Source(), ".", target)
		if err == nil || outcome.Of(err).Reason != outcome.DescriptorInvalid ||
			!strings.Contains(err.Error(), tc.seems) {
			t.Errorf("%q: %v", tc.text, err)
		}
	}
	for _, text := range []string{
		"apiVersion: v1\nmetadata: {name: x}\n", "Endpoints: []\nkind: Workload\n", "configurations:\nother: {}\n",
		"dependencies: {}\nspec2: x\n",
	} {
		_, err := Load(repository(t, map[string]string{"workload.yaml": text}).Source(), ".", target)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestDescriptorPlace(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	ws := repository(t, map[string]string{"api/main.go": "", "web/workload.yaml": "", ".git/config": "", "file": ""})
	for link, to := range map[string]string{
		"escape":            outside,
		"api/workload.yaml": filepath.Join(outside, "workload.yaml"),
	} {
		if err := os.Symlink(to, filepath.Join(ws.Source(), link)); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		appPath string
		reason  outcome.Reason
		message string
	}{
		{".", "", ""}, {"", "", ""}, {"/", "", ""}, {"web", "", ""}, {"/web/", "", ""}, {"./web", "", ""},
		{"wbe", outcome.InvalidParameters, "there are api, web"},
		{"file", outcome.InvalidParameters, `"file" is not a directory`},
		{"../..", outcome.PathEscapesRepository, "leads out"},
		{"escape", outcome.PathEscapesRepository, "leads out"},
		{"api", outcome.PathEscapesRepository, "leads out"},
	}
	for _, tc := range cases {
		m, err := Load(ws.Source(), tc.appPath, target)
		if tc.reason == "" {
			if err != nil {
				t.Errorf("%q: %v", tc.appPath, err)
			} else if m.FromSource != strings.Contains(tc.appPath, "web") {
				t.Errorf("%q: from source %v", tc.appPath, m.FromSource)
			}
			continue
		}
		if err == nil || outcome.Of(err).Reason != tc.reason || !strings.Contains(err.Error(), tc.message) {
			t.Errorf("%q: %v", tc.appPath, err)
		}
	}
}

func TestYAML(t *testing.T) {
	t.Parallel()
	m, err := Load(repository(t, map[string]string{
		"workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP}\n",
	}).Source(), ".", target)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.YAML()
	if err != nil {
		t.Fatal(err)
	}
	var cr map[string]any
	if err := yaml.Unmarshal(raw, &cr); err != nil {
		t.Fatal(err)
	}
	if cr["apiVersion"] != "openchoreo.dev/v1alpha1" || cr["kind"] != "Workload" || cr["status"] != nil {
		t.Errorf("%s", raw)
	}
	delete(cr, "apiVersion")
	delete(cr, "kind")
	rest, _ := json.Marshal(cr)
	if diff := cmp.Diff(payload(t, m), string(rest)); diff != "" {
		t.Errorf("the YAML is not the payload\n%s", diff)
	}
}
