package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/outcome"
)

var update = flag.Bool("update", false, "write the golden files anew")

// recorded are runs of this program, which testdata/record.sh has recorded.
type recorded struct{ history.Store }

func (r recorded) List(context.Context, string) ([]*v1alpha1.WorkflowRun, error) {
	return r.Store.List()
}

func (r recorded) Details(_ context.Context, run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error) {
	return r.Store.Details(run)
}

func (r recorded) Log(_ context.Context, run *v1alpha1.WorkflowRun, task string, _ bool) (io.ReadCloser, error) {
	return os.Open(r.Store.Log(run, task))
}

var store = recorded{history.Store{Dir: "testdata/runs"}}

func pictureOf(t testing.TB, name string) *Picture {
	t.Helper()
	run, err := store.Get("acme", name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Of(t.Context(), store, run, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pageOf(t testing.TB, p *Picture) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What is known of runs that really ran: the first of a component, one after a change, one that failed, and one by
// buildpacks.
func TestRecordedRuns(t *testing.T) {
	for _, name := range []string{
		"greeting-service-build-01", "greeting-service-build-02", "greeting-service-build-03",
		"link-shortener-build-01",
	} {
		t.Run(name, func(t *testing.T) {
			p := pictureOf(t, name)
			for i := range p.Steps { // the logs are in their files
				p.Steps[i].Log = Log{Lines: []string{fmt.Sprint(len(p.Steps[i].Log.Lines))}}
			}
			got, err := json.MarshalIndent(p, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimSpace(string(want)), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The second run is compared with the first, and not with one that failed.
func TestWhatChanged(t *testing.T) {
	if before := pictureOf(t, "greeting-service-build-01").Before; before != nil {
		t.Errorf("before the first run there was %+v", before)
	}
	p := pictureOf(t, "greeting-service-build-02")
	if p.Before == nil || p.Before.Name != "greeting-service-build-01" {
		t.Fatalf("%+v", p.Before)
	}
	image := p.view().Images[0]
	status := map[string]int{}
	for _, l := range image.Rows {
		status[l.Status]++
	}
	if !image.Known || status["new"] != 1 || status["unchanged"] != len(image.Rows)-1 || len(image.Gone) != 1 {
		t.Errorf("%v, %d gone", status, len(image.Gone))
	}
	p.Before.Images[0].Platform = "linux/other"
	if other := p.view().Images[0]; other.Known || other.Rows[0].Status != "" {
		t.Errorf("compared with an image of another platform: %+v", other)
	}
}

// A bar is where its times say, and one page is always the same.
func TestTimeline(t *testing.T) {
	for _, name := range []string{"greeting-service-build-02", "link-shortener-build-01"} {
		p := pictureOf(t, name)
		v := p.view()
		if want := len(p.Steps) + len(p.Build.Parts); len(v.Rows) != want {
			t.Errorf("%s: %d rows instead of %d", name, len(v.Rows), want)
		}
		var within row // the step
		for _, r := range v.Rows {
			if r.Depth == 0 {
				within = r
			}
			if r.X < 0 || r.Width < narrowest || r.X+r.Width > 100.001 {
				t.Errorf("%s: %s at %f, %f wide", name, r.Name, r.X, r.Width)
			}
			if exact := share(r.TookMs, p.TookMs); exact > narrowest && r.Width-exact > 0.001 {
				t.Errorf("%s: %s is %f wide instead of %f", name, r.Name, r.Width, exact)
			}
			if r.StartMs < within.StartMs-5 || r.StartMs+r.TookMs > within.StartMs+within.TookMs+1_000 {
				t.Errorf("%s: %s is outside of %s", name, r.Name, within.Name)
			}
		}
		if first, second := pageOf(t, p), pageOf(t, pictureOf(t, name)); first != second {
			t.Errorf("%s: %s", name, cmp.Diff(first, second))
		}
	}
}

// held is a run that somebody holds in hand.
type held struct {
	runs    []*v1alpha1.WorkflowRun
	details map[string]runstatus.Detail
	log     string
	failure error
}

func (h held) List(context.Context, string) ([]*v1alpha1.WorkflowRun, error) {
	return h.runs, h.failure
}

func (h held) Details(context.Context, *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error) {
	return h.details, nil
}

func (h held) Log(context.Context, *v1alpha1.WorkflowRun, string, bool) (io.ReadCloser, error) {
	if h.log == "" {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(h.log)), nil
}

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func runOf(name string, tasks ...string) *v1alpha1.WorkflowRun {
	run := &v1alpha1.WorkflowRun{}
	run.Name, run.Namespace, run.CreationTimestamp = name, "acme", metav1.NewTime(began)
	at := metav1.NewTime(began)
	run.Status.StartedAt = &at
	for _, task := range tasks {
		run.Status.Tasks = append(run.Status.Tasks, v1alpha1.WorkflowTask{
			Name: task, Phase: runstatus.TaskFailed, StartedAt: &at, Message: "task",
		})
	}
	runstatus.End(run, false)
	return run
}

func digest(character string) string { return "sha256:" + strings.Repeat(character, 64) }

// Nothing that a stranger can write gets out of the place that it has on the page.
func TestTextsOfStrangers(t *testing.T) {
	const evil = `</script></style><script>alert(1)</script><img src=x onerror=alert(1)>"'` + "\x1b[2J\u202e{{.}}`${1}"
	report, err := buildreport.Report{
		Builder: buildreport.Dockerfile, StartedAt: buildreport.Moment{Time: began},
		Parts: []buildreport.Part{{Name: evil, Kind: buildreport.Run, Status: buildreport.Ran, DurationMs: 5}},
		Images: []buildreport.Image{{
			Platform: evil, Digest: digest("a"), Layers: []buildreport.Layer{{Digest: digest("b"), CreatedBy: evil}},
		}},
		Attestations: []buildreport.Statement{{Type: "javascript:" + evil, Digest: digest("c")}},
	}.Encode(func(text string) string { return text })
	if err != nil {
		t.Fatal(err)
	}
	run := runOf("cart-1", evil)
	run.Labels = map[string]string{"openchoreo.dev/component": evil, "openchoreo.dev/project": evil}
	run.Annotations = map[string]string{"stepwright.dev/commit": evil, "stepwright.dev/branch": evil}
	p, err := Of(t.Context(), held{details: map[string]runstatus.Detail{evil: {
		Message: evil, Hint: evil, Reason: outcome.BuildFailed,
		Outputs: map[string]string{"image": evil, "build-report": string(report), "base-images": `["` + "<b>" + `"]`},
	}}, log: evil + "\n" + evil}, run, began)
	if err != nil {
		t.Fatal(err)
	}
	page := pageOf(t, p)
	if n := strings.Count(page, "<script>") + strings.Count(page, "</script>"); n != 2 {
		t.Errorf("%d tags of scripts", n)
	}
	for _, bad := range []string{"<img", "\x1b", "\u202e", "<b>\"", `onerror=alert(1)>"`} {
		if strings.Contains(page, bad) {
			t.Errorf("it has %q", bad)
		}
	}
}

func TestWhatIsNotKnown(t *testing.T) {
	for _, test := range []struct {
		name string
		from held
		run  *v1alpha1.WorkflowRun
		want []string
		not  []string
	}{
		{
			"nothing has run", held{}, runOf("cart-1"),
			[]string{"cart-1", "Failed", "The build has left no report"}, nil,
		},
		{
			"no details", held{}, runOf("cart-1", "build"), []string{"build", "It is not there any more."}, nil,
		},
		{
			"a report that is none", held{details: map[string]runstatus.Detail{
				"build": {Outputs: map[string]string{"build-report": `{"builder":"<b>"}`}},
			}}, runOf("cart-1", "build"), []string{"build left a report that is not shown"}, []string{"<b>\""},
		},
		{
			"a reason", held{details: map[string]runstatus.Detail{"build": {
				StartedAt: began, DurationMs: 1_500, Reason: outcome.BuildFailed, Message: "exit code 1", Hint: "Look.",
			}}}, runOf("cart-1", "build"), []string{"BuildFailed", "exit code 1", "Look.", "1.5 s"}, []string{">task<"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := Of(t.Context(), test.from, test.run, began.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			page := pageOf(t, p)
			for _, want := range test.want {
				if !strings.Contains(page, want) {
					t.Errorf("%q is missing", want)
				}
			}
			for _, not := range test.not {
				if strings.Contains(page, not) {
					t.Errorf("%q is there", not)
				}
			}
		})
	}
	// That the earlier runs cannot be read is no reason for no picture.
	report, err := buildreport.Report{
		Builder: buildreport.Dockerfile, StartedAt: buildreport.Moment{Time: began},
		Images: []buildreport.Image{{Digest: digest("a")}},
	}.Encode(func(text string) string { return text })
	if err != nil {
		t.Fatal(err)
	}
	run := runOf("cart-1", "build")
	run.Labels = map[string]string{"openchoreo.dev/component": "cart"}
	p, err := Of(t.Context(), held{failure: errors.New("forbidden"), details: map[string]runstatus.Detail{
		"build": {Outputs: map[string]string{"build-report": string(report)}},
	}}, run, began)
	if err != nil || len(p.Faults) != 1 || !strings.Contains(p.Faults[0], "forbidden") {
		t.Errorf("%v, %v", err, p)
	}
}

// Of a log without end the beginning and the end are shown, and how much is between.
func TestLongLog(t *testing.T) {
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	p, err := Of(t.Context(), held{log: text.String() + strings.Repeat("x", 1<<20)}, runOf("cart-1", "build"), began)
	if err != nil {
		t.Fatal(err)
	}
	log := p.Steps[0].Log
	if log.Before != beginning || log.Lines[0] != "line 0" ||
		log.Lines[beginning-1] != fmt.Sprint("line ", beginning-1) ||
		len(log.Lines) != beginning+end || !strings.HasPrefix(log.Lines[len(log.Lines)-1], "xxx") {
		t.Errorf("%d lines, the last %.20q", len(log.Lines), log.Lines[len(log.Lines)-1])
	}
	said := fmt.Sprintf("%d lines left out", log.Omitted)
	if page := pageOf(t, p); !strings.Contains(page, said) || log.Omitted < 15_000 {
		t.Errorf("%d lines are left out", log.Omitted)
	}
}

// Long lines, of which fewer are kept, count in bytes: a page is of a size that a browser opens.
func TestLongLines(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", lineLimit-10)+"\n", 5_000)
	p, err := Of(t.Context(), held{log: "first\n" + long + "last\n"}, runOf("cart-1", "build"), began)
	if err != nil {
		t.Fatal(err)
	}
	log := p.Steps[0].Log
	size := 0
	for _, line := range log.Lines {
		size += len(line)
	}
	if size > beginningBytes+endBytes || size < endBytes || log.Lines[0] != "first" ||
		log.Lines[len(log.Lines)-1] != "last" || len(log.Lines)+log.Omitted != 5_002 {
		t.Errorf("%d bytes of %d lines, %d left out", size, len(log.Lines), log.Omitted)
	}
}

func TestWords(t *testing.T) {
	for ms, want := range map[int64]string{
		0: "0 ms", 999: "999 ms", 1_000: "1.0 s", 59_999: "59.9 s", 60_000: "1 min 00 s", 3_599_999: "59 min 59 s",
		3_600_000: "1 h 00 min",
	} {
		if got := duration(ms); got != want {
			t.Errorf("%d ms: %s, want %s", ms, got, want)
		}
	}
	for name, want := range map[string]string{
		"[b 4/4] RUN --mount=type=cache,target=/root/.cache --network=none go build": "[b 4/4] RUN go build",
		"[1/2] FROM docker.io/library/go:1@" + digest("a"):                           "[1/2] FROM go:1@aaaaaaaaaaaa",
		"COPY a b # buildkit":           "COPY a b",
		"[internal] load build context": "load build context",
	} {
		if got := label(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
