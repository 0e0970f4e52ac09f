package publish

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// connecting is what failure is told of the first request.
const connecting = "connect"

// failure makes an outcome of whatever went wrong while doing something. Texts of the libraries below are not passed
// on: they quote URLs with upload tokens, and answers of token servers.
func (r *repository) failure(doing string, err error) error {
	host := r.name.RegistryStr()
	fail := func(reason outcome.Reason, hint, format string, args ...any) error {
		return outcome.Errorf(reason, "%s: %w", doing, fmt.Errorf(format, args...)).WithHint(hint)
	}
	if ours, ok := errors.AsType[*outcome.Error](err); ok {
		return fmt.Errorf("%s: %w", doing, ours)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fail(outcome.InvalidParameters, "Use the registry's HTTPS port; where unprotected credentials and "+
			"images are acceptable, set insecure-plain-http.",
			"registry: %s answers in plain HTTP, not in HTTPS", host)
	}
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fail(
			outcome.InvalidParameters, "Use the registry's HTTPS port.", "registry: %s does not speak TLS: %w", host,
			record,
		)
	}
	if authority, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fail(outcome.InvalidParameters, "Give the PEM certificate of the registry's authority as ca-bundle.",
			"ca-bundle: the certificate of %s is of an authority that is not trusted: %w", host, authority)
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fail(outcome.InvalidParameters, "Use the name that the registry's certificate is for, and look when "+
			"it expires.",
			"registry: the certificate of %s is not valid: %w", host, certificate)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fail(outcome.InvalidParameters, "Check the host of the parameter registry, and that this network's "+
			"DNS knows it.",
			"registry: there is no host %q", dns.Name)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return r.refusal(doing, answer)
	}
	// What the HTTP client gives up on, it gives up on because of the connection. The URL it names is left out.
	if broken, ok := errors.AsType[*url.Error](err); ok {
		return fail(outcome.RegistryUnavailable, "", "%s: %w", host, broken.Err)
	}
	if connection, ok := errors.AsType[net.Error](err); ok {
		return fail(outcome.RegistryUnavailable, "", "%s: %w", host, connection)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fail(outcome.RegistryUnavailable, "", "%s: %w", host, errno)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(outcome.RegistryUnavailable, "", "%s: the connection broke", host)
	}
	first, _, _ := strings.Cut(err.Error(), "\n") // what follows is the answer of a token server
	return fail(outcome.Failed, "Check that "+host+
		" is a container registry, and its token server.", "%s: %s", host, first)
}

// refusal makes an outcome of an answer that says no.
func (r *repository) refusal(doing string, answer *transport.Error) error {
	host, repository := r.name.RegistryStr(), r.name.RepositoryStr()
	said := words(answer.StatusCode, answer.Errors)
	saysOneOf := func(codes ...transport.ErrorCode) bool {
		return slices.ContainsFunc(answer.Errors, func(d transport.Diagnostic) bool {
			return slices.Contains(codes, d.Code)
		})
	}
	switch {
	case saysOneOf(transport.TooManyRequestsErrorCode, transport.UnavailableErrorCode),
		// The registry lost, or does not see yet, what we sent.
		saysOneOf(transport.BlobUploadUnknownErrorCode, transport.BlobUploadInvalidErrorCode,
			transport.BlobUnknownErrorCode,
			transport.ManifestBlobUnknownErrorCode, transport.DigestInvalidErrorCode, transport.SizeInvalidErrorCode) &&
			answer.StatusCode != http.StatusRequestEntityTooLarge:
		return outcome.Errorf(outcome.RegistryUnavailable, "%s: %s answers %s", doing, host, said)
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return outcome.Errorf(
			outcome.PushDenied, "%s: %s does not let us push to %s: %s; %s", doing, host, repository, said,
			r.credentials(),
		)
	case saysOneOf(transport.NameUnknownErrorCode):
		return outcome.Errorf(
			outcome.PushDenied, "%s: %s has no repository %s: %s; %s", doing, host, repository, said, r.credentials(),
		).
			WithHint("Create the repository, or the project it belongs to, in the registry; some registries do not " +
				"make them by themselves.")
	case doing == connecting && r.plain && answer.StatusCode == http.StatusBadRequest:
		return outcome.Errorf(
			outcome.InvalidParameters, "insecure-plain-http: %s answers plain HTTP with %s", host, said,
		).
			WithHint("Most likely the registry speaks HTTPS: leave insecure-plain-http unset.")
	case doing == connecting:
		return outcome.Errorf(
			outcome.InvalidParameters, "registry: %s is not a container registry: it answers %s to /v2/", host, said,
		).
			WithHint("Check host and port of the parameter registry.")
	case answer.StatusCode == http.StatusRequestEntityTooLarge:
		return outcome.Errorf(outcome.Failed, "%s: %s answers %s", doing, host, said).
			WithHint("The registry, or a proxy in front of it, limits the size of a layer: raise the limit, or make " +
				"the layer smaller.")
	}
	return outcome.Errorf(outcome.Failed, "%s: %s refuses: %s", doing, host, said).
		WithHint("The registry's own words say why; see that it takes OCI images and indexes.")
}

// credentials says whether there were any, and for whom, but not which.
func (r *repository) credentials() string {
	if _, key, found := registry.Find(r.config, r.name.Name()); found {
		return fmt.Sprintf("the credentials for %s in %s were used", key, r.secret)
	}
	if len(r.config.AuthConfigs) == 0 {
		return fmt.Sprintf("no credentials were used, since %q holds none", r.secret)
	}
	hosts := slices.Sorted(maps.Keys(r.config.AuthConfigs))
	return fmt.Sprintf(
		"no credentials were used, since %s holds none for it, only for %s", r.secret, strings.Join(hosts, ", "),
	)
}

// isTransient tells of which status another try is worth it.
func isTransient(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// unavailable makes an outcome of an answer that is worth another try.
func unavailable(host string, response *http.Response) *outcome.Error {
	var answer struct {
		Errors []transport.Diagnostic `json:"errors"`
	}
	_ = json.NewDecoder(io.LimitReader(response.Body, 1<<16)).Decode(&answer) // a proxy's page is not JSON
	return outcome.Errorf(
		outcome.RegistryUnavailable, "%s answers %s", host, words(response.StatusCode, answer.Errors),
	).
		After(outcome.RetryAfter(response.Header.Get("Retry-After"), time.Now()))
}

// words are what the registry says, in one line.
func words(status int, diagnostics []transport.Diagnostic) string {
	const most = 300 // bytes of each
	said := []string{strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))}
	for _, d := range diagnostics[:min(len(diagnostics), 5)] {
		text := strings.Join(strings.Fields(fmt.Sprintf("%s %s", d.Code, d.Message)), " ")
		if len(text) > most {
			text = strings.ToValidUTF8(text[:most], "") + "…"
		}
		said = append(said, cmp.Or(text, "no reason"))
	}
	return strings.Join(said, ", ")
}

// onlyTransient drops failures of what is a mere saving, other than those after which nothing else would work either.
func onlyTransient(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		outcome.Of(err).Reason.Class() == outcome.Transient {
		return err
	}
	return nil
}
