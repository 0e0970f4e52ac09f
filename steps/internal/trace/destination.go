package trace

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/secret"
)

// destination is where spans go to.
type destination struct {
	url      string
	headers  map[string]string
	timeout  time.Duration
	client   *http.Client
	resource []Attribute
}

// HeadersFile names the variable with the path of a file that holds what OTEL_EXPORTER_OTLP_HEADERS would: Secrets are
// mounted, and what a variable holds is seen in more places. A file that is absent has none.
const HeadersFile = "STEPWRIGHT_OTLP_HEADERS_FILE"

// service is how the steps are called where nobody gives them another name.
const service = "stepwright"

// largestAnswer is how many bytes of an answer are read.
const largestAnswer = 64 << 10

// parse reads variables (KEY=value); the last one wins, as for exec.
func parse(environ []string) variables {
	env := variables{}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return env
}

// signal is the value of a variable for traces alone, or else of the one for all that OpenTelemetry sends.
func (env variables) signal(name string) string {
	return cmp.Or(env["OTEL_EXPORTER_OTLP_TRACES_"+name], env["OTEL_EXPORTER_OTLP_"+name])
}

// destination reads the variables of OpenTelemetry's specification ("OTLP exporter", "Environment variables"); nil when
// no traces are wanted.
func (env variables) destination(caBundle string, hide func(...string)) (*destination, error) {
	at := env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"]
	name := "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	if base := env["OTEL_EXPORTER_OTLP_ENDPOINT"]; at == "" && base != "" {
		name, at = "OTEL_EXPORTER_OTLP_ENDPOINT", strings.TrimSuffix(base, "/")+"/v1/traces"
	}
	if at == "" || strings.EqualFold(env["OTEL_SDK_DISABLED"], "true") || env["OTEL_TRACES_EXPORTER"] == "none" ||
		env["OTEL_TRACES_SAMPLER"] == "always_off" {
		return nil, nil
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%s is no URL of a collector such as https://collector.example.com:4318", name)
	}
	if protocol := env.signal("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return nil, fmt.Errorf(
			"OTEL_EXPORTER_OTLP_PROTOCOL: there is http/protobuf only, not %s", quote.Line(protocol, 64),
		)
	}
	to := &destination{url: u.String(), timeout: Patience}
	if text := env.signal("TIMEOUT"); text != "" {
		milliseconds, err := strconv.Atoi(text)
		if err != nil || milliseconds <= 0 {
			return nil, errors.New("OTEL_EXPORTER_OTLP_TIMEOUT is no number of milliseconds above 0")
		}
		to.timeout = time.Duration(min(milliseconds, 1<<20)) * time.Millisecond
	}
	if to.headers, err = env.headers(hide); err != nil {
		return nil, err
	}
	if to.resource, err = env.resource(); err != nil {
		return nil, err
	}
	transport, err := trust.Transport(cmp.Or(env.signal("CERTIFICATE"), caBundle))
	if err != nil {
		return nil, err
	}
	transport.DialContext = to.dialer().DialContext
	to.client = &http.Client{
		Transport: transport,
		// The headers are for this server alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return to, nil
}

func (env variables) headers(hide func(...string)) (map[string]string, error) {
	name, text := "OTEL_EXPORTER_OTLP_HEADERS", env.signal("HEADERS")
	if path := env[HeadersFile]; path != "" {
		raw, err := secret.ReadFile(path)
		if err == nil {
			name, text = HeadersFile, strings.TrimSpace(string(raw))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", HeadersFile, err)
		}
	}
	all, err := pairs(text)
	for header, value := range all {
		if isCredential(header, value) {
			_, after, _ := strings.Cut(value, " ") // as in Bearer TOKEN
			hide(value, cmp.Or(after, value))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no list such as name=value,name=value", name)
	}
	return all, nil
}

// credential is in the names of headers that carry one.
var credential = regexp.MustCompile(`(?i)auth|token|key|secret|pass|dsn`)

// isCredential tells whether a header is a secret. Whatever is one is masked wherever it stands, in results, too: the
// name of a tenant, as in X-Scope-OrgID, must not be.
func isCredential(header, value string) bool {
	return credential.MatchString(header) || len(value) >= 20 && !strings.EqualFold(header, "X-Scope-OrgID")
}

func (env variables) resource() ([]Attribute, error) {
	all, err := pairs(env["OTEL_RESOURCE_ATTRIBUTES"])
	if err != nil {
		return nil, errors.New("OTEL_RESOURCE_ATTRIBUTES is no list such as name=value,name=value")
	}
	all["service.name"] = cmp.Or(env["OTEL_SERVICE_NAME"], all["service.name"], service)
	var attributes []Attribute
	for _, key := range slices.Sorted(maps.Keys(all)) {
		attributes = append(attributes, Attribute{key, all[key]})
	}
	return attributes, nil
}

// pairs reads name=value,name=value, whose values are percent-encoded (W3C Baggage). What is empty is left out.
func pairs(text string) (map[string]string, error) {
	all := map[string]string{}
	var errs []error
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		decoded, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || err != nil || name == "" {
			errs = append(errs, errors.New("no pair"))
			continue
		}
		if decoded != "" {
			all[name] = decoded
		}
	}
	return all, errors.Join(errs...)
}

// tries is how often a request is sent at most.
const tries = 3

// share is how long a try takes at most.
func (to *destination) share() time.Duration { return min(to.timeout, Patience) / tries }

// dialer connects within a share, too: a question to the DNS that a try has asked would otherwise outlive it, and the
// next try waits for the same answer instead of asking again.
func (to *destination) dialer() *net.Dialer { return &net.Dialer{Timeout: to.share()} }

// send sends a request, again where that may help, until the context ends. A try has its share of the time: a
// question to the DNS that got lost is missed for 5 s, but a new one is answered at once.
func (to *destination) send(ctx context.Context, body []byte) error {
	for n := 1; ; n++ {
		try, cancel := context.WithTimeout(ctx, to.share())
		again, err := to.try(try, body)
		cancel()
		if err == nil || !again || n == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(to.share() / 10):
		}
	}
}

// passing are the answers after which OTLP's specification has a request sent again ("Retryable Response Codes").
var passing = []int{
	http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// try sends a request once and looks at the answer. again says whether another try may end better. Its errors name
// the host only: the path may be a secret.
func (to *destination) try(ctx context.Context, body []byte) (again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	for name, value := range to.headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", protobuf)
	response, err := to.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return true, fmt.Errorf("%s does not answer within %v", request.URL.Host, min(to.timeout, Patience))
		}
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return true, fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	defer response.Body.Close()
	if response.StatusCode/100 != 2 {
		again := slices.Contains(passing, response.StatusCode)
		return again, fmt.Errorf("%s answers %s", request.URL.Host, quote.Line(response.Status, 128))
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, largestAnswer+1))
	if err == nil && len(answer) > largestAnswer {
		err = fmt.Errorf("its answer has more than %d bytes", largestAnswer)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", request.URL.Host, err)
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); len(answer) > 0 && kind != protobuf {
		return false, fmt.Errorf("%s answers with %q, so it is no collector", request.URL.Host, quote.Line(kind, 64))
	}
	refused, why, err := partial(answer)
	if err != nil {
		return false, fmt.Errorf("%s: the answer: %w", request.URL.Host, err)
	}
	if refused > 0 {
		return false, fmt.Errorf("%s has refused %d spans: %s", request.URL.Host, refused, quote.Line(why, 256))
	}
	return false, nil
}

const protobuf = "application/x-protobuf"
