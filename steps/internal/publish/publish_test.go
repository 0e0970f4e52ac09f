package publish_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// built is a workspace whose image layout holds one image or index.
func built(t testing.TB, image mutate.Appendable) workspace.Workspace {
	t.Helper()
	w := workspace.Workspace(t.TempDir())
	path, err := layout.Write(w.Image(), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	switch image := image.(type) {
	case v1.Image:
		err = path.AppendImage(image)
	case v1.ImageIndex:
		err = path.AppendIndex(image)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// to are the parameters for pushing from a workspace to a registry.
func to(r *registrytest.Registry, w workspace.Workspace) publish.Parameters {
	return publish.Parameters{
		Common:             step.Common{Workspace: w, CABundle: r.CAFile},
		Registry:           r.Host + "/team",
		ImageName:          "shop-cart",
		ImageTag:           "v1",
		GitRevision:        "1a2b3c4d",
		RegistryPushSecret: r.DockerConfig,
		InsecurePlainHTTP:  r.CAFile == "",
		Jobs:               4,
	}
}

const reference = "team/shop-cart:v1-1a2b3c4d"

// log is what a step tells people.
type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func environment(l io.Writer) step.Environment {
	return step.Environment{
		Log: slog.New(slog.NewTextHandler(l, nil)), Stdout: io.Discard, Stderr: io.Discard, Secrets: &redact.Secrets{},
		Retry: outcome.Retry{Attempts: 5, Base: time.Millisecond, Max: 10 * time.Millisecond},
	}
}

func run(t testing.TB, in publish.Parameters) (results step.Results, logged string, err error) {
	t.Helper()
	var l log
	results, err = publish.Run(t.Context(), in, environment(&l))
	return results, l.String(), err
}

func mustRun(t testing.TB, in publish.Parameters) (results step.Results, logged string) {
	t.Helper()
	results, logged, err := run(t, in)
	if err != nil {
		t.Fatalf("%v\n%s", err, logged)
	}
	return results, logged
}

func digest(t testing.TB, image interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	d, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// uploads are the blobs that reached the registry: their digests, and how often.
func uploads(r *registrytest.Registry) map[string]int {
	found := map[string]int{}
	for _, request := range r.Requests(http.MethodPut, "/blobs/uploads/") {
		found[request.Query.Get("digest")]++
	}
	return found
}

func uploadedBytes(r *registrytest.Registry) (n int64) {
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodPost} {
		for _, request := range r.Requests(method, "/blobs/uploads/") {
			n += request.Bytes
		}
	}
	return n
}

func wantFailure(t *testing.T, err error, reason outcome.Reason, texts ...string) {
	t.Helper()
	failure := outcome.Of(err)
	if failure == nil {
		t.Fatalf("no error, want %s", reason)
	}
	if failure.Reason != reason {
		t.Errorf("got %s: %s; want %s", failure.Reason, failure.Message, reason)
	}
	for _, text := range texts {
		if !strings.Contains(failure.Message+" "+failure.Hint, text) {
			t.Errorf("%q is not in %q, hint %q", text, failure.Message, failure.Hint)
		}
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	for kind, options := range map[string][]registrytest.Option{
		"TLS and a user":     nil,
		"TLS, anonymous":     {registrytest.Anonymous},
		"plain HTTP, a user": {registrytest.PlainHTTP},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, options...)
			image := registrytest.RandomImage(t, 3, 10_000)
			in := to(r, built(t, image))
			results, _ := mustRun(t, in)
			want := step.Results{
				"image":        r.Host + "/" + reference + "@" + digest(t, image),
				"image-digest": digest(t, image),
			}
			if !maps.Equal(results, want) {
				t.Errorf("got %v, want %v", results, want)
			}
			raw, err := image.RawManifest()
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{reference, "team/shop-cart@" + digest(t, image)} {
				if got := r.Get(t, at); !bytes.Equal(got.Manifest, raw) {
					t.Errorf("%s is %s, want %s", at, got.Manifest, raw)
				}
			}

			r.Forget()
			again, logged := mustRun(t, in)
			if !maps.Equal(again, want) || !strings.Contains(logged, "has this image already") {
				t.Errorf("again: got %v\n%s", again, logged)
			}
			if n := len(r.Requests(http.MethodPost, "")) + len(r.Requests(http.MethodPut, "")) +
				len(r.Requests(http.MethodHead, "/blobs/")) + len(r.Requests(http.MethodGet, "/manifests/")); n > 0 {
				t.Errorf("the second push made %d requests that were not needed", n)
			}
			if n := len(r.Requests(http.MethodHead, "/manifests/")); n != 1 {
				t.Errorf("the second push asked %d times for what is there", n)
			}
		})
	}
}

func TestTagWithoutRevision(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image := registrytest.RandomImage(t, 1, 100)
	in := to(r, built(t, image))
	in.Registry, in.GitRevision = r.Host+"/", ""
	results, _ := mustRun(t, in)
	if want := r.Host + "/shop-cart:v1@" + digest(t, image); results["image"] != want {
		t.Errorf("got %s, want %s", results["image"], want)
	}
}

// BuildKit's form, and once more nested: every manifest must arrive, also the attestation that is no image for a
// platform.
func TestNestedIndexWithAttestation(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image := registrytest.RandomImage(t, 2, 1000)
	attestation, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer([]byte(`{"predicateType":"https://slsa.dev/provenance/v1"}`), "application/vnd.in-toto+json"))
	if err != nil {
		t.Fatal(err)
	}
	inner := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
		},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{
				"vnd.docker.reference.type":   "attestation-manifest",
				"vnd.docker.reference.digest": digest(t, image),
			},
		}})
	root := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: inner,
	})
	results, _ := mustRun(t, to(r, built(t, root)))
	if results["image-digest"] != digest(t, root) {
		t.Errorf("got %s, want %s", results["image-digest"], digest(t, root))
	}
	for _, want := range []interface {
		Digest() (v1.Hash, error)
		RawManifest() ([]byte, error)
	}{root, inner, image, attestation} {
		raw, err := want.RawManifest()
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Get(t, "team/shop-cart@"+digest(t, want)); !bytes.Equal(got.Manifest, raw) {
			t.Errorf("got %s, want %s", got.Manifest, raw)
		}
	}
}

func TestArchive(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image, err := random.Image(20_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	w := workspace.Workspace(t.TempDir())
	tag, err := name.NewTag("localhost/shop-cart:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(w.Archive(), tag, image); err != nil {
		t.Fatal(err)
	}
	results, _ := mustRun(t, to(r, w))
	pulled, err := r.Get(t, reference+"@"+results["image-digest"]).Image()
	if err != nil {
		t.Fatal(err)
	}
	got, err := pulled.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := image.ConfigName(); err != nil || got != want {
		t.Errorf("image ID %s, want %s", got, want)
	}
	r.Forget()
	mustRun(t, to(r, w))
	if n := uploadedBytes(r); n > 0 {
		t.Errorf("the second push uploaded %d bytes", n)
	}
}

func TestOnlyNewBlobsAreUploaded(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	base := registrytest.RandomImage(t, 3, 50_000)
	mustRun(t, to(r, built(t, base)))
	r.Forget()
	image, layer := appended(t, base)
	_, logged := mustRun(t, to(r, built(t, image)))
	if n := uploads(r); len(n) != 2 || n[digest(t, layer)] != 1 {
		t.Errorf("uploaded %v, want the configuration and %s", n, digest(t, layer))
	}
	if !strings.Contains(logged, `skipped="3 (`) || !strings.Contains(logged, `uploaded="2 (`) {
		t.Errorf("the log does not tell: %s", logged)
	}
	if got := r.Get(t, reference).Digest.String(); got != digest(t, image) {
		t.Errorf("the tag is %s, want %s", got, digest(t, image))
	}
}

// appended is an image on a base, with one layer more.
func appended(t testing.TB, base v1.Image) (v1.Image, v1.Layer) {
	t.Helper()
	layer, err := random.Layer(1000, types.DockerLayer)
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image, layer
}

func TestLayersAreMounted(t *testing.T) {
	t.Parallel()
	tests := map[string]func(r *registrytest.Registry, base string, in *publish.Parameters){
		"from a repository of the parameter": func(_ *registrytest.Registry, _ string, in *publish.Parameters) {
			in.MountFrom = []string{"base/absent", "base/golang"}
		},
		"from a repository with its host": func(r *registrytest.Registry, _ string, in *publish.Parameters) {
			in.MountFrom = []string{r.Host + "/base/golang"}
		},
		"from a base image": func(r *registrytest.Registry, base string, in *publish.Parameters) {
			in.BaseImages = []string{"docker.io/library/busybox:1@" + base, r.Host + "/base/golang:1@" + base}
		},
	}
	for kind, prepare := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			base := registrytest.RandomImage(t, 3, 100_000)
			r.Push(t, "base/golang:1", base)
			image, layer := appended(t, base)
			in := to(r, "")
			prepare(r, digest(t, base), &in)
			in.Workspace = built(t, image)
			r.Forget()
			_, logged := mustRun(t, in)
			if n := uploads(r); len(n) != 2 || n[digest(t, layer)] != 1 {
				t.Errorf("uploaded %v, want the configuration and %s", n, digest(t, layer))
			}
			if n := uploadedBytes(r); n > 10_000 {
				t.Errorf("uploaded %d bytes", n)
			}
			if !strings.Contains(logged, `mounted="3 (`) {
				t.Errorf("the log does not tell: %s", logged)
			}
			if got := r.Get(t, reference).Digest.String(); got != digest(t, image) {
				t.Errorf("the tag is %s, want %s", got, digest(t, image))
			}
		})
	}
}

// Who only names a layer does not get it from a repository that the push credentials may read.
func TestALayerWithOtherContentIsNotMounted(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	base := registrytest.RandomImage(t, 1, 100_000)
	r.Push(t, "base/private:1", base)
	image, _ := appended(t, base)
	in := to(r, built(t, image))
	in.MountFrom = []string{"base/private"}
	layers, err := base.Layers()
	if err != nil {
		t.Fatal(err)
	}
	name, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	path := imagelayout.Dir(in.Workspace.Image()).Blob(name)
	info, err := os.Stat(path)
	if err == nil {
		err = os.WriteFile(path, make([]byte, info.Size()), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Forget()
	_, _, err = run(t, in)
	wantFailure(t, err, outcome.ImageInvalid, "is damaged")
	for _, request := range r.Requests(http.MethodPost, "/blobs/uploads/") {
		if request.Query.Has("mount") {
			t.Errorf("%v was mounted", request.Query)
		}
	}
}

// The image is the one that the build step made, for the component that the run is of.
func TestAnotherImage(t *testing.T) {
	t.Parallel()
	owned := func(owner string) v1.Image {
		image, err := mutate.Config(
			registrytest.RandomImage(t, 1, 1000), v1.Config{Labels: map[string]string{step.OwnerLabel: owner}},
		)
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	ours, plain := owned("acme/shop/cart"), registrytest.RandomImage(t, 1, 1000)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: ours})
	tests := []struct {
		name   string
		image  mutate.Appendable
		digest string
		owner  step.Owner
		want   string // of the failure; empty when it is published
	}{
		{"the one that was built", ours, digest(t, ours), step.Owner{}, ""},
		{"another one", ours, digest(t, plain), step.Owner{}, digest(t, plain)},
		{"the index of the one that was built", index, digest(t, ours), step.Owner{}, digest(t, ours)},
		{"of the component", ours, "", step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}, ""},
		{"of nobody", plain, "", step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}, ""},
		{"of another component", index, "", step.Owner{Namespace: "acme", Project: "shop", Component: "till"},
			`"acme/shop/cart"`},
		{"of a component, for a run of none", ours, "", step.Owner{Namespace: "acme"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			in := to(r, built(t, test.image))
			in.ImageDigest, in.Owner = test.digest, test.owner
			_, _, err := run(t, in)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFailure(t, err, outcome.ImageInvalid, test.want)
			if len(r.Requests("", "")) > 0 {
				t.Error("the registry was asked")
			}
		})
	}
}

// A registry that may not let us mount must not keep us from uploading.
func TestMountIsRefused(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Query().Has("mount") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, req)
		})
	}))
	base := registrytest.RandomImage(t, 2, 1000)
	r.Push(t, "base/golang:1", base)
	in := to(r, built(t, base))
	in.MountFrom = []string{"base/golang"}
	mustRun(t, in)
	if n := uploads(r); len(n) != 3 {
		t.Errorf("uploaded %v", n)
	}
}

func blobPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/uploads/")
}

func manifestGet(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/")
}

// big matches one upload only, so that the others are finished when it fails.
func big(r *http.Request) bool { return blobPut(r) && r.ContentLength > 100_000 }

// Transient faults, between the step and a real registry: the image arrives, and what arrived before the fault is not
// sent again.
func TestTransientFaults(t *testing.T) {
	t.Parallel()
	ping := func(r *http.Request) bool { return r.URL.Path == "/v2/" }
	manifestPut := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
	}
	post := func(r *http.Request) bool { return r.Method == http.MethodPost }
	head := func(r *http.Request) bool { return r.Method == http.MethodHead }
	tests := map[string]struct {
		match func(*http.Request) bool
		fault faulttest.Fault
	}{
		"ping breaks":           {ping, faulttest.Fault{}},
		"ping answers 503":      {ping, faulttest.Fault{Status: 503}},
		"existence breaks":      {head, faulttest.Fault{}},
		"existence answers 500": {head, faulttest.Fault{Status: 500}},
		"start answers 502":     {post, faulttest.Fault{Status: 502, Body: "<html>bad gateway</html>"}},
		"start answers 429": {post,
			faulttest.Fault{
				Status:     429,
				RetryAfter: "1",
				Body:       `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`,
			}},
		"blob breaks in the middle": {big, faulttest.Fault{ReadBody: 70_000}},
		"blob answers 500":          {big, faulttest.Fault{Status: 500}},
		"blob answers 504":          {big, faulttest.Fault{Status: 504, Delay: 20 * time.Millisecond}},
		"blob answers 429":          {big, faulttest.Fault{Status: 429, RetryAfter: "1"}},
		"blob's upload is lost": {
			big,
			faulttest.Fault{Status: 404, Body: `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}`},
		},
		"blob arrived damaged": {
			big,
			faulttest.Fault{Status: 400, Body: `{"errors":[{"code":"DIGEST_INVALID"}]}`},
		},
		"manifest breaks":      {manifestPut, faulttest.Fault{}},
		"manifest answers 503": {manifestPut, faulttest.Fault{Status: 503}},
		"manifest's blob is not seen yet": {
			manifestPut,
			faulttest.Fault{Status: 400, Body: `{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}`},
		},
		"reading back answers 500": {manifestGet, faulttest.Fault{Status: 500}},
		"everything is slow": {func(*http.Request) bool {
			return true
		}, faulttest.Fault{Delay: 5 * time.Millisecond, Pass: true}},
		"answer is longer than its length": {manifestGet, faulttest.Fault{Length: 10}},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			proxy := faulttest.Before(t, r.URL, faulttest.First(2, test.match, test.fault))
			image := registrytest.RandomImage(t, 2, 1000)
			layer, err := random.Layer(300_000, types.DockerLayer)
			if err != nil {
				t.Fatal(err)
			}
			if image, err = mutate.AppendLayers(image, layer); err != nil {
				t.Fatal(err)
			}
			in := to(r, built(t, image))
			in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
			results, logged := mustRun(t, in)
			if results["image-digest"] != digest(t, image) || r.Get(t, reference).Digest.String() != digest(t, image) {
				t.Errorf("got %v, want %s\n%s", results, digest(t, image), logged)
			}
			if proxy.Faults.Load() != 2 {
				t.Errorf("%d faults, want 2", proxy.Faults.Load())
			}
			for d, n := range uploads(r) {
				if n != 1 {
					t.Errorf("%s was uploaded %d times", d, n)
				}
			}
		})
	}
}

// A truncated answer must not pass for the image.
func TestReadBackIsCut(t *testing.T) {
	t.Parallel()
	for kind, fault := range map[string]faulttest.Fault{
		"answer cut off":         {CutBody: 20},
		"answer of wrong length": {Length: 1 << 20},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			image := registrytest.RandomImage(t, 1, 1000)
			proxy := faulttest.Before(t, r.URL, faulttest.First(2, manifestGet, fault))
			in := to(r, built(t, image))
			in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
			if results, _ := mustRun(t, in); results["image-digest"] != digest(t, image) {
				t.Errorf("got %v", results)
			}
			if n := proxy.Faults.Load(); n != 2 {
				t.Errorf("%d faults, want 2", n)
			}
		})
	}
}

// A registry that stays down: RegistryUnavailable after all attempts, and the layout is as it was.
func TestLastingFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		match  func(*http.Request) bool
		fault  faulttest.Fault
		faults int64
		texts  []string
	}{
		"503": {
			big,
			faulttest.Fault{Status: 503, Body: `{"errors":[{"code":"UNAVAILABLE","message":"disk on fire"}]}`},
			5,
			[]string{"503", "disk on fire", "upload sha256:"},
		},
		"broken connection": {big, faulttest.Fault{ReadBody: 1000}, 5, []string{"upload sha256:"}},
		"429 from the start": {func(*http.Request) bool {
			return true
		}, faulttest.Fault{Status: 429, RetryAfter: "7"}, 5,
			[]string{"429 Too Many Requests"}},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			proxy := faulttest.Before(t, r.URL, faulttest.First(1000, test.match, test.fault))
			in := to(r, built(t, registrytest.RandomImage(t, 1, 200_000)))
			in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
			before := files(t, in.Workspace)
			results, _, err := run(t, in)
			wantFailure(t, err, outcome.RegistryUnavailable, test.texts...)
			if len(results) > 0 {
				t.Errorf("results %v", results)
			}
			if n := proxy.Faults.Load(); n != test.faults {
				t.Errorf("tried %d times, want %d", n, test.faults)
			}
			if after := files(t, in.Workspace); !maps.Equal(before, after) {
				t.Errorf(
					"the workspace changed: %v, was %v", slices.Collect(maps.Keys(after)),
					slices.Collect(maps.Keys(before)),
				)
			}
			if r.Has(t, reference) {
				t.Error("the tag exists although the push failed")
			}
			if want := 7 * time.Second; test.fault.RetryAfter != "" && outcome.Of(err).RetryAfter != want {
				t.Errorf("Retry-After is %s, want %s", outcome.Of(err).RetryAfter, want)
			}
		})
	}
}

// files are the contents below a folder.
func files(t testing.TB, w workspace.Workspace) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(string(w), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		found[path] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDenied(t *testing.T) {
	t.Parallel()
	config := func(t *testing.T, host, user, password string) string {
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, registrytest.DockerConfig(t, host, user, password), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string]struct {
		change func(t *testing.T, r *registrytest.Registry, in *publish.Parameters)
		texts  []string
	}{
		"wrong password": {func(t *testing.T, r *registrytest.Registry, in *publish.Parameters) {
			in.RegistryPushSecret = config(t, r.Host, r.User, "wrong-password")
		}, []string{"team/shop-cart", "401", "were used"}},
		"no credentials": {func(_ *testing.T, _ *registrytest.Registry, in *publish.Parameters) {
			in.RegistryPushSecret = "/no/such/file"
		}, []string{"team/shop-cart", "no credentials were used", "/no/such/file"}},
		"credentials for another host": {func(t *testing.T, r *registrytest.Registry, in *publish.Parameters) {
			in.RegistryPushSecret = config(t, "ghcr.io", r.User, r.Password)
		}, []string{"team/shop-cart", "no credentials were used", "only for ghcr.io"}},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t)
			in := to(r, built(t, registrytest.RandomImage(t, 1, 100)))
			in.Jobs = 1
			test.change(t, r, &in)
			_, logged, err := run(t, in)
			wantFailure(t, err, outcome.PushDenied, test.texts...)
			if text := err.Error() + logged; strings.Contains(text, "wrong-password") ||
				strings.Contains(text, r.Password) {
				t.Error("a password is in error or log")
			}
			if n := len(r.Requests(http.MethodPost, "")); n > 1 {
				t.Errorf("tried %d times", n)
			}
		})
	}
}

// Answers that no second try mends.
func TestRefused(t *testing.T) {
	t.Parallel()
	post := func(r *http.Request) bool { return r.Method == http.MethodPost }
	manifestPut := func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
	}
	tests := map[string]struct {
		match  func(*http.Request) bool
		status int
		body   string
		reason outcome.Reason
		texts  []string
	}{
		"may pull only": {
			post,
			403,
			`{"errors":[{"code":"DENIED","message":"requested access\nto the resource is denied"}]}`,
			outcome.PushDenied,
			[]string{"403 Forbidden, DENIED requested access to the resource is denied", "team/shop-cart"},
		},
		"repository must be made first": {post, 404, `{"errors":[{"code":"NAME_UNKNOWN","message":"no such project"}]}`,
			outcome.PushDenied, []string{"no such project", "Create the repository"}},
		"layer too large": {blobPut, 413, `<html>nginx</html>`, outcome.Failed, []string{"413", "limit"}},
		"unknown manifest": {
			manifestPut,
			400,
			`{"errors":[{"code":"MANIFEST_INVALID","message":"unknown type"}]}`,
			outcome.Failed,
			[]string{"unknown type"},
		},
		"registry is frozen": {
			post,
			405,
			`{"errors":[{"code":"UNSUPPORTED","message":"read-only"}]}`,
			outcome.Failed,
			[]string{"read-only"},
		},
		"not implemented": {post, 501, ``, outcome.Failed, []string{"501"}},
		"is no registry": {func(r *http.Request) bool {
			return r.URL.Path == "/v2/"
		}, 404, `not here`, outcome.InvalidParameters,
			[]string{"is not a container registry"}},
		"long-winded answers": {
			post,
			403,
			`{"errors":[{"code":"DENIED","message":"` + strings.Repeat("no ", 10_000) + `"}]}`,
			outcome.PushDenied,
			[]string{"no no"},
		},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			proxy := faulttest.Before(t, r.URL, faulttest.First(1000, test.match, faulttest.Fault{
				Status: test.status,
				Body:   test.body,
			}))
			in := to(r, built(t, registrytest.RandomImage(t, 1, 100)))
			in.Registry, in.Jobs = strings.TrimPrefix(proxy.URL, "http://")+"/team", 1
			_, _, err := run(t, in)
			wantFailure(t, err, test.reason, test.texts...)
			if len(err.Error()) > 2000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
			// One job: the first refusal ends it.
			if n := proxy.Faults.Load(); n != 1 {
				t.Errorf("tried %d times", n)
			}
			if r.Has(t, reference) {
				t.Error("the tag exists although the push failed")
			}
		})
	}
}

// Loopback is where libraries like to fall back to plain HTTP by themselves.
func TestTransportIsAsAskedFor(t *testing.T) {
	t.Parallel()
	image := registrytest.RandomImage(t, 1, 100)
	t.Run("HTTPS with a registry of plain HTTP", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t, registrytest.PlainHTTP)
		in := to(r, built(t, image))
		in.InsecurePlainHTTP = false
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.InvalidParameters, "plain HTTP", "insecure-plain-http")
		if n := len(r.Requests(http.MethodGet, "")); n > 0 {
			t.Errorf("%d requests by plain HTTP", n)
		}
	})
	t.Run("plain HTTP with a registry of HTTPS", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t)
		in := to(r, built(t, image))
		in.InsecurePlainHTTP = true
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.InvalidParameters, "insecure-plain-http", "speaks HTTPS")
	})
	t.Run("unknown authority", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t)
		in := to(r, built(t, image))
		in.CABundle = ""
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.InvalidParameters, "ca-bundle", "authority")
	})
	t.Run("certificate for another name", func(t *testing.T) {
		t.Parallel()
		r := registrytest.New(t)
		in := to(r, built(t, image))
		in.Registry = strings.Replace(r.Host, "127.0.0.1", "127.0.0.2", 1)
		_, _, err := run(t, in)
		if reason := outcome.Of(err).Reason; reason == outcome.InvalidParameters {
			wantFailure(t, err, outcome.InvalidParameters, "certificate", "127.0.0.2")
		} else {
			wantFailure(t, err, outcome.RegistryUnavailable, "refused") // the registry listens on 127.0.0.1 only
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		closed := httptest.NewServer(nil)
		closed.Close()
		in := to(&registrytest.Registry{Host: strings.TrimPrefix(closed.URL, "http://")}, built(t, image))
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.RegistryUnavailable, "refused")
	})
	t.Run("upload elsewhere by plain HTTP", func(t *testing.T) {
		t.Parallel()
		var elsewhere atomic.Int64
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
		t.Cleanup(other.Close)
		r := registrytest.New(t, registrytest.Behind(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodPost {
					w.Header().Set("Location", other.URL+"/upload")
					w.WriteHeader(http.StatusAccepted)
					return
				}
				next.ServeHTTP(w, req)
			})
		}))
		_, _, err := run(t, to(r, built(t, image)))
		wantFailure(t, err, outcome.Failed, "unprotected")
		if elsewhere.Load() > 0 {
			t.Error("the blob was sent")
		}
	})
}

// A registry says that it took the manifest, and then shows something else: late, or for ever.
func TestVerify(t *testing.T) {
	t.Parallel()
	const other = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`
	for kind, test := range map[string]struct {
		lies   int64
		at     string // end of the path
		reason outcome.Reason
	}{
		"tag of another, for ever":    {1 << 30, "v1-1a2b3c4d", outcome.RegistryUnavailable},
		"tag of another, for a while": {3, "v1-1a2b3c4d", ""},
		"digest of another":           {1 << 30, "", outcome.RegistryUnavailable},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 1, 100)
			var pushed atomic.Bool
			var lies atomic.Int64
			r := registrytest.New(t, registrytest.Behind(func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if pushed.Load() && manifestGet(req) &&
						strings.HasSuffix(req.URL.Path, cmp.Or(test.at, digest(t, image))) && lies.Add(1) <= test.lies {
						io.WriteString(w, other)
						return
					}
					next.ServeHTTP(w, req)
					if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/") {
						pushed.Store(true)
					}
				})
			}))
			results, _, err := run(t, to(r, built(t, image)))
			if test.reason == "" {
				if err != nil || results["image-digest"] != digest(t, image) {
					t.Errorf("got %v, %v", results, err)
				}
				return
			}
			wantFailure(t, err, test.reason, "shows something else than "+digest(t, image))
		})
	}
}

// A damaged layer is the image's fault, not the connection's: no second try, and nothing to see in the registry.
func TestDamagedLayer(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image := registrytest.RandomImage(t, 1, 100_000)
	w := built(t, image)
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d := digest(t, layers[0])
	path := filepath.Join(w.Image(), "blobs", strings.Replace(d, ":", "/", 1))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2]++
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err = run(t, to(r, w))
	wantFailure(t, err, outcome.ImageInvalid, d, "damaged")
	if n := len(r.Requests(http.MethodPost, "")); n > 2 {
		t.Errorf("%d uploads were begun", n)
	}
	if r.Has(t, reference) {
		t.Error("the tag exists although the push failed")
	}
}

func TestNothingToPublish(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	in := to(r, workspace.Workspace(t.TempDir()))
	_, _, err := run(t, in)
	wantFailure(t, err, outcome.ImageNotFound, "app-image.tar")
	in.ImageSource = "/no/such/image"
	_, _, err = run(t, in)
	wantFailure(t, err, outcome.ImageNotFound, "/no/such/image")
}

func TestWrongParameters(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	w := built(t, registrytest.RandomImage(t, 1, 100))
	tests := map[string]struct {
		change func(*publish.Parameters)
		text   string
	}{
		"port is no number": {func(in *publish.Parameters) {
			in.Registry = "registry.example.com:port"
		}, "registry:"},
		"path of two dots": {func(in *publish.Parameters) { in.Registry = "registry.example.com/../admin" },
			"not the name of a repository"},
		"repository too long": {func(in *publish.Parameters) { in.ImageName = strings.Repeat("a/", 127) + "aa" },
			"not the name of a repository"},
		"mount-from leads out": {func(in *publish.Parameters) { in.MountFrom = []string{"../_catalog"} }, "mount-from"},
		"no such CA bundle":    {func(in *publish.Parameters) { in.CABundle = "/no/such/ca.pem" }, "ca-bundle"},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			in := to(r, w)
			test.change(&in)
			_, _, err := run(t, in)
			wantFailure(t, err, outcome.InvalidParameters, test.text)
		})
	}
}

func TestConcurrentPublishes(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	image := registrytest.RandomImage(t, 4, 50_000)
	var wg sync.WaitGroup
	for range 4 {
		in := to(r, built(t, image))
		wg.Go(func() {
			if results, logged, err := run(t, in); err != nil || results["image-digest"] != digest(t, image) {
				t.Errorf("got %v, %v\n%s", results, err, logged)
			}
		})
	}
	wg.Wait()
	if got := r.Get(t, reference).Digest.String(); got != digest(t, image) {
		t.Errorf("the tag is %s, want %s", got, digest(t, image))
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	for kind, match := range map[string]func(*http.Request) bool{
		"before the first answer": func(*http.Request) bool { return true },
		"in an upload":            blobPut,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := outcome.Errorf(outcome.Cancelled, "stopped by a test")
			proxy := faulttest.Before(t, r.URL, func(req *http.Request) *faulttest.Fault {
				if !match(req) {
					return nil
				}
				io.ReadAll(req.Body) // so that the server notices when we hang up
				cancel(stopped)
				return &faulttest.Fault{Delay: time.Hour}
			})
			in := to(r, built(t, registrytest.RandomImage(t, 2, 1000)))
			in.Registry = strings.TrimPrefix(proxy.URL, "http://") + "/team"
			ended := make(chan error, 1)
			go func() {
				_, err := publish.Run(ctx, in, environment(io.Discard))
				ended <- err
			}()
			select {
			case err := <-ended:
				if !errors.Is(err, stopped) {
					t.Errorf("got %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("still running")
			}
		})
	}
}

// tokens puts a token server in front of a registry. A token is good for that many uses.
type tokens struct {
	uses   int
	mu     sync.Mutex
	left   map[string]int
	scopes [][]string
	basic  string
}

func (s *tokens) ServeHTTP(next http.Handler, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if r.URL.Path == "/token" {
		defer s.mu.Unlock()
		s.scopes = append(s.scopes, r.URL.Query()["scope"])
		_, s.basic, _ = r.BasicAuth()
		token := "token-" + strings.Repeat("x", len(s.left)+1)
		s.left[token] = s.uses
		json.NewEncoder(w).Encode(map[string]string{"token": token})
		return
	}
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	good := s.left[token] > 0
	s.left[token]--
	s.mu.Unlock()
	if !good {
		io.Copy(io.Discard, r.Body) // a token that ends while a blob travels is found out at the blob's end
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+r.Host+`/token",service="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	next.ServeHTTP(w, r)
}

// Tokens of large registries are good for some minutes, and a push may take longer.
func TestTokenExpiresMeanwhile(t *testing.T) {
	t.Parallel()
	s := &tokens{uses: 2, left: map[string]int{}}
	r := registrytest.New(t, registrytest.Anonymous, registrytest.Behind(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { s.ServeHTTP(next, w, req) })
	}))
	image := registrytest.RandomImage(t, 3, 100_000)
	in := to(r, built(t, image))
	in.Jobs, in.MountFrom = 1, []string{"base/golang"}
	in.RegistryPushSecret = filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(
		in.RegistryPushSecret, registrytest.DockerConfig(t, r.Host, "jane", "exchange-me"), 0o600,
	); err != nil {
		t.Fatal(err)
	}
	results, logged := mustRun(t, in)
	if results["image-digest"] != digest(t, image) {
		t.Errorf("got %v\n%s", results, logged)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.basic != "exchange-me" || len(s.left) < 3 {
		t.Errorf("%d tokens for password %q", len(s.left), s.basic)
	}
	if want := []string{
		"repository:team/shop-cart:push,pull", "repository:base/golang:pull",
	}; !slices.Equal(s.scopes[0], want) {
		t.Errorf("scopes %q, want %q", s.scopes[0], want)
	}
}

// A registry that echoes a request must not make the step tell secrets.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	const canary = "canary-7c1f-password"
	r := registrytest.New(t, registrytest.Anonymous, registrytest.Behind(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			user, password, _ := req.BasicAuth()
			if password == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			}
			w.WriteHeader(http.StatusUnauthorized)
			json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{
				{"code": "UNAUTHORIZED",
					"message": req.Header.Get("Authorization") + " is wrong for " + user + ":" + password}}})
		})
	}))
	dir := t.TempDir()
	config, results := filepath.Join(dir, "config.json"), filepath.Join(dir, "results")
	termination := filepath.Join(dir, "termination")
	for path, content := range map[string][]byte{
		config:      registrytest.DockerConfig(t, r.Host, "jane", canary),
		termination: nil,
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out log
	code := step.Run(t.Context(), "publish-image", []string{
		"--workspace", string(built(t, registrytest.RandomImage(t, 1, 100))), "--results-dir", results,
		"--termination-message-path", termination,
		"--registry", r.Host, "--image-name", "app", "--ca-bundle", r.CAFile, "--registry-push-secret", config,
		"--max-attempts=1",
	}, nil, step.Streams{Stdout: &out, Stderr: &out}, publish.Run)
	if want := outcome.PushDenied.ExitCode(); code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	told := out.String()
	for _, content := range files(t, workspace.Workspace(results)) {
		told += content
	}
	message, err := os.ReadFile(termination)
	if err != nil {
		t.Fatal(err)
	}
	told += string(message)
	if !strings.Contains(told, "PushDenied") || !strings.Contains(told, "***") {
		t.Errorf("nothing was told, or nothing masked: %s", told)
	}
	for _, secret := range []string{canary, "amFuZTpjYW5hcnktN2MxZi1wYXNzd29yZA=="} { // jane:canary… in base64
		if strings.Contains(told, secret) {
			t.Errorf("%s is told: %s", secret, told)
		}
	}
}
