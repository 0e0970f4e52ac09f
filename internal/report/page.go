package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

//go:embed page.js
var scriptText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"label": label, "ms": duration, "bytes": buildreport.SizeText, "moment": moment, "clock": clock, "percent": percent,
	"short": short, "plural": plural, "lower": strings.ToLower, "outputLine": outputLine,
	"int": func(n int64) int { return int(n) }, "number": func(i int) int { return i + 1 },
}).Parse(pageText))

// Write writes the page: of one picture always the same bytes.
func (p *Picture) Write(to io.Writer) error {
	var b bytes.Buffer
	if err := page.Execute(&b, p.view()); err != nil {
		return err
	}
	_, err := to.Write(b.Bytes())
	return err
}

// view is a picture laid out.
type view struct {
	*Picture
	Style  template.CSS
	Script template.JS
	Policy string

	Ticks     []tick
	Rows      []row
	Claimed   bool // something in the timeline is only claimed
	Longest   []bar
	Transfers []bar
	Layers    []bar
	Images    []imageView
	Facts     []fact
}

// tick is a mark of the timeline's axis; At is in percent of it.
type tick struct {
	At   float64
	Ms   int64
	Text string
}

// row is a line of the timeline. X and Width are in percent of it.
type row struct {
	Name              string
	Kind, Status      string // words for people
	Class             string // of the bar
	Depth             int
	StartMs, TookMs   int64 // StartMs after the run's start
	WorkedMs          int64 // 0: all the time
	Bytes             int64
	Claimed           bool
	X, Width          float64
	PeakMemory        int64
	Reason            string
	Anchor            string // of the step's log
	HasTime, HasBytes bool
}

// bar is a line of "where it went". Width is in percent of the longest.
type bar struct {
	Name  string
	Class string
	Ms    int64
	Bytes int64
	Width float64
}

// fact is one of the numbers at the top.
type fact struct {
	Label string
	Ms    *int64
	Bytes *int64
	Text  string
	Note  string
}

// imageView is an image and what changed in it.
type imageView struct {
	buildreport.Image
	Size    int64
	Known   bool // what changed is
	New     int
	NewSize int64
	Rows    []layerView
	Gone    []buildreport.Layer
}

type layerView struct {
	buildreport.Layer
	Status string // new, unchanged, or empty where that is not known
	Width  float64
}

func (p *Picture) view() view {
	v := view{
		Picture: p,
		Style:   template.CSS(styleText), //nolint:gosec // it is this package's own, as the script is
		Script:  template.JS(scriptText), //nolint:gosec // likewise
		// Nothing is fetched or sent, and no script or style but the page's own counts, whatever stands in a log.
		Policy: "default-src 'none'; style-src '" + hash(styleText) + "'; script-src '" + hash(scriptText) +
			"'; base-uri 'none'; form-action 'none'",
	}
	v.layTime()
	v.layImages()
	v.layShares()
	v.layFacts()
	return v
}

func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// mostTicks is how many marks the axis has at most.
const mostTicks = 8

// layTime makes axis and rows of the timeline.
func (v *view) layTime() {
	total := max(v.TookMs, 1)
	step := int64(100)
	for _, factor := range []int64{
		200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, 3_600_000,
	} {
		if total/step <= mostTicks {
			break
		}
		step = factor
	}
	for total/step > mostTicks {
		step *= 2
	}
	for at := int64(0); at <= total; at += step {
		v.Ticks = append(v.Ticks, tick{share(at, total), at, axis(at)})
	}
	for i, s := range v.Steps {
		r := row{
			Name: s.Name, Kind: "step", Status: s.Phase, Class: "step " + strings.ToLower(s.Phase),
			TookMs: s.DurationMs, PeakMemory: s.PeakMemory, HasTime: !s.StartedAt.IsZero(),
			Anchor: fmt.Sprintf("log-%d", i+1),
		}
		if s.Reason != "" && s.Reason != outcome.Succeeded {
			r.Reason = string(s.Reason)
		}
		if r.HasTime {
			r.StartMs = s.StartedAt.Sub(v.StartedAt).Milliseconds()
		}
		r.place(total)
		v.Rows = append(v.Rows, r)
		if s.Built && v.Build != nil {
			v.layBuild(s, r.StartMs, total)
		}
	}
}

// layBuild makes rows of a build's parts. The clock of the node that built need not be that of the plane: a build that
// seems to be outside of its step begins with it.
func (v *view) layBuild(s Step, stepMs, total int64) {
	offset := v.Build.StartedAt.Sub(v.StartedAt).Milliseconds()
	if offset < stepMs-1_000 || offset+v.Build.DurationMs > stepMs+s.DurationMs+2_000 {
		offset = stepMs
	}
	for _, p := range v.Build.Parts {
		r := row{
			Name: p.Name, Kind: kinds[p.Kind], Status: statuses[p.Status], Class: "part " + string(p.Status), Depth: 1,
			StartMs: max(0, offset+p.StartMs), TookMs: p.DurationMs, WorkedMs: p.BusyMs, Bytes: p.Bytes,
			HasBytes: p.Bytes > 0, HasTime: true, Claimed: p.Claimed,
		}
		if p.Kind == buildreport.Internal || p.Kind == buildreport.Others {
			r.Class += " minor"
		}
		if p.Kind == buildreport.Buildpack {
			r.Depth = 2
		}
		v.Claimed = v.Claimed || p.Claimed
		r.place(total)
		v.Rows = append(v.Rows, r)
	}
}

// kinds and statuses are words for people.
var (
	kinds = map[buildreport.Kind]string{
		buildreport.Base: "base image", buildreport.Source: "source", buildreport.Run: "RUN",
		buildreport.Copy: "COPY or ADD", buildreport.Export: "export", buildreport.Phase: "phase",
		buildreport.Buildpack: "buildpack", buildreport.Internal: "preparation", buildreport.Others: "others",
	}
	statuses = map[buildreport.Status]string{
		buildreport.Ran: "ran", buildreport.Cached: "cached", buildreport.Downloaded: "downloaded",
		buildreport.Failed: "failed", buildreport.Cancelled: "cancelled",
	}
)

// narrowest is how narrow a bar is at least, in percent: what was quick is seen, too.
const narrowest = 0.4

func (r *row) place(total int64) {
	r.X = min(max(share(r.StartMs, total), 0), 100-narrowest)
	r.Width = min(max(share(r.TookMs, total), narrowest), 100-r.X)
}

// What a name says at length, and people do not look for: digests, Docker's own registry, and how a RUN is run.
var (
	dockerHub  = regexp.MustCompile(`(^| )docker\.io/(library/)?`)
	longDigest = regexp.MustCompile(`@sha256:([0-9a-f]{12})[0-9a-f]{52}`)
	runFlags   = regexp.MustCompile(`(^|\] )RUN (--[a-z]+=\S+ )+`)
)

// label is the name of a part as it stands beside its bar. The page has the whole, too.
func label(name string) string {
	name = strings.TrimPrefix(strings.TrimSuffix(name, " # buildkit"), "[internal] ")
	name = dockerHub.ReplaceAllString(name, "$1")
	return runFlags.ReplaceAllString(longDigest.ReplaceAllString(name, "@$1"), "${1}RUN ")
}

// share is a part of a whole in percent.
func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) * 100 / float64(whole)
}

// layImages compares the layers of each image with those of the earlier one for the same platform.
func (v *view) layImages() {
	if v.Build == nil {
		return
	}
	for _, image := range v.Build.Images {
		i := imageView{Image: image}
		var earlier map[string]bool
		if v.Before != nil {
			at := slices.IndexFunc(v.Before.Images, func(b buildreport.Image) bool {
				return b.Platform == image.Platform
			})
			if at >= 0 {
				i.Known, earlier = true, map[string]bool{}
				own := map[string]bool{}
				for _, l := range image.Layers {
					own[l.Digest] = true
				}
				for _, l := range v.Before.Images[at].Layers {
					earlier[l.Digest] = true
					if !own[l.Digest] {
						i.Gone = append(i.Gone, l)
					}
				}
			}
		}
		var largest int64
		for _, l := range image.Layers {
			largest = max(largest, l.Size)
			i.Size += l.Size
		}
		for _, l := range image.Layers {
			line := layerView{Layer: l, Width: max(share(l.Size, largest), narrowest)}
			switch {
			case !i.Known:
			case earlier[l.Digest]:
				line.Status = "unchanged"
			default:
				line.Status = "new"
				i.New++
				i.NewSize += l.Size
			}
			i.Rows = append(i.Rows, line)
		}
		v.Images = append(v.Images, i)
	}
}

// mostBars is how many lines "where it went" has at most.
const mostBars = 8

// layShares finds what took longest and what was largest on its way.
func (v *view) layShares() {
	for _, s := range v.Steps {
		if !s.Built || len(v.Build.Parts) == 0 {
			v.Longest = append(v.Longest, bar{
				Name: s.Name, Class: "step " + strings.ToLower(s.Phase), Ms: s.DurationMs,
			})
		}
	}
	if v.Build != nil {
		for _, p := range v.Build.Parts {
			v.Longest = append(v.Longest, bar{Name: p.Name, Class: "part " + string(p.Status), Ms: p.Worked()})
			if p.Bytes > 0 {
				v.Transfers = append(v.Transfers, bar{Name: p.Name, Class: "part " + string(p.Status), Bytes: p.Bytes})
			}
		}
	}
	for _, image := range v.Images {
		for _, l := range image.Rows {
			v.Layers = append(v.Layers, bar{
				Name: cmp.Or(l.CreatedBy, "layer "+short(l.Digest)), Class: "layer " + l.Status, Bytes: l.Size,
			})
		}
	}
	v.Layers = largest(v.Layers, func(b bar) int64 { return b.Bytes })
	v.Longest = largest(v.Longest, func(b bar) int64 { return b.Ms })
	v.Transfers = largest(v.Transfers, func(b bar) int64 { return b.Bytes })
}

// largest are the largest bars, in order, with their widths.
func largest(all []bar, of func(bar) int64) []bar {
	all = slices.DeleteFunc(all, func(b bar) bool { return of(b) == 0 })
	slices.SortStableFunc(all, func(a, b bar) int { return cmp.Compare(of(b), of(a)) })
	all = all[:min(len(all), mostBars)]
	for i := range all {
		all[i].Width = max(share(of(all[i]), of(all[0])), narrowest)
	}
	return all
}

// layFacts chooses the numbers at the top.
func (v *view) layFacts() {
	v.Facts = append(v.Facts, fact{Label: "Took", Ms: &v.TookMs, Note: clock(v.StartedAt)})
	if v.Build == nil {
		return
	}
	var cached, ran int
	var fetched int64
	for _, p := range v.Build.Parts {
		if p.Kind == buildreport.Internal || p.Kind == buildreport.Export {
			continue
		}
		n := max(1, p.Count)
		if p.Status == buildreport.Cached {
			cached += n
		}
		ran += n
		fetched += p.Bytes
	}
	if v.Build.Builder == buildreport.Dockerfile && ran > 0 {
		v.Facts = append(v.Facts, fact{
			Label: "From the cache", Text: fmt.Sprintf("%d of %d", cached, ran), Note: "parts of the Dockerfile",
		})
	}
	if fetched > 0 {
		v.Facts = append(v.Facts, fact{Label: "Fetched", Bytes: &fetched, Note: "base images and sources"})
	}
	if len(v.Images) == 0 {
		return
	}
	first := &v.Images[0]
	note := plural(len(first.Layers)+first.Omitted, "layer")
	if len(v.Images) > 1 {
		note += ", " + first.Platform
	}
	v.Facts = append(v.Facts, fact{Label: "Image", Bytes: &first.Size, Note: note})
	if first.Known {
		note := plural(first.New, "new layer") + " since " + v.Before.Name
		v.Facts = append(v.Facts, fact{Label: "Changed", Bytes: &first.NewSize, Note: note})
	}
}

// Title says what the page is of.
func (v view) Title() string {
	return cmp.Or(v.Component, v.Name)
}

// IsCache tells whether an image that the build used is the cache that the component's last build left: it is where the
// component's images are.
func (v view) IsCache(reference string) bool {
	repository, _, _ := strings.Cut(reference, "@")
	return repository != "" && strings.HasPrefix(v.Image, repository+":")
}

// Completed tells whether the run has ended.
func (v view) Completed() bool {
	return v.Phase == runstatus.TaskSucceeded || v.Phase == runstatus.TaskFailed
}

// What says what a statement is, for people.
func (v view) What(predicate string) string {
	switch {
	case strings.HasPrefix(predicate, "https://slsa.dev/provenance/"):
		return "Provenance (SLSA)"
	case strings.HasPrefix(predicate, "https://spdx.dev/"):
		return "Bill of materials (SPDX)"
	case strings.HasPrefix(predicate, "https://cyclonedx.org/"):
		return "Bill of materials (CycloneDX)"
	}
	return "Statement"
}

// duration is a time for people.
func duration(ms int64) string {
	switch {
	case ms < 1_000:
		return fmt.Sprintf("%d ms", ms)
	case ms < 60_000:
		return fmt.Sprintf("%.1f s", float64(ms/100)/10)
	case ms < 3_600_000:
		return fmt.Sprintf("%d min %02d s", ms/60_000, ms/1_000%60)
	}
	return fmt.Sprintf("%d h %02d min", ms/3_600_000, ms/60_000%60)
}

// axis is a time at a mark of the axis.
func axis(ms int64) string {
	switch {
	case ms == 0:
		return "0"
	case ms%3_600_000 == 0:
		return fmt.Sprintf("%d h", ms/3_600_000)
	case ms%60_000 == 0:
		return fmt.Sprintf("%d min", ms/60_000)
	case ms > 60_000:
		return fmt.Sprintf("%d:%02d", ms/60_000, ms/1_000%60)
	case ms%1_000 == 0:
		return fmt.Sprintf("%d s", ms/1_000)
	}
	return fmt.Sprintf("%.1f s", float64(ms)/1_000)
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "?"
	}
	return t.UTC().Format("2006-01-02 15:04:05") + " UTC"
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func percent(f float64) string { return fmt.Sprintf("%.3f%%", f) }

// short is a digest or a commit as people name it.
func short(text string) string {
	text = strings.TrimPrefix(text, "sha256:")
	return quote.Line(text[:min(len(text), 12)], 0)
}

// outputLine tells whether a line of a log is of what a step runs, and not of the step.
func outputLine(line string) bool {
	return strings.HasPrefix(line, "| ") || strings.Contains(line, `"output":true`)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
