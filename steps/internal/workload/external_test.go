package workload

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
	"github.com/stepwright/stepwright/steps/internal/parameters"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// newExternal is a bench without a WorkflowRun and without a workspace; its files are a Git repository's.
func newExternal(t *testing.T, files map[string]string) (b *bench, repo string) {
	t.Helper()
	b = newBench(t, files)
	repo = b.in.Workspace.Source()
	if err := os.Mkdir(filepath.Join(repo, ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.in.Run, b.in.Workspace = "", workspace.Workspace(filepath.Join(t.TempDir(), "none"))
	return b, repo
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWithoutWorkspace(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	results := b.mustRun()
	if results["workload-from-source"] != "false" || b.workload().Spec.Container.Image != b.in.Image {
		t.Errorf("%v, %+v", results, b.workload().Spec)
	}
	b.wantWrites(postWorkload)

	// What was asked for must be there: only then is it right to go on without.
	b.in.AppPath = "/cart"
	b.fails(outcome.InvalidParameters, `app-path: there is no "/cart"`)

	// A WorkflowRun needs no workspace either, and is annotated.
	for _, root := range []string{".", "/", "./", ""} {
		b, _ := newExternal(t, nil)
		b.in.Run, b.in.AppPath = "cart-1", root
		b.mustRun()
		b.wantWrites(putRun, postWorkload)
		if a := b.workflowRun("cart-1").Annotations; a[fromSourceAnnotation] != "false" || a[payloadAnnotation] == "" {
			t.Errorf("annotations %v", a)
		}
	}
}

// TestOtherCheckout: what another checkout than ours left for a WorkflowRun is used, revision or not.
func TestOtherCheckout(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	if results := b.mustRun(); results["workload-from-source"] != "true" {
		t.Errorf("results %v", results)
	}
}

// TestRenamedMeanwhile: somebody makes a Workload of another name after the step has looked for one.
func TestRenamedMeanwhile(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "PUT" {
			once.Do(func() { b.Apply(t, existing("my-service")) })
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.in.Output = filepath.Join(t.TempDir(), "cr.yaml")
	if results := b.mustRun(); results["workload"] != "my-service" || b.workload().Name != "my-service" {
		t.Errorf("results %v", results)
	}
	raw, err := os.ReadFile(b.in.Output)
	if err != nil || !strings.Contains(string(raw), "name: my-service\n") {
		t.Errorf("%v: %s", err, raw)
	}
	if payload := b.workflowRun("cart-1").Annotations[payloadAnnotation]; !strings.Contains(payload, `"my-service"`) {
		t.Errorf("annotation %s", payload)
	}
}

func TestDescriptorDirectory(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"services/cart/workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: " +
			"../../api/cart.yaml}\n",
		"api/cart.yaml":     "openapi: 3.0.0\n",
		"empty/README.md":   "",
		"out/workload.yaml": "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: ../../outside}\n",
	}
	b, repo := newExternal(t, files)
	b.in.Descriptor = filepath.Join(repo, "services", "cart")
	if results := b.mustRun(); results["workload-from-source"] != "true" {
		t.Errorf("results %v", results)
	}
	if schema := b.workload().Spec.Endpoints["web"].Schema; schema == nil || schema.Content != files["api/cart.yaml"] {
		t.Errorf("schema %+v", schema)
	}
	for dir, want := range map[string]struct {
		reason outcome.Reason
		part   string
	}{
		"empty":                       {outcome.InvalidParameters, "descriptor: there is no workload.yaml in"},
		"none":                        {outcome.InvalidParameters, "descriptor: "},
		"services/cart/workload.yaml": {outcome.InvalidParameters, "is not a directory"},
		"out":                         {outcome.PathEscapesRepository, "leads out of the repository"},
	} {
		b.in.Descriptor = filepath.Join(repo, dir)
		b.fails(want.reason, want.part)
	}

	// Outside a repository the directory itself is what no path may leave.
	if err := os.Remove(filepath.Join(repo, ".git")); err != nil {
		t.Fatal(err)
	}
	b.in.Descriptor = filepath.Join(repo, "services", "cart")
	b.fails(outcome.PathEscapesRepository, "leads out of the repository")
}

func TestImageFile(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	want := b.in.Image
	b.in.Image, b.in.ImageFile = "", write(t, filepath.Join(t.TempDir(), "image"), want+"\n")
	b.mustRun()
	if got := b.workload().Spec.Container.Image; got != want {
		t.Errorf("image %q", got)
	}
	for name, text := range map[string]string{"empty": "", "two": "a\nb\n", "long": strings.Repeat("x", 2000)} {
		b.in.ImageFile = write(t, filepath.Join(t.TempDir(), name), text)
		b.fails(outcome.InvalidParameters, "image-file: ", "does not hold the reference of an image")
	}
	b.in.ImageFile = "/nonexistent/image"
	b.fails(outcome.InvalidParameters, "image-file: open /nonexistent/image")
	b.in.Image = want
	b.fails(outcome.InvalidParameters, "image-file: image is given, too")
}

// TestImageReference: what is no reference of an image ends the step before anything is called.
func TestImageReference(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("0", 64)
	good := []string{
		"registry.example.com/acme-cart:v1-1a2b3c4d", "registry.example.com/cart@" + digest,
		"registry.example.com:5000/a/b_c/d.e--f:V1@" + digest, "localhost/cart:1", "127.0.0.1:5000/cart:1",
		"[::1]:5000/cart:1", "REG.example.com/cart:1", "cart:1", "cart@" + digest, "acme/cart", "reg.example.com/cart",
	}
	bad := map[string]string{ // to a part of the hint
		":": "registry or the repository", "-": "A reference is", "/acme-cart:abc": "registry or the repository",
		"reg.example.com/cart:": "tag or the digest", "reg.example.com/cart@": "tag or the digest",
		"https://reg/cart:1": "is a URL", "docker://reg/cart:1": "transport", "$REGISTRY/cart:1": "placeholder",
		"${REGISTRY}/cart:1": "placeholder", "{{image}}": "placeholder", "%REGISTRY%/cart:1": "placeholder",
		"<none>:<none>": "placeholder", "reg/Cart:1": "lower case", "null": "not set", "undefined": "not set",
		"image=reg/x:1": "assignment", "\ufeffreg/x:1": "byte order mark", `"reg/x:1"`: "quotes",
		"reg//cart:1": "registry or the repository", "reg/cart:1@sha256:0": "A reference is",
		"reg/cart:" + strings.Repeat("x", 129): "A reference is", "reg/cart:1:2": "A reference is",
		strings.Repeat("0", 64): "A reference is", "reg/cart:-1": "A reference is", "r\x00/cart:1": "A reference is",
	}
	for _, image := range good {
		if err := checkImage("image", image); err != nil {
			t.Errorf("refused %q: %v", image, err)
		}
	}
	b, _ := newExternal(t, nil)
	b.in.TokenURL = "https://127.0.0.1:1" // is not asked
	for image, hint := range bad {
		b.in.Image, b.in.ImageFile = image, ""
		if failure := b.fails(outcome.InvalidParameters, "image: "); !strings.Contains(failure.Hint, hint) {
			t.Errorf("%q: no %q in the hint: %s", image, hint, failure.Hint)
		}
		b.in.Image, b.in.ImageFile = "", write(t, filepath.Join(t.TempDir(), "image"), image+"\n")
		b.fails(outcome.InvalidParameters, "image-file: ")
	}
	b.wantWrites()
}

// TestOutputThatCannotBeWritten ends the step before anything is changed, with or without the API.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "file"), "")
	for _, output := range []string{dir, filepath.Join(dir, "none", "cr.yaml"), file + "/x"} {
		for _, dry := range []bool{true, false} {
			b, _ := newExternal(t, nil)
			b.in.Output, b.in.DryRun, b.in.Run = output, dry, "cart-1"
			failure := b.fails(outcome.InvalidParameters, "output: ")
			if !strings.Contains(failure.Hint, "Name a file") {
				t.Errorf("hint %q", failure.Hint)
			}
			b.wantWrites()
		}
	}
	b, _ := newExternal(t, nil)
	b.in.Output, b.in.DryRun = "/dev/null", true
	b.mustRun()
	if info, err := os.Stat("/dev/null"); err != nil || info.Mode().IsRegular() {
		t.Errorf("/dev/null was replaced: %v", err)
	}
}

func TestWorkloadName(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	b.in.WorkloadName = "cart-v2"
	if results := b.mustRun(); results["workload"] != "cart-v2" || b.workload().Name != "cart-v2" {
		t.Errorf("results %v", results)
	}
	b.in.WorkloadName, b.in.Image = "cart-v3", "registry.example.com/cart:v3"
	if results := b.mustRun(); results["workload"] != "cart-v2" || b.workload().Spec.Container.Image != b.in.Image {
		t.Errorf("results %v", results)
	}
}

// TestSeveralWorkloadsOutsideARun: nobody can tell which one counts, not even by its name.
func TestSeveralWorkloadsOutsideARun(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	b.Apply(t, existing("cart-workload")+"---"+existing("other"))
	b.fails(outcome.WorkloadRejected, "component cart has 2 Workloads: cart-workload, other")
	b.wantWrites()
}

func TestWait(t *testing.T) {
	t.Parallel()
	shown := func(r *http.Request) bool {
		return r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/workloads/cart-workload")
	}
	b, _ := newExternal(t, nil)
	var asked atomic.Int64
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if !shown(r) {
			return nil
		}
		switch asked.Add(1) {
		case 1: // the API's cache does not know it yet
			return &faulttest.Fault{Status: 404, Body: `{"code":"NOT_FOUND","error":"Workload not found"}`}
		case 2:
			return &faulttest.Fault{Status: 503}
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL, b.in.Wait, b.in.WaitTimeout = proxy.URL, proxy.URL+"/oauth2/token", true, 60
	b.mustRun()
	if asked.Load() != 3 || !strings.Contains(b.log.String(), "The API shows the Workload") {
		t.Errorf("asked %d times: %s", asked.Load(), b.log)
	}

	stale := faulttest.Before(t, b.PlainURL, faulttest.First(1000, shown, faulttest.Fault{
		Status: 200,
		Body:   `{"spec":{"container":{"image":"old"}}}`,
	}))
	b.in.APIServerURL, b.in.WaitTimeout, b.in.Image = stale.URL, 1, "registry.example.com/cart:new"
	started := time.Now()
	b.fails(
		outcome.Timeout,
		"published Workload cart-workload, but the API does not show it with image registry.example.com/cart:new",
	)
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
}

// TestTokenFile: the token of somebody else, who renews it in the middle.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	b.in.TokenURL, b.in.ClientID, b.in.ClientSecretFile = "", "", ""
	b.in.TokenFile = write(t, filepath.Join(t.TempDir(), "token"), b.Token()+"\n")
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "POST" {
			once.Do(func() {
				b.ExpireTokens()
				write(t, b.in.TokenFile, b.Token())
			})
		}
		return nil
	})
	b.in.APIServerURL = proxy.URL
	b.mustRun()
	b.workload()

	b.in.APIServerURL = b.PlainURL
	b.in.TokenFile = write(t, filepath.Join(t.TempDir(), "token"), "canary-expired")
	failure := b.fails(outcome.Unauthorized, "401", "invalid or expired token")
	if !strings.Contains(failure.Hint, "token-file has not expired") {
		t.Errorf("hint %q", failure.Hint)
	}
	b.in.TokenFile = write(t, filepath.Join(t.TempDir(), "token"), "canary one\ncanary two")
	b.fails(outcome.Unauthorized, "holds no token")
	b.in.TokenFile = "/nonexistent/token"
	b.fails(outcome.Unauthorized, "token-file: open /nonexistent/token")
}

// TestSecretAsVariable: it wins over a file, which need not be there.
func TestSecretAsVariable(t *testing.T) {
	t.Parallel()
	b, _ := newExternal(t, nil)
	b.in.ClientSecretFile, b.in.ClientSecret = "/nonexistent/secret", openchoreotest.ClientSecret
	b.mustRun()
	b.in.ClientSecret = "canary-but-wrong"
	b.fails(outcome.Unauthorized, "invalid_client")
}

// TestNextChecks: an error that external CI meets says what to look at next.
func TestNextChecks(t *testing.T) {
	t.Parallel()
	answer := func(status int, body string) func(*bench) {
		return func(b *bench) {
			proxy := faulttest.Before(b.t, b.PlainURL, faulttest.First(1000, func(r *http.Request) bool {
				return strings.HasPrefix(r.URL.Path, "/api/")
			}, faulttest.Fault{Status: status, Body: body}))
			b.in.APIServerURL = proxy.URL
		}
	}
	cases := []struct {
		name   string
		change func(*bench)
		reason outcome.Reason
		hints  []string
	}{
		{"401 of the token endpoint", func(b *bench) { b.in.ClientSecret = "canary-wrong" }, outcome.Unauthorized,
			[]string{"client ID and secret", "newest", "oauth-client-auth", "curl --fail"}},
		{"Basic that the provider does not take", func(b *bench) { b.in.ClientAuth = "client_secret_basic" },
			outcome.Unauthorized, []string{"client_credentials", "oauth-client-auth=client_secret_basic"}},
		{"401 of the API", answer(401, `{"error":"INVALID_CLAIMS","message":"wrong audience"}`), outcome.Unauthorized,
			[]string{"issuer", "jwks_url", "audience", "clocks"}},
		{"403", answer(403, `{"code":"FORBIDDEN","error":"no"}`), outcome.Forbidden,
			[]string{
				"client publisher is bound to a role", "workload:create", "kubectl get clusterauthzrolebindings",
				"sub",
			}},
		{"404 of the API", answer(404, `{"code":"NOT_FOUND","error":"Namespace not found"}`), outcome.NotFound,
			[]string{"component and namespace names", "portal"}},
		{"404 of something else", func(b *bench) { b.in.APIServerURL += "/api/v1" }, outcome.NotFound,
			[]string{"API server's URL", "without /api/v1"}},
		{"404 of the token endpoint", func(b *bench) { b.in.TokenURL = b.URL }, outcome.NotFound,
			[]string{"oauth-token-url", "/oauth2/token"}},
		{"connection refused", func(b *bench) { b.in.APIServerURL = "https://127.0.0.1:1" }, outcome.ApiUnavailable,
			[]string{"nothing listens", "port in api-server-url"}},
		{"connection refused by the provider", func(b *bench) { b.in.TokenURL = "https://127.0.0.1:1/oauth2/token" },
			outcome.ApiUnavailable, []string{"port in oauth-token-url"}},
		{"unknown host", func(b *bench) { b.in.APIServerURL = "https://api.stepwright.invalid" },
			outcome.ApiUnavailable, []string{"spells the host", "getent hosts api.stepwright.invalid", "HTTPS_PROXY"}},
		{"unknown authority", func(b *bench) { b.in.CABundle = "" }, outcome.InvalidParameters,
			[]string{"certificate authority", "ca-bundle", "no way to skip"}},
		{"certificate of another name",
			func(b *bench) { b.in.APIServerURL = strings.Replace(b.URL, "127.0.0.1", "localhost", 1) },
			outcome.InvalidParameters, []string{"another name than localhost"}},
		{"plain HTTP behind https",
			func(b *bench) { b.in.APIServerURL = strings.Replace(b.PlainURL, "http:", "https:", 1) },
			outcome.InvalidParameters, []string{"plain HTTP"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b, _ := newExternal(t, nil)
			b.t = t
			tc.change(b)
			failure := b.fails(tc.reason)
			for _, want := range tc.hints {
				if !strings.Contains(failure.Hint, want) {
					t.Errorf("no %q in the hint: %s", want, failure.Hint)
				}
			}
			if strings.Contains(failure.Hint, "canary") {
				t.Errorf("the hint tells a secret: %s", failure.Hint)
			}
		})
	}
}

// Who asks for a token, and how, is in the parameters: what the schema wants of them, and what reaches the client.
func TestClientWithoutSecret(t *testing.T) {
	t.Parallel()
	schema := schemas.MustLoad("generate-workload-cr")
	for _, p := range schema.Properties {
		if p.Name == "oauth-client-secret-file" && schemas.Text(p.Default) != openchoreo.DefaultSecretFile {
			t.Errorf("the schema's file of the secret is %v, not %s", p.Default, openchoreo.DefaultSecretFile)
		}
	}
	for name, tc := range map[string]struct {
		more   []string
		faults string
	}{
		"a client":             {[]string{"--oauth-client-id=me"}, ""},
		"no client":            {nil, "oauth-client-id"},
		"a token's file":       {[]string{"--token-file=x"}, ""},
		"a token of GitHub":    {[]string{"--github-id-token=token"}, ""},
		"an id token's client": {[]string{"--github-id-token=client-assertion"}, "oauth-client-id"},
		"a secret as a flag":   {[]string{"--oauth-client-assertion=canary"}, "give it as the variable"},
	} {
		_, err := parameters.Parse(schema, append([]string{
			"--namespace-name=acme", "--project-name=store", "--component-name=cart", "--image=a/b:1",
			"--api-server-url=https://api.example.com",
		}, tc.more...), nil)
		if (err == nil) != (tc.faults == "") || err != nil && !strings.Contains(err.Error(), tc.faults) {
			t.Errorf("%s: %v", name, err)
		}
	}

	b, _ := newExternal(t, nil)
	b.in.ClientSecretFile, b.in.TokenURL = openchoreo.DefaultSecretFile, ""
	b.in.AssertionFile = write(t, filepath.Join(t.TempDir(), "token"), b.Assertion(t, b.URL))
	b.mustRun()
	b.wantWrites(postWorkload)

	b.in.ClientSecret = openchoreotest.ClientSecret
	b.fails(outcome.InvalidParameters, "oauth-client-assertion-file, oauth-client-secret: all of them")
}
