// Package outcome says how a step ended: a reason from a closed list, what that reason asks of people, and
// the files in which the step leaves it. Reasons travel as typed errors; nothing reads them back from text.
package outcome

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/schemas"
)

// Reason is why a step ended as it did. Exit code, class, and hint of each stand in schemas/outcome.schema.json.
type Reason string

// The closed list of reasons.
const (
	Succeeded             Reason = "Succeeded"
	Failed                Reason = "Failed"
	InvalidParameters     Reason = "InvalidParameters"
	RepositoryNotFound    Reason = "RepositoryNotFound"
	AuthenticationFailed  Reason = "AuthenticationFailed"
	RevisionNotFound      Reason = "RevisionNotFound"
	HostKeyUnknown        Reason = "HostKeyUnknown"
	PathEscapesRepository Reason = "PathEscapesRepository"
	GitServerUnavailable  Reason = "GitServerUnavailable"
	RepositoryInvalid     Reason = "RepositoryInvalid"
	SourceChanged         Reason = "SourceChanged"
	DockerfileNotFound    Reason = "DockerfileNotFound"
	DockerfileInvalid     Reason = "DockerfileInvalid"
	BuildFailed           Reason = "BuildFailed"
	BaseImageUnavailable  Reason = "BaseImageUnavailable"
	BuilderUnavailable    Reason = "BuilderUnavailable"
	NoBuildpackDetected   Reason = "NoBuildpackDetected"
	BuilderUnsupported    Reason = "BuilderUnsupported"
	DownloadFailed        Reason = "DownloadFailed"
	DownloadUnavailable   Reason = "DownloadUnavailable"
	DetectionFailed       Reason = "DetectionFailed"
	ImageNotFound         Reason = "ImageNotFound"
	ImageInvalid          Reason = "ImageInvalid"
	PushDenied            Reason = "PushDenied"
	RegistryUnavailable   Reason = "RegistryUnavailable"
	TagImmutable          Reason = "TagImmutable"
	SigningFailed         Reason = "SigningFailed"
	SigningUnavailable    Reason = "SigningUnavailable"
	VerificationFailed    Reason = "VerificationFailed"
	VulnerabilitiesFound  Reason = "VulnerabilitiesFound"
	CheckFailed           Reason = "CheckFailed"
	DescriptorInvalid     Reason = "DescriptorInvalid"
	Unauthorized          Reason = "Unauthorized"
	Forbidden             Reason = "Forbidden"
	WorkloadRejected      Reason = "WorkloadRejected"
	NotFound              Reason = "NotFound"
	ApiUnavailable        Reason = "ApiUnavailable"
	UsageError            Reason = "UsageError"
	OutOfSpace            Reason = "OutOfSpace"
	EmulationUnavailable  Reason = "EmulationUnavailable"
	Timeout               Reason = "Timeout"
	Cancelled             Reason = "Cancelled"
	Killed                Reason = "Killed"
)

// Class tells who can mend a failure.
type Class string

// The classes. Only a Transient failure is ever tried again.
const (
	User        Class = "user"
	Credentials Class = "credentials"
	Transient   Class = "transient"
	Platform    Class = "platform"
)

// ExitCode is the process's exit code for the reason.
func (r Reason) ExitCode() int { return r.listed().ExitCode }

// Class is who can mend a failure of this reason.
func (r Reason) Class() Class { return Class(r.listed().Class) }

// Hint says what to do about a failure of this reason.
func (r Reason) Hint() string { return r.listed().Hint }

// listed is the reason as the schema lists it. A reason is one of the constants, or was read by UnmarshalText.
func (r Reason) listed() schemas.Reason {
	known, ok := schemas.ReasonNamed(string(r))
	if !ok {
		panic(fmt.Sprintf("outcome: there is no reason %q", string(r)))
	}
	return known
}

// UnmarshalText implements encoding.TextUnmarshaler. A text that is not in the list is an error.
func (r *Reason) UnmarshalText(text []byte) error {
	if _, ok := schemas.ReasonNamed(string(text)); !ok {
		return fmt.Errorf("there is no reason %q", text)
	}
	*r = Reason(text)
	return nil
}

// OfExitCode returns the reason whose exit code this is, if there is one. 0 is Succeeded.
func OfExitCode(code int) (reason Reason, ok bool) {
	for _, r := range schemas.Reasons() {
		if r.ExitCode == code {
			return Reason(r.Name), true
		}
	}
	return "", false
}

// Error is a failure with its reason.
type Error struct {
	Reason     Reason
	Message    string        // what happened, where; without a final full stop
	Hint       string        // what to do about it; empty for the reason's own hint
	RetryAfter time.Duration // how long the server asks to wait before the next try; 0 when it does not say
	Cause      error         // may be nil
}

// Errorf makes a failure of that reason. As with fmt.Errorf, %w wraps the cause.
func Errorf(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// faultLimit is how long a fault is at most, in bytes.
const faultLimit = 4096

// Invalid is the failure of parameters with these faults, at least one. Each is shown in one line: it may hold a value
// of a stranger's.
func Invalid(faults ...string) *Error {
	faults = slices.Clone(faults)
	for i := range faults {
		faults[i] = quote.Line(faults[i], faultLimit)
	}
	if len(faults) == 1 {
		return Errorf(InvalidParameters, "%s", faults[0])
	}
	return Errorf(InvalidParameters, "%d faults:\n  - %s", len(faults), strings.Join(faults, "\n  - "))
}

// Misuse is the failure of a command line that cannot be run, with these faults, as of Invalid.
func Misuse(faults ...string) *Error {
	e := Invalid(faults...)
	e.Reason = UsageError
	return e
}

// WithHint replaces the reason's own hint.
func (e *Error) WithHint(hint string) *Error {
	e.Hint = hint
	return e
}

// After says how long the server asks to wait before the next try.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// Of finds how a step that returned err ended: the outermost Error in its chain, or what the operating system or the
// context says. It returns nil for a nil err.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	// The kernel's word wins over what a library made of it: a full disk looks like a broken layer or a damaged pack.
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{Reason: OutOfSpace, Message: err.Error(), Cause: err}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		if e.Error() == err.Error() {
			return e
		}
		wrapped := *e
		wrapped.Message, wrapped.Cause = err.Error(), err
		return &wrapped
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Reason: Timeout, Message: err.Error(), Cause: err}
	case errors.Is(err, context.Canceled):
		return &Error{Reason: Cancelled, Message: err.Error(), Cause: err}
	}
	return &Error{Reason: Failed, Message: err.Error(), Cause: err}
}
