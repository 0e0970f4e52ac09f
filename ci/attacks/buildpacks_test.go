package attacks

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/templates"
)

// hostileBuilder is a builder whose one buildpack does what the application's file attacks says.
var hostileBuilder = sync.OnceValues(func() (v1.Image, error) {
	dir, err := os.MkdirTemp(bin, "builder-")
	if err != nil {
		return nil, err
	}
	if err := programtest.Build(context.Background(), dir, "../..",
		"github.com/buildpacks/lifecycle/cmd/lifecycle", "github.com/buildpacks/lifecycle/cmd/launcher",
		"./ci/attacks/testdata/buildpack"); err != nil {
		return nil, err
	}
	const pack = "cnb/buildpacks/hostile/1.0.0/"
	var layer bytes.Buffer
	out := tar.NewWriter(&layer)
	add := func(name, content string, mode int64) {
		if err == nil {
			err = out.WriteHeader(&tar.Header{
				Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg,
			})
		}
		if err == nil {
			_, err = io.WriteString(out, content)
		}
	}
	program := func(name, of string) {
		raw, failure := os.ReadFile(filepath.Join(dir, of))
		err = errors.Join(err, failure)
		add(name, string(raw), 0o755)
	}
	same := func(name, as string) {
		err = errors.Join(err, out.WriteHeader(&tar.Header{
			Name: name, Linkname: as, Typeflag: tar.TypeLink, Mode: 0o755,
		}))
	}
	program("cnb/lifecycle/launcher", "launcher")
	program("cnb/lifecycle/analyzer", "lifecycle")
	for _, phase := range []string{"detector", "restorer", "builder", "exporter"} {
		same("cnb/lifecycle/"+phase, "cnb/lifecycle/analyzer")
	}
	program(pack+"bin/build", "buildpack")
	same(pack+"bin/detect", pack+"bin/build")
	add(pack+"buildpack.toml", "api = \"0.10\"\n[buildpack]\nid = \"hostile\"\nversion = \"1.0.0\"\n"+
		"sbom-formats = [\"application/vnd.cyclonedx+json\"]\n[[targets]]\nos = \"linux\"\n", 0o644)
	add("cnb/order.toml", "[[order]]\n[[order.group]]\nid = \"hostile\"\nversion = \"1.0.0\"\n", 0o644)
	add("etc/passwd", "root:x:0:0:"+ofTheBuilder+":/root:/bin/false\ncnb:x:1000:1000::/home/cnb:/bin/false\n", 0o644)
	if err = errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	return imageOf(layer.Bytes(), "CNB_USER_ID=1000", "CNB_GROUP_ID=1000")
})

// ofTheBuilder is in a file of the builder that must get nowhere.
const ofTheBuilder = "of-the-builder-4f1c"

func imageOf(content []byte, env ...string) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config.Env = "linux", runtime.GOARCH, append([]string{"PATH=/bin"}, env...)
	return mutate.ConfigFile(image, file)
}

// aRun is how `stepwright run` ended with an application of these attacks.
type aRun struct {
	code   int
	output string
	image  string // repository in the registry, and digest; empty when none was published
}

// plane is a registry with builder and run image, for several runs.
type plane struct {
	registry *registrytest.Registry
	state    string
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	if testing.Short() {
		t.Skip("runs the lifecycle in containers")
	}
	builder, err := hostileBuilder()
	if err != nil {
		t.Fatal(err)
	}
	base, err := imageOf(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &plane{registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous), t.TempDir()}
	p.registry.Push(t, "hostile/builder:1", builder)
	p.registry.Push(t, "hostile/run:1", base)
	return p
}

// run builds an application whose buildpack attacks.
func (p *plane) run(t *testing.T, attacks ...string) aRun {
	t.Helper()
	dir, mark := t.TempDir(), "mark-"+rand.Text()
	workflow := ""
	for _, b := range templates.Builders() {
		if b.Builder.User == 1000 && b.Builder.Group == 1000 && workflow == "" {
			workflow = b.Workflow
		}
	}
	write(t, dir, map[string]string{
		"component.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: Component\n" +
			"metadata: {name: cart, namespace: acme}\nspec:\n  owner: {projectName: shop}\n" +
			"  componentType: {kind: ClusterComponentType, name: deployment/service}\n",
		"run.yaml": "apiVersion: openchoreo.dev/v1alpha1\nkind: WorkflowRun\nmetadata:\n  name: cart-1\n" +
			"  namespace: acme\n  labels: {openchoreo.dev/project: shop, openchoreo.dev/component: cart}\n" +
			"spec:\n  workflow:\n    kind: ClusterWorkflow\n    name: " + workflow + "\n    parameters: " +
			"{repository: {url: \"https://git.example.com/cart.git\"}}\n",
		"source/attacks": strings.Join(append(attacks, mark), "\n"),
		"source/workload.yaml": "apiVersion: openchoreo.dev/v1alpha1\nmetadata: {name: cart}\n" +
			"endpoints:\n  - {name: web, port: 8080, type: HTTP}\n",
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	host := p.registry.Host
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "stepwright"), "run", "--state", p.state,
		"--registry", host+"/builds", "--insecure-plain-http", "--insecure-registry", host,
		"--builder-image", host+"/hostile/builder:1", "--run-image", host+"/hostile/run:1",
		"--source", filepath.Join(dir, "source"), dir)
	// A cache of its own: runc makes the places of mounts in the unpacked builder, where a later run's containers see
	// them as empty folders.
	cache := filepath.Join(bin, "cache", mark)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "XDG_CACHE_HOME="+cache)
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(os.Interrupt) }, 20*time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("it does not end: %s", out)
	}
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	r := aRun{code: cmd.ProcessState.ExitCode(), output: string(out)}
	if m := regexp.MustCompile(regexp.QuoteMeta(host) + `/(\S+):v1-[0-9a-f]{8}(@sha256:[0-9a-f]{64})`).
		FindStringSubmatch(r.output); m != nil {
		r.image = m[1] + m[2]
	}
	if left := lingering(t, mark); len(left) > 0 {
		t.Errorf("processes of the build are left: %v", left)
	}
	return r
}

// lingering finds processes that a buildpack has left, by a word of its attacks.
func lingering(t *testing.T, mark string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, path := range all {
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(mark)) {
			left = append(left, filepath.Dir(path))
		}
	}
	return left
}

// refused are places of a build's container that strangers' code must not be able to write to, each of which a later
// step or the sealing of the image reads.
var refused = []string{
	"/mnt/vol/source/workload.yaml", "/mnt/vol/source/other", "/mnt/vol/revision.json", "/mnt/vol/tree/manifest",
	"/mnt/vol/image/index.json", "/mnt/vol/cache/index.json", "/mnt/vol/sbom/launch/x", "/mnt/vol/workload-cr.yaml",
	"/var/stepwright/fetched/fetched.json", "/var/stepwright/fetched/layout/x", "/var/stepwright/fetched/results/x",
	"/opt/stepwright/buildpacks-build", "/cnb/lifecycle/exporter", "/cnb/run.toml", "/etc/passwd",
}

// A buildpack that tries everything while it builds, and leaves processes behind that go on trying, publishes no more
// than its own product: the image is of the run image and the source that the platform names.
func TestHostileBuildpack(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	var attacks []string
	for _, path := range refused {
		attacks = append(attacks, "write "+path+" {}")
	}
	attacks = append(attacks,
		"list /mnt/vol", "list /etc/secrets", "list /var/run/secrets/kubernetes.io/serviceaccount",
		// Its own results, which only who trusts them would follow.
		"link /tmp/results/image-digest /etc/passwd", "pipe /tmp/results/base-images", "pipe /tmp/results/outcome.json",
		"noise 4194304", `print \e[2J`,
		"linger",
		`write /layers/analyzed.toml [run-image]\nreference = "/layers/run"\n[image]\nreference = "/layers/run"\n`,
		`write /layers/project-metadata.toml [source]\ntype = "git"\n[source.version]\ncommit = "cafe"\n`,
		"link /layers/report.toml /mnt/vol/image/index.json",
		"write /layers/extended/run/sha256:x/index.json {}",
		"write /tmp/results/image-digest sha256:"+strings.Repeat("0", 64),
		"write /var/stepwright/handover/transcript/x x",
		"write /mnt/vol/source/workload.yaml x", "write /mnt/vol/image/index.json {}",
	)
	got := p.run(t, attacks...)
	if got.code != 0 || got.image == "" {
		t.Fatalf("exit code %d\n%s", got.code, got.output)
	}
	for _, path := range refused {
		if !strings.Contains(got.output, "ATTACK write "+path+" {}: ") ||
			strings.Contains(got.output, "ATTACK write "+path+" {}: ok") {
			t.Errorf("it can write %s", path)
		}
	}
	for _, m := range regexp.MustCompile(`LISTED (\S+)`).FindAllStringSubmatch(got.output, -1) {
		if m[1] != "/mnt/vol/source" && m[1] != "/mnt/vol/tree" {
			t.Errorf("it sees %s", m[1])
		}
	}
	if strings.Contains(got.output, ofTheBuilder) {
		t.Error("a file of the builder is told")
	}
	image, err := p.registry.Get(t, got.image).Image()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	base := p.registry.Get(t, "hostile/run:1").Digest.String()
	if of := manifest.Annotations["org.opencontainers.image.base.digest"]; of != base {
		t.Errorf("the image is of %s, want %s", of, base)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if owner := config.Config.Labels["dev.stepwright.owner"]; owner != "acme/shop/cart" {
		t.Errorf("the image's owner is %q", owner)
	}
	// The build wrote another one. This one is of the revision that checkout-source handed over.
	var project struct {
		Source struct {
			Version  struct{ Commit string }
			Metadata struct{ Repository string }
		}
	}
	told := config.Config.Labels["io.buildpacks.project.metadata"]
	if err := json.Unmarshal([]byte(told), &project); err != nil ||
		project.Source.Version.Commit != config.Config.Labels["org.opencontainers.image.revision"] ||
		project.Source.Version.Commit == "" || !strings.HasSuffix(project.Source.Metadata.Repository, "/cart.git") {
		t.Errorf("the image is of %s: %v", told, err)
	}
	if !strings.Contains(got.output, "port: 8080") {
		t.Errorf("the Workload is not of the source:\n%s", got.output)
	}
}

// What a buildpack leaves in the place of what it should leave ends its own build, and nothing else: no file of the
// container gets out, nothing is waited for, and no reason is given that a build cannot have.
func TestHostileProducts(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	for _, test := range []struct {
		name    string
		attacks []string
		builds  bool // may end well, too
	}{
		{"a pipe as group", []string{"linger", "pipe /layers/group.toml"}, false},
		{"a buildpack that leads out", []string{
			"linger", `write /layers/group.toml [[group]]\nid = ".."\nversion = "1.0.0"\napi = "0.10"\n`,
		}, false},
		{"bills that lead out", []string{"linger", "link /layers/sbom/launch/hostile/x.json /etc/passwd"}, false},
		{"layers that lead out", []string{"linger", "link /layers/hostile /etc"}, false},
		{"configuration that leads to the image", []string{"linger", "link /layers/config /mnt/vol/image"}, false},
		{"an ending of another step", []string{
			"linger", `write /var/stepwright/handover/ending.json {"reason":"Unauthorized","message":"call 555"}`,
		}, true},
		{"an ending that leads out", []string{
			"linger", "link /var/stepwright/handover/ending.json /etc/passwd",
			"pipe /var/stepwright/handover/transcript",
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := p.run(t, test.attacks...)
			// The lifecycle itself may stumble over it first.
			if got.code == 0 && !test.builds || got.code != 0 && got.code != outcome.BuildFailed.ExitCode() &&
				got.code != outcome.Failed.ExitCode() {
				t.Errorf("exit code %d\n%s", got.code, got.output)
			}
			if strings.Contains(got.output, ofTheBuilder) || strings.Contains(got.output, "call 555") {
				t.Errorf("it says what it should not:\n%s", got.output)
			}
			if got.code != 0 && got.image != "" {
				t.Errorf("it publishes %s", got.image)
			}
		})
	}
}
