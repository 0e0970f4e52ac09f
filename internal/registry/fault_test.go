package registry_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

const host = "r.example.com"

// answer is a registry's answer to a request of a method.
func answer(method string, status int, codes ...transport.ErrorCode) error {
	e := &transport.Error{StatusCode: status, Request: &http.Request{Method: method}}
	for _, code := range codes {
		e.Errors = append(e.Errors, transport.Diagnostic{Code: code, Message: "its own words"})
	}
	return fmt.Errorf("wrapped: %w", e)
}

func through(err error) error {
	return &url.Error{Op: "Put", URL: "https://" + host + "/v2/upload?_state=canary", Err: err}
}

func TestFaultOf(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err     error
		kind    registry.Kind
		pulling outcome.Reason
		text    string // of Pulling
	}{
		"manifest that is not there": {answer("GET", 404, transport.ManifestUnknownErrorCode), registry.Missing,
			outcome.BaseImageUnavailable, "does not have it"},
		"blob that is not there": {answer("GET", 404, transport.BlobUnknownErrorCode), registry.Missing,
			outcome.BaseImageUnavailable, "does not have it"},
		"repository that is not there": {answer("POST", 404, transport.NameUnknownErrorCode), registry.Missing,
			outcome.BaseImageUnavailable, "does not have it"},
		"no credentials": {answer("GET", 401, transport.UnauthorizedErrorCode), registry.Denied,
			outcome.BaseImageUnavailable, "does not let us pull it: 401 Unauthorized, UNAUTHORIZED its own words"},
		"not these credentials": {answer("PUT", 403), registry.Denied,
			outcome.BaseImageUnavailable, "does not let us pull it: 403 Forbidden"},
		"limit that another status tells": {answer("GET", 403, transport.TooManyRequestsErrorCode),
			registry.Unavailable, outcome.RegistryUnavailable, "answers 403"},
		"blob that was sent": {answer("PUT", 404, transport.ManifestBlobUnknownErrorCode), registry.Lost,
			outcome.RegistryUnavailable, "MANIFEST_BLOB_UNKNOWN"},
		"upload that was begun": {answer("PUT", 404, transport.BlobUploadUnknownErrorCode), registry.Lost,
			outcome.RegistryUnavailable, "BLOB_UPLOAD_UNKNOWN"},
		"page in place of an answer": {answer("POST", 200), registry.Unavailable,
			outcome.RegistryUnavailable, "answers 200"},
		"layer that is too large": {answer("PUT", 413, transport.SizeInvalidErrorCode), registry.Refused,
			outcome.BaseImageUnavailable, "answers 413"},
		"manifest that it does not take": {answer("PUT", 400, transport.ManifestInvalidErrorCode), registry.Refused,
			outcome.BaseImageUnavailable, "answers 400 Bad Request, MANIFEST_INVALID its own words"},
		"authority": {through(x509.UnknownAuthorityError{}), registry.Untrusted,
			outcome.BaseImageUnavailable, "authority that is not trusted"},
		"name in a certificate": {
			through(&tls.CertificateVerificationError{Err: errors.New("it is for another host")}),
			registry.BadCertificate, outcome.BaseImageUnavailable, "is not valid: "},
		"time of a certificate": {
			through(&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}}),
			registry.Expired, outcome.RegistryUnavailable, "is not valid: "},
		"HTTP": {through(http.ErrSchemeMismatch), registry.PlainHTTP, outcome.BaseImageUnavailable, "in plain HTTP"},
		"no TLS": {through(tls.RecordHeaderError{Msg: "first record"}), registry.NotTLS,
			outcome.RegistryUnavailable, "does not speak TLS"},
		"no such host": {through(&net.OpError{Err: &net.DNSError{Name: host, IsNotFound: true}}), registry.NoHost,
			outcome.RegistryUnavailable, `there is no host "r.example.com"`},
		"DNS server does not answer": {through(&net.OpError{Err: &net.DNSError{Err: "timeout", IsTimeout: true}}),
			registry.Unavailable, outcome.RegistryUnavailable, "timeout"},
		"connection refused": {through(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), registry.Unavailable,
			outcome.RegistryUnavailable, "refused"},
		"connection reset in an answer": {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, registry.Unavailable,
			outcome.RegistryUnavailable, "reset"},
		"errno alone": {syscall.EPIPE, registry.Unavailable, outcome.RegistryUnavailable, "broken pipe"},
		"answer cut off": {fmt.Errorf("layer: %w", io.ErrUnexpectedEOF), registry.Unavailable,
			outcome.RegistryUnavailable, "the connection broke"},
		"token server's answer": {errors.New("no token in bearer response:\n{\"refresh_token\":\"canary\"}"),
			registry.Unknown, outcome.RegistryUnavailable, "no token in bearer response"},
		"what is a fault already": {through(&registry.Fault{Kind: registry.Lost, Host: host, Status: 404}),
			registry.Lost, outcome.RegistryUnavailable, "answers 404 Not Found"},
		"full disk": {through(syscall.ENOSPC), registry.Unavailable, outcome.RegistryUnavailable, "no space left"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fault := registry.FaultOf(host, test.err)
			if fault.Kind != test.kind {
				t.Errorf("it is of kind %d, want %d: %v", fault.Kind, test.kind, fault)
			}
			if registry.IsMissing(fmt.Errorf("wrapped: %w", fault)) != (test.kind == registry.Missing) {
				t.Error("IsMissing says otherwise")
			}
			failure := fault.Pulling()
			if failure.Reason != test.pulling || !strings.Contains(failure.Message, test.text) ||
				!strings.Contains(failure.Message, host) {
				t.Errorf("got %s: %s; want %s with %q", failure.Reason, failure.Message, test.pulling, test.text)
			}
			if strings.Contains(failure.Message+fault.Error(), "canary") {
				t.Errorf("it tells too much: %s", failure.Message)
			}
		})
	}
	if outcome.Of(registry.FaultOf(host, through(syscall.ENOSPC))).Reason != outcome.OutOfSpace {
		t.Error("the kernel's word on a full disk is lost")
	}
}

// Answers that are worth another try are faults, for every request and every caller.
func TestGateOnStatus(t *testing.T) {
	t.Parallel()
	for status, transient := range map[int]bool{
		200: false, 404: false, 401: false, 408: true, 425: true, 429: true, 500: true, 501: false, 502: true,
		503: true, 504: true, 505: false,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(status)
				fmt.Fprint(w, `{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}`)
			}))
			at := strings.TrimPrefix(server.URL, "http://")
			client := http.Client{Transport: &registry.Gate{Host: at, Insecure: true, Next: http.DefaultTransport}}
			request, err := http.NewRequestWithContext(t.Context(), method, server.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err == nil {
				response.Body.Close()
			}
			server.Close()
			if (err != nil) != transient {
				t.Errorf("%s, %d: %v", method, status, err)
			}
			if err == nil {
				continue
			}
			fault := registry.FaultOf("another.example.com", err)
			if fault.Kind != registry.Unavailable || fault.Host != at || fault.Status != status ||
				fault.RetryAfter != 7*time.Second || fault.Pulling().RetryAfter != 7*time.Second ||
				method != http.MethodHead && !strings.Contains(fault.Error(), "TOOMANYREQUESTS slow down") {
				t.Errorf("%s, %d: %+v", method, status, fault)
			}
		}
	}
}

// What is no blob is bounded, also where the registry leads on to; a blob is as large as it is.
func TestGateBoundsAnswers(t *testing.T) {
	t.Parallel()
	const most = 16 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := r.URL.Query().Get("to"); to != "" {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return
		}
		for range most/(1<<20) + 1 {
			w.Write(make([]byte, 1<<20))
		}
	}))
	t.Cleanup(server.Close)
	at := strings.TrimPrefix(server.URL, "http://")
	client := http.Client{Transport: &registry.Gate{Host: at, Insecure: true, Next: http.DefaultTransport}}
	for path, whole := range map[string]bool{
		"/v2/a/manifests/v1":               false,
		"/token":                           false,
		"/v2/a/manifests/v1?to=/elsewhere": false,
		"/v2/a/blobs/sha256:x":             true,
		"/v2/a/blobs/sha256:x?to=/storage": true,
	} {
		response, err := client.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if (err == nil) != whole || !whole && n > most {
			t.Errorf("%s: %d bytes, %v", path, n, err)
		}
	}
}

// A registry may lead elsewhere, such as to its token server, but not out of what protects images and credentials.
func TestGateLeadsElsewhere(t *testing.T) {
	t.Parallel()
	reached := roundTripper(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r, Header: http.Header{
			"Scheme": {r.URL.Scheme},
		}}, nil
	})
	for name, test := range map[string]struct {
		insecure bool
		to       string
		scheme   string // that is spoken; empty when it is refused
	}{
		"the registry by what it names itself": {false, "http://" + host + "/v2/", "https"},
		"an insecure one by what ggcr likes":   {true, "https://" + host + "/v2/", "http"},
		"elsewhere by HTTPS":                   {false, "https://auth.example.com/token", "https"},
		"elsewhere by HTTP":                    {false, "http://auth.example.com/token", ""},
		"another port of it by HTTP":           {false, "http://" + host + ":8080/token", ""},
		"elsewhere from an insecure one":       {true, "http://auth.example.com/token", "http"},
		"by HTTPS from an insecure one":        {true, "https://auth.example.com/token", "https"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := &registry.Gate{Host: host, Insecure: test.insecure, Next: reached}
			body := &closing{Reader: strings.NewReader("body")}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, test.to, body)
			if err != nil {
				t.Fatal(err)
			}
			response, err := gate.RoundTrip(request)
			if test.scheme == "" {
				fault := registry.FaultOf(host, err)
				if fault.Kind != registry.Unprotected || fault.Pulling().Reason != outcome.BaseImageUnavailable ||
					!strings.Contains(fault.Error(), fault.To) || !body.closed {
					t.Errorf("got %v, body closed: %t", err, body.closed)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if got := response.Header.Get("Scheme"); got != test.scheme {
				t.Errorf("speaks %s, want %s", got, test.scheme)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}
