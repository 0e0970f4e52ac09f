package buildkit

import (
	"strings"
	"testing"

	oteltrace "go.opentelemetry.io/otel/trace"

	"github.com/stepwright/stepwright/steps/internal/trace"
)

// The texts of a span are masked after they were made short. So that no half of a secret is sent, they are cut off far
// behind what is sent of them, which is 2 KiB.
func TestTextsOfSpansAreWholeWhereTheyAreMasked(t *testing.T) {
	t.Parallel()
	const secret = "a-secret-of-the-build"
	name := strings.Repeat("x", 2<<10-len(secret)/2) + secret + strings.Repeat("y", 1<<20)
	var got []trace.Span
	tracer := newTracer(func(s trace.Span) { got = append(got, s) }).Tracer("")
	parent := oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID{1}, SpanID: oteltrace.SpanID{1}, TraceFlags: oteltrace.FlagsSampled, Remote: true,
	})
	_, span := tracer.Start(oteltrace.ContextWithRemoteSpanContext(t.Context(), parent), name)
	span.End()
	if len(got) != 1 || !strings.Contains(got[0].Name, secret) {
		t.Fatal("the secret is cut in two before it is masked")
	}
	if len(got[0].Name) > 16<<10 {
		t.Errorf("%d bytes are kept of a name", len(got[0].Name))
	}
}
