package signature

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
)

const (
	// maxAnswer is how large the answer of a service is at most, in bytes.
	maxAnswer = 1 << 20
	// patience is how long one request may take in all.
	patience = time.Minute
	// maxWords is how much of a service's own words a message quotes, in bytes.
	maxWords = 300
)

// service is a server of a sigstore.
type service struct {
	parameter string // that names it, such as fulcio-url
	base      *url.URL
	client    *http.Client
	secrets   *redact.Secrets
	refused   string // the hint for an answer that says no; empty for the reason's own
}

// newService is the service at a URL. It follows no redirects: the host that a platform engineer named is the one that
// gets a token.
func newService(
	parameter, at string, transport http.RoundTripper, secrets *redact.Secrets, refused string,
) (*service, error) {
	base, err := url.Parse(at)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "%s: it is no URL of http or https without a user", parameter,
		)
	}
	base = &url.URL{Scheme: base.Scheme, Host: base.Host, Path: strings.TrimRight(base.Path, "/")}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &service{parameter, base, client, secrets, refused}, nil
}

// answer is a service's answer.
type answer struct {
	status   int
	body     []byte
	location string // the header Location
}

// ask sends a request to a path below the service's URL. An answer whose status is none of those that are expected is
// an error, which is transient where another try is worth it.
func (s *service) ask(
	ctx context.Context, method, path, contentType string, body []byte, expected ...int,
) (answer, error) {
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, err := http.NewRequestWithContext(bounded, method, s.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, outcome.Errorf(outcome.InvalidParameters, "%s: %w", s.parameter, err)
	}
	if len(body) > 0 {
		request.Header.Set("Content-Type", contentType)
	}
	request.Header.Set("Accept", "application/json, application/timestamp-reply")
	response, err := s.client.Do(request)
	if err != nil {
		return answer{}, s.failure(ctx, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return answer{}, s.failure(ctx, err)
	}
	for _, status := range expected {
		if response.StatusCode != status {
			continue
		}
		if len(content) > maxAnswer {
			return answer{}, s.nonsense("it has more than %d bytes", maxAnswer)
		}
		return answer{status, content, response.Header.Get("Location")}, nil
	}
	return answer{}, s.refusal(response, content)
}

// failure is the error of a request that got no answer.
func (s *service) failure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return outcome.Errorf(
			outcome.SigningUnavailable, "%s: %s did not answer within %s", s.parameter, s.base.Host, patience,
		)
	}
	fault := registry.FaultOf(s.base.Host, err)
	reason, hint := outcome.SigningFailed, ""
	switch fault.Kind {
	case registry.Unavailable:
		reason = outcome.SigningUnavailable
	case registry.Expired:
		reason = outcome.SigningUnavailable
		hint = "Renew the server's certificate; if it is valid now, the clock of the node is wrong."
	case registry.Untrusted:
		hint = "Give the PEM certificate of the server's authority as ca-bundle."
	default:
		hint = "Check the URL in " + s.parameter + "."
	}
	return outcome.Errorf(reason, "%s: %w", s.parameter, fault).WithHint(hint)
}

// refusal is the error of an answer that is not one of those that are expected.
func (s *service) refusal(response *http.Response, content []byte) error {
	var said struct {
		Message string `json:"message"` // Fulcio's and Rekor's form
	}
	words := ""
	if json.Unmarshal(content, &said) == nil && said.Message != "" {
		words = ": " + quote.Line(strings.Join(strings.Fields(said.Message), " "), maxWords)
	}
	response.Body = io.NopCloser(bytes.NewReader(content))
	fault := registry.Answered(s.base.Host, response)
	reason, hint := outcome.SigningFailed, s.refused
	if fault.Kind == registry.Unavailable {
		reason, hint = outcome.SigningUnavailable, ""
	}
	refused := outcome.Errorf(reason, "%s: %w%s", s.parameter, fault, words).WithHint(hint).After(fault.RetryAfter)
	refused.Message = s.secrets.String(refused.Message) // a server may say what it was sent
	return refused
}

// nonsense is the error of an answer that is not what was asked for.
func (s *service) nonsense(format string, args ...any) error {
	err := outcome.Errorf(outcome.SigningFailed, format, args...)
	err.Message = s.parameter + ": the answer of " + s.base.Host + " is not taken: " +
		s.secrets.String(err.Message)
	return err.WithHint("Check that " + s.parameter + " names the right server.")
}
