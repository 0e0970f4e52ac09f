package openchoreo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// The hints of this file are the checks that a person makes next. They name parameters as the schema does, and tell no
// secret.

const (
	notFound = "Check the component and namespace names: they are spelled as in the portal, and the component is " +
		"made there before its first Workload. Then check the API server's URL."
	notTheAPI = "Check the API server's URL (api-server-url): it is the base, without /api/v1, and what answers " +
		"under its path /api/v1/namespaces is the OpenChoreo API, not the portal or a load balancer."
	tooLarge = "The API, or a proxy in front of it, takes no body of that size: make the schema files and files that " +
		"workload.yaml names smaller, or have the proxy's limit raised (client_max_body_size with nginx)."
	proxyRefused = "The proxy asks for credentials: give them in HTTPS_PROXY, or name the host in NO_PROXY."
	// refusedUnnamed is about an answer without the API's own code.
	refusedUnnamed = "That is not how the OpenChoreo API itself refuses an object: see what stands in front of it, " +
		"such as a proxy or a firewall, and that this step and the API are of versions that go together."
)

// tokenRefused is about the 401 of the API, which is never about the client's secret: that had been accepted before.
func (c *Client) tokenRefused() string {
	const api = "OpenChoreo's API trusts it (its settings identity.oidc.issuer and jwks_url), it is a JWT and not " +
		"opaque, its audience is one that the API accepts, and the clocks agree"
	if c.settings.Assertion.GitHub == GitHubToken {
		return "Check that OpenChoreo's API trusts GitHub's issuer (its settings identity.oidc.issuer and jwks_url), " +
			"which then is the only one that it trusts, and that oauth-client-assertion-audience is one that the " +
			"API accepts. An API that trusts another provider wants github-id-token=client-assertion."
	}
	if c.settings.TokenFile != "" {
		return "Check that the token in token-file has not expired and, as its claims say, that its issuer is the " +
			"one that " + api + "."
	}
	return "The client was accepted, its token has not expired, and the API refuses it all the same. " +
		"Check that oauth-token-url is of the identity provider whose issuer " + api + "; oauth-audience asks for one."
}

// notPermitted is about the 403 of the API.
func (c *Client) notPermitted() string {
	who := "the token's client"
	if c.settings.usesClient() {
		who = "client " + c.settings.ClientID
	}
	return "Check that " + who + " is bound to a role with workload:view, workload:create and workload:update, and " +
		"for a WorkflowRun with workflowrun:view and workflowrun:update, in this namespace and project (kubectl get " +
		"clusterauthzrolebindings,authzrolebindings -A): the entitlement of the binding is the claim by which the " +
		"API knows clients, sub with the default identity provider, and client_id with ThunderID from 0.45 on."
}

// clientRefused is about a token endpoint that did not give a token.
func (c *Client) clientRefused(code string, proof proof) string {
	switch code {
	case "invalid_scope":
		return "Check oauth-scope: the provider knows it, and lets this client ask for it. Empty is the provider's " +
			"default. Microsoft Entra ID wants api://APPLICATION/.default."
	case "invalid_request", "invalid_target", "access_denied":
		return "The provider misses something in the request, or does not let this client have what it asks for; its " +
			"words say what. Check oauth-scope, which Microsoft Entra ID wants as api://APPLICATION/.default, " +
			"oauth-audience, which Auth0 wants as the API's identifier, and that the client may use that API."
	case "unsupported_grant_type", "unauthorized_client":
		how := "takes oauth-client-auth=" + c.clientAuth()
		if proof.assertion != nil {
			how = "takes client assertions (private_key_jwt, or a federated credential)"
		}
		return "Check that the application at the identity provider is one for servers (grant type " +
			"client_credentials), and that it " + how + "."
	}
	if proof.assertion != nil {
		return "Check that client " + c.settings.ClientID + " of this identity provider takes client assertions of " +
			"this issuer, with this subject and audience, and that the clocks agree: " + proof.assertion.facts() + "."
	}
	return "Check the client ID and secret: the secret is the newest one, whole and without quotes, and of an " +
		"application of this identity provider; some take only another oauth-client-auth than " +
		c.clientAuth() + ". A token can be asked for by hand: curl --fail " + redact.URL(c.at.url) +
		" -d grant_type=client_credentials -d client_id=… --data-urlencode client_secret@FILE."
}

func (c *Client) clientAuth() string {
	if c.settings.ClientAuth == "" {
		return "client_secret_post"
	}
	return c.settings.ClientAuth
}

// unreachable is the error for a request that got no whole answer from the server that a parameter names.
func unreachable(ctx context.Context, parameter, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The URL is in what already.
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if isExpired(err) { // nobody who builds can mend that, and another try may find it renewed
		return outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, err).WithHint(
			"Have the certificate renewed; if it is valid now, this machine's clock is wrong. Adding a certificate " +
				"authority does not help.",
		)
	}
	if hint := certificateHint(err); hint != "" {
		return outcome.Errorf(outcome.InvalidParameters, "ca-bundle: %s: %w", what, err).WithHint(hint)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return outcome.Errorf(outcome.InvalidParameters, "%s: %s: %w", parameter, what, err).WithHint(
			"That port speaks plain HTTP: check the port, and that TLS ends where this machine reaches it.",
		)
	}
	failure := outcome.Errorf(outcome.ApiUnavailable, "%s: %w", what, err)
	lookup, isLookup := errors.AsType[*net.DNSError](err)
	dial, isDial := errors.AsType[*net.OpError](err)
	switch {
	case isLookup && lookup.IsNotFound:
		return failure.WithHint(
			fmt.Sprintf(
				"Check how %s spells the host, and that this machine can look it up (getent hosts %s): names of a "+
					"private network need its DNS or VPN, and behind a proxy HTTPS_PROXY is to be set.",
				parameter, lookup.Name,
			),
		)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure.WithHint(
			fmt.Sprintf(
				"The host is there and nothing listens on that port, or a firewall refuses. Check the port in %s, "+
					"that the server runs, and that it may be reached from this machine and not only inside the "+
					"cluster.",
				parameter,
			),
		)
	case isDial && dial.Timeout():
		return failure.WithHint(
			fmt.Sprintf(
				"Nothing answers. Check that the host in %s may be reached from this machine: firewall, VPN, and "+
					"HTTPS_PROXY behind a proxy.",
				parameter,
			),
		)
	}
	return failure
}

// certificateHint names the fault of a server's certificate; empty for another failure.
func certificateHint(err error) string {
	verification, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return ""
	}
	const untrusted = "Add the certificate authority that signed it to ca-bundle, as PEM: inside a company it is the " +
		"company's own, or that of the proxy in between; or correct the server's certificate. There is no way to " +
		"skip the check."
	if host, ok := errors.AsType[x509.HostnameError](verification); ok {
		return fmt.Sprintf(
			"The certificate is for another name than %s: use the name that it is for, or have a certificate with "+
				"this name made. Adding a certificate authority does not help.",
			host.Host,
		)
	}
	return untrusted
}

// isExpired tells whether a server's certificate is not valid at this time.
func isExpired(err error) bool {
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	return ok && invalid.Reason == x509.Expired
}
