package attacks

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

// imageLayout is the image of a workspace, of a build that writes there what it likes.
type imageLayout struct {
	t         *testing.T
	workspace string
}

func newImage(t *testing.T) imageLayout {
	t.Helper()
	l := imageLayout{t, t.TempDir()}
	write(t, l.dir(), map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`})
	if err := os.MkdirAll(filepath.Join(l.dir(), "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l imageLayout) dir() string { return filepath.Join(l.workspace, "image") }

func (l imageLayout) path(d v1.Descriptor) string {
	return filepath.Join(l.dir(), "blobs", d.Digest.Algorithm, d.Digest.Hex)
}

// blob writes a blob as it should be.
func (l imageLayout) blob(mediaType types.MediaType, content string) v1.Descriptor {
	l.t.Helper()
	digest, size, err := v1.SHA256(strings.NewReader(content))
	if err != nil {
		l.t.Fatal(err)
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}
	if err := os.WriteFile(l.path(d), []byte(content), 0o644); err != nil {
		l.t.Fatal(err)
	}
	return d
}

func (l imageLayout) json(mediaType types.MediaType, value any) v1.Descriptor {
	l.t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, string(raw))
}

// image writes an image of these layers, whose manifest has these annotations.
func (l imageLayout) image(annotations map[string]string, layers ...v1.Descriptor) v1.Descriptor {
	l.t.Helper()
	return l.json(types.OCIManifestSchema1, v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        l.blob(types.OCIConfigJSON, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}`),
		Layers:        layers,
		Annotations:   annotations,
	})
}

func (l imageLayout) index(children ...v1.Descriptor) v1.Descriptor {
	l.t.Helper()
	return l.json(types.OCIImageIndex, v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: children,
	})
}

// roots writes index.json.
func (l imageLayout) roots(roots ...v1.Descriptor) {
	l.t.Helper()
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: roots})
	if err != nil {
		l.t.Fatal(err)
	}
	write(l.t, l.dir(), map[string]string{"index.json": string(raw)})
}

// target is where attacks publish to.
const target = "builds/acme_shop_cart"

// publish publishes the workspace to a registry, with one attempt at each request.
func (l imageLayout) publish(r *registrytest.Registry, flags ...string) ending {
	l.t.Helper()
	return step(l.t, "publish-image", append([]string{
		"--workspace=" + l.workspace, "--registry=" + r.Host, "--image-name=" + target, "--max-attempts=1",
		"--ca-bundle=" + r.CAFile, "--registry-push-secret=" + r.DockerConfig,
		"--registry-pull-secret=" + r.DockerConfig,
	}, flags...)...)
}

// untouched fails the test if anything was published or mounted.
func untouched(t *testing.T, r *registrytest.Registry) {
	t.Helper()
	if r.Has(t, target+":v1") {
		t.Error("an image was published")
	}
	for _, request := range r.Requests(http.MethodPost, "/blobs/uploads/") {
		if request.Query.Has("mount") {
			t.Errorf("a layer was mounted from %s", request.Query.Get("from"))
		}
	}
}

// private is an image of another component in the same registry, and its only layer.
func private(t *testing.T, r *registrytest.Registry) (v1.Image, v1.Descriptor) {
	t.Helper()
	image := registrytest.RandomImage(t, 1, 10_000)
	r.Push(t, "builds/globex_vault_keys:v1", image)
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0]
	layer.MediaType = types.OCILayer
	return image, layer
}

func digestOf(t *testing.T, image interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// The push credentials may read all repositories of the registry. A build that knows the digest of another component's
// layer, as from a log, gets that layer into its own image by no word of its layout.
func TestLayersOfAnotherComponent(t *testing.T) {
	t.Parallel()
	const repository = "builds/globex_vault_keys"
	mounts := []string{`--mount-from=["` + repository + `"]`}
	base := func(r *registrytest.Registry) map[string]string {
		return map[string]string{
			"org.opencontainers.image.base.name":          r.Host + "/" + repository + ":v1",
			"containerd.io/distribution.source." + r.Host: repository,
		}
	}
	annotated := func(r *registrytest.Registry, d v1.Descriptor) v1.Descriptor {
		d.Annotations = base(r)
		return d
	}
	tests := map[string]struct {
		content func(layer v1.Descriptor) []byte // of the file in the layer's place; nil for none
		roots   func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor
		flags   func(r *registrytest.Registry, other string) []string
	}{
		"an absent layer, by the manifest's annotation": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(base(r), layer)
			},
		},
		"an absent layer, by its own annotation": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(nil, annotated(r, layer))
			},
		},
		"an absent layer, by the annotations of an index and its descriptors": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return annotated(r, l.json(types.OCIImageIndex, v1.IndexManifest{
					SchemaVersion: 2,
					MediaType:     types.OCIImageIndex,
					Manifests:     []v1.Descriptor{annotated(r, l.image(base(r), annotated(r, layer)))},
					Annotations:   base(r),
				}))
			},
		},
		"a layer of zeros, by the manifest's annotation": {
			content: func(layer v1.Descriptor) []byte { return make([]byte, layer.Size) },
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(base(r), layer)
			},
		},
		"a layer of zeros, by its own annotation": {
			content: func(layer v1.Descriptor) []byte { return make([]byte, layer.Size) },
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(nil, annotated(r, layer))
			},
		},
		"a layer of zeros, in a repository that may be mounted from": {
			content: func(layer v1.Descriptor) []byte { return make([]byte, layer.Size) },
			roots: func(l imageLayout, _ *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(nil, layer)
			},
			flags: func(*registrytest.Registry, string) []string { return mounts },
		},
		"an absent layer, in a repository that may be mounted from": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(base(r), layer)
			},
			flags: func(*registrytest.Registry, string) []string { return mounts },
		},
		"an absent layer, beside a base image that does not have it": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(base(r), layer)
			},
			flags: func(r *registrytest.Registry, other string) []string {
				return []string{`--base-images=["` + r.Host + `/base/run:1@` + other + `"]`}
			},
		},
		"an absent layer, by the tag of a base image that has moved": {
			roots: func(l imageLayout, _ *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				return l.image(nil, layer)
			},
			flags: func(r *registrytest.Registry, other string) []string {
				return []string{`--base-images=["` + r.Host + `/base/moved:1@` + other + `"]`}
			},
		},
		"an absent layer that is a configuration, too": {
			roots: func(l imageLayout, r *registrytest.Registry, layer v1.Descriptor) v1.Descriptor {
				config := layer
				config.MediaType = types.OCIConfigJSON
				return l.index(l.image(base(r), layer), l.json(types.OCIManifestSchema1, v1.Manifest{
					SchemaVersion: 2, Config: config, Layers: []v1.Descriptor{layer}, Annotations: base(r),
				}))
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			secret, layer := private(t, r)
			other := registrytest.RandomImage(t, 1, 1000)
			r.Push(t, "base/run:1", other)
			r.Push(t, "base/moved:1", other)
			r.Push(t, "base/moved:1", secret)
			r.Forget()
			l := newImage(t)
			if test.content != nil {
				if err := os.WriteFile(l.path(layer), test.content(layer), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			l.roots(test.roots(l, r, layer))
			var flags []string
			if test.flags != nil {
				flags = test.flags(r, digestOf(t, other))
			}
			l.publish(r, flags...).refused(t, outcome.ImageInvalid, layer.Digest.String())
			untouched(t, r)
			if asked := r.Requests("", repository); len(asked) > 0 && !slices.ContainsFunc(flags, func(f string) bool {
				return strings.Contains(f, "mount-from")
			}) {
				t.Errorf("the other component's repository was asked for %v", asked)
			}
		})
	}
}

// trap is a host that nobody may speak to. It returns its address, and how often somebody did.
func trap(t *testing.T) (host string, calls *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	calls = &atomic.Int64{}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			c.Close()
		}
	}()
	return listener.Addr().String(), calls
}

// A build chooses no host that publish, with the credentials it holds, speaks to.
func TestHostOfTheBuildsChoice(t *testing.T) {
	t.Parallel()
	tests := map[string]func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor{
		"by the base's name": func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor {
			return l.image(map[string]string{"org.opencontainers.image.base.name": host + "/a/b:1"}, absent)
		},
		"by the base's name, with its digest": func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor {
			return l.image(map[string]string{
				"org.opencontainers.image.base.name":   host + "/a/b@" + absent.Digest.String(),
				"org.opencontainers.image.base.digest": absent.Digest.String(),
			}, absent)
		},
		"by the source of a layer": func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor {
			absent.Annotations = map[string]string{"containerd.io/distribution.source." + host: "a/b"}
			return l.image(nil, absent)
		},
		"by the URLs of a layer": func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor {
			absent.URLs = []string{"http://" + host + "/layer", "https://" + host + "/layer"}
			return l.image(nil, absent)
		},
		"by the URLs of a layer that is not distributed": func(
			l imageLayout, host string, absent v1.Descriptor,
		) v1.Descriptor {
			absent.URLs = []string{"http://" + host + "/layer"}
			foreign := absent
			foreign.MediaType = types.OCIRestrictedLayer
			return l.index(l.image(nil, foreign), l.image(nil, absent))
		},
		"by the URLs of a manifest": func(l imageLayout, host string, absent v1.Descriptor) v1.Descriptor {
			absent.MediaType = types.OCIManifestSchema1
			absent.URLs = []string{"http://" + host + "/manifest"}
			return l.index(absent)
		},
	}
	for name, root := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			host, calls := trap(t)
			l := newImage(t)
			absent := l.blob(types.OCILayer, "a layer")
			if err := os.Remove(l.path(absent)); err != nil {
				t.Fatal(err)
			}
			l.roots(root(l, host, absent))
			e := l.publish(r, `--insecure-registries=["`+host+`"]`)
			if e.report.Reason == outcome.Succeeded {
				t.Error("an image without its layer was published")
			}
			if n := calls.Load(); n > 0 {
				t.Errorf("the host was spoken to %d times: %s", n, e.report.Message)
			}
		})
	}
}

// The digest that the build step hands over is the whole image, and nothing that only holds it or is in it.
func TestAnotherImageThanTheOneThatWasBuilt(t *testing.T) {
	t.Parallel()
	platform := func(d v1.Descriptor, architecture string) v1.Descriptor {
		d.Platform = &v1.Platform{OS: "linux", Architecture: architecture}
		return d
	}
	tests := map[string]func(l imageLayout, built, other v1.Descriptor) (digest string){
		"swapped": func(l imageLayout, built, other v1.Descriptor) string {
			l.roots(other)
			return built.Digest.String()
		},
		"an index with it": func(l imageLayout, built, other v1.Descriptor) string {
			l.roots(l.index(platform(built, "amd64"), platform(other, "arm64")))
			return built.Digest.String()
		},
		"an index of it alone": func(l imageLayout, built, _ v1.Descriptor) string {
			l.roots(l.index(built))
			return built.Digest.String()
		},
		"one of two images": func(l imageLayout, built, other v1.Descriptor) string {
			l.roots(built, other)
			return built.Digest.String()
		},
		"one of two platforms": func(l imageLayout, built, other v1.Descriptor) string {
			l.roots(platform(built, "amd64"), platform(other, "arm64"))
			return built.Digest.String()
		},
		"a child of an index that was built": func(l imageLayout, built, other v1.Descriptor) string {
			index := l.index(built, other)
			l.roots(built)
			return index.Digest.String()
		},
		"its digest over other content": func(l imageLayout, built, other v1.Descriptor) string {
			raw, err := os.ReadFile(l.path(other))
			if err == nil {
				err = os.WriteFile(l.path(built), raw, 0o644)
			}
			if err != nil {
				l.t.Fatal(err)
			}
			built.Size = other.Size
			l.roots(built)
			return built.Digest.String()
		},
		"its digest, and a second list of images": func(l imageLayout, built, other v1.Descriptor) string {
			write(l.t, l.dir(), map[string]string{"index.json": fmt.Sprintf(
				`{"schemaVersion":2,"manifests":[{"mediaType":%[1]q,"digest":"%[2]s","size":%[3]d}],`+
					`"Manifests":[{"mediaType":%[1]q,"digest":"%[4]s","size":%[5]d}]}`,
				types.OCIManifestSchema1, built.Digest, built.Size, other.Digest, other.Size,
			)})
			return built.Digest.String()
		},
		"an archive in its place": func(l imageLayout, built, _ v1.Descriptor) string {
			if err := os.RemoveAll(l.dir()); err != nil {
				l.t.Fatal(err)
			}
			config := `{"rootfs":{"type":"layers","diff_ids":[]}}`
			archive(l.t, filepath.Join(l.workspace, "app-image.tar"), map[string]string{
				"manifest.json": `[{"Config":"c","Layers":[]}]`, "c": config,
			})
			return built.Digest.String()
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			l := newImage(t)
			built := l.image(nil, l.blob(types.OCILayer, "what was built"))
			other := l.image(nil, l.blob(types.OCILayer, "what an attacker put there"))
			digest := prepare(l, built, other)
			l.publish(r, "--image-digest="+digest).refused(t, outcome.ImageInvalid)
			untouched(t, r)
		})
	}
}

// What a descriptor says of its blob is not believed.
func TestBlobsThatAreNotWhatTheyAreSaidToBe(t *testing.T) {
	t.Parallel()
	tests := map[string]func(l imageLayout, base v1.Descriptor) v1.Descriptor{
		"longer than its file": func(l imageLayout, _ v1.Descriptor) v1.Descriptor {
			d := l.blob(types.OCILayer, "a layer")
			d.Size++
			return d
		},
		"shorter than its file": func(l imageLayout, _ v1.Descriptor) v1.Descriptor {
			d := l.blob(types.OCILayer, "a layer")
			d.Size--
			return d
		},
		"of a negative size": func(l imageLayout, _ v1.Descriptor) v1.Descriptor {
			d := l.blob(types.OCILayer, "a layer")
			d.Size = -1
			return d
		},
		"of other content": func(l imageLayout, _ v1.Descriptor) v1.Descriptor {
			d := l.blob(types.OCILayer, "a layer")
			if err := os.WriteFile(l.path(d), []byte("A layer"), 0o644); err != nil {
				l.t.Fatal(err)
			}
			return d
		},
		"absent, and larger than the base's": func(_ imageLayout, base v1.Descriptor) v1.Descriptor {
			base.Size++
			return base
		},
		"absent, and of no size": func(_ imageLayout, base v1.Descriptor) v1.Descriptor {
			base.Size = 0
			return base
		},
		"absent, and of a negative size": func(_ imageLayout, base v1.Descriptor) v1.Descriptor {
			base.Size = -base.Size
			return base
		},
	}
	for name, layer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			image, base := private(t, r)
			l := newImage(t)
			l.roots(l.image(nil, layer(l, base)))
			l.publish(
				r, `--base-images=["`+r.Host+`/builds/globex_vault_keys@`+digestOf(t, image)+`"]`,
			).refused(t, outcome.ImageInvalid)
			untouched(t, r)
		})
	}
}

// Only references with a digest are base images.
func TestBaseImagesWithoutADigest(t *testing.T) {
	t.Parallel()
	l := newImage(t)
	l.roots(l.image(nil, l.blob(types.OCILayer, "a layer")))
	host, calls := trap(t)
	digest := "sha256:" + strings.Repeat("a", 64)
	for name, value := range map[string]string{
		"a tag":              `["` + host + `/a/b:1"]`,
		"nothing":            `["` + host + `/a/b"]`,
		"half a digest":      `["` + host + `/a/b@sha256:aaaa"]`,
		"another algorithm":  `["` + host + `/a/b@md5:aaaa"]`,
		"two digests":        `["` + host + `/a/b@` + digest + `@` + digest + `"]`,
		"no repository":      `["@` + digest + `"]`,
		"a path":             `["../../etc@` + digest + `"]`,
		"a URL":              `["http://` + host + `/a/b@` + digest + `"]`,
		"no list":            `"` + host + `/a/b@` + digest + `"`,
		"too many":           `["` + strings.Repeat(host+`/a/b@`+digest+`","`, 64) + host + `/a/b@` + digest + `"]`,
		"a very long name":   `["` + host + `/` + strings.Repeat("a", 600) + `@` + digest + `"]`,
		"characters of text": `["` + host + `/a\n::error::b@` + digest + `"]`,
	} {
		t.Run(name, func(t *testing.T) {
			step(
				t, "publish-image", "--workspace="+l.workspace, "--registry=127.0.0.1:1", "--image-name=app",
				"--max-attempts=1", "--base-images="+value,
			).refused(t, outcome.InvalidParameters, "base-images")
		})
	}
	if n := calls.Load(); n > 0 {
		t.Errorf("the host was spoken to %d times", n)
	}
}

// special makes a file that must not be read, in place of another.
func special(t *testing.T, path, kind string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	var err error
	switch kind {
	case "a pipe":
		err = syscall.Mkfifo(path, 0o644)
	case "a socket":
		var fd int
		short := filepath.Join(os.TempDir(), fmt.Sprintf("s%d", time.Now().UnixNano())) // a socket's path has a bound
		if fd, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err == nil {
			t.Cleanup(func() { syscall.Close(fd) })
			err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: short}), os.Rename(short, path))
		}
	case "a device":
		if err = syscall.Mknod(path, syscall.S_IFCHR|0o644, 1<<8|5); err == syscall.EPERM {
			t.Skip("only root makes devices")
		}
	default:
		err = os.Symlink(kind, path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Nothing but regular files and folders is read, and nobody waits for anything else.
func TestFilesThatHang(t *testing.T) {
	t.Parallel()
	kinds := []string{
		"a pipe", "a socket", "a device", "/dev/zero", "/proc/self/environ", "/proc/self/fd/0", "../../../../dev/zero",
	}
	places := map[string]func(l imageLayout, layer, manifest v1.Descriptor) string{
		"index.json": func(l imageLayout, _, _ v1.Descriptor) string { return filepath.Join(l.dir(), "index.json") },
		"oci-layout": func(l imageLayout, _, _ v1.Descriptor) string { return filepath.Join(l.dir(), "oci-layout") },
		"a layer":    func(l imageLayout, layer, _ v1.Descriptor) string { return l.path(layer) },
		"a manifest": func(l imageLayout, _, manifest v1.Descriptor) string { return l.path(manifest) },
		"the blobs":  func(l imageLayout, _, _ v1.Descriptor) string { return filepath.Join(l.dir(), "blobs") },
		"the layout": func(l imageLayout, _, _ v1.Descriptor) string { return l.dir() },
		"the archive": func(l imageLayout, _, _ v1.Descriptor) string {
			if err := os.RemoveAll(l.dir()); err != nil {
				l.t.Fatal(err)
			}
			return filepath.Join(l.workspace, "app-image.tar")
		},
	}
	r := registrytest.New(t)
	t.Cleanup(func() { // after all of them
		if n := len(r.Requests("", "")); n > 0 {
			t.Errorf("the registry was asked %d times", n)
		}
	})
	for place, path := range places {
		for _, kind := range kinds {
			t.Run(place+" is "+strings.ReplaceAll(kind, "/", "|"), func(t *testing.T) {
				t.Parallel()
				l := newImage(t)
				layer := l.blob(types.OCILayer, "a layer")
				manifest := l.image(nil, layer)
				l.roots(manifest)
				special(t, path(l, layer, manifest), kind)
				began := time.Now()
				e := l.publish(r)
				if e.report.Reason != outcome.ImageInvalid && e.report.Reason != outcome.ImageNotFound {
					t.Errorf("it ended with %s: %s", e.report.Reason, e.report.Message)
				}
				if took := time.Since(began); took > 30*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		}
	}
}

// What there may be many of has a bound, and what is large in memory is not read.
func TestHugeLayouts(t *testing.T) {
	t.Parallel()
	tests := map[string]func(l imageLayout){
		"a list of empty descriptors": func(l imageLayout) {
			raw := `{"schemaVersion":2,"layers":[{}` + strings.Repeat(",{}", 1_300_000) + `]}`
			l.roots(l.blob(types.OCIManifestSchema1, raw))
		},
		"an index of empty descriptors": func(l imageLayout) {
			write(l.t, l.dir(), map[string]string{
				"index.json": `{"manifests":[{}` + strings.Repeat(",{}", 1_300_000) + `]}`,
			})
		},
		"manifests": func(l imageLayout) {
			var children []v1.Descriptor
			for i := range 2000 {
				children = append(children, l.json(types.OCIManifestSchema1, map[string]any{
					"schemaVersion": 2, "annotations": map[string]string{"number": fmt.Sprint(i)},
				}))
			}
			l.roots(l.index(children...))
		},
		"layers that are absent": func(l imageLayout) {
			var children []v1.Descriptor
			for i := range 3 {
				var layers []v1.Descriptor
				for j := range 5000 {
					digest, size, err := v1.SHA256(strings.NewReader(fmt.Sprint(i, j)))
					if err != nil {
						l.t.Fatal(err)
					}
					layers = append(layers, v1.Descriptor{MediaType: types.OCILayer, Digest: digest, Size: size})
				}
				children = append(children, l.image(nil, layers...))
			}
			l.roots(l.index(children...))
		},
		"indexes in indexes": func(l imageLayout) {
			d := l.image(nil, l.blob(types.OCILayer, "a layer"))
			for range 50 {
				d = l.index(d)
			}
			l.roots(d)
		},
		"annotations beyond what a registry takes": func(l imageLayout) {
			annotations := map[string]string{}
			for i := range 50_000 {
				annotations[fmt.Sprint(i)] = strings.Repeat("x", 100)
			}
			l.roots(l.image(annotations, l.blob(types.OCILayer, "a layer")))
		},
		"nested arrays": func(l imageLayout) {
			write(l.t, l.dir(), map[string]string{"index.json": strings.Repeat("[", 4_000_000)})
		},
		"an index beyond all bounds": func(l imageLayout) {
			f, err := os.Create(filepath.Join(l.dir(), "index.json"))
			if err == nil {
				err = f.Truncate(1 << 40)
			}
			if err != nil {
				l.t.Fatal(err)
			}
			f.Close()
		},
		"an archive of one layer very often": func(l imageLayout) {
			if err := os.RemoveAll(l.dir()); err != nil {
				l.t.Fatal(err)
			}
			ids := strings.Repeat(`"sha256:`+strings.Repeat("0", 64)+`",`, 20_000)
			archive(l.t, filepath.Join(l.workspace, "app-image.tar"), map[string]string{
				"manifest.json": `[{"Config":"c","Layers":["l"` + strings.Repeat(`,"l"`, 19_999) + `]}]`,
				"c":             `{"rootfs":{"type":"layers","diff_ids":[` + strings.TrimSuffix(ids, ",") + `]}}`,
				"l":             "x",
			})
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			l := newImage(t)
			prepare(l)
			began := time.Now()
			l.publish(r).refused(t, outcome.ImageInvalid)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			untouched(t, r)
		})
	}
}

// A registry of a base image that leads elsewhere, as to a store of blobs, takes no credentials there, and not to plain
// HTTP.
func TestCredentialsStayWithTheirRegistry(t *testing.T) {
	t.Parallel()
	var sent sync.Map
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for name, values := range req.Header {
			if strings.Contains(strings.ToLower(name), "auth") || strings.EqualFold(name, "Cookie") {
				sent.Store(name, values)
			}
		}
		sent.Store("asked", req.URL.Path)
		http.Error(w, "no", http.StatusNotFound)
	}))
	defer elsewhere.Close()
	trusted := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(trusted, pem.EncodeToMemory(&pem.Block{
		Type: "CERTIFICATE", Bytes: elsewhere.Certificate().Raw,
	}), 0o644); err != nil {
		t.Fatal(err)
	}
	plain, calls := trap(t)
	for name, location := range map[string]string{"to HTTPS": elsewhere.URL, "to HTTP": "http://" + plain} {
		t.Run(name, func(t *testing.T) {
			bases := registrytest.New(t, registrytest.Behind(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/") &&
						req.Header.Get("Authorization") != "" {
						http.Redirect(w, req, location+"/blob", http.StatusTemporaryRedirect)
						return
					}
					next.ServeHTTP(w, req)
				})
			}))
			r := registrytest.New(t)
			image, layer := private(t, bases)
			l := newImage(t)
			l.roots(l.image(nil, layer))
			e := l.publish(
				r, "--ca-bundle="+join(t, r.CAFile, bases.CAFile, trusted),
				"--registry-pull-secret="+bases.DockerConfig,
				`--base-images=["`+bases.Host+`/builds/globex_vault_keys@`+digestOf(t, image)+`"]`,
			)
			if e.report.Reason == outcome.Succeeded {
				t.Error("an image without its layer was published")
			}
			for _, secret := range []string{bases.Password, r.Password} {
				if strings.Contains(e.report.Message+e.stderr, secret) {
					t.Error("the password is told")
				}
			}
		})
	}
	if n := calls.Load(); n > 0 {
		t.Errorf("plain HTTP was spoken %d times", n)
	}
	if _, asked := sent.Load("asked"); !asked {
		t.Error("nobody followed to HTTPS: this test proves nothing")
	}
	sent.Range(func(name, values any) bool {
		if name != "asked" {
			t.Errorf("%v was sent elsewhere: %v", name, values)
		}
		return true
	})
}

// An image, or a cache, that tells another owner is not this component's.
func TestImageOfAnotherOwner(t *testing.T) {
	t.Parallel()
	owned := func(l imageLayout, owner string) v1.Descriptor {
		return l.json(types.OCIManifestSchema1, v1.Manifest{
			SchemaVersion: 2,
			MediaType:     types.OCIManifestSchema1,
			Config: l.blob(types.OCIConfigJSON, fmt.Sprintf(
				`{"config":{"Labels":{"dev.stepwright.owner":%q}},"rootfs":{"type":"layers"}}`, owner,
			)),
			Layers: []v1.Descriptor{l.blob(types.OCILayer, "a layer")},
		})
	}
	owner := []string{"--namespace-name=acme", "--project-name=shop", "--component-name=cart"}
	for name, label := range map[string]string{
		"another component": "acme/shop/till", "dashes elsewhere": "acme-shop/x/cart", "nobody": "",
		"more after it": "acme/shop/cart/x", "capitals": "Acme/shop/cart", "a line more": "acme/shop/cart\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			l := newImage(t)
			l.roots(owned(l, label))
			l.publish(r, owner...).refused(t, outcome.ImageInvalid, "dev.stepwright.owner")
			untouched(t, r)
		})
	}
	t.Run("one of two platforms", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t)
		l := newImage(t)
		l.roots(l.index(owned(l, "acme/shop/cart"), owned(l, "acme/shop/till")))
		l.publish(r, owner...).refused(t, outcome.ImageInvalid, "acme/shop/till")
		untouched(t, r)
	})
	t.Run("a cache", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t)
		l, cache := newImage(t), newImage(t)
		l.roots(owned(l, "acme/shop/cart"))
		cache.roots(owned(cache, "acme/shop/till"))
		if err := os.Rename(cache.dir(), filepath.Join(l.workspace, "cache")); err != nil {
			t.Fatal(err)
		}
		if e := l.publish(r, owner...); e.report.Reason != outcome.Succeeded {
			t.Errorf("it ended with %s: %s", e.report.Reason, e.report.Message)
		}
		if !r.Has(t, target+":v1") || r.Has(t, target+":cache") {
			t.Error("the image is not there, or the cache is")
		}
	})
}

// The ordinary cases of what is attacked here go well: else the tests above prove nothing.
func TestOrdinaryImagesArePublished(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	base := registrytest.RandomImage(t, 2, 10_000)
	r.Push(t, "base/run:1", base)
	manifest, err := base.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	l := newImage(t)
	root := l.index(l.image(nil, append(manifest.Layers, l.blob(types.OCILayer, "a layer"))...))
	l.roots(root)
	e := l.publish(
		r, "--image-digest="+root.Digest.String(), `--base-images=["`+r.Host+`/base/run:1@`+digestOf(t, base)+`"]`,
		"--namespace-name=acme", "--project-name=shop", "--component-name=cart",
	)
	if e.report.Reason != outcome.Succeeded {
		t.Fatalf("it ended with %s: %s\n%s", e.report.Reason, e.report.Message, e.stderr)
	}
	if !strings.Contains(e.stderr, `mounted="2 (`) || e.result("image-digest") != root.Digest.String() {
		t.Errorf("%s: %s", e.result("image-digest"), e.stderr)
	}
	indexes := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: base})
	r.Push(t, "base/many:1", indexes)
	sparse := newImage(t)
	sparse.roots(sparse.image(nil, manifest.Layers...))
	if e := sparse.publish(
		r, `--base-images=["`+r.Host+`/base/many@`+digestOf(t, indexes)+`"]`, "--image-tag=v2",
	); e.report.Reason != outcome.Succeeded {
		t.Errorf("it ended with %s: %s", e.report.Reason, e.report.Message)
	}
}
