package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// connecting describes the first request to failure.
const connecting = "connect"

// failure gives what went wrong while doing something its reason.
func (r *repository) failure(doing string, err error) error {
	if ours, ok := errors.AsType[*outcome.Error](err); ok {
		return fmt.Errorf("%s: %w", doing, ours)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	fault := registry.FaultOf(r.name.RegistryStr(), err)
	reason, about, hint := outcome.Failed, "", ""
	switch fault.Kind {
	case registry.Denied, registry.Missing, registry.Refused:
		return r.refusal(doing, fault)
	case registry.Unavailable, registry.Lost:
		reason = outcome.RegistryUnavailable
	case registry.Expired: // nobody who builds can mend that, and another try may find it renewed
		reason, hint = outcome.RegistryUnavailable, registry.ExpiredHint
	case registry.PlainHTTP:
		reason, about = outcome.InvalidParameters, "registry: "
		hint = "Use the registry's HTTPS port; where unprotected credentials and images are acceptable, set " +
			"insecure-plain-http."
	case registry.NotTLS:
		reason, about = outcome.InvalidParameters, "registry: "
		hint = "Use the registry's HTTPS port."
	case registry.Untrusted:
		reason, about = outcome.InvalidParameters, "ca-bundle: "
		hint = "Give the PEM certificate of the registry's authority as ca-bundle."
	case registry.BadCertificate:
		reason, about = outcome.InvalidParameters, "registry: "
		hint = "Use the name that the registry's certificate is for."
	case registry.NoHost:
		reason, about = outcome.InvalidParameters, "registry: "
		hint = "Check the host of the parameter registry, and that this network's DNS knows it."
	case registry.Unprotected:
		hint = "Correct the registry's external URL or token realm; or set insecure-plain-http."
	default:
		hint = "Check that " + fault.Host + " is a container registry, and its token server."
	}
	return outcome.Errorf(reason, "%s: %s%w", doing, about, fault).WithHint(hint).After(fault.RetryAfter)
}

// refusal gives an answer that says no its reason.
func (r *repository) refusal(doing string, fault *registry.Fault) error {
	refused := func(reason outcome.Reason, hint, format string, args ...any) error {
		return (&outcome.Error{Reason: reason, Message: fmt.Sprintf(format, args...), Cause: fault}).WithHint(hint)
	}
	host, repository, said := fault.Host, r.name.RepositoryStr(), fault.Said()
	switch {
	case fault.Kind == registry.Denied:
		if fault.TokenServer != "" {
			host = fault.TokenServer + ", the token server of " + host + ","
		}
		return refused(
			outcome.PushDenied, "", "%s: %s does not let us %s %s: %s; %s", doing, host, r.wants, repository,
			said, r.used(),
		)
	case fault.TokenServer != "":
		return refused(
			outcome.Failed, "Check that "+fault.TokenServer+" is the token server of "+host+".", "%s: %v", doing, fault,
		)
	case fault.Says(transport.NameUnknownErrorCode):
		return refused(
			outcome.PushDenied, "Create the repository, or the project it belongs to, in the registry; some "+
				"registries do not make them by themselves.",
			"%s: %s has no repository %s: %s; %s", doing, host, repository, said, r.used(),
		)
	case doing == connecting && r.login.Insecure && fault.Status == http.StatusBadRequest:
		return refused(
			outcome.InvalidParameters, "Most likely the registry speaks HTTPS: leave insecure-plain-http unset.",
			"insecure-plain-http: %s answers plain HTTP with %s", host, said,
		)
	case doing == connecting && fault.Status == http.StatusBadRequest:
		return refused(
			outcome.InvalidParameters, "Where the registry wants a client certificate (mTLS), it needs another "+
				"address for pushes, or credentials in place of that: a step has no client certificate to show.",
			"registry: %s answers %s to /v2/: it is not a container registry, or wants a client certificate", host,
			said,
		)
	case doing == connecting:
		return refused(
			outcome.InvalidParameters, "Check host and port of the parameter registry.",
			"registry: %s is not a container registry: it answers %s to /v2/", host, said,
		)
	case fault.Status == http.StatusRequestEntityTooLarge:
		return refused(
			outcome.Failed, "The registry, or a proxy in front of it, limits the size of a layer: raise the limit, or "+
				"make the layer smaller.",
			"%s: %s answers %s", doing, host, said,
		)
	}
	return refused(
		outcome.Failed, "The registry's own words say why; see that it takes OCI images and indexes.",
		"%s: %s refuses: %s", doing, host, said,
	)
}

// used names the credentials that were used, if any, without their values.
func (r *repository) used() string {
	if _, key, found := r.credentials.Find(r.name.Name()); found {
		return fmt.Sprintf("the credentials for %s in %s were used", key, r.credentials.Path)
	}
	if helper := r.credentials.Helper(r.name.RegistryStr()); helper != "" {
		return fmt.Sprintf(
			"no credentials were used, since %s leaves them to the program docker-credential-%s, which a step does "+
				"not have: write them into the file itself", r.credentials.Path, helper,
		)
	}
	keys := r.credentials.Keys()
	if len(keys) == 0 {
		return fmt.Sprintf("no credentials were used, since %q holds none", r.credentials.Path)
	}
	return fmt.Sprintf(
		"no credentials were used, since %s holds none for it, only for %s", r.credentials.Path,
		strings.Join(keys, ", "),
	)
}

// onlyTransient drops failures of a mere saving, other than those after which nothing else would work either.
func onlyTransient(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		outcome.Of(err).Reason.Class() == outcome.Transient {
		return err
	}
	return nil
}
