//go:build gitea

package commitstatus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/outcome"
)

// giteaModule is the folder of the module that names the version of Gitea.
const giteaModule = "../../../ci/gitea"

// giteaOf builds Gitea and returns its program, and the folder of its module, which has its texts.
func giteaOf(t *testing.T) (program, module string) {
	t.Helper()
	kept, err := cachedir.Path("gitea")
	if err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(kept, "gitea")
	run := func(args ...string) string {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir, cmd.Env = giteaModule, append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=", "GOWORK=off")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %v: %v\n%s", args, err, stderr.Bytes())
		}
		return strings.TrimSpace(string(out))
	}
	// Go leaves the program as it is when nothing has changed.
	run("build", "-trimpath", "-ldflags=-s -w", "-tags=sqlite sqlite_unlock_notify", "-o", program,
		"code.gitea.io/gitea")
	return program, run("list", "-m", "-f", "{{.Dir}}", "code.gitea.io/gitea")
}

// giteaServer is a running Gitea with one user.
type giteaServer struct {
	api, token string
}

// ask sends a request to the API, and decodes the answer.
func (g giteaServer) ask(t *testing.T, method, path string, body, result any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, g.api+path, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "token "+g.token)
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode > 299 {
		t.Fatalf("%s %s: %s", method, path, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		t.Fatal(err)
	}
}

// startGitea starts a Gitea with the user acme.
func startGitea(t *testing.T) giteaServer {
	t.Helper()
	program, module := giteaOf(t)
	dir := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().(*net.TCPAddr)
	listener.Close()
	config := filepath.Join(dir, "app.ini")
	user := "root"
	if os.Getuid() != 0 {
		user = os.Getenv("USER")
	}
	if err := os.WriteFile(config, fmt.Appendf(nil, `RUN_USER = %s
RUN_MODE = prod
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = true
WORK_PATH = %s
[server]
HTTP_ADDR = 127.0.0.1
HTTP_PORT = %d
ROOT_URL = http://%[4]s/
STATIC_ROOT_PATH = %[5]s
OFFLINE_MODE = true
DISABLE_SSH = true
[database]
DB_TYPE = sqlite3
[security]
INSTALL_LOCK = true
[log]
LEVEL = Warn
[repository]
DEFAULT_BRANCH = main
`, user, dir, address.Port, address, module), 0o600); err != nil {
		t.Fatal(err)
	}
	gitea := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, append(args, "--config", config)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		return cmd
	}
	for _, args := range [][]string{
		{"migrate"}, {"admin", "user", "create", "--username", "acme", "--password", "a-long-password",
			"--email", "acme@example.com", "--must-change-password=false"},
	} {
		if out, err := gitea(args...).CombinedOutput(); err != nil {
			t.Fatalf("gitea %v: %v\n%s", args, err, out)
		}
	}
	out, err := gitea("admin", "user", "generate-access-token", "--username", "acme", "--raw",
		"--scopes", "write:repository,write:user").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(out))
	server := giteaServer{"http://" + address.String() + "/api/v1", lines[len(lines)-1]}
	var said bytes.Buffer
	web := gitea("web")
	web.Stdout, web.Stderr = &said, &said
	web.Cancel = func() error { return web.Process.Signal(os.Interrupt) }
	if err := web.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Wait() }()
	t.Cleanup(func() { <-ended }) // the test's context has ended then
	for deadline := time.Now().Add(2 * time.Minute); ; {
		response, err := http.Get(server.api + "/version")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return server
			}
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("gitea has ended: %v\n%s", err, said.String())
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("gitea does not answer: %v", err)
		}
	}
}

// A real Gitea takes what the step sends, and shows it.
func TestGitea(t *testing.T) {
	server := startGitea(t)
	var made struct {
		CloneURL string `json:"clone_url"`
	}
	server.ask(t, http.MethodPost, "/user/repos", map[string]any{"name": "cart", "auto_init": true}, &made)
	var branch struct {
		Commit struct {
			ID string `json:"id"`
		} `json:"commit"`
	}
	server.ask(t, http.MethodGet, "/repos/acme/cart/branches/main", nil, &branch)

	report := func(change func(*Parameters)) Parameters {
		in := parametersOf(t, gitea, server.api)
		in.Repository, in.Commit, in.Hosts[0].Host = made.CloneURL, branch.Commit.ID, "127.0.0.1"
		in.Link = "https://portal.example.com/{namespace}/{component}/{run}"
		in.Credentials = credentialsIn(t, map[string]string{"token": server.token})
		change(&in)
		return in
	}
	mustRun(t, report(func(in *Parameters) { in.Status = pending }))
	mustRun(t, report(func(in *Parameters) { in.Status = pending })) // once more
	mustRun(t, report(func(in *Parameters) {
		in.Status, in.Failures = failure, `[{"displayName":"b","message":"Error (exit code 22): BuildFailed: `+
			strings.Repeat("ä", 300)+`"}]`
	}))
	mustRun(t, report(func(in *Parameters) { in.Component, in.Status = strings.Repeat("n", 244), cancelled }))
	mustRun(t, report(func(in *Parameters) {
		in.Component, in.Status = "catalogue", success
		in.Credentials = credentialsIn(t, map[string]string{"username": "acme", "password": "a-long-password"})
	}))

	type shown struct {
		Status, Context, Description string
		TargetURL                    string `json:"target_url"`
	}
	var combined struct {
		State    string
		Statuses []shown
	}
	server.ask(t, http.MethodGet, "/repos/acme/cart/commits/"+branch.Commit.ID+"/status", nil, &combined)
	got := map[string]shown{}
	for _, one := range combined.Statuses {
		got[one.Context] = one
	}
	const prefix, link = "stepwright/acme/online-store/", "https://portal.example.com/acme/"
	long := unique(prefix+strings.Repeat("n", 244), 255)
	if diff := cmp.Diff(map[string]shown{
		prefix + "cart": {"failure", prefix + "cart", "BuildFailed: " + strings.Repeat("ä", 241) + "…",
			link + "cart/cart-1"},
		prefix + "catalogue": {"success", prefix + "catalogue", "The build has succeeded", link + "catalogue/cart-1"},
		long:                 {"error", long, "The build was stopped", link + strings.Repeat("n", 244) + "/cart-1"},
	}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	fails(t, report(func(in *Parameters) {
		in.Credentials = credentialsIn(t, map[string]string{"token": strings.Repeat("0", 40)})
	}), outcome.AuthenticationFailed, "401 Unauthorized")
	fails(t, report(func(in *Parameters) {
		in.Repository = strings.Replace(made.CloneURL, "cart", "none", 1)
	}), outcome.RepositoryNotFound, "404 Not Found")
}
