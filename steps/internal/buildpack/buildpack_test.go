package buildpack

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

var greeter = map[string]string{"greeting.txt": "hello\n", "dependencies.txt": "a 1.0\n"}

// with is greeter with more files.
func with(files ...string) map[string]string {
	all := maps.Clone(greeter)
	for i := 0; i < len(files); i += 2 {
		all[files[i]] = files[i+1]
	}
	return all
}

// builds runs a build that ends well.
func builds(t testing.TB, p pod) podEnding {
	t.Helper()
	e := p.run(t)
	if e.code != 0 {
		t.Fatalf("%s: %s\n%s", e.outcome.Reason, e.outcome.Message, e.output)
	}
	return e
}

func TestBuild(t *testing.T) {
	t.Parallel()
	registry, run := newRegistry(t)
	dir := newWorkspace(t, with(".git/HEAD", "ref: refs/heads/main\n"))
	e := builds(t, newPod(t, registry, dir, "LABELS", `[{"name":"team","value":"a b"}]`))

	built := layoutIn(t, dir)
	digest, image := built.root, built.image
	if got := e.outcome.Results["image-digest"]; got != digest.String() {
		t.Errorf("image-digest is %s, the layout has %s", got, digest)
	}
	runDigest, err := run.Digest()
	if err != nil {
		t.Fatal(err)
	}
	base := registry.Host + "/base/run@" + runDigest.String()
	own, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if own.Annotations[baseName] != base || own.Annotations[baseDigest] != runDigest.String() ||
		e.outcome.Results["run-image"] != base {
		t.Errorf("annotations %v, results %v, want %s", own.Annotations, e.outcome.Results, base)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"org.opencontainers.image.revision": strings.Repeat("ab", 20),
		"org.opencontainers.image.source":   "https://git.example.com/acme/greeter.git",
		"org.opencontainers.image.created":  "2026-03-04T05:06:07Z", "team": "a b",
	} {
		if got := config.Config.Labels[name]; got != want {
			t.Errorf("label %s is %q, want %q", name, got, want)
		}
	}
	var lifecycle struct {
		RunImage struct{ Reference string }
	}
	if err := json.Unmarshal([]byte(config.Config.Labels[lifecycleLabel]), &lifecycle); err != nil ||
		lifecycle.RunImage.Reference != base {
		t.Errorf("the lifecycle's label says %v (%v)", lifecycle, err)
	}
	if strings.Contains(strings.Join(slices.Collect(maps.Values(config.Config.Labels)), " "), "/mnt/vol") {
		t.Error("labels tell paths of the build")
	}
	if !config.Created.Equal(committedAt) || config.Config.Entrypoint[0] != "/cnb/process/web" {
		t.Errorf("created %v, entrypoint %v", config.Created, config.Config.Entrypoint)
	}
	// The run image's layers stay where they are.
	theirs, err := run.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range own.Layers {
		_, err := os.Stat(filepath.Join(dir, "image", "blobs", "sha256", l.Digest.Hex))
		if isBase := i < len(theirs.Layers); (err != nil) != isBase || isBase && l.Digest != theirs.Layers[i].Digest {
			t.Errorf("layer %d, %s: %v", i, l.Digest, err)
		}
	}
	for _, path := range []string{"sbom/launch/test_greeter/sbom.cdx.json", "sbom/build/test_greeter/sbom.cdx.json"} {
		if raw, err := os.ReadFile(filepath.Join(dir, path)); err != nil ||
			!strings.Contains(string(raw), "CycloneDX") {
			t.Errorf("%s: %q, %v", path, raw, err)
		}
	}
	if strings.Contains(e.output, "file .git") || !strings.Contains(e.output, "file greeting.txt") {
		t.Errorf("the application's files: %s", e.output)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", ".*")); err != nil || len(left) > 1 {
		t.Errorf("besides .git it leaves %v, %v", left, err)
	}

	// And it is published whole, by another user.
	published, _ := publish(t, registry, dir, e)
	if published != digest.String() {
		t.Errorf("published %s, built %s", published, digest)
	}
	there, err := registry.Get(t, "apps/acme-shop-greeter:v1-abababab").ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	imageDigest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := there.Image(imageDigest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := pulled.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		content.Close()
	}
}

func TestBuildsAreReproducible(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	var digests []string
	for _, variables := range [][]string{
		{"CACHE", "disabled"},
		{"CACHE", "rebuild"},
		{"HOME", "/root", "TZ", "Asia/Colombo"},
	} {
		e := builds(t, newPod(t, registry, newWorkspace(t, greeter), variables...))
		digests = append(digests, e.outcome.Results["image-digest"])
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("digests %v", digests)
	}
}

// Every version of the platform API that the step speaks.
func TestPlatformAPIs(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	for _, api := range platformAPIs {
		t.Run(api, func(t *testing.T) {
			e := builds(t, newPod(t, registry, newWorkspace(t, greeter), "PLATFORM_API", api))
			if !strings.Contains(e.output, "platform-api="+api) {
				t.Error(e.output)
			}
		})
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	const cache = "apps/acme-shop-greeter:cache"
	build := func(variables ...string) (dependencies string, e podEnding, dir string) {
		t.Helper()
		dir = newWorkspace(t, greeter)
		e = builds(t, newPod(t, registry, dir, variables...))
		for line := range strings.Lines(e.output) {
			if text, ok := strings.CutPrefix(line, "dependencies: "); ok {
				dependencies = strings.TrimSpace(text)
			}
		}
		return dependencies, e, dir
	}
	got, first, dir := build()
	if got != "fetched" || registry.Has(t, cache) {
		t.Fatalf("the first build: %s\n%s", got, first.output)
	}
	publish(t, registry, dir, first)
	if !registry.Has(t, cache) {
		t.Fatal("no cache was published")
	}
	digest := registry.Get(t, cache).Digest

	registry.Forget()
	got, second, dir := build()
	if got != "as before" || second.outcome.Results["image-digest"] != first.outcome.Results["image-digest"] {
		t.Errorf(
			"the second build: %s, %v, first %v\n%s", got, second.outcome.Results, first.outcome.Results,
			second.output,
		)
	}
	if _, out := publish(t, registry, dir, second); len(registry.Requests("PUT", "")) > 0 ||
		registry.Get(t, cache).Digest != digest {
		t.Errorf("what did not change was pushed again:\n%s", out)
	}
	if got, _, dir = build("CACHE", "rebuild"); got != "fetched" {
		t.Errorf("cache=rebuild: %s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "cache", "index.json")); err != nil {
		t.Errorf("cache=rebuild: %v", err)
	}
	if got, _, dir = build("REBUILD", "true"); got != "fetched" {
		t.Errorf("rebuild: %s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "cache", "index.json")); err != nil {
		t.Errorf("rebuild: %v", err)
	}
	if got, _, dir = build("CACHE", "disabled", "REBUILD", "true"); got != "fetched" {
		t.Errorf("cache=disabled and rebuild: %s", got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "cache")); err != nil || len(left) > 0 {
		t.Errorf("cache=disabled and rebuild leave a cache: %v, %v", left, err)
	}
	if got, _, dir = build("CACHE", "disabled"); got != "fetched" {
		t.Errorf("cache=disabled: %s", got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "cache")); err != nil || len(left) > 0 {
		t.Errorf("cache=disabled leaves a cache: %v, %v", left, err)
	}
	// Something else under the tag is no reason to fail.
	registry.Push(t, cache, runImage(t, runtime.GOARCH))
	if got, e, _ := build(); got != "fetched" || !strings.Contains(e.output, "Building without the cache") {
		t.Errorf("another image as cache: %s\n%s", got, e.output)
	}
}

// One container does the whole, for those who have no pods.
func TestAllInOneContainer(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	var digests []string
	for _, command := range []string{"", "all"} {
		p := newPod(t, registry, newWorkspace(t, greeter))
		p.command = command
		e := builds(t, p)
		digests = append(digests, e.outcome.Results["image-digest"])
		publish(t, registry, p.workspace, e)
	}
	if digests[0] != digests[1] {
		t.Errorf("the digests are %q", digests)
	}
	p := newPod(t, registry, newWorkspace(t, with("fail.txt", "no\n")))
	p.command = "all"
	if e := p.run(t); e.outcome.Reason != outcome.BuildFailed {
		t.Errorf("%+v", e.outcome)
	}
	p.command = "seal"
	if e := p.run(t); e.outcome.Reason != outcome.InvalidParameters ||
		!strings.Contains(e.outcome.Message, "fetched-dir") {
		t.Errorf("%+v", e.outcome)
	}
}

func TestBuildpacksSeeNoSecretAndHaveNoPower(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	bindings := t.TempDir()
	for name, content := range map[string]string{"type": "maven", "settings.xml": "hunter2-settings"} {
		path := filepath.Join(bindings, "maven", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for dir := bindings; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := newPod(t, registry, newWorkspace(t, greeter),
		"BUILD_ENV",
		`[{"name":"LINES","value":"a=b\nc\n"},{"name":"EMPTY","value":""},{"name":"DOTS.and-dashes","value":"$HOME"},`+
			`{"name":"ECHO","value":"hunter2-settings"}]`)
	p.mounts = map[string]string{"/etc/stepwright/bindings": bindings}
	e := builds(t, p)
	for _, want := range []string{
		"status Uid:\t1001\t1001\t1001\t1001", "status Gid:\t1000\t1000\t1000\t1000",
		"status CapPrm:\t0000000000000000", "status CapEff:\t0000000000000000",
		"status CapBnd:\t0000000000000000", "status CapAmb:\t0000000000000000", "status NoNewPrivs:\t1",
		`variable "LINES=a=b\nc\n"`, `variable "EMPTY="`, `variable "DOTS.and-dashes=$HOME"`,
		`variable "SOURCE_DATE_EPOCH=1772600767"`,
		"binding /platform/bindings/maven/settings.xml", `variable "ECHO=***"`,
	} {
		if !strings.Contains(e.output, want+"\n") {
			t.Errorf("the buildpack does not say %q", want)
		}
	}
	for _, not := range []string{"REGISTRY", "BUILD_ENV", "IMAGE_NAME"} {
		if strings.Contains(e.output, `variable "`+not) {
			t.Errorf("buildpacks see %s", not)
		}
	}
	// The folder is the test's, and empty.
	if strings.Count(e.output, "\nsecret ") != 1 || !strings.Contains(e.output, "\nsecret /etc/secrets\n") {
		t.Errorf("there are secrets:\n%s", e.output)
	}
	if t.Failed() {
		t.Log(e.output)
	}
}

func TestProjectDescriptorDecides(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	const excludes = "[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nexclude = [\"*.md\", \"/docs\"]\n" +
		"[[io.buildpacks.build.env]]\nname = \"A\"\nvalue = \"of the project\"\n[[io.buildpacks.build.env]]\n" +
		"name = \"B\"\nvalue = \"of the project\"\n"
	e := builds(t, newPod(t, registry, newWorkspace(
		t, with("project.toml", excludes, "README.md", "x", "docs/a.txt", "x", "sub/docs/a.txt", "x"),
	),
		"BUILD_ENV", `[{"name":"B","value":"of the run"}]`))
	for text, want := range map[string]bool{
		"file README.md": false, "file docs": false, "file docs/a.txt": false, "file sub/docs/a.txt": true,
		"file greeting.txt":           true,
		`variable "A=of the project"`: true, `variable "B=of the run"`: true, `variable "B=of the project"`: false,
	} {
		if strings.Contains(e.output, "\n"+text+"\n") != want {
			t.Errorf("%q, want %t", text, want)
		}
	}
	// Only the buildpacks that are asked for.
	for text, want := range map[string]bool{
		`id = "test/greeter"`:                     false,
		`uri = "urn:cnb:builder:test/greeter"`:    false,
		`uri = "from=builder:test/greeter@1.0.0"`: false,
		`uri = "from=builder"`:                    true,
	} {
		e = builds(t, newPod(t, registry, newWorkspace(t, with("project.toml", "[[build.buildpacks]]\n"+text+"\n"))))
		if strings.Contains(e.output, "dependencies: ") != want {
			t.Errorf("%s: the buildpack that it does not name ran: %t", text, !want)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	registry.Push(t, "base/other:1", runImage(t, map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]))
	tests := []struct {
		name      string
		files     map[string]string
		variables []string
		reason    outcome.Reason
		message   []string
	}{
		{
			"nothing detects", map[string]string{"main.cob": "x"}, nil, outcome.NoBuildpackDetected,
			[]string{"the builder's buildpacks cannot build .:\n" +
				"  test/dependencies@1.0.0: there is no dependencies.txt\n" +
				"  test/greeter@1.0.0: there is no greeting.txt\n" +
				"  passed, though no whole group of buildpacks did: test/certificates@1.0.0"},
		},
		{
			"a buildpack cannot detect", map[string]string{"crash-test_greeter": ""}, nil, outcome.DetectionFailed,
			[]string{"a buildpack cannot tell whether it builds .:\n  test/greeter@1.0.0 broke:\n    line 13 before",
				"    line 19 before\n    cannot look for greeting.txt\n  test/dependencies@1.0.0: there is no"},
		},
		{
			"a buildpack fails", with("fail.txt", "compile: main.go:3: undefined: greet\n"), nil, outcome.BuildFailed,
			[]string{"buildpack test/greeter 1.0.0 failed:", "a line before\ncompile: main.go:3: undefined: greet"},
		},
		{"the kernel kills it", with("kill.txt", ""), nil, outcome.BuildFailed,
			[]string{"buildpack test/greeter 1.0.0 was killed", "for want of memory"}},
		{"a path that is not there", greeter, []string{"APP_PATH", "service"}, outcome.InvalidParameters,
			[]string{`app-path: "service" is not in the repository`}},
		{"a path that leaves", greeter, []string{"APP_PATH", "../.."}, outcome.PathEscapesRepository,
			[]string{"app-path: "}},
		{"no such run image", greeter, []string{"RUN_IMAGE", registry.Host + "/base/run:2"},
			outcome.BaseImageUnavailable, []string{"run-image: ", "base/run:2", "does not have it"}},
		{"no reference", greeter, []string{"RUN_IMAGE", "Base/Run:"}, outcome.InvalidParameters,
			[]string{"run-image: "}},
		{"no registry", greeter, []string{"RUN_IMAGE", "127.0.0.1:1/base/run:1"}, outcome.RegistryUnavailable,
			[]string{"127.0.0.1:1"}},
		{"plain HTTP that was not asked for", greeter, []string{"INSECURE_REGISTRIES", "[]"},
			outcome.BaseImageUnavailable, []string{"answers in plain HTTP"}},
		{"run image of another architecture", greeter, []string{"RUN_IMAGE", registry.Host + "/base/other:1"},
			outcome.BuilderUnsupported, []string{"run-image: ", "and not for linux/" + runtime.GOARCH}},
		{"another user than the builder's", greeter, []string{"CNB_USER_ID", "1234"}, outcome.BuilderUnsupported,
			[]string{"builders.example.com/test:1: its CNB_USER_ID is 1234, and the step runs as 1001"}},
		{"no user", greeter, []string{"CNB_GROUP_ID", ""}, outcome.BuilderUnsupported,
			[]string{"does not set CNB_GROUP_ID"}},
		{"project.toml", with("project.toml", "[[build.buildpacks]]\nuri = \"docker://x\"\n"), nil,
			outcome.DescriptorInvalid, []string{"project.toml: buildpack docker://x is an image of its own"}},
		{"a buildpack that the builder lacks", with("project.toml", "[[build.buildpacks]]\nid = \"a/b\"\n"), nil,
			outcome.DescriptorInvalid, []string{"project.toml: the builder has no buildpack a/b"}},
		{
			"several faults", greeter,
			[]string{"CACHE", "yes", "IMAGE_NAME", "Cart", "BUILD_ENV", `[{"name":"1A","value":"b"}]`},
			outcome.InvalidParameters,
			[]string{"cache: ", "image-name: ", "build-env[0].name: "},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := newWorkspace(t, test.files)
			image := filepath.Join(dir, "image", "index.json")
			writeSource(t, dir, map[string]string{"../image/index.json": "of the last build"})
			e := newPod(t, registry, dir, test.variables...).run(t)
			if e.outcome.Reason != test.reason || e.code != test.reason.ExitCode() {
				t.Errorf("%s (exit code %d), want %s\n%s", e.outcome.Reason, e.code, test.reason, e.output)
			}
			for _, want := range test.message {
				if !strings.Contains(e.outcome.Message, want) {
					t.Errorf("message %q lacks %q", e.outcome.Message, want)
				}
			}
			if raw, err := os.ReadFile(image); string(raw) != "of the last build" {
				t.Errorf("the workspace's image is changed: %v", err)
			}
		})
	}
}

// The lines in the message of a failed build are the failing buildpack's own, however much others printed before it.
func TestLinesOfTheFailingBuildpack(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	for name, long := range map[string]int{"few lines": 3, "many lines": 40} {
		t.Run(name, func(t *testing.T) {
			var own strings.Builder
			for line := range long {
				fmt.Fprintf(&own, "own line %d\n", line)
			}
			dir := newWorkspace(t, map[string]string{
				"greeting.txt": "hello\n", "dependencies.txt": "a\n", "fail.txt": own.String(), "quiet.txt": "",
			})
			e := newPod(t, registry, dir).run(t)
			lines := strings.Split(e.outcome.Message, "\n")
			want := strings.Split(strings.TrimSpace("a line before\n"+own.String()), "\n")
			if !slices.Equal(lines[1:], want[max(0, len(want)-25):]) {
				t.Errorf("the message is\n%s", e.outcome.Message)
			}
		})
	}
}

// otherBuilder is a copy of the builder with files of its own.
func otherBuilder(t *testing.T, files map[string]string, without ...string) string {
	t.Helper()
	root, err := builderRoot()
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(other, strings.TrimPrefix(path, root))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		return os.Link(path, to)
	})
	for _, path := range slices.Concat(without, slices.Collect(maps.Keys(files))) {
		if err == nil {
			err = os.RemoveAll(filepath.Join(other, path))
		}
	}
	for path, content := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(other, path), []byte(content), 0o755)
		}
	}
	for dir := other; err == nil && dir != os.TempDir(); dir = filepath.Dir(dir) {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return other
}

func TestBuildersThatCannotBeDriven(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	foreign := "api = \"0.10\"\n[buildpack]\nid = \"test/%s\"\nversion = \"1.0.0\"\n[[targets]]\nos = \"windows\"\n" +
		"arch = \"amd64\"\n"
	tests := []struct {
		name    string
		files   map[string]string
		without []string
		message string
	}{
		{"no lifecycle", nil, []string{"cnb/lifecycle"}, "it has no lifecycle: there is no /cnb/lifecycle/analyzer"},
		{"half a lifecycle", nil, []string{"cnb/lifecycle/exporter"}, "there is no /cnb/lifecycle/exporter"},
		{"no program", map[string]string{"cnb/lifecycle/analyzer": "x"}, nil, "its lifecycle does not run"},
		{"no buildpacks", nil, []string{"cnb/buildpacks"}, "there are no buildpacks in /cnb/buildpacks"},
		{
			"buildpacks for another system", map[string]string{
				"cnb/buildpacks/test_greeter/1.0.0/buildpack.toml": strings.ReplaceAll(foreign, "%s", "greeter"),
				"cnb/buildpacks/test_dependencies/1.0.0/buildpack.toml": strings.ReplaceAll(
					foreign, "%s", "dependencies",
				),
				"cnb/buildpacks/test_certificates/1.0.0/buildpack.toml": strings.ReplaceAll(
					foreign, "%s", "certificates",
				),
			}, nil, "its buildpacks are for windows/amd64, and none for linux/" + runtime.GOARCH,
		},
		{
			"a buildpack API that the lifecycle lacks", map[string]string{
				"cnb/buildpacks/test_greeter/1.0.0/buildpack.toml": "api = \"0.99\"\n[buildpack]\n" +
					"id = \"test/greeter\"\nversion = \"1.0.0\"\n",
			}, nil, "buildpack API version '0.99' is incompatible",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPod(t, registry, newWorkspace(t, greeter))
			p.root = otherBuilder(t, test.files, test.without...)
			e := p.run(t)
			if e.outcome.Reason != outcome.BuilderUnsupported || !strings.Contains(e.outcome.Message, test.message) {
				t.Errorf("%s: %s\nwant %q\n%s", e.outcome.Reason, e.outcome.Message, test.message, e.output)
			}
		})
	}
}

// A lifecycle of the past, which does not know the platform APIs that the step speaks. It is a stand-in: its answer
// of it is its exit code.
func TestALifecycleThatIsTooOld(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	p := newPod(t, registry, newWorkspace(t, greeter))
	p.root = otherBuilder(t, map[string]string{
		"cnb/lifecycle/lifecycle.toml": "[apis.platform]\nsupported = [\"0.3\", \"0.11\"]\n[lifecycle]\n" +
			"version = \"0.16.5\"\n",
	}, "cnb/lifecycle/analyzer")
	if err := os.Link(
		filepath.Join(scratch, "programs", "oldlifecycle"), filepath.Join(p.root, "cnb/lifecycle/analyzer"),
	); err != nil {
		t.Fatal(err)
	}
	e := p.run(t)
	const want = "its lifecycle 0.16.5 has 0.3, 0.11 and has none of the platform APIs 0.12, 0.13, 0.14, 0.15"
	if e.outcome.Reason != outcome.BuilderUnsupported || !strings.Contains(e.outcome.Message, want) {
		t.Errorf("%s: %s", e.outcome.Reason, e.outcome.Message)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	p := newPod(t, registry, newWorkspace(t, with("wait.txt", "")))
	p.cancel = "waiting\n"
	e := p.run(t)
	if e.outcome.Reason != outcome.Cancelled || e.code != outcome.Cancelled.ExitCode() {
		t.Errorf("%s (%d)\n%s", e.outcome.Reason, e.code, e.output)
	}
	if e.took > 20*time.Second {
		t.Errorf("it took %s", e.took)
	}
}

// Run image, mirror and cache are pulled by TLS, with the pull secret's credentials and the CA bundle.
func TestPrivateRegistry(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the lifecycle in a container")
	}
	t.Parallel()
	registry := registrytest.New(t)
	run := runImage(t, runtime.GOARCH)
	registry.Push(t, "mirror/team/run:1", run)
	secrets := t.TempDir()
	for name, from := range map[string]string{".dockerconfigjson": registry.DockerConfig, "ca.crt": registry.CAFile} {
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(secrets, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for dir := secrets; dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p := newPod(t, registry, newWorkspace(t, greeter), "RUN_IMAGE", "images.example.com/team/run:1",
		"INSECURE_PLAIN_HTTP",
		"false", "INSECURE_REGISTRIES", "[]",
		"REGISTRY_MIRRORS", `[{"registry":"images.example.com","mirror":"`+registry.Host+`/mirror"}]`,
		"REGISTRY_PULL_SECRET", "/etc/stepwright/ca/.dockerconfigjson", "CA_BUNDLE", "/etc/stepwright/ca/ca.crt")
	p.mounts = map[string]string{"/etc/stepwright/ca": secrets}
	e := builds(t, p)
	digest, err := run.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if want := "images.example.com/team/run@" + digest.String(); e.outcome.Results["run-image"] != want {
		t.Errorf("run-image is %s, want %s", e.outcome.Results["run-image"], want)
	}
	for _, want := range []string{
		"binding /platform/bindings/stepwright-ca/ca.crt", `variable "SSL_CERT_FILE=/platform/ca-bundle.crt"`,
	} {
		if !strings.Contains(e.output, want) {
			t.Errorf("buildpacks do not see %s", want)
		}
	}
	p.variables["RUN_IMAGE"], p.variables["REGISTRY_PULL_SECRET"] = registry.Host+"/mirror/team/run:1", "/nonexistent"
	if e := p.run(t); e.outcome.Reason != outcome.BaseImageUnavailable {
		t.Errorf("without credentials: %s\n%s", e.outcome.Reason, e.output)
	}
}
