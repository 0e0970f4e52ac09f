package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remotes "github.com/containerd/containerd/v2/core/remotes/errors"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
)

// A fault is found in an error of any depth, and is still known when the error has crossed a connection.
func TestFault(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want Fault
	}{
		{"no error", nil, NoFault},
		{"a user's mistake", errors.New("unknown instruction"), NoFault},
		{"a full disk", &os.PathError{Op: "write", Path: "/x", Err: syscall.ENOSPC}, DiskFull},
		{"a full quota", &os.PathError{Op: "write", Path: "/x", Err: syscall.EDQUOT}, DiskFull},
		{"no such image", fmt.Errorf("docker.io/library/x:1: %w", cerrdefs.ErrNotFound), Absent},
		{"404", remotes.ErrUnexpectedStatus{StatusCode: 404}, Absent},
		{"401", remotes.ErrUnexpectedStatus{StatusCode: 401}, Denied},
		{"403", remotes.ErrUnexpectedStatus{StatusCode: 403}, Denied},
		{"credentials that are refused", fmt.Errorf("pull: %w", docker.ErrInvalidAuthorization), Denied},
		{"429", remotes.ErrUnexpectedStatus{StatusCode: 429}, Unreachable},
		{"503", remotes.ErrUnexpectedStatus{StatusCode: 503}, Unreachable},
		{"nothing listens",
			&url.Error{Op: "Get", URL: "https://r/v2/", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}},
			Unreachable},
		{"a file that is not there", &os.PathError{Op: "lstat", Path: "/x", Err: syscall.ENOENT}, NoFault},
		{"an answer that breaks off", io.ErrUnexpectedEOF, Unreachable},
		{"a connection that breaks", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, Unreachable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := test.err
			if err != nil {
				err = fmt.Errorf("solve: %w", err)
			}
			_, sent := explainFailures(t.Context(), nil, &grpc.UnaryServerInfo{}, func(
				context.Context, any,
			) (any, error) {
				return nil, err
			})
			received := grpcerrors.FromGRPC(sent)
			if (received == nil) != (err == nil) {
				t.Fatalf("%v became %v", err, received)
			}
			if got := FaultOf(received); got != test.want {
				t.Errorf("fault %q, want %q", got, test.want)
			}
		})
	}
}
