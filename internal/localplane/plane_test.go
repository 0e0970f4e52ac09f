package localplane

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	"github.com/stepwright/stepwright/internal/registry"
)

// library has a template for each builder's schema, as far as a plane looks at it.
func library(t *testing.T) *plan.Library {
	t.Helper()
	l := new(plan.Library)
	if err := l.Add([]byte(`kind: ClusterWorkflowTemplate
metadata: {name: gcp-buildpacks-build, annotations: {stepwright.dev/schema: buildpacks-build}}
spec: {templates: [{name: a, inputs: {parameters: [{name: pull-secret-required}, {name: secret-timeout}]}}]}
---
kind: ClusterWorkflowTemplate
metadata: {name: publish-image}
spec: {templates: [{name: a, inputs: {parameters: [{name: pull-secret-required}, {name: push-secret-required},
  {name: secret-timeout}]}}]}
---
kind: ClusterWorkflowTemplate
metadata: {name: generate-workload}
spec: {templates: [{name: a, inputs: {parameters: [{name: oauth-client-auth}, {name: oauth-audience},
  {name: oauth-client-assertion-file}, {name: oauth-client-assertion-audience}, {name: secret-timeout}]}}]}
`)); err != nil {
		t.Fatal(err)
	}
	if len(l.WithSchema(buildpacksSchema)) != 1 {
		t.Fatal("the template does not count as a builder's")
	}
	return l
}

func run(t *testing.T) *workflowrun.Run {
	t.Helper()
	run, err := workflowrun.Load("", "../../examples/greeting-service")
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// The developer's secret is for the host of the URL that stands beside it.
func TestSecretHosts(t *testing.T) {
	for url, want := range map[string]string{
		"https://git.example.com:8443/x.git": ",git.example.com:*", "git@git.example.com:x": ",git.example.com:*",
		"https://github.com@evil.example/x": ",evil.example:*", "ssh://git@[::1]:7999/x": ",[::1]:*",
		"git.example.com:x": ",git.example.com:*", "": "", "/tmp/x": "", "https://g\u0456t.example.com/x": "",
		"https://a,b/x": "", "https://*/x": "",
	} {
		if got := strings.TrimPrefix(secretHosts(url), secretHosts("")); got != want {
			t.Errorf("%s: %q, want %q", url, got, want)
		}
	}
}

// What the developer gives becomes the settings of the steps; secrets are the developer's files.
func TestMachine(t *testing.T) {
	given := New(Options{
		State: "/state", Builders: "/cache/builders", PlainHTTP: true, CABundle: "/home/me/ca.crt",
		Source: Source{GitSecret: "/home/me/git", BuildSecrets: "/home/me/build", Bindings: "/home/me/bindings"},
		Registry: Registry{
			Push: "127.0.0.1:5000/acme", DockerConfig: "/home/me/config.json",
			Mirrors: []registry.Mirror{
				{Registry: "docker.io", Mirror: "first.example.com/hub"},
				{Registry: "docker.io", Mirror: "second.example.com"},
				{Registry: "gcr.io", Mirror: "127.0.0.1:1"},
			},
			Insecure:     []string{"127.0.0.1:1"},
			BuilderImage: "127.0.0.1:5001/builder:1", RunImage: "registry.example.com/run:1",
		},
		API: API{
			URL: "http://api.example.com", TokenURL: "http://idp.example.com/token", ClientID: "publisher",
			ClientSecretFile: "/home/me/client-secret", Scope: "openid", Audience: "api",
		},
	})
	got := given.Machine(run(t), library(t), "/bin", "/scratch")
	const mirrors = `[{"registry":"docker.io","mirror":"first.example.com/hub"},` +
		`{"registry":"docker.io","mirror":"second.example.com"},{"registry":"gcr.io","mirror":"127.0.0.1:1"}]`
	const insecure = `["127.0.0.1:1","127.0.0.1:5001","registry.example.com"]`
	pull := map[string]string{
		"registry-mirrors": mirrors, "insecure-registries": insecure, "ca-bundle": "/etc/stepwright/ca/ca.crt",
	}
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(pull)
		maps.Copy(all, more)
		return all
	}
	push := map[string]string{"registry": "127.0.0.1:5000/acme", "insecure-plain-http": "true"}
	build := maps.Clone(push)
	build["builder-image"], build["run-image"] = "127.0.0.1:5001/builder:1", "registry.example.com/run:1"
	build["bindings-timeout"] = "0"
	// What a developer gives is there from the beginning, or it is not wanted. Templates of before are told nothing.
	unawaited := map[string]string{"pull-secret-required": "false", "secret-timeout": "0"}
	maps.Copy(build, unawaited)
	publish := with(push)
	maps.Copy(publish, unawaited)
	publish["push-secret-required"] = "false"
	want := map[string]map[string]string{
		"checkout-source": {
			"git-secret-timeout": "10", "ca-bundle": "/etc/stepwright/ca/ca.crt", "insecure-git-http": "false",
			"git-secret-hosts": secretHosts("") + ",git.example.com:*",
		},
		"containerfile-build":  with(push),
		"publish-image":        publish,
		"gcp-buildpacks-build": with(build),
		"generate-workload": {
			"api-server-url": "http://api.example.com", "oauth-token-url": "http://idp.example.com/token",
			"oauth-client-id": "publisher", "oauth-scope": "openid", "insecure-plain-http": "true",
			"oauth-client-auth": "client_secret_post", "oauth-audience": "api",
			"ca-bundle": "/etc/stepwright/ca/ca.crt", "oauth-client-assertion-file": "",
			"oauth-client-assertion-audience": "", "secret-timeout": "0",
		},
	}
	if diff := cmp.Diff(want, got.Settings); diff != "" {
		t.Error(diff)
	}
	docker := plan.Source{Files: map[string]string{".dockerconfigjson": "/home/me/config.json"}}
	name := run(t).Name
	if diff := cmp.Diff(map[string]plan.Source{
		name + "-bindings": {Copy: "/home/me/bindings"}, name + "-build-secrets": {Dir: "/home/me/build"},
		name + "-git-secret": {Dir: "/home/me/git"}, name + "-registry-pull-secret": docker,
		name + "-registry-push-secret": docker,
		name + "-oauth-client-secret":  {Files: map[string]string{"client-secret": "/home/me/client-secret"}},
	}, got.Secrets); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{
		"gcp-buildpacks-build": "127.0.0.1:5001/builder:1",
	}, got.Images); diff != "" {
		t.Error(diff)
	}

	given.BuildKit = BuildKit{"tcp://127.0.0.1:1234", "/home/me/tls"}
	build = given.Machine(run(t), library(t), "/bin", "/scratch").Settings["containerfile-build"]
	if build["buildkit-address"] != "tcp://127.0.0.1:1234" || build["buildkit-tls-dir"] != "/home/me/tls" {
		t.Errorf("%v", build)
	}
	given.API.ClientSecretFile, given.API.ClientAssertionFile = "", "/home/me/token"
	got = given.Machine(run(t), library(t), "/bin", "/scratch")
	if file := got.Settings["generate-workload"]["oauth-client-assertion-file"]; file !=
		"/etc/secrets/oauth-client-secret/client-assertion" {
		t.Errorf("the assertion is looked for at %q", file)
	}
	if diff := cmp.Diff(plan.Source{Files: map[string]string{"client-assertion": "/home/me/token"}},
		got.Secrets[name+"-oauth-client-secret"]); diff != "" {
		t.Error(diff)
	}
}

// A plane of which nothing is given has servers of its own, until it is closed.
func TestOwnServers(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "Dockerfile"), []byte("FROM scratch\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	p, run := New(Options{State: state, Builders: t.TempDir(), Source: Source{Folder: folder}}), run(t)
	if err := p.Start(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	at, err := p.WithSource(run)
	if err != nil {
		t.Fatal(err)
	}
	var parameters struct{ Repository struct{ URL string } }
	if err := json.Unmarshal(at.Spec.Workflow.Parameters.Raw, &parameters); err != nil {
		t.Fatal(err)
	}
	m := p.Machine(run, library(t), "/bin", t.TempDir())
	images := "http://" + m.Settings["publish-image"]["registry"] + "/v2/"
	if !listens(t, images) {
		t.Errorf("this process does not listen at %s", images)
	}
	api := m.Settings["generate-workload"]["api-server-url"] + "/api/v1/namespaces/acme/workloads"
	for url, want := range map[string]int{
		images: http.StatusOK,
		api:    http.StatusUnauthorized,
		parameters.Repository.URL + "/info/refs?service=git-upload-pack": http.StatusOK,
	} {
		response, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s answers %s, want %d", url, response.Status, want)
		}
	}
	if m.Settings["publish-image"]["insecure-plain-http"] != "true" {
		t.Error("the plane's own registry has no TLS, and publish-image is not told")
	}
	secret := m.Secrets[run.Name+"-oauth-client-secret"].Files["client-secret"]
	if raw, err := os.ReadFile(secret); err != nil || len(raw) == 0 {
		t.Errorf("the client's secret: %v", err)
	}
	if annotations, err := p.Annotations(run); err != nil || annotations["openchoreo.dev/workload"] != "" {
		t.Errorf("annotations are %v; %v", annotations, err)
	}
	var text strings.Builder
	p.Describe(&text)
	if !strings.Contains(text.String(), p.API.URL) || !strings.Contains(text.String(), p.repository) {
		t.Errorf("it says %s", &text)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, address := range []string{images, api} {
		if listens(t, address) {
			t.Errorf("this process listens at %s after the end", address)
		}
	}
	if _, err := os.Stat(secret); err == nil {
		t.Error("the client's secret is left")
	}
}

// listens tells whether this process listens at the port of an address: another one may take it when it is free.
func listens(t *testing.T, address string) bool {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	descriptors, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(sockets)) {
		const local, state, inode, listening = 1, 3, 9, "0A" // see proc(5)
		fields := strings.Fields(line)
		if len(fields) <= inode || fields[state] != listening ||
			!strings.HasSuffix(fields[local], fmt.Sprintf(":%04X", port)) {
			continue
		}
		for _, descriptor := range descriptors {
			if target, err := os.Readlink(descriptor); err == nil && target == "socket:["+fields[inode]+"]" {
				return true
			}
		}
	}
	return false
}

// Several planes with one state run at the same time, but for one run: its second waits for the first, and says so.
func TestPlanesAtOnce(t *testing.T) {
	state := t.TempDir()
	first, waits := run(t), make(chan string, 1)
	other := run(t)
	other.WorkflowRun = other.WorkflowRun.DeepCopy()
	other.Name = "another"
	again := New(Options{State: state, Waiting: func(what string) { waits <- what }})
	group := new(errgroup.Group)
	silent := func(what string) { t.Errorf("it waits: %s", what) }
	planes := []*Plane{New(Options{State: state, Waiting: silent}), New(Options{State: state, Waiting: silent})}
	for i, r := range []*workflowrun.Run{first, other} {
		group.Go(func() error { return planes[i].Start(t.Context(), r) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	defer planes[1].Close()
	started := make(chan error, 1)
	go func() { started <- again.Start(t.Context(), first) }()
	want := fmt.Sprintf("WorkflowRun %q is running already, by process %d on ", first.Name, os.Getpid())
	if got := <-waits; !strings.HasPrefix(got, want) {
		t.Errorf("it says %q, want %q", got, want)
	}
	select {
	case err := <-started:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	if err := planes[0].Close(); err != nil {
		t.Error(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// A run whose Component nobody knows is refused, and nothing is left running.
func TestUnknownComponent(t *testing.T) {
	run := run(t)
	run.Component = nil
	p := New(Options{State: t.TempDir()})
	err := p.Start(t.Context(), run)
	if err == nil || !strings.Contains(err.Error(), `there is no Component "greeting-service"`) {
		t.Fatalf("got %v", err)
	}
	if response, err := http.Get("http://" + p.Registry.Push + "/v2/"); err == nil {
		response.Body.Close()
		t.Error("the registry is left running")
	}
}
