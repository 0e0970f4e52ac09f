package publish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func testRepository(t *testing.T, host string) *repository {
	t.Helper()
	server, err := name.NewRegistry(host)
	if err != nil {
		t.Fatal(err)
	}
	return newRepository(server.Repo("team/app"), &registry.Credentials{Path: "/secret"}, true, http.DefaultTransport)
}

// Failures of a network that a test cannot cause.
func TestFailure(t *testing.T) {
	t.Parallel()
	upload := &url.Error{Op: "Put", URL: "https://r.example.com/v2/upload?_state=canary"}
	through := func(err error) error {
		e := *upload
		e.Err = err
		return &e
	}
	tests := map[string]struct {
		err    error
		reason outcome.Reason
		text   string
	}{
		"no such host": {
			through(&net.OpError{
				Op:  "dial",
				Err: &net.DNSError{Err: "no such host", Name: "r.example.com", IsNotFound: true},
			}),
			outcome.InvalidParameters,
			`there is no host "r.example.com"`,
		},
		"DNS server does not answer": {
			through(&net.OpError{
				Op:  "dial",
				Err: &net.DNSError{Err: "timeout", Name: "r.example.com", IsTimeout: true},
			}),
			outcome.RegistryUnavailable,
			"timeout",
		},
		"connection reset": {
			through(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), outcome.RegistryUnavailable, "reset",
		},
		"connection reset in an answer": {
			&net.OpError{Op: "read", Err: syscall.ECONNRESET}, outcome.RegistryUnavailable, "reset",
		},
		"errno alone":    {syscall.EPIPE, outcome.RegistryUnavailable, "broken pipe"},
		"answer cut off": {io.ErrUnexpectedEOF, outcome.RegistryUnavailable, "broke"},
		"library's own words": {
			through(errors.New("http: server closed idle connection")), outcome.RegistryUnavailable, "idle",
		},
		"token server's answer": {
			errors.New("no token in bearer response:\n{\"refresh_token\":\"canary\"}"), outcome.Failed, "no token",
		},
		"a fault of ours stays ours": {
			through(outcome.Errorf(outcome.ImageInvalid, "blob is damaged")), outcome.ImageInvalid, "blob is damaged",
		},
		"the end of the step": {through(context.Canceled), outcome.Cancelled, ""},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			err := testRepository(t, "r.example.com").failure("upload x", test.err)
			got := outcome.Of(err)
			if got.Reason != test.reason || !strings.Contains(got.Message, test.text) {
				t.Errorf("got %s: %s; want %s with %q", got.Reason, got.Message, test.reason, test.text)
			}
			if test.reason != outcome.Cancelled && strings.Contains(got.Message, "canary") {
				t.Errorf("the message tells too much: %s", got.Message)
			}
		})
	}
}

// A registry that takes the beginning of a blob and then nothing more must not hold the step for ever.
func TestStalledUpload(t *testing.T) {
	t.Parallel()
	zeros := static.NewLayer(make([]byte, 16<<20), types.OCILayer) // more than sockets buffer
	image, err := mutate.AppendLayers(empty.Image, zeros)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/image"
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(image)
	}
	if err != nil {
		t.Fatal(err)
	}
	read, err := imagelayout.Open(t.Context(), dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()

	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			<-done
		}
	}))
	defer server.Close()
	defer close(done)
	host := strings.TrimPrefix(server.URL, "http://")
	r := testRepository(t, host)
	r.stall = 50 * time.Millisecond
	if err := r.connect(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	err = r.send(t.Context(), &url.URL{Scheme: "http", Host: host, Path: "/upload"}, func() (io.ReadCloser, error) {
		return read.Open(largest(read))
	}, largest(read), &sent)
	if got := outcome.Of(err); got == nil || got.Reason != outcome.RegistryUnavailable ||
		!strings.Contains(got.Message, "took no byte") {
		t.Errorf("got %v", err)
	}
}

func largest(image *imagelayout.Image) v1.Descriptor {
	var found v1.Descriptor
	for _, b := range image.Blobs {
		if b.Size > found.Size {
			found = b
		}
	}
	return found
}

func TestTell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		image := &imagelayout.Image{Blobs: []v1.Descriptor{{Size: 40e6}, {Size: 2e6}}}
		p := &push{
			image:   image,
			env:     step.Environment{Log: slog.New(slog.NewTextHandler(&logged, nil))},
			started: time.Now(),
		}
		p.skipped.add(image.Blobs[1])
		p.sent.Store(12_300_000)
		ctx, cancel := context.WithCancel(t.Context())
		go p.tell(ctx, progressEvery)
		time.Sleep(25 * time.Second)
		cancel()
		synctest.Wait()
		if n := strings.Count(logged.String(), "\n"); n != 2 {
			t.Errorf("%d lines in 25 s, want 2", n)
		}
		if want := `msg="Still pushing" sent="12.3 MB" of="40.0 MB" blobs="1 of 2" ` +
			`took=10s`; !strings.Contains(logged.String(), want) {
			t.Errorf("got %s, want %s", &logged, want)
		}
	})
}
