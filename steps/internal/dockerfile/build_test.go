package dockerfile

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/disk"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

func TestBuild(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	w := project(t, map[string]string{
		"Dockerfile": `# syntax=docker/dockerfile:1
FROM busybox:1 AS build
ARG VERSION=none
WORKDIR /src
COPY . .
RUN printf '%s %s' "$VERSION" "$GREETING" > out && ls -a > list && chown nobody out
FROM busybox:1 AS runtime
COPY --from=build /src/out /src/list /
USER nobody
CMD ["cat", "/out"]
FROM scratch AS empty
COPY --from=build /src/out /
`,
		".dockerignore": "ignored\n",
		"ignored":       "x",
		"kept":          "x",
		"link":          "-> kept",
		"outward":       "-> /etc/passwd",
		".git/HEAD":     "ref: refs/heads/main",
	})
	in := parameters(w, r)
	in.BuildArgs = named("VERSION", "1.4")
	in.BuildEnv = named("GREETING", "good morning")
	in.Labels = named("org.opencontainers.image.title", "greeter")

	t.Run("target", func(t *testing.T) {
		in := in
		in.Target = "runtime"
		b := succeed(t, in)
		if got := b.files["out"]; got != "1.4 good morning" {
			t.Errorf("argument and environment: %q", got)
		}
		if owner := b.headers["out"].Uid; owner != 65534 {
			t.Errorf("owner of a file given to nobody: %d", owner)
		}
		want := ".\n..\n.dockerignore\nDockerfile\nkept\nlink\nlist\nout\noutward\n"
		if got := b.files["list"]; got != want {
			t.Errorf("the context has %q, want %q", got, want)
		}
		if got, _ := b.env("GREETING"); got != "good morning" {
			t.Errorf("GREETING is %q in the image", got)
		}
		labels := map[string]string{
			"org.opencontainers.image.title":    "greeter",
			"org.opencontainers.image.source":   "https://git.example.com/acme/shop.git",
			"org.opencontainers.image.revision": commit,
			"org.opencontainers.image.created":  "2026-03-04T05:06:07Z",
		}
		if got := b.config.Config.Labels; !maps.Equal(got, labels) {
			t.Errorf("labels: %v", got)
		}
		if b.config.Config.User != "nobody" || !slices.Equal(b.config.Config.Cmd, []string{"cat", "/out"}) {
			t.Errorf("config: %+v", b.config.Config)
		}
		if !b.config.Created.Equal(commitTime) {
			t.Errorf("created %s, the commit is of %s", b.config.Created, commitTime)
		}
		for path, h := range b.headers {
			if h.ModTime.After(commitTime) {
				t.Errorf("%s is of %s", path, h.ModTime)
			}
		}
	})
	t.Run("last stage, from scratch", func(t *testing.T) {
		b := succeed(t, in)
		if got := slices.Collect(maps.Keys(b.files)); !slices.Equal(got, []string{"out"}) {
			t.Errorf("files: %v", got)
		}
		if got, _ := b.env("GREETING"); got != "good morning" {
			t.Errorf("GREETING is %q in the image", got)
		}
	})
	if left := leftovers(t, w); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Where a Dockerfile and its context may be.
func TestPaths(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	copies := "FROM scratch\nCOPY . /app/\n"
	files := map[string]string{
		"docker/app.Dockerfile":              copies,
		"docker/app.Dockerfile.dockerignore": "own\n",
		"docker/Dockerfile":                  copies,
		"services/api/main":                  "x",
		"services/api/own":                   "x",
		"services/api/common":                "x",
		"services/api/.dockerignore":         "common\n",
		"services/api/Containerfile":         copies,
		"current":                            "-> services/api",
	}
	tests := []struct {
		name, context, dockerfile string
		want                      []string
	}{
		{"Dockerfile outside of the context and its own ignore file", "services/api", "docker/app.Dockerfile",
			[]string{".dockerignore", "Containerfile", "common", "main"}},
		{"Dockerfile outside of the context and the context's ignore file", "services/api", "docker/Dockerfile",
			[]string{".dockerignore", "Containerfile", "main", "own"}},
		{"leading slashes", "/services/api/", "/services/api/Containerfile",
			[]string{".dockerignore", "Containerfile", "main", "own"}},
		{"link inside the repository", "./current", "current/Containerfile",
			[]string{".dockerignore", "Containerfile", "main", "own"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, files), r)
			in.DockerContext, in.DockerfilePath = test.context, test.dockerfile
			b := succeed(t, in)
			var got []string
			for path := range b.files {
				got = append(got, strings.TrimPrefix(path, "app/"))
			}
			if slices.Sort(got); !slices.Equal(got, test.want) {
				t.Errorf("the context has %v, want %v", got, test.want)
			}
		})
	}
}

// Faults of the source are reported before a builder is started: these have no registry, and a builder that could
// not start.
func TestSourceFaults(t *testing.T) {
	t.Parallel()
	files := map[string]string{
		"Containerfile":      "FROM scratch\n",
		"api/Dockerfile":     "FROM scratch\n",
		"api/dev.Dockerfile": "FROM scratch\n",
		"passwd":             "-> /etc/passwd",
		"etc":                "-> ../../../../../../../etc",
		"bad":                "FROM scratch\n\nRUNN true\n",
		"unclosed":           "FROM scratch\nCOPY <<EOF /x\n",
		"empty":              "",
		"stages":             "FROM scratch AS one\nFROM scratch AS two\n",
		"file":               "x",
	}
	tests := []struct {
		name                        string
		context, dockerfile, target string
		reason                      outcome.Reason
		words                       []string
	}{
		{"no Dockerfile", ".", "./Dockerfile", "", outcome.DockerfileNotFound,
			[]string{
				`"./Dockerfile" is not in the repository; there is Containerfile, api/Dockerfile, api/dev.Dockerfile`,
			}},
		{"no context", "web", "api/Dockerfile", "", outcome.DockerfileNotFound,
			[]string{`docker-context: "web" is not in the repository`}},
		{"context is a file", "file", "api/Dockerfile", "", outcome.DockerfileNotFound,
			[]string{`"file" is not a directory`}},
		{"Dockerfile is a directory", ".", "api", "", outcome.DockerfileNotFound,
			[]string{`"api" is not a file`, "api/Dockerfile"}},
		{"Dockerfile above the repository", ".", "../Dockerfile", "", outcome.PathEscapesRepository,
			[]string{"dockerfile-path", "../Dockerfile"}},
		{"Dockerfile is a link that leaves", ".", "passwd", "", outcome.PathEscapesRepository,
			[]string{"dockerfile-path", "passwd"}},
		{"context is a link that leaves", "etc", "api/Dockerfile", "", outcome.PathEscapesRepository,
			[]string{"docker-context", "etc"}},
		{"context above the repository", "..", "api/Dockerfile", "", outcome.PathEscapesRepository,
			[]string{"docker-context"}},
		{"unknown instruction", ".", "bad", "", outcome.DockerfileInvalid, []string{"bad line 3", "RUNN"}},
		{"unterminated heredoc", ".", "unclosed", "", outcome.DockerfileInvalid, []string{"unclosed", "EOF"}},
		{"empty Dockerfile", ".", "empty", "", outcome.DockerfileInvalid, []string{"empty"}},
		{"no such stage", ".", "stages", "three", outcome.DockerfileInvalid,
			[]string{`no stage "three"; there is "one", "two"`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, files), nil)
			in.DockerContext, in.DockerfilePath, in.Target = test.context, test.dockerfile, test.target
			in.BuildKitAddress = "unix:///nowhere"
			fail(t, in, test.reason, test.words...)
		})
	}
	t.Run("nothing that could be meant", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{"README": "x"}), nil)
		fail(t, in, outcome.DockerfileNotFound, "no Dockerfile or Containerfile was found")
	})
	t.Run("no source", func(t *testing.T) {
		t.Parallel()
		w := project(t, nil)
		os.Remove(w.Source())
		fail(t, parameters(w, nil), outcome.DockerfileNotFound, "there is no source")
	})
}

// odd are values that quoting gets wrong easily.
var odd = named(
	"SPACES", "  two  spaces ",
	"QUOTES", `"double" 'single'`,
	"DOLLAR", `$HOME ${PATH} $$ $(id)`,
	"BACKSLASH", `C:\dir\ \n \$x \\`,
	"BACKTICK", "`id` `",
	"LINES", "first\nsecond $HOME\r\n\n\"third\" \\",
	"HASH", "# not a comment",
	"HEREDOC", "<<EOF",
	"EMPTY", "",
	"UNICODE", "größe ✓ \u2028",
	"TAB", "a\tb",
	"dotted.name-x", "v",
)

func TestBuildEnvironment(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for name, directive := range map[string]string{"backslash": "", "backtick": "# escape=`\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": directive + `FROM busybox:1 AS base
ENV OWN=dockerfile
COPY <<END /heredoc
FROM nothing
END
from base AS test
RUN for v in SPACES QUOTES DOLLAR BACKSLASH BACKTICK LINES HASH HEREDOC EMPTY UNICODE TAB; do ` +
				`eval "printf '%s\0' \"\$$v\""; done > /values
FROM scratch
COPY --from=test /values /heredoc /
ENV LATER=$SPACES`}), r)
			in.BuildEnv = slices.Concat(odd, named("OWN", "parameter"))
			b := succeed(t, in)
			values := strings.Split(b.files["values"], "\x00")
			for i, v := range odd {
				if got, ok := b.env(v.Name); got != v.Value || !ok {
					t.Errorf("in the image, %s is %q, want %q", v.Name, got, v.Value)
				}
				if i < len(values)-1 && values[i] != v.Value {
					t.Errorf("for RUN, %s is %q, want %q", v.Name, values[i], v.Value)
				}
			}
			if got, _ := b.env("LATER"); got != odd[0].Value {
				t.Errorf("an instruction expands it to %q", got)
			}
			if got := b.files["heredoc"]; got != "FROM nothing\n" {
				t.Errorf("a heredoc became %q", got)
			}
		})
	}
	t.Run("the Dockerfile's own ENV wins, also in a stage that starts from another", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM busybox:1 AS Base\nENV A=own\nFROM base\nRUN echo $A $B > /out\n",
		}), r)
		in.BuildEnv = named("A", "parameter", "B", "parameter")
		b := succeed(t, in)
		if got := b.files["out"]; got != "own parameter\n" {
			t.Errorf("RUN sees %q", got)
		}
	})
}

func TestLineMap(t *testing.T) {
	t.Parallel()
	s := &source{
		name:     "Dockerfile",
		original: []byte("ARG X=1\r\nFROM a \\\n  AS b\nRUN x\n\nFROM b\nRUN y\nFROM c\nRUN z"),
	}
	if err := s.parse(Parameters{BuildEnv: named("A", "1", "B", "1\n2")}); err != nil {
		t.Fatal(err)
	}
	original := strings.Split(string(s.original), "\n")
	seen := map[int]bool{}
	for i, line := range strings.Split(string(s.text), "\n") {
		n := s.lines.original(i + 1)
		if strings.HasPrefix(line, "ENV ") || strings.HasPrefix(line, "ARG STEPWRIGHT") {
			continue
		}
		if original[n-1] != line {
			t.Errorf("line %d, %q, is said to be line %d, %q", i+1, line, n, original[n-1])
		}
		seen[n] = true
	}
	if len(seen) != len(original) {
		t.Errorf("of %d lines, %d are in the text", len(original), len(seen))
	}
}

// FuzzEscape: A value of the build environment: BuildKit reads it in the Dockerfile as it was given.
func FuzzEscape(f *testing.F) {
	for _, v := range odd {
		f.Add(v.Value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, directive := range []string{"", "# escape=`\n"} {
			s := &source{name: "Dockerfile", original: []byte(directive + "FROM scratch\nRUN x\n")}
			fuzztest.Of(32, 64).Bound(t, len(value), func() {
				if err := s.parse(Parameters{BuildEnv: named("V", value)}); err != nil {
					t.Fatal(err)
				}
			})
			if got, ok := environmentOf(t, s)["V"]; !ok || got != value && s.views == nil {
				t.Errorf("%q became %q in\n%s", value, got, s.text)
			}
		}
	})
}

func TestBuildFailures(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	tests := []struct {
		name, dockerfile string
		env              []step.NameValue
		reason           outcome.Reason
		words            []string
	}{
		{
			"RUN", "FROM busybox:1\n\nRUN seq 1 1000 >&2 && echo at last >&2 && \\\n  exit 7\n", nil,
			outcome.BuildFailed,
			[]string{`Dockerfile line 3: RUN seq 1 1000 >&2 && echo at last >&2 && \ exit 7: exit code 7:`,
				"\n999\n1000\nat last"},
		},
		{
			"RUN below a build environment", "FROM busybox:1 AS a\nFROM busybox:1\nRUN exit 7\n",
			named("A", "1", "B", "1\n2"), outcome.BuildFailed,
			[]string{"Dockerfile line 3: RUN exit 7: exit code 7"},
		},
		{"unknown command", "FROM busybox:1\nRUN nonesuch\n", nil, outcome.BuildFailed,
			[]string{"line 2: RUN nonesuch: exit code 127", "nonesuch: not found"}},
		{"COPY of what is not there", "FROM busybox:1\nCOPY absent /\n", nil, outcome.BuildFailed,
			[]string{"line 2: COPY absent /", `"/absent": not found`}},
		{"base image that does not exist", "FROM busybox:1\nFROM library/nonesuch:7\n", nil,
			outcome.BaseImageUnavailable, []string{"line 2: base image library/nonesuch:7"}},
		{"image to copy from that does not exist", "FROM busybox:1\nCOPY --from=nonesuch:7 /a /b\n", nil,
			outcome.BaseImageUnavailable, []string{"line 2: base image nonesuch:7"}},
		{"what an image to copy from does not have", "FROM busybox:1\nCOPY --from=library/busybox:1 /absent /b\n", nil,
			outcome.BuildFailed, []string{"line 2: COPY --from=library/busybox:1 /absent /b", "no such file"}},
		{"no base image", "ARG BASE\nFROM ${BASE}\n", nil, outcome.DockerfileInvalid, []string{"line 2"}},
		{"circle", "FROM busybox:1 AS a\nCOPY --from=b /a /b\nFROM a AS b\n", nil, outcome.DockerfileInvalid,
			[]string{"line 2", `stage "b"`}},
		{"secret that is not there",
			"FROM busybox:1\nRUN --mount=type=secret,id=token,required=true cat /run/secrets/token\n", nil,
			outcome.BuildFailed, []string{"line 2", "token"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": test.dockerfile}), r)
			in.BuildEnv = test.env
			fail(t, in, test.reason, test.words...)
		})
	}
	t.Run("an image that is there stays", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1\n"}), r)
		before := succeed(t, in)
		os.WriteFile(filepath.Join(in.Workspace.Source(), "Dockerfile"), []byte("FROM busybox:1\nRUN false\n"), 0o644)
		if end := run(t, t.Context(), in); outcome.Of(end.err).Reason != outcome.BuildFailed {
			t.Fatal(end.err)
		}
		if after := open1(t, in.Workspace); after.digest != before.digest {
			t.Errorf("%s became %s", before.digest, after.digest)
		}
		os.WriteFile(
			filepath.Join(in.Workspace.Source(), "Dockerfile"), []byte("FROM busybox:1\nRUN echo > /new\n"), 0o644,
		)
		if after := succeed(t, in); after.digest == before.digest {
			t.Error("a new image did not replace the old one")
		}
	})
}

func TestRegistryFailures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	t.Parallel()
	files := map[string]string{"Dockerfile": "FROM private.example.com/library/busybox:1\nRUN true\n"}
	mirrored := func(in Parameters, host string) Parameters {
		in.RegistryMirrors = []registry.Mirror{{Registry: "private.example.com", Mirror: host}}
		return in
	}
	t.Run("no credentials", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		in.RegistryPullSecret = ""
		fail(
			t, in, outcome.BaseImageUnavailable, "line 1",
			r.Host+"/library/busybox:1: "+r.Host+" does not let us pull it: 401",
		)
	})
	t.Run("wrong credentials", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		in.RegistryPullSecret = filepath.Join(t.TempDir(), "config.json")
		os.WriteFile(in.RegistryPullSecret, registrytest.DockerConfig(t, r.Host, "someone", "canary-password"), 0o600)
		end := fail(t, in, outcome.BaseImageUnavailable, "does not let us pull it: 401")
		if strings.Contains(end.output+end.err.Error(), "canary-password") {
			t.Error("the password is told")
		}
	})
	t.Run("credentials that never come", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		r.Forget()
		in.RegistryPullSecret, in.PullSecretRequired = filepath.Join(t.TempDir(), "pull-secret", "absent"), true
		in.SecretTimeout, in.SecretKeys = 1, []secret.Store{{Secret: "pull-secret", Key: "ci/pull"}}
		fail(t, in, outcome.AuthenticationFailed, "Secret pull-secret (key ci/pull of the secret store)", "within 1 s")
		in.PullSecretRequired, in.BuildKitAddress = false, "tcp://localhost:1"
		in.BuildKitTLSDir = filepath.Join(t.TempDir(), "client")
		fail(t, in, outcome.AuthenticationFailed, "Secret client: not there within 1 s")
		if n := len(r.Requests(http.MethodGet, "")); n > 0 {
			t.Errorf("the registry was asked %d times", n)
		}
	})
	t.Run("authority that is not trusted", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		in.CABundle = ""
		end := fail(t, in, outcome.BaseImageUnavailable, "authority that is not trusted")
		if got := strings.Count(end.output, "msg=Building"); got != 1 {
			t.Errorf("tried %d times", got)
		}
	})
	t.Run("nothing listens", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM 127.0.0.1:9/library/busybox:1\n"}), nil)
		end := fail(
			t, in, outcome.RegistryUnavailable, "line 1: base image 127.0.0.1:9/library/busybox:1",
			"connection refused",
		)
		if got := strings.Count(end.output, "msg=Building"); got != 3 {
			t.Errorf("tried %d times", got)
		}
	})
	t.Run("a mirror that fails for a while", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t, registrytest.PlainHTTP, registrytest.Anonymous)
		manifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
		proxy := faulttest.Before(t, r.URL, faulttest.First(2, manifest, faulttest.Fault{
			Status: http.StatusServiceUnavailable,
		}))
		host := strings.TrimPrefix(proxy.URL, "http://")
		in := mirrored(parameters(project(t, files), r), host)
		in.InsecureRegistries = []string{host, "private.example.com"}
		succeed(t, in)
		if got := proxy.Faults.Load(); got != 2 {
			t.Errorf("%d faults were met", got)
		}
	})
	t.Run("a layer that breaks off", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t, registrytest.PlainHTTP, registrytest.Anonymous)
		large := func(r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/blobs/"+must(must(must(busybox()).Layers())[0].Digest()).String())
		}
		proxy := faulttest.Before(t, r.URL, faulttest.First(1, large, faulttest.Fault{CutBody: 100_000}))
		in := parameters(project(t, files), r)
		in.RegistryMirrors = []registry.Mirror{
			{Registry: "private.example.com", Mirror: strings.TrimPrefix(proxy.URL, "http://")},
		}
		in.InsecureRegistries = []string{in.RegistryMirrors[0].Mirror}
		succeed(t, in)
		if got := proxy.Faults.Load(); got != 1 {
			t.Errorf("%d faults were met", got)
		}
	})
	t.Run("too many requests, for ever", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t, registrytest.PlainHTTP, registrytest.Anonymous,
			registrytest.Behind(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if strings.HasPrefix(req.UserAgent(), "buildkit/") {
						w.WriteHeader(http.StatusTooManyRequests)
						return
					}
					next.ServeHTTP(w, req)
				})
			}))
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		end := fail(t, in, outcome.RegistryUnavailable, "429")
		if got := strings.Count(end.output, "msg=Building"); got != 3 {
			t.Errorf("tried %d times", got)
		}
	})
	t.Run("a mirror with a path", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		image, _ := busybox()
		r.Push(t, "cache/private/library/busybox:1", image)
		in := mirrored(parameters(project(t, files), r), r.Host+"/cache/private")
		succeed(t, in)
		if len(r.Requests("GET", "/v2/cache/private/library/busybox/blobs/")) == 0 {
			t.Error("the mirror's path was not asked")
		}
	})
	t.Run("plain HTTP is spoken only where it is asked for", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t, registrytest.PlainHTTP, registrytest.Anonymous)
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
		in.InsecureRegistries = nil
		r.Forget()
		fail(t, in, outcome.BaseImageUnavailable, "HTTPS")
		if n := len(r.Requests("GET", "/")) + len(r.Requests("HEAD", "/")); n > 0 {
			t.Errorf("%d requests over plain HTTP", n)
		}
	})
}

// faulty is a registry behind faults, and parameters to build a Dockerfile that may name its host as HOST.
func faulty(
	t *testing.T, dockerfile string, rule faulttest.Rule, options ...registrytest.Option,
) (Parameters, *faulttest.Server) {
	t.Helper()
	r := newRegistry(t, append(options, registrytest.PlainHTTP, registrytest.Anonymous)...)
	proxy := faulttest.Before(t, r.URL, rule)
	host := strings.TrimPrefix(proxy.URL, "http://")
	in := parameters(project(t, map[string]string{"Dockerfile": strings.ReplaceAll(dockerfile, "HOST", host)}), r)
	in.InsecureRegistries = append(in.InsecureRegistries, host)
	return in, proxy
}

// Whatever of an image cannot be had, and whenever BuildKit wants it: it is the image's fault, at the line that names
// it, and worth another try if the registry says so.
func TestFaultsOfBaseImages(t *testing.T) {
	t.Parallel()
	blob := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	layer := func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/blobs/"+must(must(must(busybox()).Layers())[0].Digest()).String())
	}
	any := func(*http.Request) bool { return true }
	const run = "# the base\nFROM HOST/library/busybox:1\nRUN id\n"
	for _, test := range []struct {
		name, dockerfile string
		match            func(*http.Request) bool
		fault            faulttest.Fault
		reason           outcome.Reason
		words            []string
		tries            int
		after            time.Duration
	}{
		{"layer for RUN, 429", run, layer, faulttest.Fault{Status: 429, RetryAfter: "7"}, outcome.RegistryUnavailable,
			[]string{"line 2: base image ", "/library/busybox:1: ", "answers 429"}, 3, 7 * time.Second},
		{"layer for the export, 429", "FROM HOST/library/busybox:1\nCMD id\n", layer, faulttest.Fault{Status: 429},
			outcome.RegistryUnavailable, []string{"line 1: base image ", "answers 429"}, 3, 0},
		{"layer for COPY --from, 503", "FROM scratch\nCOPY --from=HOST/library/busybox:1 /bin /bin\n", layer,
			faulttest.Fault{Status: 503}, outcome.RegistryUnavailable, []string{"line 2: base image ", "answers 503"},
			3, 0},
		{"layer for a mount, 500", "FROM docker.io/library/busybox:1\n" +
			"RUN --mount=from=HOST/library/busybox:1,target=/x ls /x\n", any,
			faulttest.Fault{Status: 500}, outcome.RegistryUnavailable, []string{"line 2: base image ", "answers 500"},
			3, 0},
		{"base image of an argument", "ARG BASE=HOST/library/busybox:1\nFROM $BASE\nRUN id\n", layer,
			faulttest.Fault{Status: 429}, outcome.RegistryUnavailable,
			[]string{"base image ", "/library/busybox: ", "answers 429"}, 3, 0},
		{"layer that is gone", run, layer, faulttest.Fault{Status: 404}, outcome.BaseImageUnavailable,
			[]string{"line 2: base image ", "does not have it"}, 1, 0},
		{"layer that may not be read", run, layer, faulttest.Fault{Status: 403,
			Body: `{"errors":[{"code":"DENIED","message":"quarantined"}]}`}, outcome.BaseImageUnavailable,
			[]string{"line 2: base image ", "does not let us pull it: 403", "quarantined"}, 1, 0},
		{"layer that breaks off for ever", run, layer, faulttest.Fault{CutBody: 1}, outcome.RegistryUnavailable,
			[]string{"line 2: base image "}, 3, 0},
		{"configuration, 502", run, blob, faulttest.Fault{Status: 502}, outcome.RegistryUnavailable,
			[]string{"line 2: base image ", "answers 502"}, 3, 0},
		{"all, 400", run, any, faulttest.Fault{Status: 400}, outcome.BaseImageUnavailable,
			[]string{"line 2: base image ", "answers 400"}, 1, 0},
		{"all, no answer", run, any, faulttest.Fault{}, outcome.RegistryUnavailable,
			[]string{"line 2: base image "}, 3, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in, _ := faulty(t, test.dockerfile, faulttest.First(1<<30, test.match, test.fault))
			end := fail(t, in, test.reason, test.words...)
			if got := strings.Count(end.output, "msg=Building"); got != test.tries {
				t.Errorf("tried %d times, want %d", got, test.tries)
			}
			if got := outcome.Of(end.err).RetryAfter; got != test.after {
				t.Errorf("Retry-After is %s, want %s", got, test.after)
			}
		})
	}
	t.Run("429 for a while", func(t *testing.T) {
		t.Parallel()
		in, proxy := faulty(t, run, faulttest.First(2, layer, faulttest.Fault{Status: 429}))
		succeed(t, in)
		if got := proxy.Faults.Load(); got != 2 {
			t.Errorf("%d faults were met", got)
		}
	})
}

// Each repository gets its own credentials, by the rules of containers-auth.json.
func TestCredentialsOfPaths(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	entry := func(key, password string) string {
		return fmt.Sprintf("%q: {\"username\": %q, \"password\": %q}", key, r.User, password)
	}
	for name, test := range map[string]struct {
		entries []string
		works   bool
	}{
		"longest path first": {[]string{entry(r.Host, "wrong"), entry(r.Host+"/library", r.Password)}, true},
		"repository": {
			[]string{entry(r.Host+"/library", "wrong"), entry(r.Host+"/library/busybox", r.Password)}, true,
		},
		"host":                          {[]string{entry(r.Host, r.Password), entry(r.Host+"/other", "wrong")}, true},
		"URL":                           {[]string{entry("https://"+r.Host+"/v2/", r.Password)}, true},
		"another path":                  {[]string{entry(r.Host+"/other", r.Password)}, false},
		"another one's entry is broken": {[]string{entry(r.Host, r.Password), `"ghcr.io": {"auth": "?"}`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
			in.RegistryPullSecret = filepath.Join(t.TempDir(), "config.json")
			text := `{"auths": {` + strings.Join(test.entries, ", ") + `}}`
			if err := os.WriteFile(in.RegistryPullSecret, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if !test.works {
				fail(t, in, outcome.BaseImageUnavailable, "does not let us pull it: 401")
				return
			}
			succeed(t, in)
		})
	}
}

// An entry that cannot be read is named, and no registry is blamed for it.
func TestBrokenCredentials(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/busybox:1\n"}), r)
	in.RegistryPullSecret = filepath.Join(t.TempDir(), "config.json")
	text := `{"auths": {"` + r.Host + `": {"auth": "?"}}, "credHelpers": {"gcr.io": "gcloud"}}`
	if err := os.WriteFile(in.RegistryPullSecret, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	end := fail(t, in, outcome.AuthenticationFailed, "entry of "+r.Host)
	if !strings.Contains(end.output, "credentials for gcr.io to credential helpers") {
		t.Errorf("the log does not tell of helpers: %s", end.output)
	}
}

// The token server of a company's own registry is at a private address, and gives tokens for single repositories.
func TestTokensForBaseImages(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registrytest.PlainHTTP, registrytest.ByToken("repository:library/secret:pull"))
	image, _ := busybox()
	r.Push(t, "library/secret:1", image)
	r.Push(t, "team/other:1", image)
	succeed(t, parameters(project(t, map[string]string{
		"Dockerfile": "FROM " + r.Host + "/library/busybox:1\nCOPY --from=" + r.Host + "/team/other:1 /etc /other\n",
	}), r))
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + r.Host + "/library/secret:1\n"}), r)
	fail(t, in, outcome.BaseImageUnavailable, "line 1", "the token server of "+r.Host+", does not let us pull it: 401")
}

// A file of a URL is no image: the bundle counts for it, and its fault names line, URL and status.
func TestDownloads(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registrytest.Behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch req.URL.Path {
			case "/file":
				io.WriteString(w, "content")
			case "/absent":
				http.NotFound(w, req)
			case "/busy":
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(http.StatusServiceUnavailable)
			default:
				next.ServeHTTP(w, req)
			}
		})
	}))
	build := func(t *testing.T, path string) Parameters {
		return parameters(project(t, map[string]string{
			"Dockerfile": "FROM busybox:1\n\nADD https://" + r.Host + path + " /f\n",
		}), r)
	}
	t.Run("by the bundle's authority", func(t *testing.T) {
		t.Parallel()
		if got := succeed(t, build(t, "/file")).files["f"]; got != "content" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("absent", func(t *testing.T) {
		t.Parallel()
		end := fail(t, build(t, "/absent?token=x"), outcome.DownloadFailed, "Dockerfile line 3: ADD",
			"https://"+r.Host+"/absent", "404")
		if strings.Contains(end.err.Error(), "token=x") {
			t.Errorf("the query is told: %v", end.err)
		}
	})
	t.Run("busy", func(t *testing.T) {
		t.Parallel()
		end := fail(t, build(t, "/busy"), outcome.DownloadUnavailable, "line 3: ADD", "/busy", "503")
		if got := outcome.Of(end.err).RetryAfter; got != 7*time.Second {
			t.Errorf("Retry-After is %s", got)
		}
	})
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM scratch\nADD https://" + r.Host + "/file /f\n",
		}), r)
		in.CABundle = ""
		fail(t, in, outcome.DownloadFailed, "line 2: ADD", "authority that is not trusted")
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM scratch\nADD https://127.0.0.1:9/file /f\n",
		}), r)
		fail(t, in, outcome.DownloadUnavailable, "line 2: ADD", "refused")
	})
}

// A canary must be in no log, message, result or blob.
func TestSecrets(t *testing.T) {
	t.Parallel()
	const canary = "canary-4f1d0c6e"
	r := newRegistry(t)
	dir := t.TempDir()
	// As Kubernetes mounts a Secret.
	os.MkdirAll(filepath.Join(dir, "..2026"), 0o755)
	os.WriteFile(filepath.Join(dir, "..2026", "token"), []byte(canary), 0o400)
	os.Symlink("..2026", filepath.Join(dir, "..data"))
	os.Symlink("..data/token", filepath.Join(dir, "token"))

	for _, mode := range []string{"min", "max"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": `FROM busybox:1
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = ` + strings.ToUpper(canary[:6]) +
				` || cat /run/secrets/token
RUN --mount=type=secret,id=token,env=TOKEN echo "$TOKEN" && echo ${#TOKEN} > /length
RUN test ! -e /run/secrets/token
`}), r)
			in.BuildSecretsDir, in.Provenance = dir, mode
			end := run(t, t.Context(), in)
			if end.err != nil {
				t.Fatalf("%v\n%s", end.err, end.output)
			}
			b := open1(t, in.Workspace)
			if got := b.files["length"]; got != fmt.Sprintln(len(canary)) {
				t.Errorf("the secret has %q bytes", got)
			}
			if !strings.Contains(end.output, "***") {
				t.Error("the RUN that prints the secret printed nothing")
			}
			haystacks := append(b.rawBlobs, []byte(end.output), fmt.Append(nil, end.results))
			for path, content := range b.files {
				haystacks = append(haystacks, []byte(path+content))
			}
			for _, secret := range []string{canary, r.Password} {
				for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
					for _, hay := range haystacks {
						if bytes.Contains(hay, []byte(form)) {
							t.Errorf("%q is in %.300q", form, hay)
						}
					}
				}
			}
		})
	}
}

func TestProvenance(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	base := must(must(busybox()).Digest()).Hex
	files := map[string]string{"deploy/Dockerfile": "FROM busybox:1\nARG VERSION\nRUN echo $VERSION > /v\n"}
	source := map[string]string{"gitCommit": commit, "sha1": commit}
	const sourceURI = "git+https://git.example.com/acme/shop.git"
	for _, mode := range []string{"none", "min", "max"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, files), r)
			in.DockerfilePath, in.Provenance = "deploy/Dockerfile", mode
			in.BuildArgs, in.BuildEnv = named("VERSION", "argument-9"), named("SHOW", "value-9")
			in.Owner = step.Owner{Namespace: "acme", Project: "online", Component: "shop"}
			b := succeed(t, in)
			if mode == "none" {
				if b.provenance != nil {
					t.Fatalf("provenance: %v", b.provenance)
				}
				if must(b.image.Digest()) != b.digest {
					t.Error("the root is not the image")
				}
				return
			}
			raw := must(json.Marshal(b.provenance))
			var p struct {
				Type          string `json:"_type"`
				PredicateType string
				Subject       []struct{ Digest map[string]string }
				Predicate     struct {
					BuildDefinition struct {
						BuildType          string
						ExternalParameters struct {
							ConfigSource struct {
								Path, URI string
								Digest    map[string]string
							}
							Request struct{ Frontend string }
							attestation.Parameters
						}
						ResolvedDependencies []struct {
							URI    string
							Digest map[string]string
						}
					}
					RunDetails struct {
						Builder  attestation.Builder
						Metadata struct {
							BuildkitMetadata struct{ VCS map[string]string } `json:"buildkit_metadata"`
						}
					}
				}
			}
			if err := json.Unmarshal(raw, &p); err != nil {
				t.Fatal(err)
			}
			if p.Type != "https://in-toto.io/Statement/v1" && p.Type != "https://in-toto.io/Statement/v0.1" ||
				p.PredicateType != "https://slsa.dev/provenance/v1" {
				t.Errorf("types: %q, %q", p.Type, p.PredicateType)
			}
			if len(p.Subject) != 1 || p.Subject[0].Digest["sha256"] != must(b.image.Digest()).Hex {
				t.Errorf("subject: %v", p.Subject)
			}
			def := p.Predicate.BuildDefinition
			asked := def.ExternalParameters
			if def.BuildType != "https://stepwright.dev/build-types/dockerfile/v1" ||
				asked.ConfigSource.Path != "deploy/Dockerfile" || asked.ConfigSource.URI != sourceURI ||
				!maps.Equal(asked.ConfigSource.Digest, source) || asked.Request.Frontend == "" {
				t.Errorf("build definition: %+v", def)
			}
			if asked.Repository.URL != "https://git.example.com/acme/shop.git" ||
				asked.Repository.Revision.Commit != commit ||
				!reflect.DeepEqual(*asked.Docker, attestation.Docker{Context: ".", FilePath: "deploy/Dockerfile"}) ||
				*asked.Component != (attestation.Component{Namespace: "acme", Project: "online", Name: "shop"}) ||
				asked.BuildArgs[0].Name != "VERSION" || asked.BuildEnv[0].Name != "SHOW" {
				t.Errorf("it was asked for %+v", asked.Parameters)
			}
			if len(def.ResolvedDependencies) != 2 || def.ResolvedDependencies[0].URI != sourceURI ||
				!maps.Equal(def.ResolvedDependencies[0].Digest, source) ||
				def.ResolvedDependencies[1].Digest["sha256"] != base {
				t.Errorf("dependencies: %+v", def.ResolvedDependencies)
			}
			if builder := p.Predicate.RunDetails.Builder; builder.ID !=
				"https://stepwright.dev/steps/containerfile-build" ||
				builder.Version["stepwright"] != attestation.Version() {
				t.Errorf("builder: %+v", builder)
			}
			if vcs := p.Predicate.RunDetails.Metadata.BuildkitMetadata.VCS; vcs["revision"] != commit ||
				vcs["source"] != "https://git.example.com/acme/shop.git" {
				t.Errorf("source: %v", vcs)
			}
			for _, value := range []string{"argument-9", "value-9"} {
				if has := bytes.Contains(raw, []byte(value)); has != (mode == "max") {
					t.Errorf("%s told: %t", value, has)
				}
			}
			text := base64.StdEncoding.EncodeToString([]byte("FROM busybox:1\n")) // buildEnv comes after it
			if has := bytes.Contains(raw, []byte(text)); has != (mode == "max") {
				t.Errorf("Dockerfile told: %t", has)
			}
		})
	}
}

// Two builds of one commit, each of a clone of its own and with fresh state, give one digest.
func TestReproducible(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for _, mode := range []string{"none", "min", "max"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			var digests []string
			for i := range 2 {
				in := parameters(project(t, reproducible), r)
				os.WriteFile(filepath.Join(in.Workspace.Source(), ".git", "index"), fmt.Append(nil, i), 0o644)
				os.WriteFile(filepath.Join(in.Workspace.Source(), "sub", ".git"), fmt.Append(nil, i), 0o644)
				in.Provenance, in.BuildEnv = mode, odd
				b := succeed(t, in)
				digests = append(digests, b.digest.String())
			}
			if digests[0] != digests[1] {
				t.Errorf("digests: %v", digests)
			}
		})
	}
	t.Run("source-date-epoch", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, reproducible), r)
		in.SourceDateEpoch = 1767225600
		if b := succeed(t, in); b.config.Created.Unix() != 1767225600 {
			t.Errorf("created %s", b.config.Created)
		}
	})
	t.Run("without a revision, times are those of the build", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, reproducible), r)
		os.Remove(filepath.Join(string(in.Workspace), "revision.json"))
		started := time.Now().Add(-time.Minute)
		b := succeed(t, in)
		if b.config.Created.Before(started) {
			t.Errorf("created %s", b.config.Created)
		}
		if child(b.provenance, "predicate", "runDetails", "metadata")["startedOn"] == nil {
			t.Error("the provenance does not tell when")
		}
	})
}

// reproducible is a project whose image depends on nothing but the commit.
var reproducible = map[string]string{
	"Dockerfile": `FROM busybox:1 AS build
COPY . /src
RUN mkdir /out && cat /src/a > /out/b && find /src > /out/names && touch /out/c && chown -R 65534:65534 /out
FROM busybox:1
COPY --from=build /out /app
RUN echo x > /y
WORKDIR /app
`,
	"a":         "content",
	"sub/b":     "content",
	"sub/.git":  "gitdir: ../.git/modules/sub",
	".git/HEAD": "ref: refs/heads/main",
}

// Being told to stop ends a build and what it runs.
func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	marker := fmt.Sprintf("98765%d", os.Getpid())
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN echo started && sleep " + marker + "\n",
	}), r)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := outcome.Errorf(outcome.Cancelled, "stopped by a test")
	go func() {
		for len(running(marker)) == 0 && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		cancel(reason)
	}()
	started := time.Now()
	end := run(t, ctx, in)
	if !errors.Is(end.err, reason) {
		t.Errorf("ended with %v", end.err)
	}
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("took %s", took)
	}
	if left := running(marker); len(left) > 0 {
		t.Errorf("processes of the build are still there: %v", left)
	}
	if left := leftovers(t, in.Workspace); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if strings.Contains(end.output, "did not end well") {
		t.Error(end.output)
	}
}

// running lists the processes that sleep for that long.
func running(seconds string) []int {
	var pids []int
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		if line, err := os.ReadFile(path); err == nil && bytes.HasPrefix(line, []byte("sleep\x00"+seconds)) {
			pids = append(pids, must(strconv.Atoi(filepath.Base(filepath.Dir(path)))))
		}
	}
	return pids
}

// State that is kept makes the next build of the same faster, and is one build's at a time.
func TestKeptState(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	files := map[string]string{"Dockerfile": "FROM busybox:1\nRUN cat /proc/sys/kernel/random/uuid > /random\n"}
	root := filepath.Join(t.TempDir(), "state")
	build := func(change func(*Parameters)) string {
		in := parameters(project(t, files), r)
		in.BuildKitRoot = root
		change(&in)
		return succeed(t, in).files["random"]
	}
	first := build(func(*Parameters) {})
	if second := build(func(*Parameters) {}); second != first {
		t.Error("the cache was not used")
	}
	if third := build(func(in *Parameters) { in.NoCache = true }); third == first {
		t.Error("no-cache used the cache")
	}

	// Another waits, says for whom, and can be stopped.
	other, err := buildkit.Start(t.Context(), buildkit.Config{Root: root}, os.Stderr, func(string) {
		t.Error("it waits, and nobody is there")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	said := make(chan string, 2)
	holder := fmt.Sprintf("process %d on ", os.Getpid())
	ctx, stop := context.WithCancelCause(t.Context())
	for _, test := range []struct {
		ctx  context.Context
		end  func()
		want error
	}{
		{ctx, func() { stop(errStopped) }, errStopped},
		{t.Context(), func() { other.Close() }, nil},
	} {
		ended := make(chan error, 1)
		go func() {
			again, err := buildkit.Start(
				test.ctx,
				buildkit.Config{Root: root},
				os.Stderr,
				func(by string) { said <- by },
			)
			if err == nil {
				again.Close()
			}
			ended <- err
		}()
		if by := <-said; !strings.HasPrefix(by, holder) {
			t.Errorf("it waits for %q, want %q", by, holder)
		}
		select {
		case err := <-ended:
			t.Errorf("it did not wait: %v", err)
		default:
		}
		test.end()
		if err := <-ended; !errors.Is(err, test.want) {
			t.Errorf("error %v, want %v", err, test.want)
		}
	}
}

var errStopped = errors.New("stopped")

// Where overlayfs cannot be used, such as under a path with a comma, layers are copied.
func TestWithoutOverlay(t *testing.T) {
	t.Parallel()
	in := parameters(project(t, reproducible), newRegistry(t))
	in.BuildKitRoot = filepath.Join(t.TempDir(), "a,b")
	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatal(end.err)
	}
	if !strings.Contains(end.output, "layers are copied") {
		t.Error("there is no warning")
	}
	copied := open1(t, in.Workspace)
	in.BuildKitRoot = ""
	if stacked := succeed(t, in); stacked.digest != copied.digest {
		t.Errorf("digests: copied %s, stacked %s", copied.digest, stacked.digest)
	}
}

func TestPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	t.Parallel()
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}), nil)
	in.Platform = "linux/arm64"
	if b := succeed(t, in); b.config.Architecture != "arm64" {
		t.Errorf("architecture: %s", b.config.Architecture)
	}
}

// smallDisk mounts a disk of its own with these options.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	small := filepath.Join(t.TempDir(), "small")
	if err := errors.Join(os.Mkdir(small, 0o755), syscall.Mount("none", small, "tmpfs", 0, options)); err != nil {
		t.Fatalf("mounting takes root: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
	return small
}

// A disk that fills up, by the build or by another process. It is named, with what is to be done about it.
func TestOutOfSpace(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	const run, files = "FROM busybox:1\nRUN seq 1 100000000 > /big\n", "FROM busybox:1\nCOPY big /\n"
	const many = "FROM busybox:1\nRUN i=0; while touch /$i; do i=$((i+1)); done; false\n"
	for name, test := range map[string]struct {
		dockerfile, options string
		workspace           bool // whether the small disk is the workspace's
		words               []string
		hint                string
	}{
		"the build's files": {run, "size=12m", false, []string{"of buildkit-root, /", " of 12.0 MiB are left"},
			"volume of buildkit-root"},
		"the context": {files, "size=12m", false, []string{"of buildkit-root, /", " of 12.0 MiB are left"},
			"volume of buildkit-root"},
		"the workspace": {run, "size=24m", true, []string{"of the workspace, /", " of 24.0 MiB are left"},
			"Give the workspace a larger volume."},
		"inodes": {many, "nr_inodes=600", false, []string{"of buildkit-root, /", "of 600 inodes are left"},
			"volume of buildkit-root"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{
				"Dockerfile": test.dockerfile,
				"big":        strings.Repeat("x", 9<<20),
			}), r)
			small := smallDisk(t, test.options)
			in.BuildKitRoot = filepath.Join(small, "state")
			if test.workspace {
				in.BuildKitRoot = ""
				if err := os.CopyFS(small, os.DirFS(string(in.Workspace))); err != nil {
					t.Fatal(err)
				}
				in.Workspace = workspace.Workspace(small)
			}
			end := fail(t, in, outcome.OutOfSpace, append(test.words, "the disk is full: ", small)...)
			if got := outcome.Of(end.err).Hint; !strings.Contains(got, test.hint) {
				t.Errorf("the hint is %q", got)
			}
		})
	}
}

// Which disk it is, is told by the number of its device, whatever path an error names.
func TestWhoseDisk(t *testing.T) {
	folder := t.TempDir()
	workspaces, roots, others := smallDisk(t, "size=1m"), smallDisk(t, "size=1m"), smallDisk(t, "size=1m")
	temporary := smallDisk(t, "size=1m")
	t.Setenv("TMPDIR", temporary)
	b := &build{in: Parameters{Common: step.Common{Workspace: workspace.Workspace(workspaces)}, BuildKitRoot: roots}}
	for path, want := range map[string]struct{ words, hint string }{
		workspaces: {"of the workspace, " + workspaces, "Give the workspace a larger volume."},
		roots:      {"of buildkit-root, " + roots, "buildkit-root"},
		temporary:  {"of the folder for temporary files, " + temporary, "volume of " + temporary},
		others:     {"of " + others, "volume of " + others},
	} {
		full, err := disk.Of(filepath.Join(path, "a", "b"))
		if err != nil {
			t.Fatal(err)
		}
		got := outcome.Of(b.outOfSpace(full, syscall.ENOSPC))
		if got.Reason != outcome.OutOfSpace || !strings.Contains(got.Message, want.words) ||
			!strings.Contains(got.Hint, want.hint) || strings.Contains(got.Message, folder) {
			t.Errorf("%s: got %+v", path, got)
		}
	}
}

// Every property of the schema has a field, and every field a property.
func TestParametersMirrorSchema(t *testing.T) {
	t.Parallel()
	var fields, properties []string
	var walk func(reflect.Type)
	walk = func(of reflect.Type) {
		for f := range of.Fields() {
			if f.Anonymous {
				walk(f.Type)
				continue
			}
			fields = append(fields, f.Tag.Get("json"))
		}
	}
	walk(reflect.TypeFor[Parameters]())
	for _, p := range schemas.MustLoad("containerfile-build").Properties {
		properties = append(properties, p.Name)
	}
	slices.Sort(fields)
	slices.Sort(properties)
	if !slices.Equal(fields, properties) {
		t.Errorf("fields %v\nproperties %v", fields, properties)
	}
}
