package externalci_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

// canary is the secret of the development API's client. It must not appear in anything that is written, whatever writes
// it.
const canary = "canary-s3cret/+&=ä"

// client is an OAuth client, and where it gets its tokens.
type client struct {
	id, secret string
	api, token string // URLs
}

// platform is an OpenChoreo API with three clients.
type platform struct {
	url, tokenURL            string
	namespace, project       string
	publisher, nobody, admin client
	jobs                     *devidp.Provider // of id tokens, which prove that a job is the publisher; nil with -api
}

// job is the subject of the id tokens of a CI's jobs.
const job = "repo:acme/cart:ref:refs/heads/main"

// newPlatform starts a development API, or connects to that of the flags.
func newPlatform(t *testing.T) *platform {
	t.Helper()
	if *apiURL != "" {
		p := &platform{url: *apiURL, tokenURL: *tokenURL, namespace: *namespace, project: *project}
		for given, c := range map[*string]*client{publisher: &p.publisher, nobody: &p.nobody, admin: &p.admin} {
			id, file, ok := strings.Cut(*given, "=")
			secret, err := os.ReadFile(file)
			if !ok || err != nil {
				t.Fatalf("-api needs -publisher, -nobody and -admin as ID=FILE: %q, %v", *given, err)
			}
			*c = client{id, strings.TrimSpace(string(secret)), p.url, p.tokenURL}
		}
		return p
	}
	jobs, err := devidp.New(devidp.Options{Issuer: "https://token.actions.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	serve := func(id string, namespaces ...string) client {
		api, err := devapi.New(devapi.Options{
			Dir: t.TempDir(), ClientID: id, ClientSecret: canary, Namespaces: namespaces,
			Trusted: []devidp.Trusted{jobs.Trusted("", map[string]string{job: "publisher"})},
			Log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(api)
		t.Cleanup(server.Close)
		return client{id, canary, server.URL, server.URL + devapi.TokenPath}
	}
	all := serve("publisher")
	return &platform{
		url: all.api, tokenURL: all.token, namespace: "acme", project: "store",
		publisher: all, admin: all, nobody: serve("nobody", "elsewhere"), jobs: jobs,
	}
}

// call makes one request as a client and decodes the answer.
func (p *platform) call(t *testing.T, c client, method, path string, body, answer any) int {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.id}, "client_secret": {c.secret}}
	resp, err := http.PostForm(c.token, form)
	if err != nil {
		t.Fatal(err)
	}
	var token struct {
		AccessToken string `json:"access_token"`
	}
	err = json.NewDecoder(resp.Body).Decode(&token)
	resp.Body.Close()
	if err != nil || token.AccessToken == "" {
		t.Fatalf("no token for %s: %s, %v", c.id, resp.Status, err)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, c.api+"/api/v1/namespaces/"+
		p.namespace+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token.AccessToken)
	req.Header.Set("Content-Type", "application/json")
	if resp, err = http.DefaultClient.Do(req); err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if answer != nil {
		if err := json.Unmarshal(text, answer); err != nil {
			t.Fatalf("%s %s: %s: %v in %s", method, path, resp.Status, err, text)
		}
	}
	if resp.StatusCode > 299 {
		t.Logf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	return resp.StatusCode
}

// component makes a Component of a name that there has not been before. It is deleted at the test's end.
func (p *platform) component(t *testing.T) string {
	t.Helper()
	name := "ci-" + strings.ToLower(rand.Text()[:10])
	status := p.call(t, p.admin, "POST", "/components", map[string]any{
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"owner":         map[string]any{"projectName": p.project},
			"componentType": map[string]any{"kind": "ClusterComponentType", "name": "deployment/service"},
		},
	}, nil)
	if status != http.StatusCreated {
		t.Fatalf("making Component %s: %d", name, status)
	}
	if *apiURL != "" { // a development API is removed whole
		t.Cleanup(func() {
			if status := p.call(t, p.admin, "DELETE", "/components/"+name, nil, nil); status > 299 {
				t.Errorf("deleting Component %s: %d", name, status)
			}
		})
	}
	return name
}

// workload is what a test looks at.
type workload struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Container struct {
			Image string `json:"image"`
		} `json:"container"`
		Endpoints map[string]struct {
			Port int `json:"port"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// give gives a component a Workload.
func (p *platform) give(t *testing.T, component, name, image string) {
	t.Helper()
	status := p.call(t, p.publisher, "POST", "/workloads", map[string]any{
		"metadata": map[string]any{"name": name},
		"spec": map[string]any{
			"owner":     map[string]any{"projectName": p.project, "componentName": component},
			"container": map[string]any{"image": image},
		},
	}, nil)
	if status != http.StatusCreated {
		t.Fatalf("making Workload %s: %d", name, status)
	}
}

// workloads are those that a component has.
func (p *platform) workloads(t *testing.T, component string) []workload {
	t.Helper()
	var page struct {
		Items []workload `json:"items"`
	}
	if status := p.call(t, p.publisher, "GET", "/workloads?component="+component, nil, &page); status != http.StatusOK {
		t.Fatalf("listing Workloads: %d", status)
	}
	return page.Items
}

// outcome is outcome.json.
type outcome struct {
	Reason   string            `json:"reason"`
	ExitCode int               `json:"exitCode"`
	Message  string            `json:"message"`
	Hint     string            `json:"hint"`
	Results  map[string]string `json:"results"`
}

// parameters are the variables of one run of generate-workload-cr.
func (p *platform) parameters(component, image string) map[string]string {
	return map[string]string{
		"NAMESPACE_NAME": p.namespace, "PROJECT_NAME": p.project, "COMPONENT_NAME": component, "IMAGE": image,
		"API_SERVER_URL": p.url, "OAUTH_TOKEN_URL": p.tokenURL, "OAUTH_CLIENT_ID": p.publisher.id,
		"OAUTH_CLIENT_SECRET": p.publisher.secret,
		"INSECURE_PLAIN_HTTP": fmt.Sprint(*apiURL != ""), "WAIT": "true",
	}
}

// idToken is a token of a job for an audience. It must not appear in anything that is written.
func (p *platform) idToken(t *testing.T, audience string) string {
	t.Helper()
	token, err := p.jobs.Sign(map[string]any{"sub": job, "aud": audience, "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// register runs generate-workload-cr as a pipeline does, and wants the secret nowhere.
func register(t *testing.T, parameters map[string]string) outcome {
	t.Helper()
	dir := t.TempDir()
	output, summary := filepath.Join(dir, "output"), filepath.Join(dir, "summary")
	environ := []string{"RESULTS_DIR=" + dir, "GITHUB_OUTPUT=" + output, "GITHUB_STEP_SUMMARY=" + summary}
	for name, value := range parameters {
		environ = append(environ, name+"="+value)
	}
	log, code := command(t, dir, environ, binary("generate-workload-cr"))
	texts := map[string]string{"log": log}
	for _, name := range []string{"outcome.json", "output", "summary"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		texts[name] = string(raw)
	}
	for _, secret := range []string{parameters["OAUTH_CLIENT_SECRET"], parameters["OAUTH_CLIENT_ASSERTION"]} {
		if secret != "" {
			quiet(t, texts, secret, url.QueryEscape(secret))
		}
	}
	var o outcome
	if err := json.Unmarshal([]byte(texts["outcome.json"]), &o); err != nil || o.ExitCode != code {
		t.Fatalf("exit code %d, outcome %+v, %v", code, o, err)
	}
	t.Log(log)
	return o
}
