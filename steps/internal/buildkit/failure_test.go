package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/disk"
)

// A fault is found in an error of any depth, and is still known when the error has crossed a connection.
func TestFault(t *testing.T) {
	t.Parallel()
	const image, other = "docker.io/library/busybox", "quay.io/team/app"
	limited := &registry.Fault{
		Kind: registry.Unavailable, Host: "registry-1.docker.io", Status: 429, RetryAfter: 7 * time.Second,
	}
	absent := &registry.Fault{Kind: registry.Missing, Host: "quay.io", Status: 404}
	through := func(err error) error { return &url.Error{Op: "Get", URL: "https://r/v2/", Err: err} }
	tests := []struct {
		name   string
		err    error
		full   bool
		image  string
		url    string
		reason outcome.Reason
		after  time.Duration
	}{
		{name: "no error"},
		{name: "a user's mistake", err: errors.New("unknown instruction")},
		{name: "a full disk", err: &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, full: true},
		{name: "a full quota", err: &os.PathError{Op: "write", Path: "/x", Err: syscall.EDQUOT}, full: true},
		{name: "429", err: through(limited), image: image, reason: outcome.RegistryUnavailable, after: 7 * time.Second},
		{name: "404", err: through(absent), image: other, reason: outcome.BaseImageUnavailable},
		{name: "a file that is not there", err: &os.PathError{Op: "lstat", Path: "/x", Err: syscall.ENOENT}},
		{name: "an answer that breaks off", err: io.ErrUnexpectedEOF, image: other,
			reason: outcome.BaseImageUnavailable},
		{name: "a connection that breaks", err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}, image: other,
			reason: outcome.BaseImageUnavailable},
		{name: "a file from a URL", err: through(&download{
			&registry.Fault{Kind: registry.Missing, Host: "h", Status: 404}, "https://h/f"}),
			url: "https://h/f", reason: outcome.DownloadFailed},
		{name: "a server of files that is down", err: through(&download{
			&registry.Fault{Kind: registry.Unavailable, Host: "h", Status: 503}, "https://h/f"}),
			url: "https://h/f", reason: outcome.DownloadUnavailable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPulls(Config{}, http.DefaultTransport)
			p.went(image+"/blobs/sha256:1", limited, image)
			p.went(other+"/manifests/1", absent, other)
			err := test.err
			if err != nil {
				err = fmt.Errorf("solve: %w", err)
			}
			_, sent := (&daemon{pulls: p}).explainFailures(t.Context(), nil, &grpc.UnaryServerInfo{}, func(
				context.Context, any,
			) (any, error) {
				return nil, err
			})
			received := grpcerrors.FromGRPC(sent)
			if (received == nil) != (err == nil) {
				t.Fatalf("%v became %v", err, received)
			}
			got := FaultOf(received)
			if got.DiskFull != test.full || got.Image != test.image || got.URL != test.url {
				t.Errorf("fault %+v, want image %q, URL %q", got, test.image, test.url)
			}
			if (got.Outcome != nil) != (test.reason != "") {
				t.Fatalf("outcome %+v, want %q", got.Outcome, test.reason)
			}
			if got.Outcome != nil && (got.Outcome.Reason != test.reason || got.Outcome.RetryAfter != test.after) {
				t.Errorf("outcome %+v, want %s after %s", got.Outcome, test.reason, test.after)
			}
		})
	}
}

// A full disk is looked at while it is full, and named where it is not the builder's own.
func TestFaultNamesTheDisk(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	want, err := disk.Of(path)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{pulls: newPulls(Config{}, http.DefaultTransport)}
	_, sent := d.explainFailures(t.Context(), nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) {
		return nil, fmt.Errorf("solve: %w", &os.PathError{
			Op: "write", Path: filepath.Join(path, "gone"), Err: syscall.ENOSPC,
		})
	})
	if got := FaultOf(grpcerrors.FromGRPC(sent)); !got.DiskFull || got.Disk.Path != path ||
		got.Disk.Device != want.Device || got.Disk.Size != want.Size {
		t.Errorf("got %+v, want %+v", got.Disk, want)
	}
}

// What a builder says no to is told from what breaks.
func TestRefusal(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"none":                        {nil, false},
		"an error of this process":    {errors.New("x"), false},
		"an answer":                   {status.Error(codes.Unknown, "network.host is not allowed"), true},
		"an answer that is wrapped":   {fmt.Errorf("x: %w", status.Error(codes.InvalidArgument, "x")), true},
		"a connection that is gone":   {status.Error(codes.Unavailable, "x"), false},
		"a fault of the builder":      {status.Error(codes.Internal, "x"), false},
		"a message that is too large": {status.Error(codes.ResourceExhausted, "x"), false},
	} {
		if got := IsRefusal(test.err); got != test.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
	d := &daemon{pulls: newPulls(Config{}, http.DefaultTransport)}
	_, sent := d.explainFailures(t.Context(), nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) {
		return nil, fmt.Errorf("cache: %w", syscall.EIO)
	})
	if IsRefusal(grpcerrors.FromGRPC(sent)) {
		t.Error("a fault of the machine is taken for a refusal")
	}
}

// What a mirror lacks, and the registry has, is no fault; what both lack is told of both.
func TestMirrorsFault(t *testing.T) {
	t.Parallel()
	const asked, image = "quay.io/team/app/manifests/1", "quay.io/team/app"
	p := newPulls(Config{}, http.DefaultTransport)
	mirror := &registry.Fault{Kind: registry.Missing, Host: "mirror.example.com", Status: 404}
	p.went(asked, mirror, image)
	p.went(asked, nil, image)
	if got := p.explain(io.ErrUnexpectedEOF); got != nil {
		t.Errorf("got %+v after all went well", got)
	}
	p.went(asked, mirror, image)
	p.went(asked, &registry.Fault{Kind: registry.Denied, Host: "quay.io", Status: 403}, image)
	const want = "quay.io does not let us pull it: 403 Forbidden; " +
		"its mirror: mirror.example.com does not have it: not found"
	if got := p.explain(mirror); got == nil || registry.Pulling(got.faults).Message != want {
		t.Errorf("got %+v, want %s", got, want)
	}
}
