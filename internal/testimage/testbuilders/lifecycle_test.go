package testbuilders

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/imagetest"
)

// scratch is a folder for unpacked files that every user may enter, unlike a test's own.
var scratch string

func TestMain(m *testing.M) { imagetest.Main(m, &scratch) }

// made returns a store with all builders in it.
func made(t testing.TB) Store {
	t.Helper()
	if testing.Short() {
		t.Skip("makes builders of Debian packages")
	}
	dir, err := baseimages.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	store := Store{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if err := store.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func family(t testing.TB, name string) Family {
	t.Helper()
	for _, f := range Families() {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no family %s", name)
	return Family{}
}

// A tree is a folder that is filled once for all tests, since nobody writes into it.
type tree func() (dir string, err error)

// trees are the root file systems of images, by their names, and first layers, by their digests.
var trees sync.Map

func treeOf(key string, fill func(dir string) error) tree {
	made, _ := trees.LoadOrStore(key, tree(sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp(scratch, "tree-")
		if err != nil {
			return "", err
		}
		return dir, errors.Join(os.Chmod(dir, 0o755), fill(dir))
	})))
	return made.(tree)
}

// root returns an image's root file system.
func root(t testing.TB, ref string) string {
	t.Helper()
	img, err := made(t).Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := treeOf(ref, func(dir string) error {
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		// Most of an image is in its first layer, which others share.
		digest, err := layers[0].Digest()
		if err != nil {
			return err
		}
		first, err := treeOf(digest.String(), func(dir string) error { return unpack(layers[:1], dir) })()
		if err != nil {
			return err
		}
		if out, err := exec.Command("cp", "--archive", "--link", first+"/.", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return unpack(layers[1:], dir)
	})()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// unpack writes those layers that are there. Files that are there already tar removes first, so that a link of another
// tree stays as it is.
func unpack(layers []v1.Layer, dir string) error {
	for _, layer := range layers {
		content, err := layer.Compressed()
		if errors.Is(err, fs.ErrNotExist) {
			continue // of a sparse image
		}
		if err != nil {
			return err
		}
		cmd := exec.Command(
			"tar", "--extract", "--gzip", "--preserve-permissions", "--same-owner", "--numeric-owner", "--directory",
			dir,
		)
		cmd.Stdin = content
		out, err := cmd.CombinedOutput()
		content.Close()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// A container runs a command in a root file system that it cannot write to, as a restricted pod does: by an ordinary
// user, without any capability.
type container struct {
	root    string
	user    User
	args    []string
	env     []string
	dir     string
	mounts  map[string]string // folders of this machine by where the container has them, to write to
	network bool              // this machine's; else none at all
}

func (c container) command(t testing.TB) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("runc"); err != nil {
		t.Fatal("runc is missing; ci/install/install.sh test installs it")
	}
	type object = map[string]any
	mount := func(destination, kind, source string, options ...string) object {
		return object{"destination": destination, "type": kind, "source": source, "options": options}
	}
	mounts := []object{
		mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
		mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777"),
	}
	for destination, source := range c.mounts {
		if err := os.MkdirAll(filepath.Join(c.root, destination), 0o755); err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, mount(destination, "bind", source, "rbind", "rw"))
	}
	namespaces := []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}
	if !c.network {
		namespaces = append(namespaces, object{"type": "network"})
	}
	spec, err := json.Marshal(object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": c.user.UID, "gid": c.user.GID},
			"args": c.args, "env": c.env, "cwd": c.dir,
			"capabilities":    object{},
			"noNewPrivileges": true,
		},
		"root":   object{"path": c.root, "readonly": true},
		"mounts": mounts,
		"linux":  object{"namespaces": namespaces},
	})
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := os.MkdirTemp(scratch, "bundle-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644); err != nil {
		t.Fatal(err)
	}
	// Not with the test's context, which ends before the test's processes can be stopped in order.
	return exec.Command(
		"runc", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, filepath.Base(bundle),
	)
}

// A build is one run of the lifecycle.
type build struct {
	family Family
	app    fs.FS             // the application's source
	env    map[string]string // the developer's
	cache  string            // folder; empty: none
	writes map[string]string // more folders to write to, by where the builder has them
}

// platformAPI is the first that restores a layer from the cache that is also part of the image, without the previous
// image at hand.
const platformAPI = "0.14"

// target is what the images that are built are called.
const target = "registry.example.com/acme/application:v1"

// container is one of the builder, with all that a build takes.
func (b build) container(t testing.TB) container {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "build-")
	if err != nil {
		t.Fatal(err)
	}
	builder, err := made(t).Image(b.family.Builder)
	if err != nil {
		t.Fatal(err)
	}
	config, err := builder.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := container{
		root: root(t, b.family.Builder), user: b.family.BuildUser, dir: "/layers",
		env: append(config.Config.Env, "HOME=/home/cnb", "CNB_PLATFORM_API="+
			platformAPI, "CNB_EXPERIMENTAL_MODE=warn"),
		mounts: map[string]string{},
	}
	for _, folder := range []string{"layers", "layouts", "platform", "platform/env"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "workspace"), b.app); err != nil {
		t.Fatal(err)
	}
	for variable, value := range b.env {
		if err := os.WriteFile(filepath.Join(dir, "platform", "env", variable), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.writeRunImage(t, filepath.Join(dir, "layouts"))
	for _, folder := range []string{"/layers", "/layouts", "/platform", "/workspace"} {
		c.mounts[folder] = filepath.Join(dir, folder)
	}
	if b.cache != "" {
		c.mounts["/cache"] = b.cache
	}
	maps.Copy(c.mounts, b.writes)
	for _, folder := range c.mounts {
		if err := chown(folder, b.family.BuildUser); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// run returns the image, without the layers of the run image, and what the build printed.
func (b build) run(t testing.TB) (v1.Image, string, error) {
	t.Helper()
	c := b.container(t)
	c.args = []string{
		"/cnb/lifecycle/creator", "-log-level=debug", "-no-color", "-layout", "-layout-dir=/layouts",
		"-app=/workspace", "-layers=/layers", "-platform=/platform", "-run-image=" + b.family.Run,
	}
	if b.cache != "" {
		c.args = append(c.args, "-cache-dir=/cache")
	}
	c.args = append(c.args, target)
	out, err := c.command(t).CombinedOutput()
	if err != nil {
		return nil, string(out), err
	}
	index, err := layout.ImageIndexFromPath(filepath.Join(c.mounts["/layouts"], strings.ReplaceAll(target, ":", "/")))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img, string(out), nil
}

// writeRunImage puts the run image where the lifecycle looks for it, without its layers' blobs.
func (b build) writeRunImage(t testing.TB, layouts string) {
	t.Helper()
	run, err := made(t).Image(b.family.Run)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(b.family.Run)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(layouts, ref.Context().RegistryStr(), ref.Context().RepositoryStr(), ref.Identifier())
	p, err := layout.Write(folder, mutate.IndexMediaType(empty.Index, "application/vnd.oci.image.index.v1+json"))
	if err != nil {
		t.Fatal(err)
	}
	descriptor, err := descriptorOf(run)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := run.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := run.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	configName, err := run.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for hash, content := range map[v1.Hash][]byte{descriptor.Digest: manifest, configName: config} {
		if err := p.WriteBlob(hash, io.NopCloser(bytes.NewReader(content))); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.AppendDescriptor(descriptor); err != nil {
		t.Fatal(err)
	}
}

func descriptorOf(img v1.Image) (v1.Descriptor, error) {
	mediaType, err := img.MediaType()
	if err != nil {
		return v1.Descriptor{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return v1.Descriptor{}, err
	}
	size, err := img.Size()
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, err
}

func chown(folder string, user User) error {
	return filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, user.UID, user.GID)
	})
}

// start runs the default process of an image that was built, and returns where it serves. It is stopped when the test
// ends, and must then end well.
func start(t *testing.T, f Family, img v1.Image) (base string) {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "image-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if err := unpack(layers, dir); err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	c := container{
		root: root(t, f.Run), user: f.RunUser, dir: config.Config.WorkingDir, network: true,
		args: config.Config.Entrypoint, env: append(config.Config.Env, "PORT="+port, "BAL_CONFIG_VAR_PORT="+port),
		mounts: map[string]string{},
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		c.mounts["/"+entry.Name()] = filepath.Join(dir, entry.Name())
	}
	var out bytes.Buffer
	cmd := c.command(t)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	base = "http://127.0.0.1:" + port
	deadline := time.After(30 * time.Second)
	for {
		if response, err := http.Get(base + "/healthz"); err == nil {
			response.Body.Close()
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("the application ended: %v\n%s", err, &out)
		case <-deadline:
			t.Fatal("the application does not answer")
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // runc hands it on
		select {
		case err := <-ended:
			var exit *exec.ExitError
			// Node.js and Java end by the signal's number.
			if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 128+int(syscall.SIGTERM)) {
				t.Errorf("told to stop, the application ended: %v\n%s", err, &out)
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("told to stop, the application did not\n%s", &out)
		}
	})
	return base
}

// files calls use for each regular file of an image's layers that are there.
func files(t testing.TB, img v1.Image, use func(name string, content []byte)) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		content.Close()
		imagetest.Walk(t, layer, func(header *tar.Header, content io.Reader) {
			if header.Typeflag != tar.TypeReg {
				return
			}
			data, err := io.ReadAll(content)
			if err != nil {
				t.Fatal(err)
			}
			use(strings.TrimPrefix(path.Clean(header.Name), "/"), data)
		})
	}
}
