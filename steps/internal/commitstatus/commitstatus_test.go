package commitstatus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/step"
)

const (
	commit = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"
	token  = "canary-token-51c7"
)

// asked is a request that a host has got.
type asked struct {
	Method, Path, Authorization string
	Body                        map[string]string
}

// gitHost records what is asked of it, and answers as hosts do that have made a status.
type gitHost struct {
	*httptest.Server
	mu   sync.Mutex
	got  []asked
	told http.HandlerFunc // answers instead; may be nil
}

func newHost(t *testing.T, told http.HandlerFunc) *gitHost {
	t.Helper()
	h := &gitHost{told: told}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one := asked{Method: r.Method, Path: r.URL.EscapedPath(), Authorization: r.Header.Get("Authorization")}
		if secret := r.Header.Get("PRIVATE-TOKEN"); secret != "" {
			one.Authorization = "PRIVATE-TOKEN " + secret
		}
		raw, err := io.ReadAll(r.Body)
		if len(raw) > 0 && r.Header.Get("Content-Type") == "application/json" {
			json.Unmarshal(raw, &one.Body)
		}
		if err != nil {
			return
		}
		h.mu.Lock()
		h.got = append(h.got, one)
		h.mu.Unlock()
		if h.told != nil {
			r.Body = io.NopCloser(bytes.NewReader(raw))
			h.told(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":1}`)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *gitHost) requests() []asked {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]asked(nil), h.got...)
}

// credentialsIn makes a Secret as Kubernetes mounts it.
func credentialsIn(t *testing.T, values map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, value := range values {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// parametersOf report on the component cart in a repository at git.example.com, whose API is elsewhere.
func parametersOf(t *testing.T, provider, api string) Parameters {
	t.Helper()
	return Parameters{
		Status: success, Repository: "https://git.example.com/acme/cart.git", Branch: "main", Commit: commit,
		Namespace: "acme", Project: "online-store", Component: "cart", Run: "cart-1",
		Hosts:       []Host{{Host: "git.example.com", Provider: provider, APIURL: api}},
		Credentials: credentialsIn(t, map[string]string{"token": token}), Timeout: 20, InsecurePlainHTTP: true,
	}
}

// bench is what a step works with, and what it said.
type bench struct {
	step.Environment
	log  strings.Builder
	said string
}

func newBench() *bench {
	b := &bench{}
	b.Secrets = &redact.Secrets{}
	b.Log = slog.New(slog.NewTextHandler(&b.log, nil))
	b.Retry = outcome.Retry{Attempts: 4, Base: time.Millisecond, Log: b.Log}
	b.Note = func(message string) { b.said = message }
	return b
}

// mustRun runs the step, which is to succeed.
func mustRun(t *testing.T, in Parameters) *bench {
	t.Helper()
	b := newBench()
	if _, err := Run(t.Context(), in, b.Environment); err != nil {
		t.Fatalf("%v\n%s", err, b.log.String())
	}
	return b
}

// fails runs the step, which is to fail for that reason.
func fails(t *testing.T, in Parameters, reason outcome.Reason, message string) {
	t.Helper()
	_, err := Run(t.Context(), in, newBench().Environment)
	if failure := outcome.Of(err); failure == nil || failure.Reason != reason ||
		!strings.Contains(failure.Message, message) {
		t.Errorf("%v, want %s with %q", err, reason, message)
	}
}

// Each host gets the request that its documentation has; provider.go names the pages.
func TestRequests(t *testing.T) {
	t.Parallel()
	const name, link = "stepwright/acme/online-store/cart", "https://portal.example.com/acme/cart-1"
	basic := map[string]string{"username": "robot", "password": token}
	gitHub := func(state, description string) map[string]string {
		return map[string]string{"state": state, "context": name, "description": description, "target_url": link}
	}
	atBitbucket := func(state, description string) map[string]string {
		return map[string]string{"state": state, "key": name, "name": name, "description": description,
			"url": link}
	}
	gitLab := func(state, description string) map[string]string {
		return map[string]string{"state": state, "name": name, "description": description, "target_url": link,
			"ref": "main"}
	}
	const running, succeeded, stopped = "The build runs", "The build has succeeded", "The build was stopped"
	for name, test := range map[string]struct {
		provider, repository, status string
		credentials                  map[string]string
		want                         asked
	}{
		"GitHub": {github, "", pending, nil, asked{"POST", "/repos/acme/cart/statuses/" + commit, "Bearer " + token,
			gitHub("pending", running)}},
		"GitHub, cancelled": {github, "", cancelled, nil, asked{"POST", "/repos/acme/cart/statuses/" + commit,
			"Bearer " + token, gitHub("error", stopped)}},
		"GitLab": {gitlab, "git@git.example.com:team/shop/cart.git", pending, nil, asked{"POST",
			"/projects/team%2Fshop%2Fcart/statuses/" + commit, "PRIVATE-TOKEN " + token, gitLab("running", running)}},
		"GitLab, cancelled": {gitlab, "", cancelled, nil, asked{"POST", "/projects/acme%2Fcart/statuses/" + commit,
			"PRIVATE-TOKEN " + token, gitLab("canceled", stopped)}},
		"GitLab, failure": {gitlab, "", failure, nil, asked{"POST", "/projects/acme%2Fcart/statuses/" + commit,
			"PRIVATE-TOKEN " + token, gitLab("failed", "The build has failed")}},
		"Bitbucket": {bitbucket, "", pending, nil, asked{"POST",
			"/repositories/acme/cart/commit/" + commit + "/statuses/build", "Bearer " + token,
			atBitbucket("INPROGRESS", running)}},
		"Bitbucket, with a password": {bitbucket, "", cancelled, basic, asked{"POST",
			"/repositories/acme/cart/commit/" + commit + "/statuses/build",
			"Basic cm9ib3Q6Y2FuYXJ5LXRva2VuLTUxYzc=", atBitbucket("STOPPED", stopped)}},
		"Bitbucket Data Center": {dataCenter, "https://git.example.com/scm/ACME/cart.git", success, nil, asked{"POST",
			"/projects/ACME/repos/cart/commits/" + commit + "/builds", "Bearer " + token,
			atBitbucket("SUCCESSFUL", succeeded)}},
		"Bitbucket Data Center, of a person": {dataCenter, "ssh://git@git.example.com:7999/~jane/cart.git", cancelled,
			nil, asked{"POST", "/projects/~jane/repos/cart/commits/" + commit + "/builds", "Bearer " + token,
				atBitbucket("CANCELLED", stopped)}},
		"Gitea": {gitea, "", success, nil, asked{"POST", "/repos/acme/cart/statuses/" + commit, "token " + token,
			gitHub("success", succeeded)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := newHost(t, nil)
			in := parametersOf(t, test.provider, host.URL)
			in.Status, in.Link = test.status, "https://portal.example.com/{namespace}/{run}"
			if test.repository != "" {
				in.Repository = test.repository
			}
			if test.credentials != nil {
				in.Credentials = credentialsIn(t, test.credentials)
			}
			b := mustRun(t, in)
			if diff := cmp.Diff([]asked{test.want}, host.requests()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if strings.Contains(b.Secrets.String(b.log.String()), token) {
				t.Errorf("the token is in the log:\n%s", b.log.String())
			}
		})
	}
}

// A repository has one project at its host's API, however its URL is written.
func TestTargets(t *testing.T) {
	t.Parallel()
	at := func(host, provider, api string) []Host { return []Host{{Host: host, Provider: provider, APIURL: api}} }
	const gitHub, own = "https://api.github.com", "git.example.com"
	for name, test := range map[string]struct {
		url        string
		hosts      []Host
		api        string
		repository string // segments with commas between
	}{
		"GitHub by https":         {"https://github.com/acme/cart", nil, gitHub, "acme,cart"},
		"GitHub with .git":        {"https://github.com/acme/cart.git", nil, gitHub, "acme,cart"},
		"GitHub with a slash":     {"https://GitHub.com/acme/cart/", nil, gitHub, "acme,cart"},
		"GitHub with a user":      {"https://x@github.com/acme/cart", nil, gitHub, "acme,cart"},
		"GitHub as scp has it":    {"git@github.com:acme/cart.git", nil, gitHub, "acme,cart"},
		"GitHub by SSH":           {"ssh://git@github.com/acme/cart.git", nil, gitHub, "acme,cart"},
		"GitHub by SSH, port 443": {"ssh://git@ssh.github.com:443/acme/cart", nil, gitHub, "acme,cart"},
		"without a user":          {"github.com:acme/cart.git", nil, gitHub, "acme,cart"},
		"a dot in the name":       {"https://github.com/acme/cart.github.io", nil, gitHub, "acme,cart.github.io"},
		"GitHub Enterprise Server": {"git@ghe.example.com:acme/cart", at("GHE.example.com", github, ""),
			"https://ghe.example.com/api/v3", "acme,cart"},
		"GitLab, subgroups": {"https://gitlab.com/a/b/c/cart.git", nil, "https://gitlab.com/api/v4", "a,b,c,cart"},
		"GitLab, another port": {"https://git.example.com:8443/a/cart", at(own, gitlab, ""),
			"https://git.example.com:8443/api/v4", "a,cart"},
		"GitLab, the port of SSH": {"ssh://git@git.example.com:2222/a/cart", at(own, gitlab, ""),
			"https://git.example.com/api/v4", "a,cart"},
		"GitLab in a folder": {"https://git.example.com/gitlab/a/b/cart",
			at(own, gitlab, "https://git.example.com/gitlab/api/v4/"), "https://git.example.com/gitlab/api/v4",
			"a,b,cart"},
		"Bitbucket": {"git@bitbucket.org:acme/cart.git", nil, "https://api.bitbucket.org/2.0", "acme,cart"},
		"Bitbucket Data Center": {"https://git.example.com/scm/A/cart.git", at(own, dataCenter, ""),
			"https://git.example.com/rest/api/latest", "A,cart"},
		"Data Center in a folder": {"https://git.example.com/bb/scm/A/cart.git",
			at(own, dataCenter, "https://git.example.com/bb/rest/api/latest"),
			"https://git.example.com/bb/rest/api/latest", "A,cart"},
		"a project named scm": {"ssh://git@git.example.com:7999/scm/cart.git", at(own, dataCenter, ""),
			"https://git.example.com/rest/api/latest", "scm,cart"},
		"Codeberg": {"https://codeberg.org/acme/cart", nil, "https://codeberg.org/api/v1", "acme,cart"},
		"Gitea in a folder": {"https://git.example.com/git/acme/cart",
			at(own, gitea, "https://git.example.com/git/api/v1"), "https://git.example.com/git/api/v1", "acme,cart"},
		"an owner with the folder's name": {"https://git.example.com/git/cart",
			at(own, gitea, "https://git.example.com/git/api/v1"), "https://git.example.com/git/api/v1", "git,cart"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, err := parseRemote(test.url)
			if err != nil {
				t.Fatal(err)
			}
			host, ok := Parameters{Hosts: test.hosts}.named(from.host)
			if !ok {
				t.Fatalf("%s is not known", from.host)
			}
			got, err := newTarget(host, from, false)
			if err != nil {
				t.Fatal(err)
			}
			path := strings.Join(got.repository, ",")
			if got.api.String() != test.api || path != test.repository {
				t.Errorf("%s of %s, want %s of %s", path, got.api, test.repository, test.api)
			}
		})
	}
}

// No request is sent where none can be right.
func TestNoStatus(t *testing.T) {
	t.Parallel()
	host := newHost(t, nil)
	for name, test := range map[string]struct {
		change func(*Parameters)
		reason outcome.Reason // empty where the step succeeds
		said   string
	}{
		"another host": {func(in *Parameters) { in.Repository = "https://dev.azure.com/acme/shop/_git/cart" }, "",
			"no commit status for the host dev.azure.com: status-hosts does not name it"},
		"a public host that is not named": {func(in *Parameters) { in.Repository = "https://github.com/acme/cart" }, "",
			"no commit status for the host github.com"},
		"CodeCommit, and no hosts": {func(in *Parameters) {
			in.Repository, in.Hosts = "ssh://git-codecommit.eu-west-1.amazonaws.com/v1/repos/cart", nil
		}, "", "no commit status for the host git-codecommit.eu-west-1.amazonaws.com"},
		"a workflow's revision, and no hosts": {func(in *Parameters) {
			in.Hosts, in.Revision = nil, `{"url":"https://codeberg.org/a/b","commit":"`+commit+`"}`
		}, "", "no commit status for the host codeberg.org"},
		"nothing was checked out": {func(in *Parameters) { in.Commit = "" }, "", "nothing was checked out"},
		"a short SHA": {func(in *Parameters) { in.Commit = "1a2b3c4d" }, outcome.InvalidParameters,
			`"1a2b3c4d" is no full SHA`},
		"no provider": {func(in *Parameters) { in.Hosts[0].Provider = "" }, outcome.InvalidParameters,
			"provider is absent"},
		"plain HTTP": {func(in *Parameters) { in.InsecurePlainHTTP = false }, outcome.InvalidParameters,
			"would send credentials unprotected"},
		"no credentials": {func(in *Parameters) { in.Credentials = t.TempDir() }, outcome.AuthenticationFailed,
			"there are no credentials for git.example.com"},
		"no folder of credentials": {func(in *Parameters) { in.Credentials = "/nowhere" }, outcome.AuthenticationFailed,
			"there are no credentials"},
		"credentials of no host, where there are several": {
			func(in *Parameters) { in.Hosts = append(in.Hosts, Host{Host: "github.com"}) },
			outcome.AuthenticationFailed, "there are no credentials"},
		"a token that is none": {func(in *Parameters) {
			in.Credentials = credentialsIn(t, map[string]string{"token": "user: x\ntoken: y"})
		}, outcome.AuthenticationFailed, "has characters that no token has"},
		"half an App": {func(in *Parameters) {
			in.Credentials = credentialsIn(t, map[string]string{"app-id": "7"})
		}, outcome.AuthenticationFailed, "there are no credentials"},
		"a key that is none": {func(in *Parameters) {
			in.Credentials = credentialsIn(t, map[string]string{"app-id": "7", "private-key": "x"})
		}, outcome.AuthenticationFailed, "private-key holds no PEM"},
		"a placeholder that is none": {func(in *Parameters) { in.Link = "https://example.com/{runs}" },
			outcome.InvalidParameters, "there is no {runs}"},
		"a path that leads out": {func(in *Parameters) { in.Repository = "https://git.example.com/acme/../cart" },
			outcome.InvalidParameters, `the segment ".."`},
		"too few segments": {func(in *Parameters) { in.Repository = "https://git.example.com/cart" },
			outcome.InvalidParameters, "is no repository of github"},
		"too many": {func(in *Parameters) { in.Repository = "https://git.example.com/a/b/cart" },
			outcome.InvalidParameters, "is no repository of github"},
		"a folder": {func(in *Parameters) { in.Repository = "/srv/cart" }, outcome.InvalidParameters,
			"is no URL of a repository"},
		"failures of nobody": {func(in *Parameters) { in.Status, in.Failures = failure, "{{workflow.failures}}" },
			outcome.InvalidParameters, "failures"},
		"a revision of nobody": {func(in *Parameters) { in.Revision = "main" }, outcome.InvalidParameters, "revision"},
	} {
		t.Run(name, func(t *testing.T) {
			in := parametersOf(t, github, host.URL)
			test.change(&in)
			if test.reason != "" {
				fails(t, in, test.reason, test.said)
				in.TolerateFailure = true
				if b := mustRun(t, in); !strings.Contains(b.said, string(test.reason)+": ") ||
					!strings.Contains(b.said, test.said) || !strings.Contains(b.log.String(), "level=ERROR") {
					t.Errorf("tolerated, it says %q and\n%s", b.said, b.log.String())
				}
			} else if b := mustRun(t, in); !strings.Contains(b.said, test.said) {
				t.Errorf("says %q, want %q", b.said, test.said)
			}
			if got := host.requests(); len(got) > 0 {
				t.Errorf("asked %v", got)
			}
		})
	}
}

// Of several hosts each gets its own credentials.
func TestCredentialsOfHosts(t *testing.T) {
	t.Parallel()
	host := newHost(t, nil)
	in := parametersOf(t, gitea, host.URL)
	in.Hosts = append(in.Hosts, Host{Host: "github.com"})
	in.Credentials = credentialsIn(t, map[string]string{
		"token": "of-nobody", "github.com.token": "of-github", "git.example.com.token": token,
	})
	mustRun(t, in)
	if got := host.requests(); len(got) != 1 || got[0].Authorization != "token "+token {
		t.Errorf("asked %v", got)
	}
}

// Credentials that come late are waited for.
func TestLateCredentials(t *testing.T) {
	t.Parallel()
	host := newHost(t, nil)
	in := parametersOf(t, gitea, host.URL)
	in.Credentials, in.CredentialsTimeout = filepath.Join(t.TempDir(), "late"), 60
	b := newBench()
	waits := make(chan struct{})
	b.Log = slog.New(&onFirst{Handler: slog.NewTextHandler(io.Discard, nil), do: func() { close(waits) }})
	go func() {
		<-waits
		if err := os.Mkdir(in.Credentials, 0o700); err == nil {
			os.WriteFile(filepath.Join(in.Credentials, "token"), []byte(token), 0o600)
		}
	}()
	if _, err := Run(t.Context(), in, b.Environment); err != nil || len(host.requests()) != 1 {
		t.Errorf("%v, asked %v", err, host.requests())
	}
}

func TestTransientFaults(t *testing.T) {
	t.Parallel()
	all := func(*http.Request) bool { return true }
	for name, fault := range map[string]faulttest.Fault{
		"a broken connection":       {},
		"unavailable":               {Status: 503},
		"too many requests":         {Status: 429, RetryAfter: "0"},
		"locked, as GitLab says it": {Status: 409, Body: `{"message":"409 Conflict"}`},
		"an answer that is cut off": {CutBody: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := newHost(t, nil)
			front := faulttest.Before(t, host.URL, faulttest.First(3, all, fault))
			mustRun(t, parametersOf(t, gitea, front.URL))
			if front.Faults.Load() != 3 {
				t.Errorf("%d faults", front.Faults.Load())
			}
			front = faulttest.Before(t, host.URL, faulttest.First(4, all, fault))
			fails(t, parametersOf(t, gitea, front.URL), outcome.GitServerUnavailable, "POST http")
		})
	}
}

// A host that says nothing, or that asks for patience without end, keeps the step no longer than it may.
func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	silent := func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-time.After(time.Minute):
		}
	}
	limited := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-RateLimit-Remaining", "0")
		w.Header().Set("X-RateLimit-Reset", fmt.Sprint(time.Now().Add(time.Hour).Unix()))
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"message":"API rate limit exceeded"}`)
	}
	for name, test := range map[string]struct {
		host http.HandlerFunc
		want string
	}{
		"a host that is silent": {silent, "has not answered within 1s"},
		"a limit of requests":   {limited, "403 Forbidden: API rate limit exceeded, after 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parametersOf(t, github, newHost(t, test.host).URL)
			in.Timeout = 1
			started := time.Now()
			fails(t, in, outcome.GitServerUnavailable, test.want)
			if took := time.Since(started); took > 15*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		provider string
		status   int
		body     string
		reason   outcome.Reason // empty where it is none
		said     string
	}{
		"a token that has expired": {github, 401, `{"message":"Bad credentials"}`, outcome.AuthenticationFailed,
			"401 Unauthorized: Bad credentials"},
		"a token with too few rights": {github, 403, `{"message":"Resource not accessible by integration"}`,
			outcome.AuthenticationFailed, "403 Forbidden: Resource not accessible"},
		"a repository that is hidden": {gitlab, 404, `{"message":"404 Project Not Found"}`, outcome.RepositoryNotFound,
			"404 Project Not Found"},
		"a commit that is not there": {github, 422, `{"message":"No commit found for SHA: ` + commit + `"}`,
			outcome.Failed, "No commit found for SHA"},
		"too many statuses": {github, 422,
			`{"message":"Validation Failed","errors":[{"message":"This SHA and context has reached the maximum"}]}`,
			outcome.Failed, "Validation Failed: This SHA and context has reached the maximum"},
		"Bitbucket's words": {bitbucket, 400, `{"type":"error","error":{"message":"key: at most 40 characters"}}`,
			outcome.Failed, "400 Bad Request: key: at most 40 characters"},
		"Data Center's words": {dataCenter, 401, `{"errors":[{"context":null,"message":"Authentication failed"}]}`,
			outcome.AuthenticationFailed, "401 Unauthorized: Authentication failed"},
		"GitLab's object": {gitlab, 400, `{"message":{"target_url":["is too long"]}}`, outcome.Failed,
			`{"target_url":["is too long"]}`},
		"what GitLab has already": {gitlab, 400,
			`{"message":"Cannot transition status via :succeed from :success (Reason(s): Status cannot transition)"}`,
			"", ""},
		"what GitLab has otherwise": {gitlab, 400, `{"message":"Cannot transition status via :run from :failed"}`,
			outcome.Failed, "from :failed"},
		"what GitHub never says": {github, 400, `{"message":"Cannot transition status via :succeed from :success"}`,
			outcome.Failed, "Cannot transition"},
		"a page": {github, 400, "<html>" + strings.Repeat("x", 9000), outcome.Failed, "400 Bad Request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := newHost(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			if in := parametersOf(t, test.provider, host.URL); test.reason == "" {
				mustRun(t, in)
			} else {
				fails(t, in, test.reason, test.said)
			}
			if got := host.requests(); len(got) != 1 {
				t.Errorf("asked %d times", len(got))
			}
		})
	}
}

// A repository with a new name is found on its own host. Nobody else gets the credentials.
func TestRedirects(t *testing.T) {
	t.Parallel()
	const moved = "/repositories/7/statuses/" + commit
	for _, status := range []int{301, 302, 307, 308} {
		host := newHost(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != moved {
				http.Redirect(w, r, moved, status)
				return
			}
			w.WriteHeader(http.StatusCreated)
		})
		mustRun(t, parametersOf(t, github, host.URL))
		got := host.requests()
		if len(got) != 2 || got[1].Path != moved || got[1].Method != http.MethodPost || got[1].Body["state"] == "" ||
			got[1].Authorization != "Bearer "+token {
			t.Errorf("%d: asked %v", status, got)
		}
	}
	other := newHost(t, nil)
	host := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
	})
	fails(t, parametersOf(t, github, host.URL), outcome.Failed, "is not followed with credentials")
	if got := other.requests(); len(got) > 0 {
		t.Errorf("the other host was asked %v", got)
	}
	host = newHost(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	})
	in := parametersOf(t, github, host.URL)
	b := newBench()
	b.Retry.Attempts = 1
	if _, err := Run(t.Context(), in, b.Environment); err == nil || len(host.requests()) > redirects+1 {
		t.Errorf("%v, asked %d times", err, len(host.requests()))
	}
}

// What the step prints and leaves, on every path, holds no credentials.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	host := newHost(t, func(w http.ResponseWriter, r *http.Request) { // which echoes what it got
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(map[string]string{"message": "bad: " + r.Header.Get("Authorization")})
	})
	in := parametersOf(t, github, host.URL)
	hosts, err := json.Marshal(in.Hosts)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ended := filepath.Join(dir, "termination-log")
	if err := os.WriteFile(ended, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := step.Run(t.Context(), "commit-status", []string{
		"--status=success", "--git-repo=https://me:" + token + "@git.example.com/acme/cart.git", "--commit=" + commit,
		"--status-hosts=" + string(hosts), "--insecure-plain-http", "--status-credentials=" + in.Credentials,
		"--tolerate-failure", "--results-dir=" + filepath.Join(dir, "results"), "--termination-message-path=" + ended,
	}, nil, step.Streams{Stdout: &out, Stderr: &out}, Run)
	message, err := os.ReadFile(ended)
	if err != nil {
		t.Fatal(err)
	}
	report, err := os.ReadFile(filepath.Join(dir, "results", "outcome.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := out.String() + string(message) + string(report)
	if code != 0 || !strings.Contains(string(message), "AuthenticationFailed: POST http") ||
		!strings.Contains(all, "bad: Bearer ***") || strings.Contains(all, token) {
		t.Errorf("%d:\n%s", code, all)
	}
}

// onFirst does something at the first line of a log.
type onFirst struct {
	slog.Handler
	once sync.Once
	do   func()
}

func (h *onFirst) Handle(ctx context.Context, r slog.Record) error {
	h.once.Do(h.do)
	return h.Handler.Handle(ctx, r)
}
