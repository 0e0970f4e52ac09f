package buildpack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
)

// reportOf reads the report that a build left.
func reportOf(t testing.TB, e podEnding) buildreport.Report {
	t.Helper()
	r, err := buildreport.Parse(e.report)
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, e.report, e.output)
	}
	if r.Builder != buildreport.Buildpacks {
		t.Errorf("it is of %s", r.Builder)
	}
	return r
}

// parts are kind, name, status and whether it is only claimed, of each part. On a slow machine there are the gaps
// between containers, too, which do not count.
func parts(r buildreport.Report) []string {
	var all []string
	for _, p := range r.Parts {
		if p.Kind == buildreport.Internal {
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %s %v", p.Kind, p.Name, p.Status, p.Claimed))
	}
	return all
}

// A build leaves its phases and buildpacks, and what it made; what the container says in which the user's code runs is
// marked.
func TestBuildReport(t *testing.T) {
	t.Parallel()
	registry, run := newRegistry(t)
	dir := newWorkspace(t, greeter)
	e := builds(t, newPod(t, registry, dir))
	r := reportOf(t, e)
	want := []string{
		"base manifest of the run image " + registry.Host + "/base/run:1 downloaded false",
		"phase analyzer ran true", "phase detector ran true", "phase restorer ran true", "phase builder ran true",
		"buildpack test/dependencies 1.0.0 ran true", "buildpack test/certificates 1.0.0 ran true",
		"buildpack test/greeter 1.0.0 ran true",
		"phase analyzer ran false", "phase exporter ran false",
	}
	if got := parts(r); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i, p := range r.Parts {
		if p.StartMs+p.DurationMs > r.DurationMs+1_000 || i > 0 && p.StartMs < r.Parts[i-1].StartMs {
			t.Errorf("%+v of %d ms", p, r.DurationMs)
		}
	}
	image := layoutIn(t, dir).image
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	base, err := run.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Images) != 1 || len(r.Images[0].Layers) != len(manifest.Layers) || len(r.Attestations) == 0 {
		t.Fatalf("%+v", r)
	}
	for i, l := range r.Images[0].Layers {
		if isBase := i < len(base.Layers); l.Digest != manifest.Layers[i].Digest.String() ||
			l.Size != manifest.Layers[i].Size || l.Base != isBase {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
}

// What took a second or more between two containers is shown, and that its length is only claimed.
func TestGaps(t *testing.T) {
	t.Parallel()
	now := time.Now()
	told, err := buildreport.Report{
		Builder: buildreport.Buildpacks, StartedAt: buildreport.Moment{Time: now.Add(-10 * time.Second)},
		DurationMs: 9_500,
		Parts:      []buildreport.Part{{Name: "builder", Kind: buildreport.Phase, Status: buildreport.Ran}},
	}.Encode(strings.Clone)
	if err != nil {
		t.Fatal(err)
	}
	notes := &times{Started: now.Add(-time.Minute)}
	if err := notes.claim(told, now.Add(-50*time.Second), now); err != nil {
		t.Fatal(err)
	}
	if len(notes.Parts) != 2 {
		t.Fatalf("%+v", notes.Parts)
	}
	gap := notes.Parts[0]
	if took := gap.To.Sub(gap.From).Round(time.Second); took != 40*time.Second || !gap.Claimed {
		t.Errorf("%s: %+v", took, gap)
	}
}

func TestBuildReportOfFailure(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	for name, test := range map[string]struct {
		files     map[string]string
		variables []string
		reason    outcome.Reason
		last      string
	}{
		"a buildpack": {
			with("fail.txt", "no\n"), nil, outcome.BuildFailed, "buildpack test/greeter 1.0.0 failed true",
		},
		"a phase": {map[string]string{"x": ""}, nil, outcome.NoBuildpackDetected, "phase detector failed true"},
		"the run image": {
			greeter, []string{"RUN_IMAGE", registry.Host + "/base/run:2"}, outcome.BaseImageUnavailable,
			"base manifest of the run image " + registry.Host + "/base/run:2 failed false",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newPod(t, registry, newWorkspace(t, test.files), test.variables...).run(t)
			got := parts(reportOf(t, e))
			if e.outcome.Reason != test.reason || got[len(got)-1] != test.last {
				t.Errorf("%s: %s\n%s", e.outcome.Reason, strings.Join(got, "\n"), e.output)
			}
		})
	}
}

// What the user's code leaves in place of the build's parts is believed only where it can be, and never decides on
// anything else.
func TestForgedBuildReport(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	finished := newPod(t, registry, newWorkspace(t, greeter))
	built := finished.volumes(t)
	if e := finished.build(t, built); e.code != 0 {
		t.Fatalf("exit code %d\n%s", e.code, e.output)
	}
	now := time.Now()
	report := func(r buildreport.Report) string {
		r.Builder = buildreport.Dockerfile
		raw, err := r.Encode(func(text string) string { return text })
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	part := func(ms int64) []buildreport.Part {
		return []buildreport.Part{{
			Name: "<script>\x1b[2J", Kind: buildreport.Run, Status: buildreport.Cached, DurationMs: ms,
		}}
	}
	const refused = "What the build tells of its parts is not believed"
	tests := []struct {
		name    string
		leave   func(path string) error
		claimed int
		log     string
	}{
		{"nothing", func(string) error { return nil }, 0, ""},
		{"a pipe", func(path string) error { return syscall.Mkfifo(path, 0o666) }, 0, refused},
		{"a link", func(path string) error { return os.Symlink("/etc/passwd", path) }, 0, refused},
		{"a folder", func(path string) error { return os.Mkdir(path, 0o777) }, 0, refused},
		{"a large file", text(strings.Repeat(" ", 1<<20)), 0, refused},
		{"no report", text(`{"builder":"buildpacks"}`), 0, refused},
		{"another time", text(report(buildreport.Report{
			StartedAt: buildreport.Moment{Time: now.Add(-time.Hour)}, DurationMs: 5, Parts: part(5),
		})), 0, refused},
		{"parts that end later", text(report(buildreport.Report{
			StartedAt: buildreport.Moment{Time: now.Add(time.Minute)}, DurationMs: 0, Parts: part(100_000),
		})), 0, refused},
		{"what could be", text(report(buildreport.Report{
			StartedAt: buildreport.Moment{Time: now}, DurationMs: 5, Parts: part(5),
		})), 1, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := newPod(t, registry, newWorkspace(t, nil))
			all := p.volumes(t)
			for _, name := range []string{"fetched", "handover", "application", "layers"} {
				if out, err := exec.Command("cp", "-a", built[name]+"/.", all[name]).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			left := filepath.Join(all["handover"], buildreport.Name)
			if err := os.RemoveAll(left); err != nil {
				t.Fatal(err)
			}
			if err := test.leave(left); err != nil {
				t.Fatal(err)
			}
			e := p.seal(t, all)
			if e.code != 0 || strings.Contains(e.output, refused) != (test.log != "") {
				t.Errorf("exit code %d\n%s", e.code, e.output)
			}
			claimed := 0
			for _, p := range reportOf(t, e).Parts {
				if p.Claimed && p.Kind != buildreport.Internal {
					claimed++
				}
			}
			if claimed != test.claimed {
				t.Errorf("%d parts are claimed: %s", claimed, e.report)
			}
		})
	}
}

// text leaves a file of that content.
func text(content string) func(path string) error {
	return func(path string) error { return os.WriteFile(path, []byte(content), 0o666) }
}
