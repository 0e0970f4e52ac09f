package mirror

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
)

// transcript is a text that several may write.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func start(t *testing.T) (*Mirror, *transcript) {
	t.Helper()
	heard := new(transcript)
	m, err := Start(Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(heard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, heard
}

func (m *Mirror) image(t *testing.T, path string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(m.Address()+"/"+path, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// A requested image is there, for all who ask at once, by its tag and by its digest.
func TestAskedForIsMade(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	m, _ := start(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			got, err := remote.Image(m.image(t, "library/busybox:1"))
			if err != nil {
				t.Error(err)
				return
			}
			digest, err := got.Digest()
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := remote.Image(m.image(t, "library/busybox@"+digest.String())); err != nil {
				t.Error(err)
			}
			want, err := m.bases.Image(baseimages.Busybox)
			if err != nil {
				t.Error(err)
				return
			}
			if made, err := want.Digest(); err != nil || digest != made {
				t.Errorf("the mirror has %s, made was %s; %v", digest, made, err)
			}
		})
	}
	group.Wait()
	if m.find(baseimages.Debian).done {
		t.Error("an image was made that nobody asked for")
	}
}

// An image without a stand-in is refused, and the answer lists the stand-ins.
func TestRefused(t *testing.T) {
	m, heard := start(t)
	other := "sha256:" + strings.Repeat("0", 64)
	for _, test := range []struct{ name, path, asked string }{
		{"another image", "library/alpine/manifests/3.20", "library/alpine:3.20"},
		{"another tag", "library/busybox/manifests/2", "library/busybox:2"},
		{"another digest", "library/busybox/manifests/" + other, "library/busybox@" + other},
	} {
		t.Run(test.name, func(t *testing.T) {
			url := "http://" + m.Address() + "/v2/" + test.path
			response, err := http.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			var answer struct {
				Errors []struct{ Code, Message string }
			}
			if err := json.Unmarshal(body, &answer); err != nil || len(answer.Errors) != 1 {
				t.Fatalf("%v in %s", err, body)
			}
			got := answer.Errors[0]
			for _, want := range []string{
				test.asked, "only stand-ins", baseimages.Static, "gcr.io/buildpacks/builder:latest",
			} {
				if !strings.Contains(got.Message, want) {
					t.Errorf("%q is missing in %q", want, got.Message)
				}
			}
			head, err := http.Head(url)
			if err != nil {
				t.Fatal(err)
			}
			head.Body.Close()
			if response.StatusCode != http.StatusForbidden || head.StatusCode != http.StatusForbidden ||
				got.Code != "DENIED" {
				t.Errorf("GET: %s, HEAD: %s, code %s", response.Status, head.Status, got.Code)
			}
			if !strings.Contains(heard.String(), test.asked) {
				t.Errorf("the log has only %s", heard)
			}
		})
	}
	if err := remote.Write(m.image(t, "library/mine:1"), empty.Image); err == nil {
		t.Error("an image can be pushed")
	}
}

// The digest of a builder's stand-in is the machine's own: a run is told it.
func TestBuilderIsNamedByDigest(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	m, _ := start(t)
	for _, family := range testbuilders.Families() {
		flags, err := m.MakeBuilder(t.Context(), family.Name)
		if err != nil {
			t.Fatal(err)
		}
		if len(flags) != 4 || flags[0] != "--builder-image" || flags[2] != "--run-image" {
			t.Fatalf("flags are %q", flags)
		}
		for i, ref := range []string{family.Builder, family.Run} {
			host, path, _ := strings.Cut(flags[2*i+1], "/")
			repository, digest, _ := strings.Cut(path, "@")
			if !strings.HasPrefix(ref, host+"/"+repository+":") {
				t.Errorf("%s stands in for %s", flags[2*i+1], ref)
			}
			pulled, err := remote.Image(m.image(t, path))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := pulled.Digest(); err != nil || got.String() != digest {
				t.Errorf("%s has the digest %s; %v", flags[2*i+1], got, err)
			}
		}
	}
}

func TestFlags(t *testing.T) {
	m, _ := start(t)
	want := []string{
		"--registry-mirror", "docker.io=" + m.Address(), "--registry-mirror", "gcr.io=" + m.Address(),
		"--registry-mirror", "ghcr.io=" + m.Address(), "--insecure-registry", m.Address(),
	}
	if got := m.Flags(); !slices.Equal(got, want) {
		t.Errorf("flags are %q, want %q", got, want)
	}
}
