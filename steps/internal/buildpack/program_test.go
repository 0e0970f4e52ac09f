package buildpack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// scratch holds what the tests share. It is removed at their end.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "buildpack-test-"); err != nil {
		panic(err)
	}
	if err := os.Chmod(scratch, 0o755); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// user is the builder's, as of most builders of Paketo: not the 1000 of the other steps.
const userID, groupID = 1001, 1000

// builderRoot is the root file system of a builder: the real lifecycle, and the buildpacks of testdata.
var builderRoot = sync.OnceValues(func() (string, error) {
	root := filepath.Join(scratch, "builder")
	for _, dir := range []string{
		"cnb/lifecycle", "cnb/build-config", "opt/stepwright", "etc", "tmp", "proc", "dev", "sys", "layers",
		"workspace", "platform", "mnt/vol", "etc/secrets", "etc/stepwright/bindings", "etc/stepwright/ca",
		"var/stepwright/fetched", "var/stepwright/handover", "mnt/vol/source", "mnt/vol/image", "mnt/vol/cache",
		"mnt/vol/sbom",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return "", err
		}
	}
	programs := filepath.Join(scratch, "programs") + "/"
	err := programtest.Build(context.Background(), programs, "../../..",
		"github.com/buildpacks/lifecycle/cmd/lifecycle", "github.com/buildpacks/lifecycle/cmd/launcher",
		"./steps/buildpacks-build", "./steps/publish-image", "./steps/internal/buildpack/testdata/buildpack",
		"./steps/internal/buildpack/testdata/oldlifecycle")
	if err != nil {
		return "", err
	}
	place := func(program, to string) {
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(root, to)), 0o755)
		}
		if err == nil {
			err = os.Link(programs+program, filepath.Join(root, to))
		}
	}
	write := func(path, content string) {
		if err == nil {
			err = os.WriteFile(filepath.Join(root, path), []byte(content), 0o644)
		}
	}
	for _, phase := range []string{"analyzer", "detector", "restorer", "builder", "exporter"} {
		place("lifecycle", "cnb/lifecycle/"+phase)
	}
	place("launcher", "cnb/lifecycle/launcher")
	place("buildpacks-build", "opt/stepwright/buildpacks-build")
	for _, id := range []string{"dependencies", "certificates", "greeter"} {
		dir := "cnb/buildpacks/test_" + id + "/1.0.0/"
		place("buildpack", dir+"bin/detect")
		place("buildpack", dir+"bin/build")
		write(
			dir+"buildpack.toml",
			fmt.Sprintf(
				"api = \"0.10\"\n[buildpack]\nid = \"test/%s\"\nversion = \"1.0.0\"\n"+
					"sbom-formats = [\"application/vnd.cyclonedx+json\"]\n[[targets]]\nos = \"linux\"\n",
				id,
			),
		)
	}
	write(
		"cnb/order.toml",
		"[[order]]\n[[order.group]]\nid = \"test/dependencies\"\nversion = \"1.0.0\"\noptional = true\n"+
			"[[order.group]]\nid = \"test/certificates\"\nversion = \"1.0.0\"\noptional = true\n"+
			"[[order.group]]\nid = \"test/greeter\"\nversion = \"1.0.0\"\n",
	)
	write("etc/passwd", "root:x:0:0::/root:/bin/false\ncnb:x:1001:1000::/home/cnb:/bin/false\n")
	return root, err
})

// pod is one run of the step in containers of a builder, as a kubelet runs them: by the builder's user, without
// capabilities, with a root file system that cannot be written to.
type pod struct {
	root      string // of the builder
	workspace string
	variables map[string]string
	mounts    map[string]string // further folders, read-only, by their place in the container
	command   string            // the only one that is run, with the whole workspace; empty: fetch, build and seal
	cancel    string            // output at which the running container gets SIGTERM
	writable  []string          // further places to write to while it builds
	user      int               // of the containers; 0 for userID and groupID
	group     int
}

// volumes are the folders of a pod's volumes, by name.
type volumes map[string]string

// podEnding is how a pod ended.
type podEnding struct {
	code    int
	output  string // of all containers
	outcome outcome.Report
	report  []byte // of the build; nil: none was left
	took    time.Duration
}

func (p pod) run(t testing.TB) podEnding {
	t.Helper()
	all := p.volumes(t)
	if p.command != "" {
		return p.container(t, p.command, []mount{
			{"/mnt/vol", p.workspace, false}, {"/tmp", all["tmp"], false}, {"/workspace", all["application"], false},
			{"/layers", all["layers"], false}, {"/platform", all["platform"], false},
		}, all["tmp"])
	}
	before := p.build(t, all)
	if before.code != 0 {
		return before
	}
	e := p.seal(t, all)
	e.output, e.took = before.output+e.output, before.took+e.took
	return e
}

// volumes makes the volumes of a pod.
func (p pod) volumes(t testing.TB) volumes {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("runc starts the builder's container: run the test as root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Fatalf("builds need the Debian package runc: %v", err)
	}
	scratch := t.TempDir()
	for dir := scratch; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	all := volumes{}
	for _, name := range []string{
		"fetched", "handover", "application", "layers", "platform", "fetch-tmp", "build-tmp", "tmp",
	} {
		all[name] = writable(t, filepath.Join(scratch, name))
	}
	for _, place := range p.writable {
		all[place] = writable(t, filepath.Join(scratch, strings.ReplaceAll(place, "/", "-")))
	}
	return all
}

// build runs the init containers.
func (p pod) build(t testing.TB, all volumes) podEnding {
	t.Helper()
	first := p.container(t, "fetch", []mount{
		{"/var/stepwright/fetched", all["fetched"], false}, {"/tmp", all["fetch-tmp"], false},
	}, all["fetch-tmp"])
	if first.code != 0 {
		return first
	}
	mounts := []mount{
		{"/mnt/vol/source", filepath.Join(p.workspace, "source"), true},
		{"/mnt/vol/revision.json", filepath.Join(p.workspace, "revision.json"), true},
		{"/var/stepwright/fetched", all["fetched"], true}, {"/var/stepwright/handover", all["handover"], false},
		{"/tmp", all["build-tmp"], false}, {"/workspace", all["application"], false},
		{"/layers", all["layers"], false}, {"/platform", all["platform"], false},
	}
	for _, place := range p.writable {
		mounts = append(mounts, mount{place, all[place], false})
	}
	e := p.container(t, "build", mounts, all["build-tmp"])
	e.output, e.took = first.output+e.output, first.took+e.took
	return e
}

// seal runs the main container.
func (p pod) seal(t testing.TB, all volumes) podEnding {
	t.Helper()
	mounts := []mount{
		{"/mnt/vol/revision.json", filepath.Join(p.workspace, "revision.json"), true},
		{"/var/stepwright/fetched", all["fetched"], true}, {"/var/stepwright/handover", all["handover"], true},
		{"/tmp", all["tmp"], false}, {"/workspace", all["application"], true}, {"/layers", all["layers"], false},
	}
	for _, name := range []string{"image", "cache", "sbom"} {
		dir := filepath.Join(p.workspace, name)
		if _, err := os.Stat(dir); err != nil {
			writable(t, dir)
		}
		mounts = append(mounts, mount{"/mnt/vol/" + name, dir, false})
	}
	return p.container(t, "seal", mounts, all["tmp"])
}

// writable makes a folder that every user may write to.
func writable(t testing.TB, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mount is a folder or a file in a container.
type mount struct {
	place, source string
	readOnly      bool
}

// container runs a command of the step to its end. tmp is where its results are.
func (p pod) container(t testing.TB, command string, mounts []mount, tmp string) podEnding {
	t.Helper()
	type object = map[string]any
	list := []object{
		{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
			"options": []string{"nosuid", "mode=755", "size=65536k"}},
	}
	for place, dir := range p.mounts {
		mounts = append(mounts, mount{place, dir, true})
	}
	for _, m := range mounts {
		options := []string{"rbind", "rw"}
		if m.readOnly {
			options[1] = "ro"
		}
		list = append(list, object{"destination": m.place, "type": "bind", "source": m.source, "options": options})
	}
	if p.user == 0 {
		p.user, p.group = userID, groupID
	}
	environ := []string{"PATH=/usr/bin:/bin", "HOME=/home/cnb", fmt.Sprintf("CNB_USER_ID=%d", userID),
		fmt.Sprintf("CNB_GROUP_ID=%d", groupID)}
	for name, value := range p.variables {
		environ = append(environ, name+"="+value)
	}
	spec, err := json.Marshal(object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": p.user, "gid": p.group, "additionalGids": []int{1000}},
			"args": []string{"/opt/stepwright/buildpacks-build", command},
			"env":  environ, "cwd": "/", "capabilities": object{}, "noNewPrivileges": true,
		},
		"root":   object{"path": p.root, "readonly": true},
		"mounts": list,
		"linux":  object{"namespaces": []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(filepath.Dir(bundle)) + filepath.Base(bundle)
	state := filepath.Join(scratch, "runc")
	cmd := exec.Command("runc", "--root", state, "run", "--bundle", bundle, name)
	output := &watched{until: p.cancel, reached: func() {
		exec.Command("runc", "--root", state, "kill", name, "TERM").Run()
	}}
	cmd.Stdout, cmd.Stderr = output, output
	started := time.Now()
	err = cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	e := podEnding{code: cmd.ProcessState.ExitCode(), output: unmarked(output.String()), took: time.Since(started)}
	raw, err := os.ReadFile(filepath.Join(tmp, "results/outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &e.outcome)
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, e.output)
	}
	if e.report, err = os.ReadFile(filepath.Join(tmp, "results", buildreport.Name)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return e
}

// unmarked is a log without the marks of what is another's.
func unmarked(log string) string {
	return strings.TrimPrefix(strings.ReplaceAll("\n"+log, "\n| ", "\n"), "\n")
}

// watched is output that is waited for.
type watched struct {
	mu      sync.Mutex
	text    bytes.Buffer
	until   string
	reached func()
	once    sync.Once
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.until != "" && strings.Contains(unmarked(w.text.String()), w.until) {
		w.once.Do(func() { go w.reached() })
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// committedAt is the time of the commit that every source is at.
var committedAt = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// newWorkspace makes a workspace with a source of these files.
func newWorkspace(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	writeSource(t, dir, files)
	w := workspace.Workspace(dir)
	if err := w.WriteRevision(workspace.Revision{
		URL:    "https://git.example.com/acme/greeter.git",
		Commit: strings.Repeat("ab", 20),
		Time:   committedAt,
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeSource(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, "source", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runImage is one with some layers, for a platform.
func runImage(t testing.TB, architecture string) v1.Image {
	t.Helper()
	image := registrytest.RandomImage(t, 3, 1<<20)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	config.Config.Env = []string{"PATH=/usr/bin:/bin"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// newRegistry is a registry on plain HTTP with base/run:1.
func newRegistry(t testing.TB) (*registrytest.Registry, v1.Image) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the lifecycle in a container")
	}
	registry := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	image := runImage(t, runtime.GOARCH)
	registry.Push(t, "base/run:1", image)
	return registry, image
}

// newPod is a build of a workspace, with the run image in the registry.
func newPod(t testing.TB, registry *registrytest.Registry, workspace string, variables ...string) pod {
	t.Helper()
	root, err := builderRoot()
	if err != nil {
		t.Fatal(err)
	}
	p := pod{root: root, workspace: workspace, variables: map[string]string{
		"RUN_IMAGE": registry.Host + "/base/run:1", "IMAGE_NAME": "acme-shop-greeter", "GIT_REVISION": "abababab",
		"REGISTRY":            registry.Host + "/apps",
		"INSECURE_PLAIN_HTTP": "true", "INSECURE_REGISTRIES": `["` + registry.Host + `"]`, "MAX_ATTEMPTS": "1",
		"BUILDER_IMAGE": "builders.example.com/test:1",
	}}
	for i := 0; i < len(variables); i += 2 {
		p.variables[variables[i]] = variables[i+1]
	}
	return p
}

// publish runs publish-image on the workspace of a build, and returns the digest of what it published.
func publish(t testing.TB, registry *registrytest.Registry, workspace string, built podEnding) (string, string) {
	t.Helper()
	results := t.TempDir()
	cmd := exec.Command(filepath.Join(scratch, "programs", "publish-image"), "--workspace="+
		workspace, "--results-dir="+results, "--registry="+registry.Host+"/apps",
		"--image-name=acme-shop-greeter", "--git-revision=abababab", "--insecure-plain-http",
		`--insecure-registries=["`+registry.Host+`"]`, "--max-attempts=1",
		"--base-images="+built.outcome.Results["base-images"])
	// Another user than the builder's reads what it left.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if err := os.Chown(results, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(results), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("publish-image: %v\n%s", err, out)
	}
	digest, err := os.ReadFile(filepath.Join(results, "image-digest"))
	if err != nil {
		t.Fatal(err)
	}
	return string(digest), string(out)
}
