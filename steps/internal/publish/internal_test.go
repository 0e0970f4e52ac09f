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

// A registry that is silent while it stores what it got is waited for, within a bound that fits the size. Nobody waits
// for one that says nothing to a question.
func TestPatience(t *testing.T) {
	t.Parallel()
	if got := toCommit(5e9); got < 15*time.Minute || got > time.Hour {
		t.Errorf("5 GB may take %s", got)
	}
	for name, test := range map[string]struct {
		silent time.Duration
		send   bool
		text   string // of the failure
	}{
		"blob, 75 s":        {75 * time.Second, true, ""},
		"blob, ten minutes": {10 * time.Minute, true, "did not answer for 5m0s"},
		"question, 75 s":    {75 * time.Second, false, "did not answer for 1m0s"},
		"question, 50 s":    {50 * time.Second, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				listener := &pipes{make(chan net.Conn), make(chan struct{})}
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if r.URL.Path != "/v2/" {
						time.Sleep(test.silent)
					}
					if r.Method == http.MethodPut {
						w.WriteHeader(http.StatusCreated)
					}
				})}
				go server.Serve(listener)
				transport := uploads(&http.Transport{
					ResponseHeaderTimeout: time.Minute,
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						ours, theirs := net.Pipe()
						listener.conns <- theirs
						return ours, nil
					},
				})
				r := testRepository(t, "r.example.com")
				r.login.Next = transport
				if err := r.connect(t.Context(), nil); err != nil {
					t.Fatal(err)
				}
				blob := v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}, Size: 4}
				var err error
				if test.send {
					err = r.send(t.Context(), r.url("team/app", "blobs", "uploads/1"), func() (io.ReadCloser, error) {
						return io.NopCloser(strings.NewReader("blob")), nil
					}, blob, new(atomic.Int64))
				} else {
					_, err = r.has(t.Context(), "team/app", blob)
				}
				if (err != nil) != (test.text != "") || err != nil && !strings.Contains(err.Error(), test.text) {
					t.Errorf("got %v, want %q", err, test.text)
				}
				if test.send && err != nil && !errors.Is(err, errNoWord) {
					t.Error("it is not looked for before it is sent again")
				}
				transport.CloseIdleConnections()
				server.Close()
				time.Sleep(test.silent) // the server's part of it ends, too
			})
		})
	}
}

// pipes is a listener within this process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

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
