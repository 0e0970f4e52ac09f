package testbuilders

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/sampletest"
	"github.com/stepwright/stepwright/templates"
)

func configOf(t *testing.T, img v1.Image) v1.Config {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return file.Config
}

func TestStandIn(t *testing.T) {
	image := func(name, tag string, user int) templates.Image {
		return templates.Image{Name: name, Tag: tag, User: user, Group: user + 1}
	}
	tests := []struct {
		name    string
		builder templates.Builder
		want    Family
		ok      bool
	}{
		{
			"two repositories",
			templates.Builder{Name: "a", Languages: []string{"Rust", "Python", "Go"}, Writable: []string{"/data"},
				Builder: image("quay.io/a/builder", "1", 1000), Run: image("quay.io/a/run", "2", 2000)},
			Family{Name: "a", Builder: "quay.io/a/builder:latest", Run: "quay.io/a/run:latest",
				Buildpacks: []string{"stepwright-test/golang", "stepwright-test/python"},
				BuildUser:  User{1000, 1001}, RunUser: User{2000, 2001}, Writable: []string{"/data"}},
			true,
		},
		{
			"one repository",
			templates.Builder{Name: "a", Languages: []string{"Ballerina"},
				Builder: image("quay.io/a", "1", 1000), Run: image("quay.io/a", "1-run", 1000)},
			Family{Name: "a", Builder: "quay.io/a:1", Run: "quay.io/a:1-run",
				Buildpacks: []string{ballerinaBuildpack}, BuildUser: User{1000, 1001}, RunUser: User{1000, 1001}},
			true,
		},
		{"a language that nothing here builds", templates.Builder{Languages: []string{"COBOL"}}, Family{}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := StandIn(test.builder)
			if ok != test.ok {
				t.Fatalf("there is one: %t, want %t", ok, test.ok)
			}
			if diff := cmp.Diff(test.want, got); ok && diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestBuilders(t *testing.T) {
	store := made(t)
	for _, f := range Families() {
		t.Run(f.Name, func(t *testing.T) {
			img, err := store.Image(f.Builder)
			if err != nil {
				t.Fatal(err)
			}
			config := configOf(t, img)
			type named struct {
				ID      string `json:"id"`
				Version string `json:"version"`
			}
			var metadata struct {
				Buildpacks []named `json:"buildpacks"`
				Lifecycle  struct {
					Version string `json:"version"`
					APIs    struct {
						Platform struct {
							Supported []string `json:"supported"`
						} `json:"platform"`
					} `json:"apis"`
				} `json:"lifecycle"`
				Images []struct {
					Image string `json:"image"`
				} `json:"images"`
			}
			if err := json.Unmarshal([]byte(config.Labels["io.buildpacks.builder.metadata"]), &metadata); err != nil {
				t.Fatal(err)
			}
			if metadata.Lifecycle.Version != lifecycleVersion ||
				!slices.Contains(metadata.Lifecycle.APIs.Platform.Supported, "0.12") {
				t.Errorf("lifecycle is %+v", metadata.Lifecycle)
			}
			var want []named
			for _, id := range f.Buildpacks {
				version := "1.0.0"
				if id == ballerinaBuildpack {
					version = templates.Version()
				}
				want = append(want, named{id, version})
			}
			if diff := cmp.Diff(want, metadata.Buildpacks); diff != "" {
				t.Errorf("buildpacks (-want +got):\n%s", diff)
			}
			if len(metadata.Images) != 1 || metadata.Images[0].Image != f.Run {
				t.Errorf("run images are %+v, want %s", metadata.Images, f.Run)
			}
			var order []struct{ Group []named }
			if err := json.Unmarshal([]byte(config.Labels["io.buildpacks.buildpack.order"]), &order); err != nil {
				t.Fatal(err)
			}
			if len(order) != len(f.Buildpacks) {
				t.Errorf("order has %d groups, want %d", len(order), len(f.Buildpacks))
			}
			checkSystem(t, config, f.BuildUser)
		})
	}
}

func TestRunImages(t *testing.T) {
	store := made(t)
	for _, f := range Families() {
		t.Run(f.Name, func(t *testing.T) {
			img, err := store.Image(f.Run)
			if err != nil {
				t.Fatal(err)
			}
			file, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if file.OS != "linux" || file.Architecture == "" {
				t.Errorf("platform is %s/%s", file.OS, file.Architecture)
			}
			checkSystem(t, file.Config, f.RunUser)
		})
	}
}

func checkSystem(t *testing.T, config v1.Config, user User) {
	t.Helper()
	if config.User != user.String() {
		t.Errorf("user is %q, want %s", config.User, user)
	}
	if config.Labels["io.buildpacks.stack.id"] != stackID ||
		config.Labels["io.buildpacks.base.distro.name"] != "debian" {
		t.Errorf("labels are %v", config.Labels)
	}
	if !slices.ContainsFunc(config.Env, func(v string) bool {
		return strings.HasPrefix(v, "PATH=") && strings.HasSuffix(v, ":/bin")
	}) {
		t.Errorf("environment has no PATH: %v", config.Env)
	}
}

// examples are the applications that the builders build.
var examples = []struct {
	folder, family string

	path, want string   // the request's path, and the answer
	test       []string // the language's own command for the tests, in the builder
	bom        []string // names in the bill of materials
	slow       bool     // to build without a cache: once is enough
}{
	{
		folder: "reading-list-service", family: "gcp",
		path: "/reading-list/books", want: `[]`, bom: []string{"std"}, slow: true,
	},
	{
		folder: "link-shortener", family: "paketo",
		path: "/nobody", want: `{"error":"no such name"}`, test: []string{"node", "--test"}, bom: []string{"node"},
	},
	{
		folder: "unit-converter", family: "gcp",
		path: "/convert?value=1&from=mi&to=km", want: `{"value": "1.609344", "unit": "km"}`,
		test: []string{"python3", "-B", "-m", "unittest"}, bom: []string{"python"},
	},
	{
		folder: "factor-service", family: "paketo",
		path: "/factors/360", want: `{"number":360,"factors":[2,2,2,3,3,5]}`,
		bom: []string{"factor-service", "openjdk"},
	},
	{
		folder: "patient-management-service", family: "ballerina",
		path: "/mediflow/health", want: `{"status":"ok"}`, bom: []string{"patient_management"},
	},
}

// Each example is built without a network, by a user without rights, to the same bytes each time; the application runs
// and answers.
func TestBuildsOfExamples(t *testing.T) {
	for _, example := range sampletest.Of(t, 3, examples) {
		t.Run(example.folder, func(t *testing.T) {
			t.Parallel()
			source := os.DirFS(filepath.Join("..", "..", "..", "examples", example.folder))
			b := build{family: family(t, example.family), app: source, cache: temporary(t)}
			img := b.mustRun(t)
			if got := get(t, start(t, b.family, img)+example.path); got != example.want {
				t.Errorf("%s answered %s, want %s", example.path, got, example.want)
			}
			if names := components(t, img); !slices.Equal(names, example.bom) {
				t.Errorf("bill of materials has %v, want %v", names, example.bom)
			}
			if again := b.mustRun(t); digest(t, again) != digest(t, img) {
				t.Errorf("another image with the first one's cache, in %s", differing(t, img, again))
			}
			if !example.slow {
				b.cache = ""
				if again := b.mustRun(t); digest(t, again) != digest(t, img) {
					t.Errorf("another image without a cache, in %s", differing(t, img, again))
				}
			}
			if example.test != nil {
				c := b.container(t)
				c.args, c.dir = example.test, "/workspace"
				if out, err := c.command(t).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			}
		})
	}
}

func TestNothingDetectsTheApplication(t *testing.T) {
	t.Parallel()
	_, out, err := build{family: family(t, "gcp"), app: fstest.MapFS{"README.md": {Data: []byte("hello\n")}}}.run(t)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 20 {
		t.Errorf("the lifecycle ended with %v, want 20: no buildpack detected", err)
	}
	for _, words := range []string{
		"Go: there is no go.mod", "Java: there is no pom.xml", "Node.js: there is no package.json",
		"Python: there is no requirements.txt, main.py or app.py",
	} {
		if !strings.Contains(out, words) {
			t.Errorf("it did not say %q:\n%s", words, out)
		}
	}
}

// applications that take nothing to build, by language.
var applications = map[string]fstest.MapFS{
	"golang": {
		"go.mod":          {Data: []byte("module example.com/app\n\ngo 1.26\n")},
		"cmd/web/main.go": {Data: []byte("package main\n\nfunc main() {}\n")},
		"cmd/job/main.go": {Data: []byte("package main\n\nfunc main() {}\n")},
	},
	"nodejs": {
		"package.json": {
			Data: []byte(`{"scripts":{"start":"node web.js","one":"echo said one > one","two":"echo said two > two"}}`),
		},
		"web.js": {Data: []byte("console.log('web')\n")},
	},
	"python": {"app.py": {Data: []byte("print('app')\n")}},
	"java": {
		"pom.xml":                 {Data: []byte(pom(""))},
		"src/main/java/Main.java": {Data: []byte("class Main { public static void main(String[] a) {} }\n")},
	},
}

func pom(dependencies string) string {
	return `<project><artifactId>app</artifactId><dependencies>` + dependencies +
		`</dependencies><build><plugins><plugin>` +
		`<configuration><archive><manifest><mainClass>Main</mainClass></manifest></archive></configuration>` +
		`</plugin></plugins></build></project>`
}

func TestBuildFailures(t *testing.T) {
	for _, test := range []struct {
		name, language string
		env            map[string]string
		files          fstest.MapFS // in place of the application's own
		want           string
	}{
		{name: "another Go, as Google calls it", language: "golang",
			env:  map[string]string{"GOOGLE_RUNTIME_VERSION": "1.18"},
			want: "Go: version 1.18 is asked for by GOOGLE_RUNTIME_VERSION"},
		{name: "another Go, as Paketo calls it", language: "golang", env: map[string]string{"BP_GO_VERSION": "1.18.*"},
			want: "Go: version 1.18.* is asked for by BP_GO_VERSION"},
		{name: "another Node.js", language: "nodejs", env: map[string]string{"GOOGLE_NODEJS_VERSION": "22"},
			want: "Node.js: version 22 is asked for by GOOGLE_NODEJS_VERSION"},
		{name: "another Python", language: "python", env: map[string]string{"BP_CPYTHON_VERSION": "3.12.*"},
			want: "Python: version 3.12.* is asked for by BP_CPYTHON_VERSION"},
		{name: "another Java", language: "java", env: map[string]string{"BP_JVM_VERSION": "21"},
			want: "Java: version 21 is asked for by BP_JVM_VERSION"},
		{name: "no version", language: "java", env: map[string]string{"BP_JVM_VERSION": "new"},
			want: `Java: BP_JVM_VERSION is "new", which is no version`},
		{name: "a fault in the source", language: "golang", env: map[string]string{"GOOGLE_BUILDABLE": "./cmd/web"},
			files: fstest.MapFS{"cmd/web/main.go": {Data: []byte("package main\n\nfunc main() { nothing() }\n")}},
			want:  "undefined: nothing"},
		{name: "no lock file", language: "nodejs",
			files: fstest.MapFS{"package.json": {Data: []byte(`{"dependencies":{"express":"*"}}`)}},
			want:  "Node.js: package.json has dependencies and there is no package-lock.json"},
		{name: "a Maven dependency", language: "java",
			files: fstest.MapFS{
				"pom.xml": {Data: []byte(pom("<dependency><artifactId>guava</artifactId></dependency>"))},
			},
			want: "Java: pom.xml depends on guava"},
		{name: "no process", language: "python", files: fstest.MapFS{"app.py": nil, "requirements.txt": {}},
			want: "Python: nothing tells how to start the application"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			app := maps.Clone(applications[test.language])
			for name, file := range test.files {
				if app[name] = file; file == nil {
					delete(app, name)
				}
			}
			_, out, err := build{family: family(t, "paketo"), app: app, env: test.env}.run(t)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 51 {
				t.Errorf("the lifecycle ended with %v, want 51: a buildpack failed", err)
			}
			if !strings.Contains(out, test.want) {
				t.Errorf("it did not say %q:\n%s", test.want, out)
			}
		})
	}
}

func TestProcesses(t *testing.T) {
	const targets = "/layers/stepwright-test_golang/targets/bin/"
	for _, test := range []struct {
		name, language string
		env            map[string]string
		files          fstest.MapFS
		want           map[string]string // command lines by type
	}{
		{name: "targets as Paketo calls them", language: "golang",
			env:  map[string]string{"BP_GO_TARGETS": "./cmd/job:./cmd/web", "BP_GO_VERSION": "1.*"},
			want: map[string]string{"job": targets + "job", "web": targets + "web"}},
		{name: "entrypoint", language: "python",
			env:  map[string]string{"GOOGLE_ENTRYPOINT": "python3 app.py --port $PORT"},
			want: map[string]string{"web": "bash -c python3 app.py --port $PORT"}},
		{name: "Procfile", language: "python",
			files: fstest.MapFS{"Procfile": {Data: []byte("job: false\nweb: python3 -O app.py\n")}},
			want:  map[string]string{"web": "bash -c python3 -O app.py"}},
		{name: "app.py", language: "python", env: map[string]string{"GOOGLE_PYTHON_VERSION": "3.11"},
			want: map[string]string{"web": "python3 app.py"}},
		{name: "script start", language: "nodejs", env: map[string]string{"BP_NODE_VERSION": "18"},
			want: map[string]string{"web": "bash -c node web.js"}},
		{name: "jar", language: "java", env: map[string]string{"BP_JVM_VERSION": "17"},
			want: map[string]string{"web": "java -jar /layers/stepwright-test_java/application/application.jar"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			app := maps.Clone(applications[test.language])
			maps.Copy(app, test.files)
			img := build{family: family(t, "gcp"), app: app, env: test.env}.mustRun(t)
			if diff := cmp.Diff(test.want, processes(t, img)); diff != "" {
				t.Errorf("processes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNodeScriptsRunInOrder(t *testing.T) {
	t.Parallel()
	img := build{family: family(t, "paketo"), app: applications["nodejs"],
		env: map[string]string{"BP_NODE_RUN_SCRIPTS": "one,two"}}.mustRun(t)
	found := map[string]string{}
	files(t, img, func(name string, content []byte) {
		if path.Dir(name) == "workspace" && !strings.Contains(name, ".") {
			found[path.Base(name)] = string(content)
		}
	})
	if diff := cmp.Diff(map[string]string{"one": "said one\n", "two": "said two\n"}, found); diff != "" {
		t.Errorf("files that the scripts wrote (-want +got):\n%s", diff)
	}
}

// A change of the application leaves the layer of its dependencies as it is; a change of them makes it anew.
func TestDependenciesAreCached(t *testing.T) {
	for _, test := range []struct {
		language, layer string
		app             func(greeting string) fstest.MapFS // with a dependency that has the greeting
		program, body   string
	}{
		{"nodejs", "modules", withNodePackage, "web.js", "console.log('changed')\n"},
		{"python", "packages", withWheel, "app.py", "print('changed')\n"},
	} {
		t.Run(test.language, func(t *testing.T) {
			t.Parallel()
			b := build{family: family(t, "gcp"), app: test.app("hello"), cache: temporary(t)}
			first := b.mustRun(t)
			if names := components(t, first); !slices.Contains(names, "greet") {
				t.Errorf("bill of materials has %v, and not greet", names)
			}
			changed := test.app("hello")
			changed[test.program] = &fstest.MapFile{Data: []byte(test.body)}
			for _, step := range []struct {
				what, say string
				app       fstest.MapFS
			}{
				{"a changed program", "reusing layer " + test.layer + " from the cache", changed},
				{"a changed dependency", "making layer " + test.layer, test.app("good day")},
			} {
				b.app = step.app
				img, out, err := b.run(t)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if !strings.Contains(out, step.say) {
					t.Errorf("with %s it did not say %q:\n%s", step.what, step.say, out)
				}
				if digest(t, img) == digest(t, first) {
					t.Errorf("with %s the image is the same", step.what)
				}
			}
		})
	}
}

// withNodePackage is an application in JavaScript with a package of its own, packed as npm does.
func withNodePackage(greeting string) fstest.MapFS {
	var packed bytes.Buffer
	compressed := gzip.NewWriter(&packed)
	w := tar.NewWriter(compressed)
	for _, file := range []struct{ name, content string }{
		{"package/package.json", `{"name":"greet","version":"1.0.0","main":"index.js"}`},
		{"package/index.js", "module.exports = '" + greeting + "'\n"},
	} {
		// a buffer takes all
		_ = w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content))})
		_, _ = io.WriteString(w, file.content)
	}
	_, _ = w.Close(), compressed.Close()
	sum := sha512.Sum512(packed.Bytes())
	dependency := `"greet":"file:greet.tgz"`
	return fstest.MapFS{
		"greet.tgz":    {Data: packed.Bytes()},
		"web.js":       {Data: []byte("console.log(require('greet'))\n")},
		"package.json": {Data: []byte(`{"name":"app","main":"web.js","dependencies":{` + dependency + `}}`)},
		"package-lock.json": {
			Data: []byte(`{"name":"app","lockfileVersion":3,"packages":{"":{"name":"app","dependencies":{` +
				dependency + `}},` +
				`"node_modules/greet":{"version":"1.0.0","resolved":"file:greet.tgz","integrity":"sha512-` +
				base64.StdEncoding.EncodeToString(sum[:]) + `"}}}`),
		},
	}
}

// withWheel is an application in Python with a package of its own, packed as a wheel.
func withWheel(greeting string) fstest.MapFS {
	var packed bytes.Buffer
	w := zip.NewWriter(&packed)
	for _, file := range []struct{ name, content string }{
		{"greet.py", "greeting = '" + greeting + "'\n"},
		{"greet-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n"},
		{"greet-1.0.dist-info/WHEEL",
			"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"greet-1.0.dist-info/RECORD",
			"greet.py,,\ngreet-1.0.dist-info/METADATA,,\ngreet-1.0.dist-info/WHEEL,,\ngreet-1.0.dist-info/RECORD,,\n"},
	} {
		entry, _ := w.Create(file.name) // a buffer takes all
		_, _ = io.WriteString(entry, file.content)
	}
	_ = w.Close()
	return fstest.MapFS{
		"greet-1.0-py3-none-any.whl": {Data: packed.Bytes()},
		"requirements.txt": {
			Data: fmt.Appendf(nil, "./greet-1.0-py3-none-any.whl --hash=sha256:%x\n", sha256.Sum256(packed.Bytes())),
		},
		"app.py": {Data: []byte("import greet\nprint(greet.greeting)\n")},
	}
}

func TestBallerina(t *testing.T) {
	example := os.DirFS(filepath.Join("..", "..", "..", "examples", "patient-management-service"))
	t.Run("what bal generates is kept", func(t *testing.T) {
		t.Parallel()
		generated := temporary(t)
		build{family: family(t, "ballerina"), app: example,
			writes: map[string]string{"/app/generated-artifacts": generated}}.mustRun(t)
		want, err := fs.ReadFile(example, "openapi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(generated, "openapi", "openapi.yaml")); err != nil ||
			!bytes.Equal(got, want) {
			t.Errorf("it is not the definition that bal exported: %v: %s", err, got)
		}
	})
	t.Run("what bal downloads is cached", func(t *testing.T) {
		t.Parallel()
		b := build{family: family(t, "ballerina"), app: example, cache: temporary(t)}
		b.mustRun(t)
		if _, out, err := b.run(t); err != nil ||
			!strings.Contains(out, `Restoring data for "stepwright/ballerina:central" from cache`) {
			t.Errorf("%v\n%s", err, out)
		}
	})
	for _, test := range []struct {
		name, file, content string
		code                int
		want                string
	}{
		{"no package", "README.md", "", 20, "Ballerina: there is no Ballerina.toml"},
		{"a fault in the source", "service.bal", "compile me not", 51, "invalid token"},
		{"a fault in the manifest", "Ballerina.toml", "[package", 51, "Ballerina.toml: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			app := fstest.MapFS{test.file: {Data: []byte(test.content)}}
			if test.file == "service.bal" {
				app["Ballerina.toml"] = &fstest.MapFile{Data: []byte("[package]\nname = \"app\"\n")}
			}
			_, out, err := build{family: family(t, "ballerina"), app: app}.run(t)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != test.code {
				t.Errorf("the lifecycle ended with %v, want %d", err, test.code)
			}
			if !strings.Contains(out, test.want) {
				t.Errorf("it did not say %q:\n%s", test.want, out)
			}
		})
	}
}

func TestPush(t *testing.T) {
	store := made(t)
	host := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous, registrytest.OnDisk).Host
	f := family(t, "gcp")
	if err := store.Push(t.Context(), host, f); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{f.Builder, f.Run} {
		_, path, _ := strings.Cut(ref, "/")
		img, err := store.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		pushed, err := name.ParseReference(host + "/" + path)
		if err != nil {
			t.Fatal(err)
		}
		there, err := remote.Head(pushed)
		if err != nil {
			t.Fatal(err)
		}
		if there.Digest != digest(t, img) {
			t.Errorf("%s has %s, want %s", path, there.Digest, digest(t, img))
		}
	}
}

func TestUnknownImage(t *testing.T) {
	if _, err := made(t).Image("docker.io/library/nothing:1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want an error that it does not exist", err)
	}
}

func TestSourceIsFoundFromBelow(t *testing.T) {
	want, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := (Store{}).source(); err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	t.Chdir(t.TempDir())
	if got, err := (Store{}).source(); err == nil {
		t.Errorf("outside of the repository it found %s", got)
	}
}

func (b build) mustRun(t *testing.T) v1.Image {
	t.Helper()
	img, out, err := b.run(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return img
}

// temporary is an empty folder that every user may reach.
func temporary(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "cache-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(body))
}

func digest(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// differing names the files that are not the same in two images.
func differing(t *testing.T, a, b v1.Image) []string {
	t.Helper()
	var all [2]map[string]string
	for i, img := range []v1.Image{a, b} {
		all[i] = map[string]string{}
		files(t, img, func(name string, content []byte) { all[i][name] = string(content) })
	}
	var names []string
	for name := range all[0] {
		if all[0][name] != all[1][name] {
			names = append(names, name)
		}
	}
	for name := range all[1] {
		if _, ok := all[0][name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// components returns the names in the bills of materials that an image carries, sorted.
func components(t *testing.T, img v1.Image) []string {
	t.Helper()
	var names []string
	files(t, img, func(name string, content []byte) {
		if !strings.HasSuffix(name, ".cdx.json") {
			return
		}
		var bom struct {
			Format     string `json:"bomFormat"`
			Components []struct{ Name, PURL string }
		}
		if err := json.Unmarshal(content, &bom); err != nil || bom.Format != "CycloneDX" {
			t.Errorf("%s: %v: %s", name, err, content)
		}
		for _, component := range bom.Components {
			if component.PURL == "" {
				t.Errorf("%s has no package URL", component.Name)
			}
			names = append(names, component.Name)
		}
	})
	slices.Sort(names)
	return names
}

// processes returns the command lines that an image can start, by their types.
func processes(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	var metadata struct {
		Processes []struct {
			Type    string
			Command json.RawMessage
			Args    []string
		}
	}
	if err := json.Unmarshal([]byte(configOf(t, img).Labels["io.buildpacks.build.metadata"]), &metadata); err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for _, process := range metadata.Processes {
		var words []string
		if err := json.Unmarshal(process.Command, &words); err != nil {
			words = []string{strings.Trim(string(process.Command), `"`)}
		}
		lines[process.Type] = strings.Join(append(words, process.Args...), " ")
	}
	return lines
}
