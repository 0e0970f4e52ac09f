package bench

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// The ways from a source to an image in a registry.
const (
	byPodmanCached = "podman, cache in the registry"
	byPodman       = "podman: build, save, load, push"
	byBuildctl     = "buildctl, by a daemon"
	byOurs         = "ours, fresh state"
	byOursUncached = "ours, fresh state, cache disabled"
	byOursDaemon   = "ours, by a daemon"
)

// A way builds an application's revisions, one after another.
type way struct {
	name     string
	coldOnly bool
	registry *guarded // of its own
	build    func(b *testing.B, w *way, s source) trial

	place     *place
	hasDaemon bool
	daemon    *daemon
	built     *revision // the last one; nil: none is in the registry or in the daemon
}

// ways makes all ways, with nothing built. The first one is what the others are compared with.
func (p *place) ways(b *testing.B) []*way {
	b.Helper()
	all := []*way{
		{name: byPodmanCached, build: p.podmanCached},
		{name: byPodman, build: p.podman},
		{name: byBuildctl, build: p.buildctl, hasDaemon: true},
	}
	for i, version := range p.versions {
		suffix := ""
		if i > 0 {
			suffix = ", " + version.name
		}
		all = append(all,
			&way{name: byOurs + suffix, build: p.ours(version)},
			&way{name: byOursUncached + suffix, build: p.ours(version, "--dockerfile-cache=disabled"), coldOnly: true},
			&way{name: byOursDaemon + suffix, build: p.ours(version), hasDaemon: true},
		)
	}
	for _, w := range all {
		w.place, w.registry = p, newGuarded(b)
	}
	return all
}

// next prepares the build of the next revision after a change: what was built before it is built when it was not.
func (w *way) next(b *testing.B, c change) trial {
	b.Helper()
	if c.name == cold || w.built == nil {
		w.stop()
		w.registry.forget(b)
		if w.hasDaemon {
			w.daemon = w.place.startDaemon(b, w.registry)
		}
		first := w.place.source(b, revision{})
		w.built = &revision{}
		if c.name != cold {
			t := w.build(b, w, first)
			for _, command := range t.commands {
				if out, err := command.CombinedOutput(); err != nil {
					b.Fatalf("%s: %s: %v: %s", w.name, command, err, out)
				}
			}
			t.remove()
		}
	}
	revision := c.next(*w.built)
	w.built = &revision
	s := w.place.source(b, revision)
	t := w.build(b, w, s)
	t.traffic = []*traffic{w.registry.traffic, w.place.bases}
	if w.daemon != nil {
		t.servers = []int{w.daemon.pid}
	}
	forgetPages(b, s.context, s.workspace)
	return t
}

func (w *way) stop() {
	if w.daemon != nil {
		w.daemon.stop()
		w.daemon = nil
	}
}

// forgetPages writes what is not written yet, as it must not meet what is measured next, and has the kernel forget the
// files in folders: a pod finds its volume on a disk.
func forgetPages(b *testing.B, dirs ...string) {
	b.Helper()
	unix.Sync()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// place has what all ways use.
type place struct {
	volume         string // a file system
	dir, scratch   string // in it; scratch is in dir, and emptied after each round
	versions       []binaries
	buildkitd, ctl string
	mirror         string // host:port of base images
	bases          *traffic
	folders        int

	application application
	sources     map[revision]source
}

// A source is a revision of the application, as a folder and as checkout-source hands it on.
type source struct {
	context   string
	workspace string            // has nothing else
	outputs   map[string]string // of checkout-source
}

func newPlace(b *testing.B) *place {
	b.Helper()
	dir := b.TempDir()
	volume, remove := newVolume(b)
	p := &place{volume: volume, dir: filepath.Join(volume, "w"), bases: new(traffic)}
	p.scratch = filepath.Join(p.dir, "s")
	b.Cleanup(func() {
		p.clean(b, p.dir)
		remove()
	})
	p.versions = versions(b, "steps/checkout-source", "steps/containerfile-build", "steps/publish-image")
	p.buildkitd = tool(b, dir, "github.com/moby/buildkit/cmd/buildkitd")
	p.ctl = tool(b, dir, "github.com/moby/buildkit/cmd/buildctl")
	names := []string{baseimages.Debian, baseimages.Golang, baseimages.Node}
	kept, err := baseimages.DefaultDir()
	if err != nil {
		b.Fatal(err)
	}
	images := baseimages.Store{Dir: kept}
	if err := images.Ensure(b.Context(), names...); err != nil {
		b.Fatal(err)
	}
	registry, err := devregistry.New(devregistry.Options{Dir: filepath.Join(dir, "bases")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { registry.Close() })
	p.bases.next = registry
	if p.mirror, err = registry.StartHandler("", p.bases); err != nil {
		b.Fatal(err)
	}
	if err := images.Push(b.Context(), p.mirror, names...); err != nil {
		b.Fatal(err)
	}
	return p
}

// source makes a revision of the application, unless it is there.
func (p *place) source(b *testing.B, r revision) source {
	b.Helper()
	if s, there := p.sources[r]; there {
		return s
	}
	dir := filepath.Join(p.dir, fmt.Sprintf("source-%d-%d", r.line, r.dependency))
	s := source{filepath.Join(dir, "context"), filepath.Join(dir, "workspace"), map[string]string{}}
	p.application.write(b, s.context, r)
	repo, results := filepath.Join(dir, "repositories", "app.git"), filepath.Join(dir, "results")
	if err := devgit.Init(b.Context(), repo); err != nil {
		b.Fatal(err)
	}
	// A large file that cannot be compressed takes long enough to check out as it is.
	if _, err := devgit.Git(b.Context(), repo, nil, nil, "config", "core.compression", "0"); err != nil {
		b.Fatal(err)
	}
	if _, err := devgit.Import(b.Context(), s.context, repo, "revision", time.Unix(1_700_000_000, 0)); err != nil {
		b.Fatal(err)
	}
	url, err := devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: filepath.Dir(repo)})
	if err != nil {
		b.Fatal(err)
	}
	checkout := exec.Command(filepath.Join(p.versions[0].dir, "checkout-source"), "--branch=main",
		"--workspace="+s.workspace, "--git-repo="+url+"/app.git", "--results-dir="+results)
	checkout.Env = append(os.Environ(), devgit.Hermetic()...)
	if out, err := checkout.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"git-revision", "revision", "source-digest"} {
		value, err := os.ReadFile(filepath.Join(results, name))
		if err != nil {
			b.Fatal(err)
		}
		s.outputs[name] = string(value)
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(repo)), os.RemoveAll(results)); err != nil {
		b.Fatal(err)
	}
	p.sources[r] = s
	return s
}

// folder makes a folder that is removed after the round.
func (p *place) folder(b *testing.B) string {
	b.Helper()
	p.folders++
	dir := filepath.Join(p.scratch, fmt.Sprint(p.folders))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return dir
}

// clean removes a folder, and what builders left there, too.
func (p *place) clean(b *testing.B, dir string) {
	b.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) { // podman leaves its storage mounted
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, dir+"/") {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				b.Log(err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
	// The machine's disk has to get back what was removed: the volume is a file there, which only grows otherwise.
	if out, err := exec.Command("fstrim", p.volume).CombinedOutput(); err != nil {
		b.Logf("fstrim %s: %v: %s", p.volume, err, out)
	}
}

// A daemon is BuildKit's, with state of its own.
type daemon struct {
	address string
	pid     int
	stop    func() // removes the state, too
}

// startDaemon starts a daemon that may reach a registry.
func (p *place) startDaemon(b *testing.B, registry *guarded) *daemon {
	b.Helper()
	p.folders++
	dir := filepath.Join(p.dir, fmt.Sprintf("daemon-%d", p.folders))
	config := filepath.Join(dir, "buildkitd.toml")
	write(b, config, fmt.Appendf(nil, `[worker.containerd]
  enabled = false
[registry."docker.io"]
  mirrors = [%q]
[registry.%q]
  http = true
[registry.%q]
  http = false
  ca = [%q]
`, p.mirror, p.mirror, registry.host, registry.ca))
	d := &daemon{address: "unix://" + filepath.Join(dir, "sock")}
	cmd := exec.Command(p.buildkitd, "--config", config, "--root", filepath.Join(dir, "state"), "--addr", d.address,
		"--oci-worker-net=host", "--otel-socket-path", filepath.Join(dir, "otel"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // its mounts end with it
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	d.pid = cmd.Process.Pid
	d.stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		err := exec.Command(p.ctl, "--addr", d.address, "debug", "workers").Run()
		if err == nil {
			return d
		}
		if time.Now().After(deadline) {
			d.stop()
			b.Fatalf("no worker: %v", err)
		}
	}
}

// buildctl builds and pushes at one go.
func (p *place) buildctl(_ *testing.B, w *way, s source) trial {
	return trial{commands: []*exec.Cmd{w.registry.command(
		p.ctl, "--addr", w.daemon.address, "build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local=context="+s.context, "--local=dockerfile="+s.context,
		"--output=type=image,push=true,name="+w.registry.host+"/app:v1",
	)}, remove: func() {}}
}

// ours builds and publishes as the templates do, in two pods. The source is checked out.
func (p *place) ours(version binaries, flags ...string) func(*testing.B, *way, source) trial {
	return func(b *testing.B, w *way, s source) trial {
		b.Helper()
		state, results := p.folder(b), p.folder(b)
		credentials := filepath.Join(w.registry.config, "config.json")
		both := []string{
			"--workspace=" + s.workspace, "--registry=" + w.registry.host, "--image-name=acme_shop_cart",
			"--namespace-name=acme", "--project-name=shop", "--component-name=cart",
			"--ca-bundle=" + w.registry.ca, "--registry-pull-secret=" + credentials,
			fmt.Sprintf(`--registry-mirrors=[{"registry": "docker.io", "mirror": %q}]`, p.mirror),
			fmt.Sprintf("--insecure-registries=[%q]", p.mirror),
		}
		built := filepath.Join(results, "build")
		args := slices.Concat(both, flags, []string{
			"--results-dir=" + built, "--source-digest=" + s.outputs["source-digest"],
			"--revision=" + s.outputs["revision"],
		})
		if w.daemon != nil {
			args = append(args, "--buildkit-address="+w.daemon.address)
		} else {
			args = append(args, "--buildkit-root="+state)
		}
		// A shell hands over what the build results in, as Argo does.
		publish := exec.Command("sh", slices.Concat([]string{
			"-c", `built=$1 && shift &&
				exec "$@" --image-digest="$(cat "$built/image-digest")" --base-images="$(cat "$built/base-images")"`,
			"sh", built, filepath.Join(version.dir, "publish-image"),
		}, both, []string{
			"--results-dir=" + filepath.Join(results, "publish"), "--registry-push-secret=" + credentials,
			"--git-revision=" + s.outputs["git-revision"],
		})...)
		left := []string{filepath.Join(s.workspace, "image"), filepath.Join(s.workspace, "cache")}
		return trial{
			commands:  []*exec.Cmd{exec.Command(filepath.Join(version.dir, "containerfile-build"), args...), publish},
			workspace: left,
			remove: func() {
				p.clean(b, p.scratch)
				for _, dir := range left {
					if err := os.RemoveAll(dir); err != nil {
						b.Fatal(err)
					}
				}
			},
		}
	}
}

// podmanIn is a command of podman in a pod of its own: storage and temporary files, caches of mounts among them, are in
// a folder.
func (p *place) podmanIn(b *testing.B, w *way, dir string, args ...string) *exec.Cmd {
	b.Helper()
	registries := filepath.Join(dir, "registries.conf")
	write(b, registries, fmt.Appendf(nil, `unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = %q
insecure = true
`, p.mirror))
	cmd := w.registry.command("podman", append([]string{
		"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "overlay",
		"--runtime", "runc", "--cgroup-manager=cgroupfs", "--events-backend=none",
	}, args...)...)
	cmd.Env = append(cmd.Env, "TMPDIR="+dir, "CONTAINERS_REGISTRIES_CONF="+registries)
	return cmd
}

func (p *place) podmanBuild(w *way, s source, flags ...string) []string {
	return slices.Concat([]string{"build", "--network=host", "--tag=" + w.registry.host + "/app:v1"}, flags,
		[]string{s.context})
}

// podman works as the incumbent's templates do, in two pods: one builds and saves, the other loads and pushes.
func (p *place) podman(b *testing.B, w *way, s source) trial {
	b.Helper()
	first, second, to := p.folder(b), p.folder(b), w.registry.host+"/app:v1"
	workspace := p.folder(b)
	archive := filepath.Join(workspace, "app-image.tar")
	return trial{
		commands: []*exec.Cmd{
			p.podmanIn(b, w, first, p.podmanBuild(w, s)...),
			p.podmanIn(b, w, first, "save", "--quiet", "-o", archive, to),
			p.podmanIn(b, w, second, "load", "--quiet", "-i", archive),
			p.podmanIn(b, w, second, "push", "--quiet", "--cert-dir="+w.registry.config, to),
		},
		workspace: []string{workspace},
		remove:    func() { p.clean(b, p.scratch) },
	}
}

// podmanCached keeps its layers in the registry, and pushes from the pod that has built: that is less work than the
// incumbent's templates do with a cache.
func (p *place) podmanCached(b *testing.B, w *way, s source) trial {
	b.Helper()
	dir, cache := p.folder(b), w.registry.host+"/app/cache"
	return trial{
		commands: []*exec.Cmd{
			p.podmanIn(b, w, dir, p.podmanBuild(w, s, "--layers", "--cache-from="+cache, "--cache-to="+cache,
				"--cert-dir="+w.registry.config)...),
			p.podmanIn(b, w, dir, "push", "--quiet", "--cert-dir="+w.registry.config, w.registry.host+"/app:v1"),
		},
		remove: func() { p.clean(b, p.scratch) },
	}
}
