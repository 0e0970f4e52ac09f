// Package trace sends what a step did as spans of OpenTelemetry: one of the step, those that it adds, and one of the
// whole run by the step that ends it. The standard variables OTEL_EXPORTER_OTLP_* say where to
// (docs/platform/observability.md).
//
// It speaks OTLP over HTTP itself: the exporter of OpenTelemetry's own library links gRPC, which would make the small
// steps half as large again. Nothing here fails a step, or keeps it for longer than Patience.
package trace

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// ID names a trace.
type ID [16]byte

// SpanID names a span of a trace. The zero one names none.
type SpanID [8]byte

// String is the ID in hexadecimal, as all of OpenTelemetry writes it.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// String is the ID in hexadecimal.
func (id SpanID) String() string { return hex.EncodeToString(id[:]) }

// Span is something that took time.
type Span struct {
	ID, Parent SpanID
	Name       string
	Start, End time.Time
	Attributes []Attribute
	Failed     bool
	Message    string // why it failed
}

// Attribute is a fact about a span: Value is a string, an int64, a float64 or a bool.
type Attribute struct {
	Key   string
	Value any
}

// most is how many spans a step sends besides its own and the run's.
const most = 2000

// Recorder collects the spans of a step. A nil one collects nothing. Its methods may be called at once by several.
type Recorder struct {
	to      destination
	trace   ID
	parent  SpanID // of the step's span; zero: it has none
	own     SpanID // the step's span
	started time.Time
	phase   string // of the step; empty: it is whole
	run     run

	mu      sync.Mutex
	spans   []Span
	dropped int
}

// run is what the recorder knows of the run that the step is part of.
type run struct {
	root  SpanID    // its span, which a step of the run sends; zero: another program does, or nobody
	start time.Time // when it began
	last  bool      // whether this step ends a run that succeeds
	aside bool      // whether this step has no part in how the run ends
}

// Variables by which the templates say which run a step belongs to. A TRACEPARENT wins over them: then the
// program that made it sends the span of the run.
const (
	runUID   = "STEPWRIGHT_RUN_UID"   // of the Argo Workflow: the trace's ID
	runStart = "STEPWRIGHT_RUN_START" // RFC 3339
	runLast  = "STEPWRIGHT_RUN_LAST"  // "true" for the step that ends a run that succeeds
	runAside = "STEPWRIGHT_RUN_ASIDE" // not empty: the step stands beside the run, or runs after its end
)

// phase names the variable with the part of a step that this process is, where several containers are one step.
const phase = "STEPWRIGHT_PHASE"

// New returns a recorder for a step that has started then, or nil if the variables (KEY=value; the last one wins) ask
// for no traces. caBundle is a PEM file of authorities to trust besides the system's; it may be empty. Headers, which
// may be credentials, are told to hide before anything is done with them. An error names the fault of the
// variables; there are no traces then.
func New(environ []string, caBundle string, started time.Time, hide func(...string)) (*Recorder, error) {
	env := parse(environ)
	to, err := env.destination(caBundle, hide)
	if to == nil || err != nil {
		return nil, err
	}
	r := &Recorder{to: *to, started: started, phase: env[phase]}
	rand.Read(r.own[:])
	if trace, parent, sampled, ok := parseParent(env["TRACEPARENT"]); ok {
		if !sampled {
			return nil, nil
		}
		r.trace, r.parent = trace, parent
		return r, nil
	}
	if env[runUID] == "" {
		rand.Read(r.trace[:])
		return r, nil
	}
	r.trace, r.run.root = ofRun(env[runUID])
	r.parent = r.run.root
	r.run.last, r.run.aside = env[runLast] == "true", env[runAside] != ""
	if r.run.start, err = time.Parse(time.RFC3339, env[runStart]); err != nil {
		r.run.start = started
	}
	return r, nil
}

// variables are a process's, by name.
type variables map[string]string

// ofRun makes the ID of a trace and that of its first span of a run's UID, so that steps that know nothing of each
// other agree. A UUID gives its digits.
func ofRun(uid string) (ID, SpanID) {
	var trace ID
	if raw, err := hex.DecodeString(strings.ReplaceAll(uid, "-", "")); err == nil && len(raw) == len(trace) {
		copy(trace[:], raw)
	}
	root := SpanID(trace[8:])
	if trace == (ID{}) || root == (SpanID{}) {
		sum := sha256.Sum256([]byte(uid))
		copy(trace[:], sum[:])
		copy(root[:], sum[16:])
	}
	return trace, root
}

// parseParent reads a traceparent (W3C Trace Context, section 3.2).
func parseParent(text string) (trace ID, parent SpanID, sampled, ok bool) {
	version, rest, _ := strings.Cut(strings.TrimSpace(text), "-")
	parts := strings.Split(rest, "-")
	if len(version) != 2 || version == "ff" || len(parts) < 3 || version == "00" && len(parts) != 3 ||
		text != strings.ToLower(text) {
		return trace, parent, false, false
	}
	var head, flags [1]byte
	for _, field := range []struct {
		text string
		to   []byte
	}{{version, head[:]}, {parts[0], trace[:]}, {parts[1], parent[:]}, {parts[2], flags[:]}} {
		if raw, err := hex.DecodeString(field.text); err != nil || copy(field.to, raw) != len(raw) ||
			len(raw) != len(field.to) {
			return trace, parent, false, false
		}
	}
	return trace, parent, flags[0]&1 == 1, trace != ID{} && parent != SpanID{}
}

// Parent names the trace, and the step's span in it, for spans below it.
func (r *Recorder) Parent() (ID, SpanID) { return r.trace, r.own }

// Add adds a span below the step's. Beyond 2,000 they are only counted.
func (r *Recorder) Add(s Span) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) >= most {
		r.dropped++
		return
	}
	r.spans = append(r.spans, s)
}

// Patience is how long Send takes at most.
const Patience = 5 * time.Second

// Send sends the spans once the step has ended: those that were added, the step's own, and the run's if it ends with
// the step. All texts go through mask. retries is how often the step has tried something again. The error says why
// the spans did not arrive, for people.
func (r *Recorder) Send(report outcome.Report, retries int64, mask func(string) string) error {
	if r == nil {
		return nil
	}
	now := time.Now()
	r.mu.Lock()
	spans, dropped := r.spans, r.dropped
	r.spans = nil
	r.mu.Unlock()
	own := ofStep(report, retries)
	own.ID, own.Parent, own.Start, own.End = r.own, r.parent, r.started, now
	own.Name = strings.TrimSpace(own.Name + " " + r.phase)
	if dropped > 0 {
		own.Attributes = append(own.Attributes, Attribute{"stepwright.spans.dropped", int64(dropped)})
	}
	spans = append(spans, own)
	if r.run.root != (SpanID{}) && !r.run.aside && (report.Failed() || r.run.last) {
		root := ofRunThatEnded(report)
		root.ID, root.Start, root.End = r.run.root, r.run.start, now
		spans = append(spans, root)
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(r.to.timeout, Patience))
	defer cancel()
	return r.to.send(ctx, encode(r.to.resource, r.trace, spans, mask))
}

// results are the results of steps that their spans tell, by the names that OpenTelemetry has for them.
var results = map[string]string{
	"git-commit":   "vcs.ref.head.revision",
	"image-digest": "oci.manifest.digest",
	"image":        "stepwright.image",
}

// ofStep is a step's span without its times.
func ofStep(report outcome.Report, retries int64) Span {
	s := ended(report, "cicd.pipeline.task.run.result")
	s.Name = report.Step
	s.Attributes = append(s.Attributes,
		Attribute{"cicd.pipeline.task.name", report.Step},
		Attribute{"process.exit.code", int64(report.ExitCode)},
		Attribute{"stepwright.retries", retries},
	)
	for name, key := range results {
		if value := report.Results[name]; value != "" {
			s.Attributes = append(s.Attributes, Attribute{key, value})
		}
	}
	return s
}

// RunSpan is the name of the span of a whole run.
const RunSpan = "WorkflowRun"

// ofRunThatEnded is the span of a run that ended with a step, without its times.
func ofRunThatEnded(report outcome.Report) Span {
	s := ended(report, "cicd.pipeline.result")
	s.Name = RunSpan
	if report.Failed() {
		s.Attributes = append(s.Attributes, Attribute{"stepwright.failed-step", report.Step})
	}
	return s
}

// ended is a span that tells how something ended, without name and times.
func ended(report outcome.Report, result string) Span {
	s := Span{Attributes: []Attribute{
		{"stepwright.reason", string(report.Reason)},
		{"stepwright.class", string(report.Class)},
		{result, resultOf(report)},
	}}
	if report.Failed() {
		line, _, _ := strings.Cut(report.Message, "\n")
		s.Failed, s.Message = true, string(report.Reason)+": "+line
		s.Attributes = append(s.Attributes, Attribute{"error.type", string(report.Reason)})
	}
	return s
}

// resultOf is how something ended, in the words of OpenTelemetry.
func resultOf(report outcome.Report) string {
	switch {
	case !report.Failed():
		return "success"
	case report.Reason == outcome.Cancelled:
		return "cancellation"
	case report.Class == outcome.User:
		return "failure"
	}
	return "error"
}

// key is the context's key of a recorder.
type key struct{}

// NewContext returns a context that has the recorder.
func NewContext(ctx context.Context, r *Recorder) context.Context {
	return context.WithValue(ctx, key{}, r)
}

// FromContext returns the recorder of a context; nil when there is none.
func FromContext(ctx context.Context) *Recorder {
	r, _ := ctx.Value(key{}).(*Recorder)
	return r
}
