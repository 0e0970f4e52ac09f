package registry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// Kind is what went wrong between us and a registry. Manifests and blobs, pulls and pushes have the same kinds. The
// asker says which outcome a kind is.
type Kind int

// The kinds of faults.
const (
	Unknown        Kind = iota // none of the others
	Unavailable                // no answer, or one that says that another try is worth it
	Missing                    // the registry has no such repository, tag, manifest or blob
	Denied                     // it does not let us: 401 or 403
	Lost                       // it lost, or does not see yet, what was sent to it
	Refused                    // it says no in another way
	Untrusted                  // its certificate is of an authority that is not trusted
	BadCertificate             // its certificate is not valid: of another name
	Expired                    // its certificate is not valid at this time, by our clock
	PlainHTTP                  // it speaks HTTP where HTTPS is spoken to it
	NotTLS                     // it speaks something else than TLS
	NoHost                     // no such host is known
	Unprotected                // it leads elsewhere over plain HTTP
)

// Fault is the failure of a request, by a registry or on the way to it. Its text tells neither URLs, which
// may hold upload tokens, nor the answers of token servers.
type Fault struct {
	Kind       Kind
	Host       string                 // of the registry
	Status     int                    // of its answer; 0 when there was none
	Errors     []transport.Diagnostic // of its answer
	To         string                 // the host that it leads to; only of Unprotected
	RetryAfter time.Duration          // how long it asks to wait; 0 when it does not say
	Cause      error                  // nil when the answer says it all

	TokenServer string // the host, when the fault is of the server that the registry's tokens come from
}

// FaultOf tells what happened when a request to a registry, given by its host, ended in an error.
func FaultOf(host string, err error) *Fault {
	if fault, ok := errors.AsType[*Fault](err); ok {
		return fault
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		fault := answered(host, answer.StatusCode, answer.Errors)
		fault.Kind = fault.kind(answer.Request)
		return fault
	}
	fault := &Fault{Host: host, Cause: err}
	if failure, ok := errors.AsType[*outcome.Error](err); ok {
		fault.Cause = failure // not the registry's: it is of credentials, or of what the registry has
	} else if stalled, ok := errors.AsType[errStalled](err); ok {
		fault.Kind, fault.Cause = Unavailable, stalled
	} else if errors.Is(err, http.ErrSchemeMismatch) {
		fault.Kind = PlainHTTP
	} else if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		fault.Kind, fault.Cause = NotTLS, record
		if string(record.RecordHeader[:]) == "HTTP/" {
			fault.Kind = PlainHTTP
		}
	} else if authority, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		fault.Kind, fault.Cause = Untrusted, authority
	} else if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		fault.Kind, fault.Cause = BadCertificate, certificate
		if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
			fault.Kind = Expired
		}
	} else if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		fault.Kind, fault.Cause = NoHost, dns
	} else if broken, ok := errors.AsType[*url.Error](err); ok {
		// What the HTTP client gives up on, it gives up on because of the connection. The URL it names is left out.
		fault.Kind, fault.Cause = Unavailable, broken.Err
	} else if connection, ok := errors.AsType[net.Error](err); ok { // a number of the kernel is one, too
		fault.Kind, fault.Cause = Unavailable, connection
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		fault.Kind, fault.Cause = Unavailable, errBroken{}
	}
	return fault
}

// errBroken is an answer that ended too early. It stays the error that libraries know.
type errBroken struct{}

func (errBroken) Error() string { return "the connection broke" }
func (errBroken) Unwrap() error { return io.ErrUnexpectedEOF }

// Answered is the fault of an answer that says no, by a host. It reads the answer's body.
func Answered(host string, response *http.Response) *Fault {
	fault := answered(host, response.StatusCode, diagnostics(response.Body))
	if fault.Kind = fault.kind(response.Request); isTransient(response.StatusCode) {
		fault.Kind = Unavailable
	}
	fault.RetryAfter = outcome.RetryAfter(response.Header.Get("Retry-After"), time.Now())
	return fault
}

// answered is the fault of an answer.
func answered(host string, status int, errors []transport.Diagnostic) *Fault {
	return &Fault{Kind: Refused, Host: host, Status: status, Errors: errors}
}

// kind is what an answer to a request means.
func (f *Fault) kind(request *http.Request) Kind {
	sent := request != nil && request.Method != http.MethodGet && request.Method != http.MethodHead
	switch {
	case f.Says(transport.TooManyRequestsErrorCode, transport.UnavailableErrorCode):
		return Unavailable
	case sent && f.Status != http.StatusRequestEntityTooLarge && f.Says(
		transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode, transport.BlobUnknownErrorCode,
		transport.ManifestBlobUnknownErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode,
	):
		return Lost
	case f.Status == http.StatusUnauthorized, f.Status == http.StatusForbidden:
		return Denied
	case f.Status == http.StatusNotFound, f.Says(transport.NameUnknownErrorCode):
		return Missing
	case f.Status < http.StatusMultipleChoices: // a page of what stands before it, and no word of the registry's
		return Unavailable
	}
	return Refused
}

// Says tells whether the registry's answer has one of these codes (OCI distribution specification).
func (f *Fault) Says(codes ...transport.ErrorCode) bool {
	return slices.ContainsFunc(f.Errors, func(d transport.Diagnostic) bool { return slices.Contains(codes, d.Code) })
}

// Names tells whether the registry's answer names a digest as what it is about.
func (f *Fault) Names(digest string) bool {
	return slices.ContainsFunc(f.Errors, func(d transport.Diagnostic) bool {
		switch detail := d.Detail.(type) {
		case string:
			return detail == digest
		case map[string]any:
			for _, value := range detail {
				if value == digest {
					return true
				}
			}
		}
		return false
	})
}

// Said is the registry's answer in one line: its status, and its own words.
func (f *Fault) Said() string {
	const most = 300 // bytes of each
	said := []string{strings.TrimSpace(fmt.Sprintf("%d %s", f.Status, http.StatusText(f.Status)))}
	for _, d := range f.Errors[:min(len(f.Errors), 5)] {
		text := strings.Join(strings.Fields(fmt.Sprintf("%s %s", d.Code, d.Message)), " ")
		said = append(said, cmp.Or(quote.Line(text, most), "no reason"))
	}
	return strings.Join(said, ", ")
}

func (f *Fault) Error() string {
	switch f.Kind {
	case Untrusted:
		return fmt.Sprintf("the certificate of %s is of an authority that is not trusted: %v", f.Host, f.Cause)
	case BadCertificate, Expired:
		return fmt.Sprintf("the certificate of %s is not valid: %v", f.Host, f.Cause)
	case PlainHTTP:
		return f.Host + " answers in plain HTTP, not in HTTPS"
	case NotTLS:
		return fmt.Sprintf("%s does not speak TLS: %v", f.Host, f.Cause)
	case NoHost:
		if dns, ok := errors.AsType[*net.DNSError](f.Cause); ok {
			return fmt.Sprintf("there is no host %q", dns.Name)
		}
	case Unprotected:
		return fmt.Sprintf(
			"the registry %s leads to %s by http, where images and credentials would travel unprotected", f.Host, f.To,
		)
	}
	if f.Status != 0 {
		return f.who() + " answers " + f.Said()
	}
	first, _, _ := strings.Cut(f.Cause.Error(), "\n") // the answer of a token server follows
	return f.who() + ": " + first
}

// who is the server that the fault is of.
func (f *Fault) who() string {
	if f.TokenServer != "" {
		return fmt.Sprintf("%s, the token server of %s,", f.TokenServer, f.Host)
	}
	return f.Host
}

// Temporary tells BuildKit to ask for a blob again at once, rather than to end a build with all that runs meanwhile.
// Where the registry counts requests, or says when to come back, the whole build waits.
func (f *Fault) Temporary() bool {
	return f.Kind == Unavailable && f.Status != http.StatusTooManyRequests && f.RetryAfter == 0
}

// IsMissing tells whether an error says that a registry lacks the requested content.
func IsMissing(err error) bool {
	fault, ok := errors.AsType[*Fault](err)
	return ok && fault.Kind == Missing
}

// Unwrap returns the cause, so that the kernel's word on a full disk is found.
func (f *Fault) Unwrap() error { return f.Cause }

// Pulling is the outcome of a fault in a pull: a BaseImageUnavailable, or a RegistryUnavailable, which is
// worth another try; or the outcome that is its cause.
func (f *Fault) Pulling() *outcome.Error {
	if failure, ok := errors.AsType[*outcome.Error](f.Cause); ok {
		own := *failure
		return &own
	}
	reason, text, hint := outcome.BaseImageUnavailable, f.Error(), ""
	switch f.Kind {
	case Unknown, Unavailable, Lost, NotTLS, NoHost:
		reason = outcome.RegistryUnavailable
	case Expired:
		reason, hint = outcome.RegistryUnavailable, ExpiredHint
	case Missing:
		text = f.Host + " does not have it: not found"
	case Denied:
		text = f.who() + " does not let us pull it: " + f.Said()
	case Untrusted:
		hint = "Give the PEM certificate of the registry's authority as ca-bundle."
	case PlainHTTP:
		hint = "Where unprotected images are acceptable, name the host in insecure-registries."
	}
	return (&outcome.Error{Reason: reason, Message: text, Cause: f}).WithHint(hint).After(f.RetryAfter)
}

// ExpiredHint says what to do about an Expired.
const ExpiredHint = "Renew the registry's certificate; if it is valid now, the clock of the node is wrong."

// Pulling is the outcome of a pull that failed everywhere: faults are what its mirrors said, and last what the registry
// said itself, which counts. Only where there is no such registry, as in a network without a way out, a mirror's word
// counts.
func Pulling(faults []*Fault) *outcome.Error {
	own := len(faults) - 1
	if faults[own].Kind == NoHost {
		for i, f := range faults[:own] {
			if f.Pulling().Reason != outcome.RegistryUnavailable {
				own = i
			}
		}
	}
	failure := faults[own].Pulling()
	for i, f := range faults {
		switch {
		case i == own:
		case i == len(faults)-1:
			failure.Message += "; and " + f.Error()
		default:
			failure.Message += "; its mirror: " + f.Pulling().Message
		}
	}
	return failure
}

// diagnostics returns the errors that an answer lists: none, if it is a proxy's page.
func diagnostics(answer io.Reader) []transport.Diagnostic {
	var said struct {
		Errors []transport.Diagnostic `json:"errors"`
	}
	_ = json.NewDecoder(io.LimitReader(answer, 1<<16)).Decode(&said)
	return said.Errors
}
