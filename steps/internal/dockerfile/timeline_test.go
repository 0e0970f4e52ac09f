package dockerfile

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
)

// reportOf reads the report that a run left.
func reportOf(t testing.TB, end ending) buildreport.Report {
	t.Helper()
	r, err := buildreport.Parse(end.report)
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, end.report, end.output)
	}
	return r
}

// part finds the part of which the name contains a text.
func part(t testing.TB, r buildreport.Report, text string) buildreport.Part {
	t.Helper()
	for _, p := range r.Parts {
		if strings.Contains(p.Name, text) {
			return p
		}
	}
	t.Fatalf("no part is called %q: %+v", text, r.Parts)
	return buildreport.Part{}
}

// A build leaves what it did and what it made, and a build that fails what it did.
func TestBuildReport(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	w := project(t, map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN sleep 0.3 && echo one > /one\nCOPY large /large\n" +
			"ARG FAIL=\nRUN test -z \"$FAIL\"\n",
		"large": strings.Repeat("stepwright\n", 20_000),
	})
	in := parameters(w, r)
	in.BuildKitRoot = t.TempDir()

	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatalf("%v\n%s", end.err, end.output)
	}
	got := reportOf(t, end)
	if got.Builder != buildreport.Dockerfile || time.Since(got.StartedAt.Time) > time.Hour || got.DurationMs < 300 {
		t.Errorf("%+v", got)
	}
	for _, want := range []struct {
		name   string
		kind   buildreport.Kind
		status buildreport.Status
		least  int64 // ms
		bytes  bool
	}{
		{"FROM", buildreport.Base, buildreport.Downloaded, 0, true},
		{"RUN sleep", buildreport.Run, buildreport.Ran, 300, false},
		{"COPY large", buildreport.Copy, buildreport.Ran, 0, false},
		{"load build context", buildreport.Source, buildreport.Ran, 0, true},
		{"exporting to oci image", buildreport.Export, buildreport.Ran, 0, false},
	} {
		p := part(t, got, want.name)
		if p.Kind != want.kind || p.Status != want.status || p.DurationMs < want.least || (p.Bytes > 0) != want.bytes {
			t.Errorf("got %+v, want %+v", p, want)
		}
		if p.StartMs+p.DurationMs > got.DurationMs {
			t.Errorf("%+v ends after the build, which took %d ms", p, got.DurationMs)
		}
	}
	image := open1(t, w)
	layers := must(image.image.Layers())
	if len(got.Images) != 1 || got.Images[0].Digest != must(image.image.Digest()).String() ||
		len(got.Images[0].Layers) != len(layers) {
		t.Fatalf("images: %+v", got.Images)
	}
	for i, l := range layers {
		told := got.Images[0].Layers[i]
		if told.Digest != must(l.Digest()).String() || told.Size != must(l.Size()) {
			t.Errorf("layer %d: %+v", i, told)
		}
	}
	if by := got.Images[0].Layers[2].CreatedBy; !strings.Contains(by, "COPY large") {
		t.Errorf("the third layer was made by %q: %+v", by, got.Images[0].Layers)
	}
	if len(got.Attestations) != 1 || got.Attestations[0].Type != "https://slsa.dev/provenance/v1" {
		t.Errorf("attestations: %+v", got.Attestations)
	}

	again := reportOf(t, run(t, t.Context(), in))
	for _, name := range []string{"RUN sleep", "COPY large"} {
		if p := part(t, again, name); p.Status != buildreport.Cached {
			t.Errorf("the second time: %+v", p)
		}
	}
	if !cmp.Equal(again.Images, got.Images) {
		t.Errorf("the second time: %s", cmp.Diff(got.Images, again.Images))
	}

	in.BuildArgs = named("FAIL", "1")
	failed := run(t, t.Context(), in)
	if failed.err == nil || outcome.Of(failed.err).Reason != outcome.BuildFailed {
		t.Fatalf("%v\n%s", failed.err, failed.output)
	}
	broken := reportOf(t, failed)
	if p := part(t, broken, "RUN test"); p.Status != buildreport.Failed || len(broken.Images) > 0 {
		t.Errorf("%+v of %+v", p, broken)
	}
}

// What the user writes into a Dockerfile is shown, and no secret with it.
func TestSecretInBuildReport(t *testing.T) {
	t.Parallel()
	const canary = "canary-77c1b0"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(canary), 0o400); err != nil {
		t.Fatal(err)
	}
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN --mount=type=secret,id=token echo " + canary +
			" '{{workflow.name}}' \u202e\n",
	}), newRegistry(t))
	in.BuildSecretsDir = dir
	end := run(t, t.Context(), in)
	if bytes.Contains(end.report, []byte(canary)) || bytes.Contains(end.report, []byte("{{")) {
		t.Errorf("%s", end.report)
	}
	p := part(t, reportOf(t, end), "type=secret")
	if !strings.Contains(p.Name, "echo *** '{{workflow.name}}' \\u202e") {
		t.Errorf("%+v", p)
	}
}

// A build that is told to end leaves what it did until then.
func TestBuildReportOfCancelledBuild(t *testing.T) {
	t.Parallel()
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1\nRUN echo begun && sleep 600\n"}),
		newRegistry(t))
	ctx, cancel := context.WithTimeoutCause(
		t.Context(), 20*time.Second, outcome.Errorf(outcome.Cancelled, "stopped by terminated"),
	)
	defer cancel()
	if p := part(t, reportOf(t, run(t, ctx, in)), "sleep 600"); p.Status != buildreport.Cancelled {
		t.Errorf("%+v", p)
	}
}

func TestParts(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) *time.Time {
		t := began.Add(time.Duration(ms) * time.Millisecond)
		return &t
	}
	const ran, cancelled = buildreport.Ran, buildreport.Cancelled
	tests := []struct {
		name    string
		updates []client.Vertex // of one vertex; a start and an end
		want    *buildreport.Part
	}{
		{"never started", []client.Vertex{{Name: "[1/2] FROM a"}}, nil},
		{
			"once", []client.Vertex{{Name: "[b 2/3] RUN x", Started: at(5)}, {Started: at(5), Completed: at(25)}},
			&buildreport.Part{Kind: buildreport.Run, Status: ran, StartMs: 5, DurationMs: 20, BusyMs: 20},
		},
		{
			"twice", []client.Vertex{
				{Name: "ADD y", Started: at(5), Completed: at(10)}, {Started: at(90)},
				{Started: at(90), Completed: at(99)},
			},
			&buildreport.Part{Kind: buildreport.Copy, Status: ran, StartMs: 5, DurationMs: 94, BusyMs: 14},
		},
		{
			"no end", []client.Vertex{{Name: "RUN x", Started: at(50)}},
			&buildreport.Part{Kind: buildreport.Run, Status: cancelled, StartMs: 50, DurationMs: 50, BusyMs: 50},
		},
		{
			"told to end", []client.Vertex{
				{Name: "RUN x", Started: at(50), Completed: at(60), Error: "process: context canceled"},
			},
			&buildreport.Part{Kind: buildreport.Run, Status: cancelled, StartMs: 50, DurationMs: 10, BusyMs: 10},
		},
		{
			"an end before its start", []client.Vertex{
				{Name: "RUN x", Started: at(50), Completed: at(40), Cached: true},
			},
			&buildreport.Part{Kind: buildreport.Run, Status: buildreport.Cached, StartMs: 50},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			times := newTimeline()
			times.started = began
			for _, v := range test.updates {
				v.Digest, v.Name = "sha256:a", test.updates[0].Name
				v.Cached = test.updates[0].Cached
				times.note("", &client.SolveStatus{Vertexes: []*client.Vertex{&v}})
			}
			var want []buildreport.Part
			if test.want != nil {
				test.want.Name = test.updates[0].Name
				want = append(want, *test.want)
			}
			if diff := cmp.Diff(want, times.report(*at(100)).Parts); diff != "" {
				t.Error(diff)
			}
		})
	}
}
