package trace

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/protobuf/proto"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/pki"
)

// inbox is a server that reads requests by OpenTelemetry's own definition of them.
type inbox struct {
	*httptest.Server
	requests []*collector.ExportTraceServiceRequest
	headers  []http.Header
	paths    []string
}

func newInbox(t *testing.T) *inbox {
	in := &inbox{}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		request := &collector.ExportTraceServiceRequest{}
		if err == nil {
			err = proto.Unmarshal(raw, request)
		}
		if err != nil {
			t.Error(err)
		}
		if rest := request.ProtoReflect().GetUnknown(); len(rest) > 0 {
			t.Errorf("the request has unknown fields: %x", rest)
		}
		in.requests, in.headers = append(in.requests, request), append(in.headers, r.Header)
		in.paths = append(in.paths, r.URL.Path)
		w.Header().Set("Content-Type", protobuf)
	}))
	t.Cleanup(in.Close)
	return in
}

// all are the spans of all requests.
func (in *inbox) all() []*spans.Span {
	var all []*spans.Span
	for _, request := range in.requests {
		for _, resource := range request.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				all = append(all, scope.Spans...)
			}
		}
	}
	return all
}

func facts(attributes []*common.KeyValue) map[string]any {
	all := map[string]any{}
	for _, a := range attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			all[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			all[a.Key] = v.IntValue
		case *common.AnyValue_BoolValue:
			all[a.Key] = v.BoolValue
		case *common.AnyValue_DoubleValue:
			all[a.Key] = v.DoubleValue
		}
	}
	return all
}

// record makes a recorder by variables that must be right.
func record(t *testing.T, env ...string) *Recorder {
	t.Helper()
	r, err := New(env, "", time.Now().Add(-time.Minute), func(...string) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func same(text string) string { return text }

const uid = "5c1a6bd7-0b3c-4f0e-9a53-0d9f6f2a7c11"

func TestSpans(t *testing.T) {
	failure := outcome.Errorf(outcome.BuildFailed, "RUN make: exit code 2, hunter22\nthe log")
	tests := []struct {
		name    string
		env     []string
		failure *outcome.Error
		results map[string]string
		want    map[string]map[string]any // span to attributes
		parents map[string]string
		status  string
	}{
		{
			name: "a step that is not the last of its run", env: []string{runUID + "=" + uid},
			results: map[string]string{"git-commit": "1a2b", "image-digest": "sha256:00", "author": "Ann"},
			want: map[string]map[string]any{"checkout-source": {
				"stepwright.reason": "Succeeded", "stepwright.class": "success", "stepwright.retries": int64(3),
				"process.exit.code": int64(0), "cicd.pipeline.task.name": "checkout-source",
				"cicd.pipeline.task.run.result": "success", "vcs.ref.head.revision": "1a2b",
				"oci.manifest.digest": "sha256:00",
			}},
			parents: map[string]string{"checkout-source": "9a530d9f6f2a7c11"},
		},
		{
			name: "one that fails ends the run", env: []string{runUID + "=" + uid, phase + "=fetch"}, failure: failure,
			want: map[string]map[string]any{
				"checkout-source fetch": {
					"stepwright.reason": "BuildFailed", "stepwright.class": "user", "stepwright.retries": int64(3),
					"process.exit.code": int64(22), "cicd.pipeline.task.name": "checkout-source",
					"cicd.pipeline.task.run.result": "failure", "error.type": "BuildFailed",
				},
				"WorkflowRun": {
					"stepwright.reason": "BuildFailed", "stepwright.class": "user", "cicd.pipeline.result": "failure",
					"error.type": "BuildFailed", "stepwright.failed-step": "checkout-source",
				},
			},
			parents: map[string]string{"checkout-source fetch": "9a530d9f6f2a7c11", "WorkflowRun": ""},
			status:  "BuildFailed: RUN make: exit code 2, *****",
		},
		{
			name: "the last one does, too", env: []string{runUID + "=" + uid, runLast + "=true"},
			want: map[string]map[string]any{
				"checkout-source": {
					"stepwright.reason": "Succeeded", "stepwright.class": "success", "stepwright.retries": int64(3),
					"process.exit.code": int64(0), "cicd.pipeline.task.name": "checkout-source",
					"cicd.pipeline.task.run.result": "success",
				},
				"WorkflowRun": {
					"stepwright.reason": "Succeeded", "stepwright.class": "success", "cicd.pipeline.result": "success",
				},
			},
			parents: map[string]string{"checkout-source": "9a530d9f6f2a7c11", "WorkflowRun": ""},
		},
		{
			name: "one beside the run does not", failure: failure,
			env: []string{runUID + "=" + uid, runLast + "=true", runAside + "=true"},
			want: map[string]map[string]any{"checkout-source": {
				"stepwright.reason": "BuildFailed", "stepwright.class": "user", "stepwright.retries": int64(3),
				"process.exit.code": int64(22), "cicd.pipeline.task.name": "checkout-source",
				"cicd.pipeline.task.run.result": "failure", "error.type": "BuildFailed",
			}},
			parents: map[string]string{"checkout-source": "9a530d9f6f2a7c11"},
			status:  "BuildFailed: RUN make: exit code 2, *****",
		},
		{
			name: "nor one of a CI that has a trace", failure: outcome.Errorf(outcome.Cancelled, "SIGTERM"),
			env: []string{
				"TRACEPARENT=00-5c1a6bd70b3c4f0e9a530d9f6f2a7c11-00f067aa0ba902b7-01", runUID + "=another",
			},
			want: map[string]map[string]any{"checkout-source": {
				"stepwright.reason": "Cancelled", "stepwright.class": "cancelled", "stepwright.retries": int64(3),
				"process.exit.code": int64(outcome.Cancelled.ExitCode()), "cicd.pipeline.task.name": "checkout-source",
				"cicd.pipeline.task.run.result": "cancellation", "error.type": "Cancelled",
			}},
			parents: map[string]string{"checkout-source": "00f067aa0ba902b7"},
			status:  "Cancelled: SIGTERM",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := newInbox(t)
			start := time.Now().Add(-time.Hour).Truncate(time.Second)
			r := record(t, append(test.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+in.URL+"/", "OTEL_SERVICE_NAME=ci",
				"OTEL_RESOURCE_ATTRIBUTES=stepwright.component=cart%2C1,team=a",
				runStart+"="+start.Format(time.RFC3339))...)
			report := outcome.NewReport("checkout-source", time.Now(), test.failure, test.results, same)
			mask := func(text string) string { return strings.ReplaceAll(text, "hunter22", "*****") }
			if err := r.Send(report, 3, mask); err != nil {
				t.Fatal(err)
			}
			if len(in.paths) != 1 || in.paths[0] != "/v1/traces" {
				t.Fatalf("requests for %q", in.paths)
			}
			resource := facts(in.requests[0].ResourceSpans[0].Resource.Attributes)
			if diff := cmp.Diff(map[string]any{
				"service.name": "ci", "stepwright.component": "cart,1", "team": "a",
			}, resource); diff != "" {
				t.Error(diff)
			}
			got, parents := map[string]map[string]any{}, map[string]string{}
			for _, s := range in.all() {
				got[s.Name], parents[s.Name] = facts(s.Attributes), fmt.Sprintf("%x", s.ParentSpanId)
				if id := fmt.Sprintf("%x", s.TraceId); id != "5c1a6bd70b3c4f0e9a530d9f6f2a7c11" {
					t.Errorf("%s has the trace %s", s.Name, id)
				}
				took := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano)
				if s.Name == RunSpan && (fmt.Sprintf("%x", s.SpanId) != "9a530d9f6f2a7c11" || took < time.Hour ||
					s.StartTimeUnixNano != uint64(start.UnixNano())) {
					t.Errorf("the run's span is %x, from %d, and took %v", s.SpanId, s.StartTimeUnixNano, took)
				}
				if took < time.Minute {
					t.Errorf("%s took %v", s.Name, took)
				}
				if s.Status.GetMessage() != test.status ||
					test.status != "" && s.Status.Code != spans.Status_STATUS_CODE_ERROR {
					t.Errorf("the status of %s is %v", s.Name, s.Status)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.parents, parents); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Spans that are added are below the step's, with texts that a collector takes; too many are counted.
func TestAdd(t *testing.T) {
	in := newInbox(t)
	r := record(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+in.URL+"/own")
	trace, own := r.Parent()
	at := time.Now()
	r.Add(Span{
		ID: SpanID{1}, Parent: own, Name: "RUN \xff" + strings.Repeat("ä", textLimit),
		Start: at, End: at.Add(time.Second),
		Attributes: []Attribute{{"b", true}, {"f", 1.5}, {"i", int64(-1)}},
	})
	for range most + 6 {
		r.Add(Span{ID: SpanID{2}, Name: "more", Start: at, End: at})
	}
	if err := r.Send(outcome.NewReport("containerfile-build", at, nil, nil, same), 0, same); err != nil {
		t.Fatal(err)
	}
	all := in.all()
	if len(all) != most+1 || in.paths[0] != "/own" {
		t.Fatalf("there are %d spans, at %s", len(all), in.paths[0])
	}
	first, last := all[0], all[len(all)-1]
	if diff := cmp.Diff(map[string]any{"b": true, "f": 1.5, "i": int64(-1)}, facts(first.Attributes)); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(first.Name, "RUN \uFFFDää") || len(first.Name) > textLimit || first.EndTimeUnixNano-
		first.StartTimeUnixNano != uint64(time.Second) {
		t.Errorf("got %v", first)
	}
	if fmt.Sprintf("%x %x", last.TraceId, last.SpanId) != fmt.Sprintf("%s %s", trace, own) ||
		fmt.Sprintf("%x", first.ParentSpanId) != own.String() || len(last.ParentSpanId) != 0 {
		t.Errorf("%v is not below %v", first, last)
	}
	if got := facts(last.Attributes)["stepwright.spans.dropped"]; got != int64(7) {
		t.Errorf("%v were dropped, want 7", got)
	}
	var none *Recorder
	none.Add(Span{})
	if err := none.Send(outcome.Report{}, 0, same); err != nil || FromContext(t.Context()) != nil {
		t.Errorf("no recorder: %v", err)
	}
	if ctx := NewContext(t.Context(), r); FromContext(ctx) != r {
		t.Error("the context has lost it")
	}
}

func TestVariables(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	if err := os.WriteFile(file, []byte("api-key=from%20file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const base = "OTEL_EXPORTER_OTLP_ENDPOINT=https://c.example.com:4318"
	tests := []struct {
		name    string
		env     []string
		url     string // empty: there are no traces
		headers map[string]string
		timeout time.Duration
		hidden  string // as a secret
		err     string
	}{
		{name: "none"},
		{name: "an endpoint for all", env: []string{base}, url: "https://c.example.com:4318/v1/traces"},
		{name: "with a path", env: []string{base + "/otlp/"}, url: "https://c.example.com:4318/otlp/v1/traces"},
		{
			name: "one for traces is taken as it is",
			env:  []string{base, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://d:1/x"}, url: "http://d:1/x",
		},
		{name: "disabled", env: []string{base, "OTEL_SDK_DISABLED=TRUE"}},
		{name: "no exporter", env: []string{base, "OTEL_TRACES_EXPORTER=none"}},
		{name: "no samples", env: []string{base, "OTEL_TRACES_SAMPLER=always_off"}},
		{name: "the parent is not sampled", env: []string{
			base, "TRACEPARENT=00-5c1a6bd70b3c4f0e9a530d9f6f2a7c11-00f067aa0ba902b7-00",
		}},
		{
			name: "headers", env: []string{base, "OTEL_EXPORTER_OTLP_HEADERS=a=x%2Cy, b = z ,"},
			url: "https://c.example.com:4318/v1/traces", headers: map[string]string{"a": "x,y", "b": "z"},
		},
		{
			name: "headers of a file", env: []string{base, "OTEL_EXPORTER_OTLP_HEADERS=a=x", HeadersFile + "=" + file},
			url: "https://c.example.com:4318/v1/traces", headers: map[string]string{"api-key": "from file"},
			hidden: "from file file",
		},
		{
			name: "the name of a tenant is no secret", url: "https://c.example.com:4318/v1/traces",
			env:     []string{base, "OTEL_EXPORTER_OTLP_HEADERS=X-Scope-OrgID=acme,x-team=1234567890abcdefghij"},
			headers: map[string]string{"X-Scope-OrgID": "acme", "x-team": "1234567890abcdefghij"},
			hidden:  "1234567890abcdefghij 1234567890abcdefghij",
		},
		{
			name: "of a file that is not there", env: []string{base, HeadersFile + "=" + file + ".absent"},
			url: "https://c.example.com:4318/v1/traces",
		},
		{
			name: "a timeout", env: []string{base, "OTEL_EXPORTER_OTLP_TIMEOUT=1500"},
			url: "https://c.example.com:4318/v1/traces", timeout: 1500 * time.Millisecond,
		},
		{name: "no URL", env: []string{"OTEL_EXPORTER_OTLP_ENDPOINT=collector:4317"}, err: "is no URL of a collector"},
		{name: "another protocol", env: []string{base, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"}, err: "http/protobuf only"},
		{name: "no pairs", env: []string{base, "OTEL_EXPORTER_OTLP_HEADERS=hunter22"}, err: "no list such as"},
		{name: "no attributes", env: []string{base, "OTEL_RESOURCE_ATTRIBUTES=a"}, err: "OTEL_RESOURCE_ATTRIBUTES"},
		{name: "no number", env: []string{base, "OTEL_EXPORTER_OTLP_TIMEOUT=1s"}, err: "no number of milliseconds"},
		{
			name: "no certificate", env: []string{base, "OTEL_EXPORTER_OTLP_CERTIFICATE=" + file},
			err: "no PEM certificate",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			hidden := ""
			r, err := New(test.env, "", time.Now(), func(all ...string) { hidden += strings.Join(all, " ") })
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "hunter22") {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || (r == nil) != (test.url == "") {
				t.Fatalf("got %v, %v", r, err)
			}
			if r == nil {
				return
			}
			if test.timeout == 0 {
				test.timeout = Patience
			}
			if r.to.url != test.url || r.to.timeout != test.timeout {
				t.Errorf("to %s, within %v", r.to.url, r.to.timeout)
			}
			if diff := cmp.Diff(test.headers, r.to.headers); diff != "" && len(test.headers)+len(r.to.headers) > 0 {
				t.Error(diff)
			}
			if hidden != test.hidden {
				t.Errorf("hidden is %q, want %q", hidden, test.hidden)
			}
		})
	}
}

func TestParents(t *testing.T) {
	const good = "00-5c1a6bd70b3c4f0e9a530d9f6f2a7c11-00f067aa0ba902b7-01"
	for text, want := range map[string]bool{
		good: true, strings.Replace(good, "00-", "cc-", 1) + "-more": true, "": false, "00": false,
		strings.ToUpper(good): false, good + "-more": false, strings.Replace(good, "00-", "ff-", 1): false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01": false,
		"00-5c1a6bd70b3c4f0e9a530d9f6f2a7c11-0000000000000000-01": false,
		"00-5c1a6bd70b3c4f0e9a530d9f6f2a7c-00f067aa0ba902b7-01":   false,
		"00-5c1a6bd70b3c4f0e9a530d9f6f2a7cxx-00f067aa0ba902b7-01": false,
		"00-5c1a6bd70b3c4f0e9a530d9f6f2a7c11-00f067aa0ba902b7-1":  false,
	} {
		if _, _, _, ok := parseParent(text); ok != want {
			t.Errorf("%q: %v", text, ok)
		}
	}
	for _, uid := range []string{"cart-1", "", "00000000-0000-0000-0000-000000000000"} {
		trace, root := ofRun(uid)
		if again, same := ofRun(uid); trace != again || root != same || trace == (ID{}) || root == (SpanID{}) {
			t.Errorf("%q is %s, %s", uid, trace, root)
		}
	}
}

// A collector that is down, slow or no collector costs at most the patience, and what it says is told.
func TestCollectorsThatFail(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	elsewhere := 0
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	t.Cleanup(other.Close)
	answer := func(kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			io.WriteString(w, body)
		}
	}
	refusal, err := proto.Marshal(&collector.ExportTraceServiceResponse{
		PartialSuccess: &collector.ExportTracePartialSuccess{RejectedSpans: 1, ErrorMessage: "too \x1b[2J old"},
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		do   http.HandlerFunc // nil: nobody listens
		want string
	}{
		{"down", nil, "connection refused"},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "does not answer within 5s"},
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", protobuf)
			for r.Context().Err() == nil {
				w.Write([]byte{0})
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		}, "deadline exceeded"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		}, "answers 307"},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "answers 403 Forbidden"},
		{"a login page", answer("text/html", "<html>"), "so it is no collector"},
		{"garbage", answer(protobuf, "\x0a\xffgarbage"), "no message of Protocol Buffers"},
		{"endless", answer(protobuf, strings.Repeat("\x08\x01", largestAnswer)), "more than 65536 bytes"},
		{"partly", answer(protobuf, string(refusal)), `has refused 1 spans: too \x1b[2J old`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			address := "http://" + closed.Addr().String()
			if test.do != nil {
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body) // only then it is seen that the client has gone
					test.do(w, r)
				}))
				t.Cleanup(server.Close)
				address = server.URL
			}
			r := record(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+address+"/secret-path")
			began := time.Now()
			err := r.Send(outcome.NewReport("publish-image", began, nil, nil, same), 0, same)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret-path") {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if took := time.Since(began); took > Patience+time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
	t.Cleanup(func() {
		if elsewhere > 0 {
			t.Error("a redirect was followed")
		}
	})
}

// What fails for a moment is sent again: the spans arrive once.
func TestTransientFailures(t *testing.T) {
	lost := func(n int) func(*Recorder) {
		return func(r *Recorder) {
			dialer := r.to.dialer()
			dialer.Resolver = resolver(t, n)
			r.to.client.Transport.(*http.Transport).DialContext = dialer.DialContext
		}
	}
	answer := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	cut := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	tests := []struct {
		name  string
		first []http.HandlerFunc // answer the first requests
		set   func(*Recorder)
		tries int
		err   string
	}{
		{name: "the first questions to the DNS get lost", set: lost(2), tries: 1},
		{name: "no question is answered", set: lost(1000), err: "does not answer within 5s"},
		{name: "cut off", first: []http.HandlerFunc{cut, cut}, tries: 3},
		{name: "too busy", first: []http.HandlerFunc{answer(429), answer(503)}, tries: 3},
		{name: "for good", first: []http.HandlerFunc{answer(502), answer(502), answer(502)}, tries: 3, err: "502"},
		{name: "refused", first: []http.HandlerFunc{answer(400)}, tries: 1, err: "400"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var tried, took atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if n := int(tried.Add(1)); n <= len(test.first) {
					test.first[n-1](w, r)
					return
				}
				took.Add(1)
			}))
			t.Cleanup(server.Close)
			address := server.URL
			if test.set != nil {
				address = strings.Replace(address, "127.0.0.1", "collector.example.com", 1)
			}
			r := record(t, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="+address)
			if test.set != nil {
				test.set(r)
			}
			err := r.Send(outcome.NewReport("publish-image", time.Now(), nil, nil, same), 0, same)
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %v, want %q", err, test.err)
			}
			if int(tried.Load()) != test.tries || took.Load() == 1 != (test.err == "") {
				t.Errorf("%d tries, %d arrived", tried.Load(), took.Load())
			}
		})
	}
}

// resolver answers each question for addresses with 127.0.0.1, but for the first ones, which get lost.
func resolver(t *testing.T, lost int) *net.Resolver {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for asked := 1; ; asked++ {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || asked <= lost {
				continue
			}
			m.Response = true
			m.Additionals = nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				socket.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

// The OpenTelemetry Collector's own receiver takes the spans as they are meant, with headers of a file, over TLS that
// the platform's authority vouches for, and not where nobody does.
func TestCollector(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a collector")
	}
	dir := t.TempDir()
	authority, err := pki.NewAuthority("collector")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Server("127.0.0.1", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	ca, certificate, key := filepath.Join(dir, "ca"), filepath.Join(dir, "certificate"), filepath.Join(dir, "key")
	headers := filepath.Join(dir, "headers")
	for file, content := range map[string][]byte{
		ca: authority.PEM(), certificate: issued.Certificate, key: issued.Key,
		headers: []byte("Authorization=Bearer%20swordfish9\n"),
	} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	collector := exec.CommandContext(
		t.Context(), built(t), "-address", address, "-certificate", certificate, "-key", key,
	)
	out, err := collector.StdoutPipe()
	if err == nil {
		err = collector.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		collector.Process.Kill()
		collector.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the collector says %q", lines.Text())
	}
	env := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=https://" + address, HeadersFile + "=" + headers, runUID + "=" + uid}
	report := outcome.NewReport("publish-image", time.Now(), outcome.Errorf(outcome.PushDenied, "denied"), nil, same)
	if err := record(t, env...).Send(report, 0, same); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("to a server that nobody vouches for: %v", err)
	}
	if err := record(t, append(env, "OTEL_EXPORTER_OTLP_CERTIFICATE="+ca)...).Send(report, 2, same); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() {
		t.Fatal(lines.Err())
	}
	var got struct {
		Authorization string
		Traces        struct {
			ResourceSpans []struct {
				ScopeSpans []struct {
					Spans []struct {
						TraceID, SpanID, ParentSpanID, Name string
						Kind                                int
						Status                              struct {
							Code    int
							Message string
						}
					}
				}
			}
		}
	}
	if err := json.Unmarshal(lines.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	all := got.Traces.ResourceSpans[0].ScopeSpans[0].Spans
	if got.Authorization != "Bearer swordfish9" || len(all) != 2 || all[0].Name != "publish-image" ||
		all[1].Name != RunSpan || all[0].ParentSpanID != all[1].SpanID || all[1].ParentSpanID != "" ||
		all[0].TraceID != strings.ReplaceAll(uid, "-", "") || all[0].Status.Code != failed ||
		all[0].Status.Message != "PushDenied: denied" || all[0].Kind != internal {
		t.Errorf("the collector has %s", lines.Bytes())
	}
}

// built builds the collector of ci/collector, and returns its file.
func built(t *testing.T) string {
	t.Helper()
	dir, err := cachedir.Path("collector")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "collector")
	unlock, err := filelock.Exclusive(t.Context(), program+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", program, ".")
	build.Dir = filepath.Join("..", "..", "..", "ci", "collector")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
