package bench

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// An application is a source with a Dockerfile.
type application struct {
	name  string
	write func(b *testing.B, dir string, r revision)
}

// A revision of an application has a source line and a dependency of its own for each number.
type revision struct{ line, dependency int }

// A change makes the next revision of one.
type change struct {
	name string
	next func(revision) revision
}

// cold is the change before which nothing was built. It stands first: the others follow its builds.
const cold = "cold"

var changes = []change{
	{cold, func(r revision) revision { return r }},
	{"unchanged", func(r revision) revision { return r }},
	{"one source line", func(r revision) revision { r.line++; return r }},
	{"one dependency", func(r revision) revision { r.dependency++; return r }},
}

const (
	goService   = "Go service"
	nodeService = "Node service"
	largeImage  = "image of 150 MB"
)

// applications starts the servers of what they depend on.
func applications(b *testing.B) []application {
	b.Helper()
	return []application{newGoService(b), newNodeService(b), {name: largeImage, write: writeLarge}}
}

// Podman 4.3 takes nothing from a cache in a registry after an ARG, ENV or WORKDIR, so that the Dockerfiles do without.

// goDockerfile wants a module proxy.
const goDockerfile = `FROM golang:1.26-bookworm AS build
COPY go.mod go.sum /src/
RUN --mount=type=cache,target=/go/pkg/mod cd /src && GOSUMDB=off GOPROXY=%[1]s go mod download
COPY *.go /src/
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    cd /src && GOSUMDB=off GOPROXY=%[1]s CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /out/service .

FROM debian:bookworm-slim
COPY --from=build /out/service /usr/local/bin/service
ENTRYPOINT ["/usr/local/bin/service"]
`

const goMain = `package main

import (
	"fmt"
	"net/http"

	"github.com/klauspost/compress/gzhttp"
	"github.com/santhosh-tekuri/jsonschema/v5"

	"example.com/rates"
)

func main() {
	schema := jsonschema.MustCompileString("rates.json", %q)
	http.Handle("/", gzhttp.GzipHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, %d, rates.Version, schema.Validate(rates.Version) == nil)
	})))
	http.ListenAndServe(":8080", nil)
}
`

// newGoService serves modules that this project requires, as the machine has them, and a module example.com/rates in
// all versions that are asked for: the dependency that changes.
func newGoService(b *testing.B) application {
	b.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		b.Fatal(err)
	}
	proxy := "http://" + serve(b, goProxy{http.FileServer(http.Dir(
		filepath.Join(strings.TrimSpace(string(out)), "cache", "download"),
	))})
	list := exec.Command(
		"go", "list", "-m", "github.com/klauspost/compress", "github.com/santhosh-tekuri/jsonschema/v5",
	)
	required, err := list.Output()
	if err != nil {
		b.Fatalf("%s: %v", list, err)
	}
	modules := b.TempDir() // of the tool go on this machine: that of the user learns of no rates
	return application{
		name: goService,
		write: func(b *testing.B, dir string, r revision) {
			var module strings.Builder
			module.WriteString("module example.com/service\n\ngo 1.26\n\n")
			fmt.Fprintf(&module, "require example.com/rates v1.%d.0\n", r.dependency)
			for line := range strings.Lines(string(required)) {
				fmt.Fprintf(&module, "require %s", line)
			}
			write(b, filepath.Join(dir, "Dockerfile"), fmt.Appendf(nil, goDockerfile, proxy))
			write(b, filepath.Join(dir, "main.go"), fmt.Appendf(nil, goMain, `{"type": "string"}`, r.line))
			write(b, filepath.Join(dir, "go.mod"), []byte(module.String()))
			tidy := exec.Command("go", "mod", "tidy")
			tidy.Dir = dir
			tidy.Env = append(os.Environ(), "GOPROXY="+proxy, "GOSUMDB=off", "GOFLAGS=-mod=mod -modcacherw",
				"GOWORK=off", "GOMODCACHE="+modules)
			if out, err := tidy.CombinedOutput(); err != nil {
				b.Fatalf("%s: %v: %s", tidy, err, out)
			}
		},
	}
}

// goProxy is a module proxy that has all versions of the module example.com/rates, and of others what the next handler
// has.
type goProxy struct{ next http.Handler }

// ServeHTTP implements http.Handler.
func (p goProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ours := strings.CutPrefix(r.URL.Path, "/example.com/rates/@v/")
	extension := filepath.Ext(file)
	version := strings.TrimSuffix(file, extension)
	const module = "module example.com/rates\n\ngo 1.26\n"
	switch {
	case !ours:
		p.next.ServeHTTP(w, r)
	case extension == ".info":
		fmt.Fprintf(w, `{"Version": %q, "Time": "2026-01-01T00:00:00Z"}`, version)
	case extension == ".mod":
		io.WriteString(w, module)
	case extension == ".zip":
		archive := zip.NewWriter(w)
		defer archive.Close()
		source := fmt.Sprintf("package rates\n\nconst Version = %q\n", version)
		for i := range 200 {
			source += fmt.Sprintf("\nfunc Of%d(x float64) float64 { return x * %d }\n", i, i)
		}
		for name, content := range map[string]string{"go.mod": module, "rates.go": source} {
			if f, err := archive.Create("example.com/rates@" + version + "/" + name); err == nil {
				io.WriteString(f, content)
			}
		}
	default:
		http.NotFound(w, r)
	}
}

// nodeDockerfile wants a registry of npm.
const nodeDockerfile = `FROM stepwright/node:bookworm
COPY package.json package-lock.json /app/
RUN --mount=type=cache,target=/root/.npm \
    cd /app && npm ci --registry=%s --omit=dev --no-audit --no-fund --no-update-notifier
COPY *.js /app/
ENTRYPOINT ["node", "/app/server.js"]
`

// nodePackages is how many packages the service in Node.js depends on, each with 20 files of about 4 KB.
const nodePackages = 120

// newNodeService serves packages in all versions that are asked for. The first of them is the dependency that changes.
func newNodeService(b *testing.B) application {
	b.Helper()
	registry := "http://" + serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var number, version int
		if _, err := fmt.Sscanf(r.URL.Path, "/package%d/-/1.%d.0.tgz", &number, &version); err != nil {
			http.NotFound(w, r)
			return
		}
		w.Write(nodePackage(number, version))
	}))
	integrity := map[[2]int]string{}
	return application{
		name: nodeService,
		write: func(b *testing.B, dir string, r revision) {
			type locked struct {
				Name         string            `json:"name,omitempty"`
				Version      string            `json:"version"`
				Resolved     string            `json:"resolved,omitempty"`
				Integrity    string            `json:"integrity,omitempty"`
				Dependencies map[string]string `json:"dependencies,omitempty"`
			}
			service := locked{Name: "service", Version: "1.0.0", Dependencies: map[string]string{}}
			packages := map[string]locked{}
			for number := range nodePackages {
				version := 0
				if number == 0 {
					version = r.dependency
				}
				id := [2]int{number, version}
				if integrity[id] == "" {
					sum := sha512.Sum512(nodePackage(number, version))
					integrity[id] = "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
				}
				name, released := fmt.Sprintf("package%d", number), fmt.Sprintf("1.%d.0", version)
				service.Dependencies[name] = released
				packages["node_modules/"+name] = locked{
					Version: released, Integrity: integrity[id],
					Resolved: registry + "/" + name + "/-/" + released + ".tgz",
				}
			}
			packages[""] = service
			for name, content := range map[string]any{
				"package.json": service,
				"package-lock.json": map[string]any{
					"name": "service", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
					"packages": packages,
				},
			} {
				raw, err := json.Marshal(content)
				if err != nil {
					b.Fatal(err)
				}
				write(b, filepath.Join(dir, name), raw)
			}
			write(b, filepath.Join(dir, "Dockerfile"), fmt.Appendf(nil, nodeDockerfile, registry))
			write(b, filepath.Join(dir, "server.js"), fmt.Appendf(nil,
				"require('http').createServer((_, r) => r.end('%d ' + require('package0'))).listen(8080)\n", r.line))
		},
	}
}

// nodePackage is the archive of a package: the same bytes each time.
func nodePackage(number, version int) []byte {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	add := func(name, content string) {
		w.WriteHeader(&tar.Header{Name: "package/" + name, Size: int64(len(content)), Mode: 0o644})
		io.WriteString(w, content)
	}
	add("package.json", fmt.Sprintf(`{"name": "package%d", "version": "1.%d.0", "main": "file0.js"}`, number, version))
	random := rand.New(rand.NewPCG(uint64(number), uint64(version)))
	for file := range 20 {
		var source strings.Builder
		fmt.Fprintf(&source, "module.exports = %d;\n", file)
		for source.Len() < 4000 {
			fmt.Fprintf(&source, "exports.value%d = x => x + %d;\n", random.IntN(1000), random.IntN(1_000_000))
		}
		add(fmt.Sprintf("file%d.js", file), source.String())
	}
	w.Close()
	zipped.Close() // into memory: neither can fail
	return out.Bytes()
}

// writeLarge writes a model, which is the dependency, and a script that comes after it.
func writeLarge(b *testing.B, dir string, r revision) {
	content := make([]byte, 150_000_000)
	rand.NewChaCha8([32]byte{byte(r.dependency)}).Read(content)
	write(b, filepath.Join(dir, "model.bin"), content)
	write(b, filepath.Join(dir, "main.sh"), fmt.Appendf(nil, "echo %d\n", r.line))
	write(b, filepath.Join(dir, "Dockerfile"), []byte(
		"FROM debian:bookworm-slim\nCOPY model.bin /opt/model.bin\nCOPY main.sh /opt/main.sh\n"+
			"ENTRYPOINT [\"sh\", \"/opt/main.sh\"]\n",
	))
}

// serve serves a handler on loopback and returns host:port.
func serve(b *testing.B, handler http.Handler) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	b.Cleanup(func() { server.Close() })
	go server.Serve(listener)
	return listener.Addr().String()
}
