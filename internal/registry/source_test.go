package registry_test

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/trust"
)

var linux = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

// image is one for an architecture.
func image(t testing.TB, architecture string) v1.Image {
	t.Helper()
	img := registrytest.RandomImage(t, 2, 10_000)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// from is a source that trusts a registry, and has its credentials.
func from(t testing.TB, r *registrytest.Registry) registry.Source {
	t.Helper()
	credentials, err := registry.LoadCredentials(r.DockerConfig, &redact.Secrets{})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := trust.Transport(r.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	s := registry.Source{Credentials: credentials, Transport: transport}
	if r.CAFile == "" {
		s.Insecure = []string{r.Host}
	}
	return s
}

func digest(t testing.TB, img interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLayers(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	own, other := image(t, linux.Architecture), image(t, "s390x")
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: own}, mutate.IndexAddendum{Add: other})
	r.Push(t, "run:one", own)
	r.Push(t, "run:many", index)
	for reference, images := range map[string][]v1.Image{
		"run:one@" + digest(t, own).String(): {own},
		"run@" + digest(t, index).String():   {own, other},
	} {
		want := map[v1.Hash]int64{}
		for _, image := range images {
			manifest, err := image.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			for _, layer := range manifest.Layers {
				want[layer.Digest] = layer.Size
			}
		}
		got, err := from(t, r).Layers(t.Context(), r.Host+"/"+reference)
		if err != nil || len(got) != 2*len(images) || !maps.Equal(got, want) {
			t.Errorf("%s has %v, %v, want %v", reference, got, err, want)
		}
	}
	absent := r.Host + "/run@sha256:" + strings.Repeat("0", 64)
	if _, err := from(t, r).Layers(t.Context(), absent); outcome.Of(err).Reason != outcome.BaseImageUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestImage(t *testing.T) {
	r := registrytest.New(t)
	own, other := image(t, linux.Architecture), image(t, "s390x")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{
			Add:        other,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
		},
		mutate.IndexAddendum{Add: own, Descriptor: v1.Descriptor{Platform: &linux}})
	r.Push(t, "run:one", own)
	r.Push(t, "run:many", index)
	s := from(t, r)
	for _, reference := range []string{
		"run:one", "run:many", "run@" + digest(t, own).String(), "run@" + digest(t, index).String(),
	} {
		got, err := s.Image(t.Context(), r.Host+"/"+reference, linux)
		if err != nil {
			t.Fatalf("%s: %v", reference, err)
		}
		if want := r.Host + "/run@" + digest(t, own).String(); got.Reference != want ||
			got.Descriptor.Digest != digest(t, own) {
			t.Errorf("%s is %s, want %s", reference, got.Reference, want)
		}
	}
	r.Forget()
	if _, err := s.Image(t.Context(), r.Host+"/run:one", linux); err != nil {
		t.Fatal(err)
	}
	if blobs := r.Requests(http.MethodGet, "/blobs/"); len(blobs) != 1 {
		t.Errorf("fetched %v, want the configuration alone", blobs)
	}
	layers, err := own.Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := s.Open(t.Context(), r.Host+"/run:one", digest(t, layers[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if got, _, err := v1.SHA256(content); err != nil || got != digest(t, layers[0]) {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestFailures(t *testing.T) {
	r, plain := registrytest.New(t), registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	r.Push(t, "run:1", image(t, "s390x"))
	r.Push(t, "run:many", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add:        image(t, "s390x"),
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
	}))
	plain.Push(t, "run:1", image(t, linux.Architecture))
	busy := faulttest.Before(t, plain.URL, func(*http.Request) *faulttest.Fault {
		return &faulttest.Fault{Status: 429, RetryAfter: "7"}
	})
	busyHost := strings.TrimPrefix(busy.URL, "http://")
	anonymous := from(t, r)
	anonymous.Credentials = nil
	distrustful := from(t, r)
	distrustful.Transport = from(t, plain).Transport
	slow := from(t, plain)
	slow.Insecure = []string{busyHost}
	mirrored := from(t, r)
	mirrored.Mirrors = []registry.Mirror{{Registry: "127.0.0.1:1", Mirror: r.Host + "/nothing"}}
	tests := []struct {
		name, reference string
		source          registry.Source
		reason          outcome.Reason
		message         string
		missing         bool
	}{
		{"no tag", r.Host + "/run:2", from(t, r), outcome.BaseImageUnavailable, "does not have it", true},
		{"no repository", r.Host + "/nothing:1", from(t, r), outcome.BaseImageUnavailable, "does not have it", true},
		{"no reference", "Run:", from(t, r), outcome.InvalidParameters, "is not the reference of an image", false},
		{"another architecture", r.Host + "/run:1", from(t, r), outcome.BuilderUnsupported, "it is for linux/s390x",
			false},
		{"none of the architectures", r.Host + "/run:many", from(t, r), outcome.BuilderUnsupported,
			"it is not for linux/", false},
		{"no credentials", r.Host + "/run:1", anonymous, outcome.BaseImageUnavailable, "does not let us pull it: 401",
			false},
		{"an authority that is not trusted", r.Host + "/run:1", distrustful, outcome.BaseImageUnavailable,
			"authority that is not trusted", false},
		{"no TLS", plain.Host + "/run:1", from(t, r), outcome.BaseImageUnavailable, "answers in plain HTTP", false},
		{"nobody there", "127.0.0.1:1/run:1", from(t, r), outcome.RegistryUnavailable, "127.0.0.1:1", false},
		{"neither there nor in its mirror", "127.0.0.1:1/run:1", mirrored, outcome.RegistryUnavailable,
			"; its mirror: " + r.Host + " does not have it", false},
		{"too many requests", busyHost + "/run:1", slow, outcome.RegistryUnavailable, "answers 429", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.source.Image(t.Context(), test.reference, linux)
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != test.reason || !strings.Contains(failure.Message, test.message) {
				t.Fatalf("got %+v, want %s with %q", failure, test.reason, test.message)
			}
			if registry.IsMissing(err) != test.missing {
				t.Errorf("not found: %t, want %t", !test.missing, test.missing)
			}
			if strings.Contains(failure.Message, r.Password) {
				t.Error("the message tells the password")
			}
		})
	}
	if _, err := slow.Image(t.Context(), busyHost+"/run:1", linux); outcome.Of(err).RetryAfter != 7*time.Second {
		t.Errorf("Retry-After is %s", outcome.Of(err).RetryAfter)
	}
}

// Docker Hub goes by two names, and a mirror may have a path.
func TestMirrorOfDockerHub(t *testing.T) {
	r := registrytest.New(t)
	img := image(t, linux.Architecture)
	r.Push(t, "hub/library/busybox:1", img)
	s := from(t, r)
	s.Mirrors = []registry.Mirror{
		{Registry: "quay.io", Mirror: "127.0.0.1:1"},
		{Registry: "docker.io", Mirror: r.Host + "/hub/"},
	}
	for _, reference := range []string{
		"busybox:1", "docker.io/library/busybox:1", "index.docker.io/library/busybox:1",
	} {
		got, err := s.Image(t.Context(), reference, linux)
		if err != nil {
			t.Fatalf("%s: %v", reference, err)
		}
		if want := "docker.io/library/busybox@" + digest(t, img).String(); got.Reference != want {
			t.Errorf("%s is %s, want %s", reference, got.Reference, want)
		}
	}
}

// cutLayers is a registry with an image whose layers break off on their way.
func cutLayers(t *testing.T) (source registry.Source, reference string, layer v1.Hash) {
	t.Helper()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	img := image(t, linux.Architecture)
	r.Push(t, "run:1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	cut := faulttest.Before(t, r.URL, func(req *http.Request) *faulttest.Fault {
		if strings.Contains(req.URL.Path, "/blobs/") && !strings.HasSuffix(req.URL.Path, config.String()) {
			return &faulttest.Fault{CutBody: 1000}
		}
		return nil
	})
	source = from(t, r)
	source.Insecure = []string{strings.TrimPrefix(cut.URL, "http://")}
	return source, source.Insecure[0] + "/run:1", digest(t, layers[0])
}

// A blob that breaks off is the registry's fault as much as an absent one.
func TestBrokenOff(t *testing.T) {
	source, reference, layer := cutLayers(t)
	for name, open := range map[string]func() (io.ReadCloser, error){
		"a blob": func() (io.ReadCloser, error) { return source.Open(t.Context(), reference, layer) },
		"files":  func() (io.ReadCloser, error) { return source.Files(t.Context(), reference, linux) },
	} {
		t.Run(name, func(t *testing.T) {
			content, err := open()
			if err == nil {
				defer content.Close()
				_, err = io.Copy(io.Discard, content)
			}
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != outcome.RegistryUnavailable ||
				!strings.Contains(failure.Message, "image "+reference+": ") {
				t.Errorf("got %+v", failure)
			}
		})
	}
}

// Later layers win, and the files that they remove are gone.
func TestFiles(t *testing.T) {
	r := registrytest.New(t)
	img, err := mutate.AppendLayers(image(t, linux.Architecture),
		layer(t, map[string]string{"etc/kept": "old", "etc/removed": "old"}),
		layer(t, map[string]string{"etc/kept": "new", "etc/.wh.removed": ""}),
	)
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, "run:1", img)
	content, err := from(t, r).Files(t.Context(), r.Host+"/run:1", linux)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	got := map[string]string{}
	for files := tar.NewReader(content); ; {
		header, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(header.Name, "etc/") {
			got[header.Name] = string(text)
		}
	}
	if len(got) != 1 || got["etc/kept"] != "new" {
		t.Errorf("got %v", got)
	}
}

// layer is one with these files.
func layer(t testing.TB, files map[string]string) v1.Layer {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	made, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
