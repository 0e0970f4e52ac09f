package bench

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/pki"
)

// guarded is a registry with TLS and a password, which starts empty.
type guarded struct {
	dir      string // of the registry's files
	host     string
	ca       string // file
	config   string // folder with a config.json that has the password
	traffic  *traffic
	registry *devregistry.Registry
}

func newGuarded(b *testing.B) *guarded {
	b.Helper()
	authority, err := pki.NewAuthority("registry")
	if err != nil {
		b.Fatal(err)
	}
	server, err := authority.Server("registry", "127.0.0.1")
	if err != nil {
		b.Fatal(err)
	}
	certificate, err := server.TLS()
	if err != nil {
		b.Fatal(err)
	}
	g := &guarded{dir: b.TempDir(), config: b.TempDir()}
	g.registry, err = devregistry.New(devregistry.Options{
		Dir: g.dir, Users: map[string]string{"pusher": "secret"}, Certificate: &certificate,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { g.registry.Close() })
	g.traffic = &traffic{next: g.registry}
	if g.host, err = g.registry.StartHandler("", g.traffic); err != nil {
		b.Fatal(err)
	}
	g.ca = filepath.Join(g.config, "ca.crt")
	auth := base64.StdEncoding.EncodeToString([]byte("pusher:secret"))
	config := fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, g.host, auth)
	write(b, g.ca, authority.PEM())
	write(b, filepath.Join(g.config, "config.json"), config)
	return g
}

func write(b *testing.B, path string, content []byte) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		b.Fatal(err)
	}
}

// forget empties the registry.
func (g *guarded) forget(b *testing.B) {
	b.Helper()
	if err := os.RemoveAll(filepath.Join(g.dir, "docker")); err != nil {
		b.Fatal(err)
	}
}

// command is a command of other tools, which find password and certificate by variables.
func (g *guarded) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+g.config, "REGISTRY_AUTH_FILE="+g.config+"/config.json",
		"SSL_CERT_FILE="+g.ca)
	return cmd
}

// publish is a command of publish-image.
func (g *guarded) publish(b *testing.B, version binaries, workspace string, flags ...string) *exec.Cmd {
	b.Helper()
	return exec.Command(filepath.Join(version.dir, "publish-image"), append([]string{
		"--registry=" + g.host, "--image-name=app", "--ca-bundle=" + g.ca,
		"--registry-push-secret=" + filepath.Join(g.config, "config.json"),
		"--workspace=" + workspace, "--results-dir=" + filepath.Join(workspace, "results"),
	}, flags...)...)
}

// BenchmarkPublish compares publish-image with crane and skopeo.
func BenchmarkPublish(b *testing.B) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		b.Skip(err)
	}
	crane := tool(b, b.TempDir(), "github.com/google/go-containerregistry/cmd/crane")
	all := versions(b, "steps/publish-image")
	dir := b.TempDir()
	oci, archive := filepath.Join(dir, "image"), filepath.Join(dir, "image.tar")
	makeImage(b, oci, archive)
	g := newGuarded(b)
	to := g.host + "/app:v1"
	push := func(name string, command func() *exec.Cmd) contender {
		return contender{name, func(b *testing.B) trial {
			g.forget(b)
			return trial{commands: []*exec.Cmd{command()}, remove: func() {}, traffic: []*traffic{g.traffic}}
		}}
	}
	ours := func(source string) (list []contender) {
		for _, version := range all {
			list = append(list, push(version.name, func() *exec.Cmd {
				return g.publish(b, version, b.TempDir(), "--image-source="+source)
			}))
		}
		return list
	}
	ofCrane := push("crane push", func() *exec.Cmd { return g.command(crane, "push", oci, to) })
	ofSkopeo := push("skopeo copy", func() *exec.Cmd {
		return g.command(skopeo, "copy", "--quiet", "oci:"+oci, "docker://"+to)
	})
	b.Run("layout", func(b *testing.B) {
		contest{append([]contender{ofCrane, ofSkopeo}, ours(oci)...)}.run(b)
	})
	b.Run("archive", func(b *testing.B) {
		contest{append([]contender{push("skopeo copy", func() *exec.Cmd {
			return g.command(skopeo, "copy", "--quiet", "docker-archive:"+archive, "docker://"+to)
		})}, ours(archive)...)}.run(b)
	})
	b.Run("unchanged", func(b *testing.B) {
		var list []contender
		for _, c := range append([]contender{ofCrane, ofSkopeo}, ours(oci)...) {
			list = append(list, contender{c.name, func(b *testing.B) trial {
				t := c.prepare(b)
				first := t.commands[0]
				if out, err := first.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				t.commands[0] = exec.Command(first.Path, first.Args[1:]...)
				t.commands[0].Env = first.Env
				return t
			}})
		}
		contest{list}.run(b)
	})
}

// makeImage writes an image of 20 layers, 475 MB together, as a layout and as an archive. Half of each file compresses
// as text does, the other not at all.
func makeImage(b *testing.B, oci, archive string) {
	b.Helper()
	const layers, files, size = 20, 30, 1 << 20
	random := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4000)
	for i := range words {
		for range 3 + random.IntN(8) {
			words[i] = append(words[i], byte('a'+random.IntN(26)))
		}
		words[i] = append(words[i], ' ')
	}
	noise := rand.NewChaCha8([32]byte{1})
	image := empty.Image
	dir := b.TempDir()
	for l := range layers {
		var content bytes.Buffer
		w := tar.NewWriter(&content)
		for f := range files {
			file := make([]byte, size)
			noise.Read(file[size/2:])
			for n := 0; n < size/2; n += copy(file[n:size/2], words[random.IntN(len(words))]) {
			}
			header := &tar.Header{Name: fmt.Sprintf("layer%d/file%d", l, f), Size: size, Mode: 0o644}
			if err := w.WriteHeader(header); err != nil {
				b.Fatal(err)
			}
			if _, err := w.Write(file); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		path := filepath.Join(dir, fmt.Sprint(l))
		write(b, path, content.Bytes())
		layer, err := tarball.LayerFromFile(path, tarball.WithCompressionLevel(gzip.BestSpeed))
		if err != nil {
			b.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			b.Fatal(err)
		}
	}
	path, err := layout.Write(oci, empty.Index)
	if err != nil {
		b.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		b.Fatal(err)
	}
	writeArchive(b, archive, image)
}

// writeArchive writes an image as podman save and docker save do: its layers are not compressed.
func writeArchive(b *testing.B, path string, image v1.Image) {
	b.Helper()
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(name string, content []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			b.Fatal(err)
		}
	}
	layers, err := image.Layers()
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for _, layer := range layers {
		digest, err := layer.DiffID()
		if err != nil {
			b.Fatal(err)
		}
		content, err := layer.Uncompressed()
		if err != nil {
			b.Fatal(err)
		}
		raw, err := io.ReadAll(content)
		content.Close()
		if err != nil {
			b.Fatal(err)
		}
		names = append(names, digest.Hex+".tar")
		add(digest.Hex+".tar", raw)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		b.Fatal(err)
	}
	add("config.json", config)
	tag := name.MustParseReference("registry.example.com/app:v1").String()
	manifest, err := json.Marshal([]map[string]any{
		{"Config": "config.json", "RepoTags": []string{tag}, "Layers": names},
	})
	if err != nil {
		b.Fatal(err)
	}
	add("manifest.json", manifest)
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
}
