package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

const webDescriptor = "endpoints:\n- {name: web, port: 80, type: HTTP}\n"

// bench is one component with one run on an API of its own.
type bench struct {
	*openchoreotest.Server
	t      *testing.T
	in     Parameters
	log    *bytes.Buffer
	stdout *bytes.Buffer
	note   string
}

func newBench(t *testing.T, files map[string]string) *bench {
	t.Helper()
	s := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart")+
		openchoreotest.WorkflowRun("acme", "store", "cart", "cart-1"))
	b := &bench{Server: s, t: t, log: &bytes.Buffer{}, stdout: &bytes.Buffer{}}
	b.in = Parameters{
		Common:    step.Common{Workspace: repository(t, files), CABundle: s.CABundle},
		Namespace: "acme", Project: "store", Component: "cart", Image: "registry.example.com/cart:v1-1a2b3c4d",
		Run: "cart-1", AppPath: ".",
		TokenURL: s.URL + "/oauth2/token", ClientID: openchoreotest.ClientID, ClientSecretFile: s.ClientSecretFile,
		APIServerURL: s.URL,
	}
	return b
}

// run runs the step with 5 attempts and short waits, and checks that no secret gets out.
func (b *bench) run() (step.Results, error) {
	b.t.Helper()
	return b.runContext(b.t.Context())
}

func (b *bench) runContext(ctx context.Context) (step.Results, error) {
	b.t.Helper()
	log := slog.New(slog.NewTextHandler(b.log, nil))
	results, err := Run(ctx, b.in, step.Environment{
		Log: log, Stdout: b.stdout, Stderr: b.log, Secrets: &redact.Secrets{},
		Note:  func(message string) { b.note = message },
		Retry: outcome.Retry{Attempts: 5, Base: time.Millisecond, Max: 5 * time.Millisecond, Log: log},
	})
	for name, text := range map[string]string{
		"log":     b.log.String(),
		"stdout":  b.stdout.String(),
		"error":   fmt.Sprint(err),
		"results": fmt.Sprint(results),
	} {
		for _, secret := range []string{openchoreotest.ClientSecret, "canary"} {
			if strings.Contains(text, secret) {
				b.t.Errorf("the client secret is in the %s: %s", name, text)
			}
		}
	}
	return results, err
}

func (b *bench) mustRun() step.Results {
	b.t.Helper()
	results, err := b.run()
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", outcome.Of(err).Reason, err, b.log)
	}
	return results
}

// fails runs the step and wants it to end so, with these parts in its message.
func (b *bench) fails(reason outcome.Reason, parts ...string) *outcome.Error {
	b.t.Helper()
	_, err := b.run()
	if err == nil {
		b.t.Fatalf("succeeded; want %s\n%s", reason, b.log)
	}
	failure := outcome.Of(err)
	if failure.Reason != reason {
		b.t.Errorf("reason %s, want %s: %v", failure.Reason, reason, err)
	}
	for _, p := range parts {
		if !strings.Contains(failure.Message, p) {
			b.t.Errorf("no %q in: %s", p, failure.Message)
		}
	}
	return failure
}

func (b *bench) wantWrites(want ...string) {
	b.t.Helper()
	if got := b.Writes(); !slices.Equal(got, want) {
		b.t.Errorf("writes %q, want %q", got, want)
	}
}

// workload returns the component's Workload, of which there must be exactly one.
func (b *bench) workload() v1alpha1.Workload {
	b.t.Helper()
	all, err := b.WorkloadsOf("acme", "cart")
	if err != nil || len(all) != 1 {
		b.t.Fatalf("%d Workloads, %v", len(all), err)
	}
	return all[0]
}

func (b *bench) workflowRun(name string) *v1alpha1.WorkflowRun {
	b.t.Helper()
	run, err := b.WorkflowRun("acme", name)
	if err != nil || run == nil {
		b.t.Fatalf("WorkflowRun %s: %v, %v", name, run, err)
	}
	return run
}

const (
	postWorkload = "POST /api/v1/namespaces/acme/workloads"
	putWorkload  = "PUT /api/v1/namespaces/acme/workloads/cart-workload"
	putRun       = "PUT /api/v1/namespaces/acme/workflowruns/cart-1"
)

// existing is a Workload that somebody has edited.
func existing(name string) string {
	return fmt.Sprintf(`
apiVersion: openchoreo.dev/v1alpha1
kind: Workload
metadata:
  name: %s
  namespace: acme
  labels: {example.com/team: blue}
  annotations: {example.com/note: by hand}
spec:
  owner: {projectName: store, componentName: cart}
  container:
    image: old
    env: [{key: EDITED, value: in the portal}]
`, name)
}

func TestCreates(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	results := b.mustRun()
	if results["workload"] != "cart-workload" || results["workload-from-source"] != "true" {
		t.Errorf("results %v", results)
	}
	w := b.workload()
	if w.Name != "cart-workload" || w.Spec.Container.Image != b.in.Image || w.Spec.Endpoints["web"].Port != 80 {
		t.Errorf("%+v", w)
	}
	run := b.workflowRun("cart-1")
	const want = `{"metadata":{"name":"cart-workload","namespace":"acme"},` +
		`"spec":{"container":{"image":"registry.example.com/cart:v1-1a2b3c4d"},"endpoints":{"web":{"port":80,` +
		`"type":"HTTP"}},"owner":{"componentName":"cart","projectName":"store"}}}`
	if got := run.Annotations["openchoreo.dev/workload"]; got != want {
		t.Errorf("annotation %s", got)
	}
	if run.Annotations["openchoreo.dev/workload-from-source"] != "true" ||
		run.Annotations["example.com/kept"] != "yes" {
		t.Errorf("annotations %v", run.Annotations)
	}
	if run.Labels["openchoreo.dev/component"] != "cart" ||
		!strings.Contains(string(run.Spec.Workflow.Parameters.Raw), "9007199254740993") {
		t.Errorf("the PUT lost something: %v %s", run.Labels, run.Spec.Workflow.Parameters.Raw)
	}
	b.wantWrites(putRun, postWorkload)
	if w.Annotations[runAnnotation] != "cart-1" ||
		w.Annotations[createdAnnotation] != run.CreationTimestamp.UTC().Format(time.RFC3339) {
		t.Errorf("the Workload's annotations are %v", w.Annotations)
	}

	b.mustRun() // nothing changed, so nothing is written
	b.wantWrites(putRun, postWorkload)

	b.in.Image = "registry.example.com/cart:v1-new"
	b.mustRun()
	b.wantWrites(putRun, postWorkload, putRun, putWorkload)
	if b.workload().Spec.Container.Image != b.in.Image {
		t.Error("the image was not updated")
	}
}

func TestWithoutDescriptor(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	if results := b.mustRun(); results["workload-from-source"] != "false" {
		t.Errorf("results %v", results)
	}
	if w := b.workload(); w.Spec.Container.Image != b.in.Image || w.Spec.Endpoints != nil {
		t.Errorf("%+v", w.Spec)
	}
	if a := b.workflowRun("cart-1").Annotations["openchoreo.dev/workload-from-source"]; a != "false" {
		t.Errorf("annotation %q", a)
	}
}

func TestUpdates(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"cart-workload", "made-in-the-portal"} {
		for _, fromSource := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", name, fromSource), func(t *testing.T) {
				t.Parallel()
				files := map[string]string{}
				if fromSource {
					files["workload.yaml"] = webDescriptor
				}
				b := newBench(t, files)
				b.Apply(t, existing(name))
				b.in.Output = filepath.Join(t.TempDir(), "cr.yaml")
				if results := b.mustRun(); results["workload"] != name {
					t.Errorf("results %v", results)
				}
				// One name everywhere: what is told of the Workload is told of this one.
				payload := b.workflowRun("cart-1").Annotations[payloadAnnotation]
				if !strings.HasPrefix(payload, `{"metadata":{"name":"`+name+`",`) {
					t.Errorf("the annotation says %s", payload)
				}
				if raw, err := os.ReadFile(b.in.Output); err != nil || !strings.Contains(string(raw), "name: "+name+
					"\n") {
					t.Errorf("the output is %s, %v", raw, err)
				}
				w := b.workload()
				if w.Name != name || w.Spec.Container.Image != b.in.Image {
					t.Errorf("%s runs %s", w.Name, w.Spec.Container.Image)
				}
				if w.Labels["example.com/team"] != "blue" || w.Annotations["example.com/note"] != "by hand" {
					t.Errorf("lost labels or annotations: %v %v", w.Labels, w.Annotations)
				}
				// A descriptor is the whole truth; without one the edits of others are.
				if edited := len(w.Spec.Container.Env) == 1; edited == fromSource {
					t.Errorf("env %v", w.Spec.Container.Env)
				}
				if described := w.Spec.Endpoints != nil; described != fromSource {
					t.Errorf("endpoints %v", w.Spec.Endpoints)
				}
			})
		}
	}
}

func TestSeveralWorkloads(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	b.Apply(t, existing("a")+"---"+existing("b"))
	failure := b.fails(outcome.WorkloadRejected, "component cart has 2 Workloads: a, b")
	if !strings.Contains(failure.Hint, "exactly one") {
		t.Errorf("hint %q", failure.Hint)
	}
	b.wantWrites()

	b.Apply(t, existing("cart-workload"))
	b.mustRun()
	b.wantWrites(putRun, putWorkload)
	if !strings.Contains(b.log.String(), "several Workloads") {
		t.Errorf("no warning: %s", b.log)
	}
}

func TestNameTaken(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Apply(t, strings.ReplaceAll(existing("cart-workload"), "componentName: cart", "componentName: other"))
	b.fails(outcome.WorkloadRejected, `Workload cart-workload belongs to component "other"`)
	b.wantWrites(putRun, postWorkload, putRun) // the second was answered with 409, and the first taken back
	if a := b.workflowRun("cart-1").Annotations; len(a) != 1 || a["example.com/kept"] != "yes" {
		t.Errorf("annotations %v", a)
	}
}

func TestOtherProject(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Apply(t, existing("cart-workload"))
	b.in.Project = "shop"
	b.fails(outcome.WorkloadRejected, `of project "store", not to component "cart" of project "shop"`)
	b.wantWrites()
}

func TestExternalCI(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	b.in.Run = ""
	// A folder named source may be anybody's, and what is in there may be meant.
	failure := b.fails(outcome.InvalidParameters, "workspace: ", "/source has a workload.yaml", "no revision")
	if !strings.Contains(failure.Hint, "descriptor="+b.in.Workspace.Source()) {
		t.Errorf("hint %q", failure.Hint)
	}
	without := repository(t, map[string]string{"README.md": ""})
	with := b.in.Workspace
	b.in.Workspace = without
	if results := b.mustRun(); results["workload-from-source"] != "false" {
		t.Errorf("results %v", results)
	}
	b.in.Workspace = with
	if err := b.in.Workspace.WriteRevision(workspace.Revision{Commit: "1a2b3c4d"}); err != nil {
		t.Fatal(err)
	}
	if results := b.mustRun(); results["workload-from-source"] != "true" {
		t.Errorf("did not look into the workspace: %v", results)
	}
	b.wantWrites(postWorkload, putWorkload)
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor + "nonsense: 1\n"})
	b.in.DryRun, b.in.APIServerURL, b.in.TokenURL, b.in.ClientSecretFile = true, "", "", "/nonexistent"
	b.in.Output = filepath.Join(t.TempDir(), "workload-cr.yaml")
	b.mustRun()
	const want = `{"metadata":{"name":"cart-workload","namespace":"acme"},` +
		`"spec":{"container":{"image":"registry.example.com/cart:v1-1a2b3c4d"},"endpoints":{"web":{"port":80,` +
		`"type":"HTTP"}},"owner":{"componentName":"cart","projectName":"store"}}}` + "\n"
	if b.stdout.String() != want {
		t.Errorf("stdout %q", b.stdout)
	}
	if !strings.Contains(b.log.String(), "line 3: nonsense is not known") {
		t.Errorf("no warning: %s", b.log)
	}
	b.wantWrites()
	raw, err := os.ReadFile(b.in.Output)
	if err != nil || !strings.HasPrefix(string(raw), "apiVersion: openchoreo.dev/v1alpha1\nkind: Workload\n") {
		t.Errorf("%v %s", err, raw)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	schema := func(n int) map[string]string {
		return map[string]string{
			"workload.yaml": "endpoints:\n- {name: a, port: 1, type: HTTP, schemaFile: s}\n" +
				"- {name: b, port: 2, type: HTTP, schemaFile: s}\n",
			"s": strings.Repeat("x", n),
		}
	}
	write := func(b *bench, path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	cases := []struct {
		name   string
		files  map[string]string
		change func(*bench)
		reason outcome.Reason
		parts  []string
		hint   string
	}{
		{"descriptor", map[string]string{"workload.yaml": "endpoints: x\n"}, func(*bench) {},
			outcome.DescriptorInvalid, []string{"line 1"}, "workload.yaml"},
		{"body too large", schema(800_000), func(*bench) {}, outcome.DescriptorInvalid,
			[]string{"the Workload would be 16", "at most 1500000"}, "smaller"},
		{"annotations too large", schema(131_000), func(*bench) {}, outcome.DescriptorInvalid,
			[]string{"WorkflowRun cart-1: its annotations", "at most 262144"}, "smaller"},
		{"annotations of others too large", schema(65_000), func(b *bench) {
			b.Apply(
				b.t,
				strings.Replace(
					openchoreotest.WorkflowRun("acme", "store", "cart", "cart-1"), `"yes"`,
					strconv.Quote(strings.Repeat("y", 140_000)), 1,
				),
			)
		}, outcome.DescriptorInvalid, []string{"its annotations"}, "smaller"},
		{"component absent", nil, func(b *bench) { b.in.Component = "crat" }, outcome.NotFound,
			[]string{"component crat in namespace acme", "Referenced component not found"}, "component and namespace"},
		{"run absent", nil, func(b *bench) { b.in.Run = "cart-2" }, outcome.NotFound,
			[]string{"workflowruns/cart-2", "WorkflowRun not found"}, "component and namespace"},
		{"path absent", nil, func(b *bench) { b.in.APIServerURL += "/wrong" }, outcome.NotFound, []string{"404"},
			"API server's URL"},
		{"wrong client", nil, func(b *bench) { b.in.ClientID = "other" }, outcome.Unauthorized,
			[]string{"token of client other", "invalid_client"}, "client ID and secret"},
		{"wrong secret", nil, func(b *bench) { write(b, b.in.ClientSecretFile, "canary-but-wrong") },
			outcome.Unauthorized, []string{"invalid_client"}, "client ID and secret"},
		{"secret absent", nil, func(b *bench) { b.in.ClientSecretFile = "/nonexistent/secret" }, outcome.Unauthorized,
			[]string{"oauth-client-secret-file", "/nonexistent/secret"}, "Put the client's secret"},
		{"secret that never comes", nil, func(b *bench) {
			b.in.ClientSecretFile, b.in.SecretTimeout = "/nonexistent/secret", 1
			b.in.SecretKeys = []secret.Store{{Secret: "nonexistent", Key: "ci/client"}}
		}, outcome.Unauthorized,
			[]string{"Secret nonexistent (key ci/client of the secret store)", "within 1 s"}, "stepwright doctor"},
		{"secret empty", nil, func(b *bench) { write(b, b.in.ClientSecretFile, "\n") }, outcome.Unauthorized,
			[]string{"is empty"}, "Put the client's secret"},
		{"token URL is something else", nil, func(b *bench) { b.in.TokenURL = b.URL + "/wrong/oauth2/token" },
			outcome.NotFound, []string{"404"}, "oauth-token-url"},
		{"plain HTTP", nil, func(b *bench) {
			b.in.APIServerURL, b.in.TokenURL = "http://api.example.com", "http://idp.example.com/token"
			b.in.CABundle = "/nonexistent/ca"
		}, outcome.InvalidParameters,
			[]string{"3 faults", "api-server-url: http://api.example.com", "oauth-token-url: http://idp.example.com",
				"ca-bundle"},
			""},
		{"authority unknown", nil, func(b *bench) { b.in.CABundle = "" }, outcome.InvalidParameters,
			[]string{"ca-bundle", "certificate"}, "certificate authority"},
		{"connection refused", nil, func(b *bench) { b.in.APIServerURL = "http://127.0.0.1:1" },
			outcome.ApiUnavailable, []string{"127.0.0.1:1", "connection refused"}, ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, tc.files)
			tc.change(b)
			failure := b.fails(tc.reason, tc.parts...)
			hint := failure.Hint
			if hint == "" {
				hint = failure.Reason.Hint()
			}
			if !strings.Contains(hint, tc.hint) {
				t.Errorf("hint %q", hint)
			}
			for _, w := range b.Writes() {
				if tc.name != "component absent" { // only the POST can tell that
					t.Errorf("wrote: %s", w)
				}
			}
			if all, _ := b.WorkloadsOf("acme", b.in.Component); len(all) > 0 {
				t.Errorf("made %s", all[0].Name)
			}
		})
	}
}

// TestUpdateTooLarge: what others left on the Workload counts, too.
func TestUpdateTooLarge(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{
		"workload.yaml": "configurations:\n  files:\n  - {name: a, mountPath: /m, valueFrom: {path: big}}\n" +
			"  - {name: b, mountPath: /m, valueFrom: {path: big}}\n",
		"big": strings.Repeat("x", 700_000),
	})
	b.Apply(t, strings.Replace(existing("cart-workload"), "by hand", strings.Repeat("y", 150_000), 1))
	b.in.Run, b.in.Descriptor = "", b.in.Workspace.Source()
	b.fails(outcome.DescriptorInvalid, "the Workload would be 15", "at most 1500000")
	b.wantWrites()
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	other := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"), "elsewhere")
	b.in.APIServerURL, b.in.TokenURL, b.in.Run = other.PlainURL, other.PlainURL+"/oauth2/token", ""
	failure := b.fails(outcome.Forbidden, "403 Forbidden", "You do not have permission")
	if !strings.Contains(failure.Reason.Hint(), "role") || !strings.Contains(failure.Reason.Hint(), "namespace") {
		t.Errorf("hint %q", failure.Reason.Hint())
	}
}

// TestFaults puts every fault on every kind of request, and wants the same end as without.
func TestFaults(t *testing.T) {
	t.Parallel()
	requests := map[string]func(*http.Request) bool{
		"token": func(r *http.Request) bool { return r.URL.Path == "/oauth2/token" },
		"get": func(r *http.Request) bool {
			return r.Method == "GET" && strings.Contains(r.URL.Path, "workflowruns/")
		},
		"list": func(r *http.Request) bool { return r.Method == "GET" && strings.HasSuffix(r.URL.Path, "workloads") },
		"post": func(r *http.Request) bool { return r.Method == "POST" && strings.HasSuffix(r.URL.Path, "workloads") },
		"put":  func(r *http.Request) bool { return r.Method == "PUT" },
	}
	faults := map[string]faulttest.Fault{
		"cut before the answer": {},
		"cut in the answer":     {CutBody: 10},
		"wrong Content-Length":  {Length: 100_000},
		"429":                   {Status: 429, RetryAfter: "1"},
		"500":                   {Status: 500, Body: `{"code":"INTERNAL_ERROR","error":"Internal server error"}`},
		"502 of a proxy":        {Status: 502, Body: "<html>Bad Gateway</html>"},
		"503":                   {Status: 503},
		"504":                   {Status: 504},
		"slow":                  {Delay: 50 * time.Millisecond, Pass: true},
	}
	for request, match := range requests {
		for fault, f := range faults {
			t.Run(request+"/"+fault, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
				proxy := faulttest.Before(t, b.PlainURL, faulttest.First(2, match, f))
				b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
				b.mustRun()
				if proxy.Faults.Load() == 0 {
					t.Error("no fault was met")
				}
				if b.workload().Spec.Container.Image != b.in.Image {
					t.Error("wrong image")
				}
				if b.workflowRun("cart-1").Annotations["openchoreo.dev/workload"] == "" {
					t.Error("no annotation")
				}
			})
		}
	}
}

func TestGivesUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	proxy := faulttest.Before(t, b.PlainURL, faulttest.First(1000, func(r *http.Request) bool {
		return r.Method == "POST" && !strings.Contains(r.URL.Path, "oauth2")
	}, faulttest.Fault{Status: 500}))
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.fails(outcome.ApiUnavailable, "500")
	if n := proxy.Faults.Load(); n != 5 {
		t.Errorf("%d attempts", n)
	}
}

func TestHalfDone(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	broken := func(r *http.Request) bool { return r.Method == "PUT" }
	proxy := faulttest.Before(t, b.PlainURL, faulttest.First(1, broken, faulttest.Fault{
		Status: 403,
		Body:   `{"code":"FORBIDDEN","error":"no"}`,
	}))
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	results, err := b.run()
	if outcome.Of(err).Reason != outcome.Forbidden ||
		!strings.Contains(err.Error(), "WorkflowRun cart-1 could not be annotated; no Workload was changed") {
		t.Errorf("%v", err)
	}
	if len(results) > 0 {
		t.Errorf("results %v", results)
	}
	b.wantWrites()
	b.mustRun() // goes on where the first one stopped
	b.wantWrites(putRun, postWorkload)
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "POST" && strings.HasSuffix(r.URL.Path, "workloads") {
			once.Do(b.ExpireTokens)
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.mustRun()
	b.workload()

	// One that is never accepted is not asked for again and again.
	tokens := 0
	proxy = faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if strings.HasSuffix(r.URL.Path, "oauth2/token") {
			tokens++
			return nil
		}
		return &faulttest.Fault{Status: 401, Body: `{"error":"INVALID_TOKEN","message":"invalid or expired token"}`}
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	failure := b.fails(outcome.Unauthorized, "401", "invalid or expired token")
	if tokens != 1 || !strings.Contains(failure.Reason.Hint(), "expired") {
		t.Errorf("%d tokens, hint %q", tokens, failure.Reason.Hint())
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	reached := false
	elsewhere := faulttest.Before(t, b.PlainURL, func(*http.Request) *faulttest.Fault { reached = true; return nil })
	for _, part := range []string{"oauth2/token", "/api/"} {
		from := faulttest.Before(t, b.PlainURL, func(*http.Request) *faulttest.Fault { return nil })
		next := from.Config.Handler
		from.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, part) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
		b.in.APIServerURL, b.in.TokenURL = from.URL, from.URL+"/oauth2/token"
		b.fails(outcome.InvalidParameters, "redirect to", elsewhere.URL)
	}
	if reached {
		t.Error("secret or token went elsewhere")
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
			return &faulttest.Fault{Delay: time.Minute}
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	started := time.Now()
	_, err := b.runContext(ctx)
	if outcome.Of(err).Reason != outcome.Cancelled || time.Since(started) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(started))
	}
}

// TestWholeStep runs the step as its main does: from environment variables to result files.
func TestWholeStep(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"app/workload.yaml": webDescriptor})
	dir := t.TempDir()
	var stdout, stderr bytes.Buffer
	code := step.Run(t.Context(), "generate-workload-cr", []string{"--app-path", "/app"}, []string{
		"NAMESPACE_NAME=acme", "PROJECT_NAME=store", "COMPONENT_NAME=cart",
		"IMAGE=registry.example.com/cart:v1@sha256:" + strings.Repeat("0", 64), "RUN_NAME=cart-1",
		"WORKSPACE=" + string(b.in.Workspace), "OAUTH_TOKEN_URL=" + b.in.TokenURL, "OAUTH_CLIENT_ID=" + b.in.ClientID,
		"OAUTH_CLIENT_SECRET_FILE=" + b.in.ClientSecretFile, "OAUTH_SCOPE=a b", "API_SERVER_URL=" + b.URL,
		"CA_BUNDLE=" + b.CABundle,
		"RESULTS_DIR=" + dir, "TERMINATION_MESSAGE_PATH=" + filepath.Join(dir, "none"), "LOG_FORMAT=json",
	}, step.Streams{Stdout: &stdout, Stderr: &stderr}, Run)
	if code != 0 || stdout.Len() > 0 {
		t.Fatalf("exit code %d, stdout %q\n%s", code, &stdout, &stderr)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "workload"))
	if err != nil || string(raw) != "cart-workload" {
		t.Errorf("result %q, %v", raw, err)
	}
	var report outcome.Report
	if raw, err = os.ReadFile(filepath.Join(dir, "outcome.json")); err == nil {
		err = json.Unmarshal(raw, &report)
	}
	if err != nil || report.Reason != outcome.Succeeded || report.Results["workload-from-source"] != "true" {
		t.Errorf("%+v, %v", report, err)
	}
	for _, text := range []string{stderr.String(), string(raw)} {
		if strings.Contains(text, "canary") {
			t.Errorf("the client secret is in %s", text)
		}
	}
	b.workload()
}
