package faults

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/pki"
	"github.com/stepwright/stepwright/internal/programtest"
)

// works are what all cells share: programs, sources, and what the steps make of them when nothing is wrong.
type works struct {
	dir         string
	bin         string // folder of the steps' programs
	builder     string // root file system of a buildpacks builder
	repository  string // bare, with the branches main and next
	base        v1.Image
	authority   *pki.Authority
	certificate *tls.Certificate

	truth map[string]*truth // by step
}

// truth is what a step does and leaves when nothing is wrong.
type truth struct {
	results map[string]string
	vol     string // the workspace afterwards
	took    time.Duration
	asked   map[string]int
	carried map[string]int64
}

// payload is what no compression makes smaller: what is sent takes its time on a slow line.
func payload(seed uint64, size int) []byte {
	content := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed)})
	source.Read(content)
	return content
}

const dockerfile = `FROM busybox:1
COPY payload /payload
RUN sleep 1 && cat /payload /payload > /twice
RUN echo built > /built
`

const descriptor = `apiVersion: openchoreo.dev/v1alpha1
metadata: {name: shop}
endpoints:
  - {name: web, port: 8080, type: HTTP}
`

var committed = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// newWorks builds the programs and makes the sources.
func newWorks(dir string) (*works, error) {
	w := &works{dir: dir, bin: filepath.Join(dir, "bin"), truth: map[string]*truth{}}
	ctx := context.Background()
	err := programtest.Build(ctx, w.bin, "../..", "./steps/buildpacks-build", "./steps/checkout-source",
		"./steps/containerfile-build", "./steps/generate-workload-cr", "./steps/publish-image",
		"github.com/buildpacks/lifecycle/cmd/lifecycle", "github.com/buildpacks/lifecycle/cmd/launcher",
		"./ci/faults/testdata/buildpack")
	if err != nil {
		return nil, err
	}
	if w.authority, err = pki.NewAuthority("faults"); err != nil {
		return nil, err
	}
	if w.certificate, err = w.certify(time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)); err != nil {
		return nil, err
	}
	if w.base, err = busybox(); err != nil {
		return nil, err
	}
	return w, errors.Join(w.makeBuilder(), w.makeRepository(ctx))
}

// certify makes a certificate for all servers.
func (w *works) certify(from, until time.Time) (*tls.Certificate, error) {
	pair, err := w.authority.ServerBetween(from, until, "faults", gitHost, registryHost, apiHost, idpHost)
	if err != nil {
		return nil, err
	}
	certificate, err := pair.TLS()
	return &certificate, err
}

// makeRepository makes a repository whose branch next is to be forced on main.
func (w *works) makeRepository(ctx context.Context) error {
	w.repository = filepath.Join(w.dir, "shop.git")
	source := filepath.Join(w.dir, "source")
	files := map[string][]byte{
		"Dockerfile": []byte(dockerfile), "workload.yaml": []byte(descriptor), "payload": payload(1, 400_000),
	}
	for i := range 200 {
		files[fmt.Sprintf("src/%02d/%03d.txt", i%10, i)] = payload(uint64(i), 300)
	}
	if err := writeAll(source, files); err != nil {
		return err
	}
	if _, err := devgit.Import(ctx, source, w.repository, "first", committed); err != nil {
		return err
	}
	if _, err := devgit.Git(ctx, w.repository, nil, nil, "branch", "first", "main"); err != nil {
		return err
	}
	if err := writeAll(source, map[string][]byte{"payload": payload(2, 400_000)}); err != nil {
		return err
	}
	if _, err := devgit.Import(ctx, source, w.repository, "second", committed.Add(time.Hour)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"branch", "next", "main"}, {"update-ref", "refs/heads/main", "first"}, {"branch", "-D", "first"},
		{"repack", "-a", "-d", "-q"},
	} {
		if _, err := devgit.Git(ctx, w.repository, nil, nil, args...); err != nil {
			return err
		}
	}
	return nil
}

func writeAll(dir string, files map[string][]byte) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeBuilder makes a builder of the real lifecycle and one small buildpack.
func (w *works) makeBuilder() error {
	w.builder = filepath.Join(w.dir, "builder")
	for _, dir := range []string{
		"tmp", "proc", "dev", "layers", "workspace", "platform", "mnt/vol", "mnt/secrets", "var/stepwright/fetched",
		"var/stepwright/handover", "cnb/build-config", "etc/stepwright/bindings",
	} {
		if err := os.MkdirAll(filepath.Join(w.builder, dir), 0o755); err != nil {
			return err
		}
	}
	const pack = "cnb/buildpacks/faults_greeter/1.0.0/"
	if err := writeAll(w.builder, map[string][]byte{
		"etc/resolv.conf": nil, "mnt/ca.pem": nil, "mnt/message": nil,
		"etc/passwd":     []byte("root:x:0:0::/root:/bin/false\ncnb:x:1001:1001::/home/cnb:/bin/false\n"),
		"cnb/order.toml": []byte("[[order]]\n[[order.group]]\nid = \"faults/greeter\"\nversion = \"1.0.0\"\n"),
		pack + "buildpack.toml": []byte("api = \"0.10\"\n[buildpack]\nid = \"faults/greeter\"\nversion = \"1.0.0\"\n" +
			"[[targets]]\nos = \"linux\"\n"),
	}); err != nil {
		return err
	}
	for place, program := range map[string]string{
		"cnb/lifecycle/analyzer": "lifecycle", "cnb/lifecycle/detector": "lifecycle",
		"cnb/lifecycle/restorer": "lifecycle", "cnb/lifecycle/builder": "lifecycle",
		"cnb/lifecycle/exporter": "lifecycle", "cnb/lifecycle/launcher": "launcher",
		pack + "bin/detect": "buildpack", pack + "bin/build": "buildpack",
		"opt/stepwright/buildpacks-build": "buildpacks-build",
	} {
		to := filepath.Join(w.builder, place)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.Link(filepath.Join(w.bin, program), to); err != nil {
			return err
		}
	}
	return nil
}

// busybox is a base image with the machine's busybox.
func busybox() (v1.Image, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("it is in the Debian package busybox-static: %w", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755}, {Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/sleep", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/cat", Linkname: "busybox"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if h.Size > 0 {
			w.Write(program)
		}
	}
	w.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config.Env = "linux", "amd64", []string{"PATH=/bin"}
	return mutate.ConfigFile(image, file)
}

// learn runs all steps once while nothing is wrong, one after the other.
func (w *works) learn(t *testing.T) {
	t.Helper()
	s := newSite(t, w)
	for _, step := range steps {
		for _, server := range s.servers() {
			server.obey(nil)
			server.line.count()
		}
		c := newScene(t, w, step, s)
		e := c.run(nil)
		if e.reason != "Succeeded" || len(e.word.Left) > 0 {
			t.Fatalf("nothing is wrong, and %s ends with %s: %s %q\n%s",
				step.name, e.reason, e.message, e.word.Left, e.out)
		}
		found := &truth{
			results: e.results, vol: filepath.Join(w.dir, "after-"+step.name), took: e.took,
			asked: map[string]int{}, carried: map[string]int64{},
		}
		for _, server := range s.servers() {
			found.asked[server.host], found.carried[server.host] = server.asked(), server.line.count()
		}
		copyTree(t, c.vol(), found.vol)
		w.truth[step.name] = found
		if left := c.litter("vol", "tmp"); len(left) > 0 {
			t.Errorf("%s leaves %q", step.name, left)
		}
		took := e.took.Round(time.Millisecond)
		t.Logf("%s took %s, asked %v, carried %v", step.name, took, found.asked, found.carried)
	}
}
