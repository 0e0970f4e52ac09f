package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/disk"
)

// Fault is what went wrong outside of the Dockerfile, as far as the builder could tell. BuildKit's own error types do
// not carry it over a connection.
type Fault struct {
	DiskFull bool
	Disk     disk.Disk      // the one that is full; the zero value when the builder could not tell
	Machine  bool           // the kernel did not do what it was asked to
	Image    string         // repository, with its registry, of which something could not be pulled; else empty
	URL      string         // of a file that could not be had, without credentials and query; else empty
	Outcome  *outcome.Error // of image, URL, or an owner that does not exist here; nil when there is none of them
}

// domain tells our details of a gRPC status from others', and these are what they tell.
const (
	domain     = "stepwright.dev"
	diskFull   = "DISK_FULL"
	machine    = "MACHINE"
	pulling    = "PULLING"
	downloaded = "DOWNLOADING"
	noOwner    = "NO_OWNER"
)

// explainFailures adds the Fault to the errors that the builder answers with. In here, errors still have their types.
func (d *daemon) explainFailures(
	ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	var cause error
	resp, err := grpcerrors.UnaryServerInterceptor(ctx, req, info, func(ctx context.Context, req any) (any, error) {
		resp, err := handler(ctx, req)
		cause = err
		return resp, err
	})
	fault := d.faultOf(cause)
	if err == nil || fault == nil {
		return resp, err
	}
	st, ok := status.FromError(err)
	if !ok {
		return resp, err
	}
	if detailed, derr := st.WithDetails(fault); derr == nil {
		err = detailed.Err()
	}
	return resp, err
}

// faultOf returns the Fault of an error, on its way to the step; nil when there is none.
func (d *daemon) faultOf(err error) *errdetails.ErrorInfo {
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fullDisk(err, d.pulls.config.Root)
	}
	if s := strangerOf(err, d.ids); s != nil {
		return detail(noOwner, map[string]string{}, s.outcome())
	}
	if d, ok := errors.AsType[*download](err); ok {
		return detail(downloaded, map[string]string{"url": d.url}, d.outcome())
	}
	if u, ok := errors.AsType[*unfetched](err); ok {
		return detail(downloaded, map[string]string{"url": u.url}, u.outcome())
	}
	if m := d.pulls.explain(err); m != nil {
		return detail(pulling, map[string]string{"image": m.image}, registry.Pulling(m.faults))
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return &errdetails.ErrorInfo{Domain: domain, Reason: machine}
	}
	return nil
}

// fullDisk tells which disk is full while it is: that of the file which an error names, or else one of the builder's.
func fullDisk(err error, root string) *errdetails.ErrorInfo {
	info := &errdetails.ErrorInfo{Domain: domain, Reason: diskFull}
	full, found := disk.OfError(err)
	if !found || !full.IsFull() {
		if other, is := disk.Full(root, os.TempDir()); is {
			full, found = other, true
		} else if !found {
			// What filled it is gone by now. The builder's own mounts are on this one.
			full, err = disk.Of(root)
			found = err == nil
		}
	}
	if text, err := json.Marshal(full); found && err == nil {
		info.Metadata = map[string]string{"disk": string(text)}
	}
	return info
}

// FaultOf returns the fault that a builder of this package reported with an error. A daemon reports none.
func FaultOf(err error) Fault {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return Fault{}
	}
	for _, d := range carrier.GRPCStatus().Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != domain {
			continue
		}
		told := info.GetMetadata()
		switch info.GetReason() {
		case diskFull:
			fault := Fault{DiskFull: true}
			_ = json.Unmarshal([]byte(told["disk"]), &fault.Disk) // it is absent when it is not known
			return fault
		case machine:
			return Fault{Machine: true}
		}
		failure := &outcome.Error{Message: told["message"], Hint: told["hint"], Cause: err}
		if failure.Reason.UnmarshalText([]byte(told["reason"])) != nil {
			return Fault{}
		}
		failure.RetryAfter, _ = time.ParseDuration(told["retryAfter"])
		return Fault{Image: told["image"], URL: told["url"], Outcome: failure}
	}
	return Fault{}
}

// IsRefusal tells whether an error may be a builder's no to what it is asked, as its frontend says it: no fault, and no
// error of a connection or of the builder itself. It is one when no step of the build has failed.
func IsRefusal(err error) bool {
	var answer interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &answer) || FaultOf(err) != (Fault{}) {
		return false
	}
	switch grpcerrors.Code(err) {
	case codes.Unknown, codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition,
		codes.Unimplemented:
		return true
	}
	return false
}
