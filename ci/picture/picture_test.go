// Package picture looks at the picture of a run (stepwright report) in a browser, as people do.
package picture

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/report"
)

var pictures = flag.String("pictures", "", "folder to write pictures of the pages to: docs/pictures from the root")

// recorded are the runs in testdata of internal/report.
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

// look is what ci/picture/browser tells of a page in one theme.
type look struct {
	Page, Theme          string
	Console, Requests    []string
	Numbers              []struct{ Class, Value, Text string }
	Starts, Took, Layers []int64
	Lines, Wide, Leaf    int
	Violations           []struct {
		ID, Impact, Help string
		Nodes            []string
	}
	Focusable, Unreached, Unprinted []string
	Search                          struct {
		Found, Expected, Marked, After int
		Said                           string
		Closed                         bool
	}
	Toggle [2]string
}

// axe is the file of axe-core. A package that npm ci has fetched once it does not fetch again.
func axe(t *testing.T) string {
	t.Helper()
	const file = "node_modules/axe-core/axe.min.js"
	if _, err := os.Stat(file); err == nil {
		return file
	}
	ci := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	if out, err := ci.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in ci/picture: %v: run ci/install/install.sh test\n%s", err, out)
	}
	return file
}

// searched is in the logs of every recorded run, in one step's more often than in another's.
const searched = "DIGEST="

func TestPicture(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	dir := t.TempDir()
	if err := programtest.Build(
		t.Context(), dir, "browser", "github.com/stepwright/stepwright/ci/picture/browser",
	); err != nil {
		t.Fatal(err)
	}
	store := recorded{history.Store{Dir: "../../internal/report/testdata/runs"}}
	of := map[string]*report.Picture{}
	args := []string{"-axe", axe(t), "-search", searched}
	if *pictures != "" {
		args = append(args, "-pictures", *pictures)
	}
	for _, page := range []struct{ name, run string }{
		{"green.html", "greeting-service-build-02"}, {"failing.html", "greeting-service-build-03"},
		{"buildpacks.html", "link-shortener-build-01"},
	} {
		run, err := store.Get("acme", page.run)
		if err != nil {
			t.Fatal(err)
		}
		p, err := report.Of(t.Context(), store, run, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if err := p.Write(&text); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, page.name)
		if err := os.WriteFile(file, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		of[page.name] = p
		args = append(args, file)
	}
	browser := exec.CommandContext(t.Context(), filepath.Join(dir, "browser"), args...)
	var errs bytes.Buffer
	browser.Stderr = &errs
	raw, err := browser.Output()
	if err != nil {
		t.Fatalf("%v: run ci/install/install.sh test\n%s", err, errs.Bytes())
	}
	var looks []look
	if err := json.Unmarshal(raw, &looks); err != nil {
		t.Fatal(err)
	}
	if len(looks) != 2*len(of) {
		t.Fatalf("%d looks", len(looks))
	}
	for _, l := range looks {
		t.Run(strings.TrimSuffix(l.Page, ".html")+" "+l.Theme, func(t *testing.T) {
			l.quiet(t)
			l.numbers(t, of[l.Page])
			l.usable(t)
		})
	}
	if *pictures == "" {
		return
	}
	for _, name := range []string{"green-light", "green-dark", "failing-light", "failing-dark"} {
		info, err := os.Stat(filepath.Join(*pictures, name+".png"))
		if err != nil || info.Size() > 150_000 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// quiet tests that the page says nothing to the console, asks nothing of anybody, and fits into its window.
func (l look) quiet(t *testing.T) {
	if len(l.Console) > 0 || len(l.Requests) > 0 || l.Wide > 0 {
		t.Errorf("console %q, requests %q, %d pixels too wide", l.Console, l.Requests, l.Wide)
	}
}

// numbers tests that what is shown is what is known.
func (l look) numbers(t *testing.T, p *report.Picture) {
	var took, layers []int64
	lines := 0
	for _, s := range p.Steps {
		took = append(took, s.DurationMs)
		lines += len(s.Log.Lines)
		if !s.Built {
			continue
		}
		for _, part := range p.Build.Parts {
			took = append(took, part.DurationMs)
		}
	}
	for _, image := range p.Build.Images {
		for _, layer := range image.Layers {
			layers = append(layers, layer.Size)
		}
	}
	if !slices.Equal(l.Took, took) || !slices.Equal(l.Layers, layers) || len(l.Starts) != len(took) ||
		l.Lines != lines {
		t.Errorf("shown are %v, %v and %d lines; known %v, %v and %d", l.Took, l.Layers, l.Lines, took, layers, lines)
	}
	if len(l.Numbers) < 2*len(took) {
		t.Errorf("%d numbers", len(l.Numbers))
	}
	for _, n := range l.Numbers {
		if !says(n.Text, n.Value) {
			t.Errorf("%s is shown as %q", n.Value, n.Text)
		}
	}
}

// says tells whether a text for people means a number of milliseconds or bytes, as exactly as it is.
func says(text, value string) bool {
	var number, whole, rest float64
	var unit string
	if _, err := fmt.Sscan(value, &number); err != nil {
		return false
	}
	if n, _ := fmt.Sscanf(text, "%f min %f s", &whole, &rest); n == 2 {
		return number >= whole*60_000+rest*1_000 && number < whole*60_000+rest*1_000+1_000
	}
	if n, _ := fmt.Sscanf(text, "%f %s", &whole, &unit); n != 2 {
		return false
	}
	scale := map[string]float64{"ms": 1, "s": 1_000, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
	difference := number - whole*scale
	return scale > 0 && difference > -0.051*scale && difference < 0.11*scale
}

// usable tests what people do with the page: by the keyboard, by the search, on paper, and with what helps them see.
func (l look) usable(t *testing.T) {
	for _, v := range l.Violations {
		t.Errorf("axe-core: %s (%s): %s\n%s", v.ID, v.Impact, v.Help, strings.Join(v.Nodes, "\n"))
	}
	if len(l.Focusable) < 8 || len(l.Unreached) > 0 {
		t.Errorf("Tab does not come to %q of %q", l.Unreached, l.Focusable)
	}
	s := l.Search
	if s.Found == 0 || s.Found == l.Lines || s.Found != s.Expected || s.Marked < s.Found ||
		!strings.HasPrefix(s.Said, fmt.Sprint(s.Found, " line")) || s.After != l.Lines || !s.Closed {
		t.Errorf("search: %+v of %d lines", s, l.Lines)
	}
	const light, dark = "rgb(244, 245, 248)", "rgb(14, 17, 22)"
	want := [2]string{light, dark}
	if l.Theme == "dark" {
		want = [2]string{dark, light}
	}
	if l.Toggle != want {
		t.Errorf("the ground is %s, and %s after the button was pressed", l.Toggle[0], l.Toggle[1])
	}
	if len(l.Unprinted) > 0 || l.Leaf < 10_000 {
		t.Errorf("on paper there is no %q; %d bytes", l.Unprinted, l.Leaf)
	}
}
