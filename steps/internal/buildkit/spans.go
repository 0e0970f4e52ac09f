package buildkit

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"

	"github.com/moby/buildkit/util/tracing"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/steps/internal/trace"
)

// Traced returns a context in which BuildKit makes spans below that of the step, and what ends them. Without a recorder
// in the context it is the context as it is. A daemon is told the trace, and sends its spans itself if it is set up to.
func Traced(ctx context.Context) (traced context.Context, end func()) {
	recorder := trace.FromContext(ctx)
	if recorder == nil {
		return ctx, func() {}
	}
	id, own := recorder.Parent()
	parent := oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: oteltrace.TraceID(id), SpanID: oteltrace.SpanID(own), TraceFlags: oteltrace.FlagsSampled, Remote: true,
	})
	tracer := newTracer(recorder.Add).Tracer("")
	ctx, span := tracer.Start(oteltrace.ContextWithRemoteSpanContext(ctx, parent), "build")
	return ctx, func() { span.End() }
}

// newTracer makes spans, each of which goes to add when it ends.
func newTracer(add func(trace.Span)) *sdktrace.TracerProvider {
	return sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.Empty()), sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())),
		sdktrace.WithSpanProcessor(ending(add)),
	)
}

// ending gets spans when they end.
type ending func(trace.Span)

func (ending) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

func (ending) Shutdown(context.Context) error { return nil }

func (ending) ForceFlush(context.Context) error { return nil }

// spanText is how much is kept of a text of a span, in bytes. It is four times what is sent: secrets are masked in
// between, and one that is cut off here must not be at the end of what is sent.
const spanText = 8 << 10

func clipped(text string) string { return text[:min(len(text), spanText)] }

// pieces begins the names of calls by which step and builder exchange blobs, a piece at a time. They are many, and tell
// nobody anything; nothing else is below them.
const pieces = "containerd.services.content."

func (add ending) OnEnd(s sdktrace.ReadOnlySpan) {
	if strings.HasPrefix(s.Name(), pieces) {
		return
	}
	own := trace.Span{
		ID: trace.SpanID(s.SpanContext().SpanID()), Parent: trace.SpanID(s.Parent().SpanID()),
		Name: clipped(s.Name()), Start: s.StartTime(), End: s.EndTime(),
		Failed: s.Status().Code == codes.Error, Message: clipped(s.Status().Description),
	}
	for _, a := range s.Attributes() {
		var value any
		switch a.Value.Type() {
		case attribute.BOOL, attribute.INT64, attribute.FLOAT64:
			value = a.Value.AsInterface()
		default:
			value = clipped(a.Value.String())
		}
		if a.Key != stacktrace { // it is of no use to those who build
			own.Attributes = append(own.Attributes, trace.Attribute{Key: string(a.Key), Value: value})
		}
	}
	add(own)
}

// stacktrace is where BuildKit puts the stack of an error.
const stacktrace = attribute.Key("exception.stacktrace")

// spansFrom has the requests of a server make spans, below those that their clients name, which it writes for spansTo.
func spansFrom(to io.Writer) grpc.ServerOption {
	var mu sync.Mutex
	out := json.NewEncoder(to)
	tracer := newTracer(func(s trace.Span) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(s) // where nobody reads any more, nobody is to know
	})
	return grpc.StatsHandler(tracing.ServerStatsHandler(
		otelgrpc.WithTracerProvider(tracer), otelgrpc.WithPropagators(propagation.TraceContext{}),
	))
}

// spansTo reads spans until there are no more.
func spansTo(recorder *trace.Recorder, from io.Reader) {
	in := json.NewDecoder(from)
	in.UseNumber()
	for {
		var s trace.Span
		if in.Decode(&s) != nil {
			io.Copy(io.Discard, from) // so that the writer does not wait
			return
		}
		for i, a := range s.Attributes {
			if number, is := a.Value.(json.Number); is {
				if whole, err := number.Int64(); err == nil {
					s.Attributes[i].Value = whole
				} else {
					s.Attributes[i].Value, _ = number.Float64()
				}
			}
		}
		recorder.Add(s)
	}
}
