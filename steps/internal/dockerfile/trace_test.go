package dockerfile

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/trace"
)

// What BuildKit does stands below the step's span, without secrets, also where the build fails.
func TestTrace(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for _, last := range []string{"RUN echo hunter22 > /b", "RUN exit 7 # hunter22"} {
		t.Run(last, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{
				"Dockerfile": "FROM busybox:1\nCOPY a /a\n" + last + "\n", "a": "x",
			}), r)
			request := &collector.ExportTraceServiceRequest{}
			server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				raw, err := io.ReadAll(r.Body)
				if err == nil {
					err = proto.Unmarshal(raw, request)
				}
				if err != nil {
					t.Error(err)
				}
			}))
			recorder, err := trace.New([]string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL}, "", time.Now(),
				func(...string) {})
			if err != nil {
				t.Fatal(err)
			}
			end := run(t, trace.NewContext(t.Context(), recorder), in)
			var failure *outcome.Error
			if strings.Contains(last, "exit") != (end.err != nil) {
				t.Fatalf("%v\n%s", end.err, end.output)
			}
			if end.err != nil {
				failure = outcome.Of(end.err)
			}
			mask := func(text string) string { return strings.ReplaceAll(text, "hunter22", "*****") }
			report := outcome.NewReport("containerfile-build", time.Now(), failure, nil, mask)
			if err := recorder.Send(report, 0, mask); err != nil {
				t.Fatal(err)
			}
			server.Close()

			id, own := recorder.Parent()
			parents, names := map[string]string{}, map[string]string{}
			for _, s := range request.ResourceSpans[0].ScopeSpans[0].Spans {
				if string(s.TraceId) != string(id[:]) {
					t.Errorf("%s is of the trace %x", s.Name, s.TraceId)
				}
				if strings.HasPrefix(s.Name, "containerd.services.content.") {
					t.Errorf("%s is of no use", s.Name)
				}
				if strings.Contains(s.String(), "hunter22") {
					t.Errorf("%v has a secret", s)
				}
				parents[string(s.SpanId)], names[string(s.SpanId)] = string(s.ParentSpanId), s.Name
				if strings.Contains(s.Name, "exit 7") && s.Status.GetCode() != spans.Status_STATUS_CODE_ERROR {
					t.Errorf("%s has not failed: %v", s.Name, s.Status)
				}
			}
			// The RUN has all the way up to the step above it: the builder's spans and the client's are joined.
			var above []string
			for span, name := range names {
				if !strings.Contains(name, strings.Replace(strings.TrimPrefix(last, "RUN "), "hunter22", "*****", 1)) {
					continue
				}
				above = above[:0]
				for at := span; at != string(own[:]); at = parents[at] {
					if len(above) > len(names) || names[at] == "" {
						t.Fatalf("%s hangs in the air: %q", name, above)
					}
					above = append(above, names[at])
				}
			}
			if len(above) == 0 || !slices.Contains(above, "build") ||
				!slices.Contains(above, "moby.buildkit.v1.Control/Solve") {
				t.Errorf("above the RUN is %q; there is %q", above, names)
			}
			t.Logf("%d spans, above the RUN are %q", len(names), above)
		})
	}
}
