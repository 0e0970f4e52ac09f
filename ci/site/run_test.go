package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/sampletest"
)

// runHere is the claim of blocks that TestBlocks runs; what is said after it is how.
var runHere = regexp.MustCompile(`^These lines are run by go test \./ci/site, TestBlocks(?:, (` +
	strings.Join([]string{inFolder, untilServing, whileBuilding, byChance}, "|") + `))?\.$`)

// How blocks are run that are not run as others are.
const (
	inFolder      = "in this folder"         // of the page, to which the text refers
	untilServing  = "until they serve"       // and then somebody interrupts them
	whileBuilding = "while a build goes on"  // of the component cart
	byChance      = "some of them by chance" // all of them with -exhaustive
)

// how tells how a block is to be run, and whether it is to be run at all.
func (b block) how() (how string, run bool) {
	m := runHere.FindStringSubmatch(b.claim)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// TestBlocks runs the guide's lines for a machine of one's own, in its order, as they stand: in a clone of what is
// here, with an application in the folder app, and a Git server that has it.
func TestBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds all programs, and images")
	}
	var own, chosen []block
	for _, b := range blocksOfGuide(t) {
		if how, run := b.how(); how == byChance {
			chosen = append(chosen, b)
		} else if run {
			own = append(own, b)
		}
	}
	r := reader{dir: t.TempDir(), done: map[string]bool{}}
	r.environ = environment(t, r.dir)
	r.here = r.dir
	for _, b := range append(own, sampletest.Of(t, 1, chosen)...) {
		r.follow(t, b)
		if r.here == r.dir {
			r.here = filepath.Join(r.dir, "stepwright") // where the first lines have gone
			r.application(t)
		}
	}
	if r.collected != nil && r.collected.Load() == 0 {
		t.Error("the run sent the collector no spans")
	}
	// Files with what tests want, which lines of the guide have written anew, were up to date.
	changed := exec.CommandContext(t.Context(), "git", "diff", "--exit-code")
	changed.Dir = r.here
	if out, err := changed.CombinedOutput(); err != nil {
		t.Errorf("the lines have changed the clone: %v\n%s", err, out)
	}
}

// reader is somebody who follows the guide.
type reader struct {
	dir, here string // where the reader begins, and is now
	environ   []string
	done      map[string]bool // lines
	git       string          // the URL of the server
	asked     chan struct{}   // told of each request to the repository that never answers
	collected *atomic.Int64   // the requests of the collector; nil where another program has its port
}

// follow runs the lines of a block that are not yet done.
func (r *reader) follow(t *testing.T, b block) {
	t.Helper()
	how, _ := b.how()
	dir := r.here
	if how == inFolder {
		dir = filepath.Join(r.here, filepath.Dir(b.file))
	}
	var lines []string
	for _, line := range b.commands() {
		if !r.done[line] {
			r.done[line] = true
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return
	}
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-exc", strings.Join(lines, "\n"))
	cmd.Dir, cmd.Env = dir, r.environ
	cmd.WaitDelay = 10 * time.Second // for what a shell that was ended has left
	var err error
	var out []byte
	switch how {
	case untilServing:
		out, err = untilItServes(cmd)
	case whileBuilding:
		ended := r.beginBuild(t)
		out, err = cmd.CombinedOutput()
		ended(err == nil)
	default:
		out, err = cmd.CombinedOutput()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", b, err, out)
	}
	t.Logf("%s took %s", b, time.Since(started).Round(time.Second/10))
}

// untilItServes runs a command that serves until it is interrupted, and interrupts it when it says that it serves, as a
// terminal does: with all that it has started.
func untilItServes(cmd *exec.Cmd) ([]byte, error) {
	said := &watched{want: "Serving until interrupted", found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return said.text.Bytes(), errors.Join(errors.New("it does not serve"), err)
	case <-said.found:
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		return nil, err
	}
	<-ended // make says that it was interrupted
	return said.text.Bytes(), nil
}

// watched keeps what a command says, and tells when that has a text.
type watched struct {
	text  bytes.Buffer
	want  string
	found chan struct{} // is closed then
	told  bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.text.Write(p)
	if !w.told && strings.Contains(w.text.String(), w.want) {
		w.told = true
		close(w.found)
	}
	return len(p), nil
}

// beginBuild starts a build of the application that waits for its Git server. The returned function wants that it ends
// without success; where it was not asked to end, it is ended first.
func (r *reader) beginBuild(t *testing.T) (ended func(asked bool)) {
	t.Helper()
	cmd := exec.CommandContext(
		t.Context(), "bin/stepwright", "run", "app/component.yaml", "--set", "repository.url="+r.git+"/never.git",
	)
	cmd.Dir, cmd.Env = r.here, r.environ
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.asked:
	case <-time.After(time.Minute):
		t.Errorf("the build does not ask the Git server: %s", &said)
	}
	return func(asked bool) {
		if !asked {
			cmd.Process.Signal(os.Interrupt)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("the build went on: %s", &said)
		}
	}
}

// application makes the application that the guide calls app/ and cart, a repository with it, and a collector where the
// guide has one. REPOSITORY is the repository's URL.
func (r *reader) application(t *testing.T) {
	t.Helper()
	repositories := filepath.Join(r.dir, "git")
	handler := http.NewServeMux()
	r.asked = make(chan struct{}, 10)
	handler.Handle("/", &devgit.Handler{Root: repositories})
	handler.HandleFunc("/never.git/", func(_ http.ResponseWriter, request *http.Request) {
		r.asked <- struct{}{}
		<-request.Context().Done()
	})
	var err error
	if r.git, err = devgit.Start(t.Context(), "127.0.0.1:0", handler); err != nil {
		t.Fatal(err)
	}
	app, repository := filepath.Join(r.here, "app"), filepath.Join(repositories, "app.git")
	workflow := fmt.Sprintf(`
  workflow:
    kind: ClusterWorkflow
    name: dockerfile-builder
    parameters:
      repository: {url: %q, revision: {branch: main}, appPath: .}
      docker: {context: ., filePath: ./Dockerfile}
`, r.git+"/app.git")
	for name, content := range map[string]string{
		"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
		"component.yaml": `apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: cart, namespace: acme}
spec:
  owner: {projectName: online-store}
  componentType: {kind: ClusterComponentType, name: deployment/service}` + workflow,
		"workflowrun.yaml": `apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: cart-build-01
  namespace: acme
  labels: {openchoreo.dev/project: online-store, openchoreo.dev/component: cart}
spec:` + workflow,
	} {
		if err := writeFile(filepath.Join(app, name), []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := devgit.Import(t.Context(), app, repository, "first", time.Unix(1767225600, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := devgit.Git(t.Context(), repository, nil, nil, "branch", "next", "main"); err != nil {
		t.Fatal(err)
	}
	r.environ = append(
		r.environ, "PATH="+filepath.Join(r.here, "bin")+":"+os.Getenv("PATH"), "REPOSITORY="+r.git+"/app.git",
	)
	collector, err := net.Listen("tcp", "127.0.0.1:4318")
	if err != nil {
		t.Logf("no collector is where the guide has one: %v", err)
		return
	}
	r.collected = new(atomic.Int64)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { r.collected.Add(1) })}
	t.Cleanup(func() { server.Close() })
	go server.Serve(collector)
}
