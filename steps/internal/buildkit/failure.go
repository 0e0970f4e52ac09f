package buildkit

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remotes "github.com/containerd/containerd/v2/core/remotes/errors"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Fault is what went wrong outside of the Dockerfile, as far as the builder could tell.
type Fault string

// The faults that BuildKit's own error types do not carry over a connection.
const (
	NoFault     Fault = ""
	DiskFull    Fault = "DISK_FULL"
	Absent      Fault = "ABSENT"      // the registry has no such image
	Denied      Fault = "DENIED"      // the registry does not let this user have it
	Unreachable Fault = "UNREACHABLE" // the registry does not answer, or with an error of its own
)

// domain tells our details of a gRPC status from others'.
const domain = "stepwright.dev"

// explainFailures adds the Fault to the errors that the builder answers with. In here, errors still have their types.
func explainFailures(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	var cause error
	resp, err := grpcerrors.UnaryServerInterceptor(ctx, req, info, func(ctx context.Context, req any) (any, error) {
		resp, err := handler(ctx, req)
		cause = err
		return resp, err
	})
	fault := faultOf(cause)
	if err == nil || fault == NoFault {
		return resp, err
	}
	st, ok := status.FromError(err)
	if !ok {
		return resp, err
	}
	if detailed, derr := st.WithDetails(&errdetails.ErrorInfo{Domain: domain, Reason: string(fault)}); derr == nil {
		err = detailed.Err()
	}
	return resp, err
}

func faultOf(err error) Fault {
	if err == nil {
		return NoFault
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return DiskFull
	}
	if answer, ok := errors.AsType[remotes.ErrUnexpectedStatus](err); ok {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return Denied
		case http.StatusNotFound:
			return Absent
		}
		return Unreachable
	}
	if errors.Is(err, docker.ErrInvalidAuthorization) || cerrdefs.IsPermissionDenied(err) ||
		cerrdefs.IsUnauthorized(err) {
		return Denied
	}
	if cerrdefs.IsNotFound(err) {
		return Absent
	}
	// Not net.Error: every error number of the kernel is one, also that of a file that does not exist.
	var request *url.Error
	var connection *net.OpError
	if errors.As(err, &request) || errors.As(err, &connection) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Unreachable
	}
	return NoFault
}

// FaultOf returns the fault that a builder of this package reported with an error. A daemon reports none.
func FaultOf(err error) Fault {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return NoFault
	}
	for _, detail := range carrier.GRPCStatus().Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return Fault(info.GetReason())
		}
	}
	return NoFault
}

// Lost tells whether an error means that the builder is gone.
func Lost(err error) bool { return grpcerrors.Code(err) == codes.Unavailable }
