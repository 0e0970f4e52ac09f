package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/sampletest"
	installed "github.com/stepwright/stepwright/templates"
)

// builders is a state whose registry has the layers of the run images, for all tests that run buildpacks, one after the
// other.
var builders = sync.OnceValues(func() (string, error) { return os.MkdirTemp(bin, "state-") })

func buildersState(t *testing.T) string {
	t.Helper()
	state, err := builders()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

var anyImage = regexp.MustCompile(`127\.0\.0\.1:\d+/[a-z_-]+:v1-[0-9a-f]{8}@(sha256:[0-9a-f]{64})`)

// The examples without a Dockerfile, from Git to a service that answers. A second run of the commit, with the cache,
// makes the same image.
func TestBuildpackExamples(t *testing.T) {
	type test struct{ page, builder string }
	for _, test := range sampletest.Of(t, 2, []test{
		{"examples/reading-list-service/README.md", "gcp"},
		{"examples/link-shortener/README.md", "paketo"},
		{"examples/unit-converter/README.md", "gcp"},
		{"examples/factor-service/README.md", "paketo"},
		{"examples/patient-management-service/README.md", "ballerina"},
	}) {
		folder := filepath.Join("../..", filepath.Dir(test.page))
		t.Run(filepath.Base(folder), func(t *testing.T) {
			args := withBuilder(t, test.builder, "run", "--state", buildersState(t), "--source", folder, folder)
			first, stop := keepServing(t, args...)
			image := anyImage.FindStringSubmatch(first.stdout)
			if image == nil {
				t.Fatalf("no image in\n%s\n%s", first.stdout, first.stderr)
			}
			const claim = "These lines are run by go test ./internal/cli, TestBuildpackExamples."
			answers(t, image[0], filepath.Join("../..", test.page), claim, "BAL_CONFIG_VAR_PORT=$PORT")
			verifiable(t, image[0], "https://stepwright.dev/steps/buildpacks-build", true)
			stop()
			again, _ := stepwright(t, args...)
			if other := anyImage.FindStringSubmatch(again.stdout); again.code != 0 || other == nil ||
				other[1] != image[1] {
				t.Errorf("%v, want %s\n%s", other, image[1], again.stderr)
			}
		})
	}
}

// keepServing runs the command until it serves its results, and leaves it running.
func keepServing(t *testing.T, args ...string) (got result, stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program(t), append(args, "--keep-serving")...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	// A file can be read while the program goes on.
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	said := func() string {
		text, err := os.ReadFile(stderr.Name())
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(os.Interrupt)
		io.Copy(io.Discard, stdout)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, said())
		}
	})
	t.Cleanup(stop)
	var text strings.Builder
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Serving until interrupted") {
		text.WriteString(lines.Text() + "\n")
	}
	return result{stdout: text.String(), stderr: said()}, stop
}

// answers runs an image's service and the lines of the example's README that ask it, as they stand but for the port.
// The service prints what the README says.
func answers(t *testing.T, reference, page, claim string, variables ...string) {
	t.Helper()
	address, stop := startService(t, reference, variables...)
	defer stop()
	port := regexp.MustCompile(`\blocalhost:\d+`)
	for _, block := range guidetest.Blocks(t, page, claim) {
		for _, call := range guidetest.Transcript(block) {
			line := port.ReplaceAllLiteralString(call.Command, address)
			line = strings.Replace(line, "curl ", "curl --silent --show-error --retry 5 --retry-connrefused ", 1)
			out, err := exec.CommandContext(t.Context(), "sh", "-ec", line).CombinedOutput()
			got := strings.ReplaceAll(string(out), "\r", "")
			for want := range strings.Lines(call.Prints) {
				if err != nil || !slices.Contains(strings.Split(got, "\n"), strings.TrimRight(want, "\n")) {
					t.Errorf("%s: %s: %v\n%s\nwant %s", page, line, err, got, want)
				}
			}
		}
	}
}

// startService pulls an image, starts it in a root file system of its own, as its user and without any right, and
// returns where it listens, until stop. Its variables may say $PORT, which is a variable of its own, too.
func startService(t *testing.T, reference string, variables ...string) (address string, stop func()) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	user, group, ok := strings.Cut(file.Config.User, ":")
	if !ok {
		group = user
	}
	uid, uidErr := strconv.ParseUint(user, 10, 32)
	gid, gidErr := strconv.ParseUint(group, 10, 32)
	if uidErr != nil || gidErr != nil || uid == 0 {
		t.Fatalf("the image's user is %q", file.Config.User)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	service := container.Container{
		Root: rootOf(t, image), Args: file.Config.Entrypoint, User: uint32(uid), Group: uint32(gid),
		ReadOnlyRoot: true, NoNewRights: true,
		Env: map[string]string{"PORT": strconv.Itoa(port)},
	}
	for _, variable := range append(file.Config.Env, variables...) {
		name, value, _ := strings.Cut(variable, "=")
		service.Env[name] = strings.ReplaceAll(value, "$PORT", strconv.Itoa(port))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd, leave, err := new(container.Runtime).Command(ctx, service, nil)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Cancel = &log, &log, func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	stop = sync.OnceFunc(func() {
		defer cancel()
		defer leave()
		cmd.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Errorf("told to end, the service did not: %s", &log)
		}
	})
	t.Cleanup(stop)
	for {
		connection, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			connection.Close()
			return l.Addr().String(), stop
		}
		select {
		case <-ended:
			t.Fatalf("the service ended: %s", &log)
		case <-ctx.Done():
			t.Fatalf("%v; the service said: %s", err, &log)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bases are first layers, most of an image that others share, unpacked once: by tar, since the race detector takes
// minutes.
var bases = map[v1.Hash]string{}

func rootOf(t *testing.T, image v1.Image) string {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	first, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	if bases[first] == "" {
		dir, err := os.MkdirTemp(bin, "base-")
		if err != nil {
			t.Fatal(err)
		}
		untar(t, dir, layers[0])
		bases[first] = dir
	}
	root := filepath.Join(bin, filepath.Base(t.TempDir())+filepath.Base(bases[first])+
		t.Name()[strings.LastIndex(t.Name(), "/")+1:])
	t.Cleanup(func() { os.RemoveAll(root) })
	if out, err := exec.Command("cp", "--archive", "--link", bases[first], root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	untar(t, root, layers[1:]...)
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func untar(t *testing.T, dir string, layers ...v1.Layer) {
	t.Helper()
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		tar := exec.Command(
			"tar", "--extract", "--gzip", "--preserve-permissions", "--numeric-owner", "--directory", dir,
		)
		tar.Stdin = content
		out, err := tar.CombinedOutput()
		content.Close()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// builder is a builder of buildpacks by its name.
func builder(t *testing.T, name string) installed.Builder {
	t.Helper()
	for _, b := range installed.Builders() {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("there is no builder %s", name)
	return installed.Builder{}
}

// application writes a project without a Dockerfile and returns its folder.
func application(
	t *testing.T, builder installed.Builder, files map[string]string, parameters string,
) string {
	t.Helper()
	dir := project(t, "", parameters)
	run, err := os.ReadFile(filepath.Join(dir, "run.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"run.yaml": strings.Replace(string(run), installed.DockerfileBuilder, builder.Workflow, 1)}
	for path, text := range files {
		all["source/"+path] = text
	}
	for path, text := range all {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const cartRepository = `{repository: {url: "https://git.example.com/cart.git"}}`

// A build that fails says why, by the reason and the exit code of the step.
func TestBuildpacksThatFail(t *testing.T) {
	tests := []struct {
		name, builder string
		files         map[string]string
		code          int
		reason        string
		want          []string
	}{
		{
			name: "nothing that a buildpack knows", builder: "gcp", code: 25, reason: "NoBuildpackDetected",
			files: map[string]string{"README": "Nothing to build.\n"},
			want:  []string{"stepwright-test/golang", "there is no package.json"},
		},
		{
			name: "a program that does not compile", builder: "paketo", code: 22, reason: "BuildFailed",
			files: map[string]string{
				"go.mod":  "module example.com/cart\n\ngo 1.26\n",
				"main.go": "package main\n\nfunc main() { cart() }\n",
			},
			want: []string{"stepwright-test/golang", "undefined: cart"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := builder(t, test.builder)
			dir := application(t, b, test.files, cartRepository)
			got, temp := stepwright(t, withBuilder(
				t, b.Name, "run", "--state", buildersState(t), "--source", filepath.Join(dir, "source"), dir,
			)...)
			begin := test.reason + ": " + b.Template + ": "
			failure := got.stderr[max(0, strings.LastIndex(got.stderr, begin)):]
			for _, want := range append([]string{begin}, test.want...) {
				if !strings.Contains(failure, want) {
					t.Errorf("%q is missing in\n%s", want, failure)
				}
			}
			if left, _ := os.ReadDir(temp); got.code != test.code || len(left) > 0 {
				t.Errorf("exit code %d, want %d; left behind: %v", got.code, test.code, left)
			}
		})
	}
}

// A builder whose lifecycle is too old, and one that is nowhere.
func TestBuilderImage(t *testing.T) {
	host := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous).Host
	push(t, host+"/old:1", oldBuilder(t))
	dir := application(t, builder(t, "gcp"), map[string]string{"package.json": "{}"}, cartRepository)
	for _, test := range []struct {
		image string
		code  int
		want  string
	}{
		{"old:1", 26, "BuilderUnsupported: " + builder(t, "gcp").Template + ": "},
		{"none:1", 23, "BaseImageUnavailable: " + builder(t, "gcp").Template + ": image " + host + "/none:1: "},
	} {
		image := host + "/" + test.image
		got, _ := stepwright(
			t, "run", "--state", t.TempDir(), "--builder-image", image, "--run-image", image,
			"--insecure-registry", host, "--source", filepath.Join(dir, "source"), dir,
		)
		if got.code != test.code || !strings.Contains(got.stderr, test.want) {
			t.Errorf("%s: exit code %d, want %d and %q in\n%s", image, got.code, test.code, test.want, got.stderr)
		}
	}
}

// oldBuilder is an image whose lifecycle does not have the platform API that layouts need.
func oldBuilder(t *testing.T) v1.Image {
	t.Helper()
	root := t.TempDir()
	lifecycle := filepath.Join(root, "cnb", "lifecycle")
	const old = "oldlifecycle"
	if err := programtest.Build(
		t.Context(), lifecycle, "../..", "./steps/internal/buildpack/testdata/"+old,
	); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []string{"analyzer", "detector", "restorer", "builder", "exporter", "launcher"} {
		if err := os.Link(filepath.Join(lifecycle, old), filepath.Join(lifecycle, phase)); err != nil {
			t.Fatal(err)
		}
	}
	content, err := exec.Command("tar", "--create", "--directory", root, "cnb").Output()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config.Env = []string{"CNB_USER_ID=1000", "CNB_GROUP_ID=1000"}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

func push(t *testing.T, reference string, image v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
}

// What runs the developer's code has the builder's user, no capability, no way to one, no credential and no token, seen
// from inside.
func TestBuildFromInside(t *testing.T) {
	const canary = "push-me-not-7c1f"
	docker := filepath.Join(t.TempDir(), "config.json")
	raw, err := json.Marshal(map[string]any{
		"auths": map[string]any{"registry.example.com": map[string]string{"username": "publisher", "password": canary}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(docker, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	look := `
const fs = require("fs"), path = require("path");
const say = (k, v) => console.log("INSIDE " + k + "=" + v);
for (const line of fs.readFileSync("/proc/self/status", "utf8").split("\n"))
  if (/^(Uid|Gid|Groups|Cap|NoNewPrivs)/.test(line))
    say("status", line.replace(/\s+/g, " ").trim());
say("env", Object.keys(process.env).filter(n => !n.startsWith("npm_")).sort().join(","));
say("step", fs.readFileSync("/proc/1/environ", "utf8").split("\0").map(v => v.split("=")[0]).sort().join(","));
say("processes", fs.readdirSync("/proc").filter(n => /^\d+$/.test(n)).length < 20);
try { fs.writeFileSync("/written", ""); say("root", "writable"); } catch (e) { say("root", e.code); }
let files = 0, found = [];
const walk = dir => { for (const e of fs.readdirSync(dir, {withFileTypes: true})) { const p = path.join(dir, e.name);
  try { if (e.isDirectory()) walk(p);
    else if (e.isFile() && p !== "/workspace/look.js" && !p.startsWith("/workspace/node_modules")) { files++;
    if (fs.readFileSync(p).includes(["push", "me", "not"].join("-"))) found.push(p); } } catch (e) {} } };
for (const dir of ["/etc", "/mnt", "/opt", "/run", "/var/run", "/tmp", "/workspace", "/platform", "/layers",
  "/home", "/root"]) { try { walk(dir); } catch (e) {} }
for (const pid of fs.readdirSync("/proc")) try {
  if (fs.readFileSync("/proc/" + pid + "/environ").includes(["push", "me", "not"].join("-")))
    found.push(pid); } catch (e) {}
for (const name of fs.readdirSync("/platform/bindings/npm").sort())
  say("binding " + name, fs.readFileSync("/platform/bindings/npm/" + name, "utf8"));
say("files", files > 10); say("found", found.join(","));
for (const dir of ["/etc/secrets", "/var/run/secrets/kubernetes.io/serviceaccount"]) {
  let list = []; try { list = fs.readdirSync(dir); } catch (e) {} say(dir, list.join(",")); }
`
	// Only its owner may read it, as people keep such files, and the builder's user is another.
	bindings := filepath.Join(t.TempDir(), "bindings")
	for name, text := range map[string]string{
		"type": "npmrc", ".npmrc": "//npm.example.com/:_authToken=not-to-be-shown",
	} {
		path := filepath.Join(bindings, "npm", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	paketo := builder(t, "paketo")
	dir := application(t, paketo, map[string]string{
		"package.json": `{"name": "cart", "version": "1.0.0", "main": "look.js", "scripts": {"look": "node look.js"}}`,
		"look.js":      look,
	}, `{repository: {url: "https://git.example.com/cart.git"}, buildEnv: [{name: BP_NODE_RUN_SCRIPTS, value: look}]}`)
	got, _ := stepwright(t, withBuilder(
		t, paketo.Name, "run", "--state", buildersState(t), "--docker-config", docker,
		"--bindings-dir", bindings, "--source", filepath.Join(dir, "source"), dir,
	)...)
	if got.code != 0 {
		t.Fatal(got.stderr)
	}
	inside := regexp.MustCompile(`(?m)INSIDE (.*)$`).FindAllStringSubmatch(got.stderr, -1)
	var lines []string
	for _, line := range inside {
		lines = append(lines, strings.TrimSpace(line[1]))
	}
	text := strings.Join(lines, "\n") + "\n"
	for _, want := range []string{
		fmt.Sprintf("status=Uid: %[1]d %[1]d %[1]d %[1]d\n", paketo.Builder.User),
		fmt.Sprintf("status=Gid: %[1]d %[1]d %[1]d %[1]d\n", paketo.Builder.Group), "status=Groups:\n",
		"status=NoNewPrivs: 1\n",
		"status=CapInh: 0000000000000000\n", "status=CapPrm: 0000000000000000\n", "status=CapEff: 0000000000000000\n",
		"status=CapBnd: 0000000000000000\n", "status=CapAmb: 0000000000000000\n",
		"binding type=npmrc\n", "binding .npmrc=***\n",
		"step=,APP_PATH,", "processes=true\n", "root=EROFS\n", "files=true\n", "found=\n", "/etc/secrets=\n",
		"/var/run/secrets/kubernetes.io/serviceaccount=\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if secret := regexp.MustCompile(`(?mi)^(env|step)=.*(secret|token|password|registry|oauth).*$`).FindString(
		text,
	); secret != "" {
		t.Errorf("the build sees %s", secret)
	}
}
