package bench

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
)

// BenchmarkChange measures what one change of a source costs until its image is in the registry: from a pod that has
// nothing, and with a daemon that has built the source before. BuildKit's own client with a warm daemon is the limit.
func BenchmarkChange(b *testing.B) {
	for _, name := range []string{"podman", "runc", "go"} {
		if _, err := exec.LookPath(name); err != nil {
			b.Skip(err)
		}
	}
	p := newPlace(b)
	ways := []struct {
		name   string
		build  func(b *testing.B, source string) []*exec.Cmd
		daemon bool // which a first build makes warm
	}{
		{"buildctl, warm daemon", p.buildctl, true},
		{"ours, fresh state", p.ours, false},
		{"ours, warm daemon", p.oursByDaemon, true},
		{"podman: build, save, load, push", p.podman, false},
		{"podman, cache in the registry", p.podmanCached, false},
	}
	for _, a := range p.applications(b) {
		for _, change := range append([]change{{name: "cold"}, {name: "unchanged"}}, a.changes...) {
			b.Run(a.name+"/"+change.name, func(b *testing.B) {
				p.args = a.args
				var list []contender
				for _, way := range ways {
					list = append(list, contender{way.name, func(b *testing.B) ([]*exec.Cmd, func()) {
						p.registry.forget(b)
						stop := func() {}
						if way.daemon {
							stop = p.startDaemon(b)
						}
						source := p.folder(b)
						a.write(b, source)
						if change.name != "cold" {
							for _, command := range way.build(b, source) {
								if out, err := command.CombinedOutput(); err != nil {
									b.Fatalf("%s: %s: %v: %s", way.name, command, err, out)
								}
							}
						}
						if change.write != nil {
							change.write(b, source)
						}
						return way.build(b, source), func() { stop(); p.clean(b) }
					}})
				}
				contest{list, p.registry.traffic}.run(b)
			})
		}
	}
}

// An application is a source with a Dockerfile.
type application struct {
	name    string
	write   func(b *testing.B, dir string)
	changes []change
	args    []string // build arguments: name=value
}

type change struct {
	name  string
	write func(b *testing.B, dir string) // nil: nothing changes
}

const goDockerfile = `FROM golang:1.26-bookworm AS build
ARG GOPROXY
ENV GOSUMDB=off GOTOOLCHAIN=local
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY *.go ./
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /out/service .

FROM debian:bookworm-slim
COPY --from=build /out/service /usr/local/bin/service
ENTRYPOINT ["/usr/local/bin/service"]
`

// goSource is a service that uses modules, given as packages of them.
func goSource(words string, packages ...string) []byte {
	var imports strings.Builder
	for _, p := range packages {
		fmt.Fprintf(&imports, "\t_ %q\n", p)
	}
	return fmt.Appendf(nil, `package main

import (
	"fmt"
	"net/http"
%s)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, %q) })
	http.ListenAndServe(":8080", nil)
}
`, &imports, words)
}

// applications need the module cache of this machine, which they serve as a module proxy.
func (p *place) applications(b *testing.B) []application {
	b.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		b.Fatal(err)
	}
	cache := filepath.Join(strings.TrimSpace(string(out)), "cache", "download")
	proxy := "http://" + serve(b, http.FileServer(http.Dir(cache)))
	writeGo := func(words string, packages ...string) func(*testing.B, string) {
		return func(b *testing.B, dir string) {
			write(b, filepath.Join(dir, "Dockerfile"), []byte(goDockerfile))
			write(b, filepath.Join(dir, "main.go"), goSource(words, packages...))
			module := "module example.com/service\n\ngo 1.26\n\nrequire (\n\tgithub.com/klauspost/compress v1.19.2\n" +
				"\tgithub.com/santhosh-tekuri/jsonschema/v5 v5.3.1\n"
			if len(packages) > 2 {
				module += "\tgolang.org/x/sync v0.23.0\n"
			}
			write(b, filepath.Join(dir, "go.mod"), []byte(module+")\n"))
			tidy := exec.Command("go", "mod", "tidy")
			tidy.Dir = dir
			tidy.Env = append(os.Environ(), "GOPROXY="+proxy, "GOSUMDB=off", "GOFLAGS=-mod=mod", "GOWORK=off")
			if out, err := tidy.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	modules := []string{"github.com/klauspost/compress/zstd", "github.com/santhosh-tekuri/jsonschema/v5"}
	large := func(seed byte) func(*testing.B, string) {
		return func(b *testing.B, dir string) {
			content := make([]byte, 150_000_000)
			rand.NewChaCha8([32]byte{seed}).Read(content)
			write(b, filepath.Join(dir, "model.bin"), content)
		}
	}
	return []application{
		{
			name: "Go service", args: []string{"GOPROXY=" + proxy},
			write: writeGo("one", modules...),
			changes: []change{
				{"one line", writeGo("two", modules...)},
				{"one dependency", writeGo("one", append(modules, "golang.org/x/sync/errgroup")...)},
			},
		},
		{
			name: "image of 150 MB",
			write: func(b *testing.B, dir string) {
				large(1)(b, dir)
				write(b, filepath.Join(dir, "main.sh"), []byte("echo one\n"))
				write(b, filepath.Join(dir, "Dockerfile"), []byte(
					"FROM debian:bookworm-slim\nCOPY model.bin /opt/model.bin\nCOPY main.sh /opt/main.sh\n"+
						"ENTRYPOINT [\"sh\", \"/opt/main.sh\"]\n",
				))
			},
			changes: []change{
				{"one line", func(b *testing.B, dir string) {
					write(b, filepath.Join(dir, "main.sh"), []byte("echo two\n"))
				}},
				{"one dependency", large(2)},
			},
		},
	}
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

// place has the servers that all builds use.
type place struct {
	dir, scratch       string
	bin                binaries
	registry           *guarded
	mirror             string // host:port of base images
	buildkitd, ctl     string
	config, registries string // files for BuildKit's daemon and for podman
	git, repositories  string // URL and folder
	socket             string // of the running daemon
	args               []string
	folders            int
}

func newPlace(b *testing.B) *place {
	b.Helper()
	p := &place{dir: b.TempDir(), repositories: b.TempDir(), registry: newGuarded(b)}
	p.bin = versions(b, "steps/checkout-source", "steps/containerfile-build", "steps/publish-image")[0]
	p.buildkitd = tool(b, p.bin.dir, "github.com/moby/buildkit/cmd/buildkitd")
	p.ctl = tool(b, p.bin.dir, "github.com/moby/buildkit/cmd/buildctl")
	standIns, err := mirror.Start(mirror.Options{Dir: filepath.Join(b.TempDir(), "mirror")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { standIns.Close() })
	if err := standIns.MakeBaseImages(b.Context()); err != nil {
		b.Fatal(err)
	}
	p.mirror = standIns.Address()
	if p.git, err = devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: p.repositories}); err != nil {
		b.Fatal(err)
	}
	p.config, p.registries = filepath.Join(p.dir, "buildkitd.toml"), filepath.Join(p.dir, "registries.conf")
	write(b, p.config, fmt.Appendf(nil, `[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%q]
[registry.%q]
  http = true
[registry.%q]
  http = false
  ca = [%q]
`, p.mirror, p.mirror, p.registry.host, p.registry.ca))
	write(b, p.registries, fmt.Appendf(nil, `unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = %q
insecure = true
`, p.mirror))
	return p
}

// folder makes a folder that clean removes.
func (p *place) folder(b *testing.B) string {
	b.Helper()
	if p.scratch == "" {
		p.scratch = filepath.Join(p.dir, "scratch")
	}
	p.folders++
	dir := filepath.Join(p.scratch, fmt.Sprint(p.folders))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return dir
}

// clean removes all folders: what builders left, too.
func (p *place) clean(b *testing.B) {
	b.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) { // podman leaves its storage mounted
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, p.scratch+"/") {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				b.Log(err)
			}
		}
	}
	if err := os.RemoveAll(p.scratch); err != nil {
		b.Fatal(err)
	}
}

// startDaemon starts a BuildKit daemon with state of its own.
func (p *place) startDaemon(b *testing.B) (stop func()) {
	b.Helper()
	dir := p.folder(b)
	p.socket = "unix://" + filepath.Join(dir, "sock")
	cmd := exec.Command(p.buildkitd, "--config", p.config, "--root", filepath.Join(dir, "state"), "--addr", p.socket,
		"--oci-worker-net=host", "--otel-socket-path", filepath.Join(dir, "otel"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mounts end with it
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	b.Cleanup(stop) // where a build fails, too
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := exec.Command(p.ctl, "--addr", p.socket, "debug", "workers").Run()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("no worker: %v", err)
		}
	}
	return stop
}

// buildctl builds and pushes at one go.
func (p *place) buildctl(b *testing.B, source string) []*exec.Cmd {
	args := []string{
		"--addr", p.socket, "build", "--progress=plain", "--frontend=dockerfile.v0", "--local=context=" + source,
		"--local=dockerfile=" + source, "--output=type=image,push=true,name=" + p.registry.host + "/app:v1",
	}
	for _, arg := range p.args {
		args = append(args, "--opt=build-arg:"+arg)
	}
	return []*exec.Cmd{p.registry.command(p.ctl, args...)}
}

// ours checks out, which is not measured, builds in a fresh workspace, and publishes.
func (p *place) ours(b *testing.B, source string) []*exec.Cmd {
	b.Helper()
	workspace := p.folder(b)
	return p.steps(b, source, workspace, "--buildkit-root="+filepath.Join(workspace, "buildkit"),
		fmt.Sprintf(`--registry-mirrors=[{"registry": "docker.io", "mirror": %q}]`, p.mirror),
		fmt.Sprintf("--insecure-registries=[%q]", p.mirror))
}

func (p *place) oursByDaemon(b *testing.B, source string) []*exec.Cmd {
	b.Helper()
	return p.steps(b, source, p.folder(b), "--buildkit-address="+p.socket)
}

func (p *place) steps(b *testing.B, source, workspace string, flags ...string) []*exec.Cmd {
	b.Helper()
	repo := filepath.Join(p.repositories, filepath.Base(workspace)+".git")
	if _, err := devgit.Import(b.Context(), source, repo, "source", time.Unix(1_700_000_000, 0)); err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(repo)
	results := "--results-dir=" + filepath.Join(workspace, "results")
	checkout := exec.Command(filepath.Join(p.bin.dir, "checkout-source"), "--branch=main", "--workspace="+workspace,
		"--git-repo="+p.git+"/"+filepath.Base(repo), results)
	checkout.Env = append(os.Environ(), devgit.Hermetic()...)
	if out, err := checkout.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	flags = append(flags, "--workspace="+workspace, results)
	for _, arg := range p.args {
		name, value, _ := strings.Cut(arg, "=")
		flags = append(flags, fmt.Sprintf(`--build-args=[{"name": %q, "value": %q}]`, name, value))
	}
	build := exec.Command(filepath.Join(p.bin.dir, "containerfile-build"), flags...)
	return []*exec.Cmd{build, p.registry.publish(b, p.bin, workspace)}
}

// podmanIn is a command of podman with storage and temporary files, caches of mounts among them, in a folder.
func (p *place) podmanIn(dir string, args ...string) *exec.Cmd {
	cmd := p.registry.command("podman", append([]string{
		"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--runtime", "runc",
		"--cgroup-manager=cgroupfs", "--events-backend=none",
	}, args...)...)
	cmd.Env = append(cmd.Env, "TMPDIR="+dir, "CONTAINERS_REGISTRIES_CONF="+p.registries)
	return cmd
}

func (p *place) podmanBuild(source string) []string {
	args := []string{"build", "--network=host", "--tag=" + p.registry.host + "/app:v1"}
	for _, arg := range p.args {
		args = append(args, "--build-arg="+arg)
	}
	return append(args, source)
}

// podman works as the incumbent's templates do, in two pods: one builds and saves, the other loads and pushes.
func (p *place) podman(b *testing.B, source string) []*exec.Cmd {
	b.Helper()
	first, second, to := p.folder(b), p.folder(b), p.registry.host+"/app:v1"
	archive := filepath.Join(first, "image.tar")
	return []*exec.Cmd{
		p.podmanIn(first, p.podmanBuild(source)...),
		p.podmanIn(first, "save", "--quiet", "-o", archive, to),
		p.podmanIn(second, "load", "--quiet", "-i", archive),
		p.podmanIn(second, "push", "--quiet", "--cert-dir="+p.registry.config, to),
	}
}

// podmanCached keeps its layers in the registry.
func (p *place) podmanCached(b *testing.B, source string) []*exec.Cmd {
	b.Helper()
	dir, cache := p.folder(b), p.registry.host+"/app/cache"
	build := p.podmanBuild(source)
	build = append([]string{
		build[0], "--layers", "--cache-from=" + cache, "--cache-to=" + cache, "--cert-dir=" + p.registry.config,
	}, build[1:]...)
	return []*exec.Cmd{
		p.podmanIn(dir, build...),
		p.podmanIn(dir, "push", "--quiet", "--cert-dir="+p.registry.config, p.registry.host+"/app:v1"),
	}
}
