// Package buildreport is what a build leaves about itself: what it did, part by part, and what it made. Its form is
// schemas/build-report.schema.json. It travels as an output parameter of a Workflow, so its size has a bound.
package buildreport

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/schemas"
)

// Name is the name of the report's file among the results of a step, of the output parameter that has its content, and
// of its schema.
const Name = "build-report"

// Limit is how large a report is at most, in bytes.
const Limit = 16 << 10

// Report is what a build tells of itself.
type Report struct {
	Builder      Builder     `json:"builder"`
	StartedAt    Moment      `json:"startedAt"`
	DurationMs   int64       `json:"durationMs"`
	Parts        []Part      `json:"parts"` // in the order of their start, and then the others together
	Images       []Image     `json:"images,omitempty"`
	Attestations []Statement `json:"attestations,omitempty"`
}

// Builder is what builds.
type Builder string

// The builders.
const (
	Dockerfile Builder = "dockerfile"
	Buildpacks Builder = "buildpacks"
)

// Kind is a sort of work.
type Kind string

// The kinds of parts.
const (
	Base      Kind = "base"      // an image that it stands on
	Source    Kind = "source"    // what it is given
	Run       Kind = "run"       // a RUN
	Copy      Kind = "copy"      // a COPY or an ADD
	Export    Kind = "export"    // writing the image
	Phase     Kind = "phase"     // of the lifecycle
	Buildpack Kind = "buildpack" // of the builder
	Internal  Kind = "internal"  // the builder's own preparations
	Others    Kind = "others"    // several small parts together
)

// Status is what became of a part.
type Status string

// The statuses of parts.
const (
	Ran        Status = "ran"
	Cached     Status = "cached"
	Downloaded Status = "downloaded"
	Failed     Status = "failed"
	Cancelled  Status = "cancelled"
)

// Part is a part of a build. Times are in milliseconds, StartMs after the build's start.
type Part struct {
	Name       string `json:"name"`
	Kind       Kind   `json:"kind"`
	Status     Status `json:"status"`
	StartMs    int64  `json:"startMs"`
	DurationMs int64  `json:"durationMs"`
	BusyMs     int64  `json:"busyMs,omitempty"` // of DurationMs; 0: all of it
	Bytes      int64  `json:"bytes,omitempty"`  // fetched or transferred
	Count      int    `json:"count,omitempty"`  // of the parts that it stands for; 0: it is one
	Claimed    bool   `json:"claimed,omitempty"`
}

// Worked is how long the part worked, in milliseconds.
func (p Part) Worked() int64 { return cmp.Or(p.BusyMs, p.DurationMs) }

// Image is an image that was made.
type Image struct {
	Platform string  `json:"platform,omitempty"`
	Digest   string  `json:"digest"`
	Layers   []Layer `json:"layers"` // the lowest first
	Omitted  int     `json:"omitted,omitempty"`
}

// Layer is a layer of an image; Size is the size of its blob, in bytes.
type Layer struct {
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Base      bool   `json:"base,omitempty"` // known to be of the image that this one is built on
	CreatedBy string `json:"createdBy,omitempty"`
}

// Statement is an attestation beside the images; Size is in bytes.
type Statement struct {
	Type   string `json:"type"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// Moment is a time in UTC, to the millisecond.
type Moment struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (m Moment) MarshalJSON() ([]byte, error) {
	return json.Marshal(m.UTC().Format("2006-01-02T15:04:05.000Z"))
}

// What texts and lists of a report have at most.
const (
	nameLimit      = 200 // bytes, of one name
	platformLimit  = 100 // bytes
	mostParts      = 256
	mostImages     = 32
	mostLayers     = 128
	mostStatements = 64
	longestMs      = int64(10_000_000_000)
	largestBytes   = int64(1 << 50)
)

// Encode writes the report as JSON of at most Limit bytes in which neither a terminal nor Argo finds something to obey.
// Every text goes through mask. What does not fit is clipped; then the shortest parts become one, and the smallest
// layers are left out. The same report is always written alike.
func (r Report) Encode(mask func(string) string) ([]byte, error) {
	r = r.bounded(mask)
	for _, length := range []int{nameLimit, 120, 80, 48} {
		r = r.clipped(length)
		raw, err := r.encode()
		if err != nil || len(raw) <= Limit {
			return raw, err
		}
	}
	for {
		switch {
		case len(r.Parts) > fewParts:
			r.Parts = merge(r.Parts, max(fewParts, len(r.Parts)*3/4))
		case r.layers() > 0:
			r = r.withoutLayers(max(1, r.layers()/4))
		case len(r.Attestations) > 0:
			r.Attestations = r.Attestations[:len(r.Attestations)-1]
		case len(r.Images) > 0:
			r.Images = r.Images[:len(r.Images)-1]
		default:
			return nil, errors.New("the report of the build is larger than it may be")
		}
		raw, err := r.encode()
		if err != nil || len(raw) <= Limit {
			return raw, err
		}
	}
}

// fewParts is how many parts are kept before layers are left out.
const fewParts = 24

func (r Report) encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	// Argo expands what begins so; in JSON it stands only inside of texts.
	return bytes.ReplaceAll(bytes.TrimSpace(b.Bytes()), []byte("{{"), []byte(`{\u007b`)), nil
}

// bounded is a copy of the report of which the texts are masked, and no number or list is beyond its bound.
func (r Report) bounded(mask func(string) string) Report {
	text := func(s string, limit int) string { return clip(quote.Line(mask(s), 0), limit) }
	r.DurationMs = milliseconds(r.DurationMs)
	r.Parts = slices.Clone(r.Parts)
	for i := range r.Parts {
		p := &r.Parts[i]
		p.Name = text(p.Name, nameLimit)
		p.StartMs, p.DurationMs, p.BusyMs = milliseconds(p.StartMs), milliseconds(p.DurationMs), milliseconds(p.BusyMs)
		if p.BusyMs >= p.DurationMs {
			p.BusyMs = 0
		}
		p.Bytes = size(p.Bytes)
	}
	slices.SortStableFunc(r.Parts, func(a, b Part) int {
		return cmp.Or(compare(a.Kind == Others, b.Kind == Others), cmp.Compare(a.StartMs, b.StartMs))
	})
	if len(r.Parts) > mostParts {
		r.Parts = merge(r.Parts, mostParts)
	}
	if r.Parts == nil {
		r.Parts = []Part{}
	}
	r.Images = slices.Clone(r.Images[:min(len(r.Images), mostImages)])
	for i := range r.Images {
		image := &r.Images[i]
		image.Platform = text(image.Platform, platformLimit)
		image.Layers = append([]Layer{}, image.Layers...)
		for j := range image.Layers {
			image.Layers[j].CreatedBy = text(image.Layers[j].CreatedBy, nameLimit)
			image.Layers[j].Size = size(image.Layers[j].Size)
		}
		image.leaveOut(len(image.Layers) - mostLayers)
	}
	r.Attestations = slices.Clone(r.Attestations[:min(len(r.Attestations), mostStatements)])
	for i := range r.Attestations {
		r.Attestations[i].Type = text(r.Attestations[i].Type, nameLimit)
		r.Attestations[i].Size = size(r.Attestations[i].Size)
	}
	return r
}

func milliseconds(n int64) int64 { return min(max(n, 0), longestMs) }

func size(n int64) int64 { return min(max(n, 0), largestBytes) }

// clip shortens a text to at most limit bytes.
func clip(text string, limit int) string {
	const more = "…"
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-len(more)], "") + more
}

// clipped is the report with names of at most limit bytes.
func (r Report) clipped(limit int) Report {
	for i := range r.Parts {
		r.Parts[i].Name = clip(r.Parts[i].Name, limit)
	}
	for i := range r.Images {
		for j := range r.Images[i].Layers {
			r.Images[i].Layers[j].CreatedBy = clip(r.Images[i].Layers[j].CreatedBy, limit)
		}
	}
	return r
}

// merge leaves that many parts, of which the last stands for those that took least. One that failed is not among them,
// unless most have.
func merge(parts []Part, left int) []Part {
	order := make([]int, len(parts))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		x, y := parts[a], parts[b]
		return cmp.Or(
			compare(x.Status == Failed, y.Status == Failed), compare(x.Kind == Others, y.Kind == Others)*-1,
			cmp.Compare(x.Worked(), y.Worked()), cmp.Compare(x.Bytes, y.Bytes), cmp.Compare(b, a),
		)
	})
	small := map[int]bool{}
	for _, i := range order[:len(parts)-left+1] {
		small[i] = true
	}
	others := Part{Kind: Others, Status: Cached, StartMs: longestMs}
	var kept []Part
	var end, worked int64
	for i, p := range parts {
		if !small[i] {
			kept = append(kept, p)
			continue
		}
		others.Count += max(1, p.Count)
		others.StartMs, end = min(others.StartMs, p.StartMs), max(end, p.StartMs+p.DurationMs)
		worked += p.Worked()
		others.Bytes = size(others.Bytes + p.Bytes)
		others.Claimed = others.Claimed || p.Claimed
		if p.Status != Cached {
			others.Status = Ran
		}
	}
	others.Name = fmt.Sprintf("%d other parts", others.Count)
	others.DurationMs = milliseconds(end - others.StartMs)
	if worked < others.DurationMs {
		others.BusyMs = worked
	}
	return append(kept, others)
}

func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func (r Report) layers() (n int) {
	for _, image := range r.Images {
		n += len(image.Layers)
	}
	return n
}

// withoutLayers is the report without that many layers, of the images that have most.
func (r Report) withoutLayers(n int) Report {
	for range n {
		most := 0
		for i := range r.Images {
			if len(r.Images[i].Layers) > len(r.Images[most].Layers) {
				most = i
			}
		}
		r.Images[most].leaveOut(1)
	}
	return r
}

// leaveOut leaves out the n smallest layers.
func (i *Image) leaveOut(n int) {
	for ; n > 0; n-- {
		smallest := 0
		for j := range i.Layers {
			if i.Layers[j].Size < i.Layers[smallest].Size {
				smallest = j
			}
		}
		i.Layers = slices.Delete(i.Layers, smallest, smallest+1)
		i.Omitted++
	}
}

// Parse reads a report, which may be a stranger's: one that is larger than Limit, or not of the schema, is an error.
// Its texts are fit to be shown.
func Parse(raw []byte) (Report, error) {
	if len(raw) > Limit {
		return Report{}, fmt.Errorf("a report of a build of %d bytes, which are more than %d", len(raw), Limit)
	}
	var value any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&value); err != nil {
		return Report{}, fmt.Errorf("report of a build: %w", err)
	}
	if faults := schemas.MustLoad(Name).Validate(value); len(faults) > 0 {
		return Report{}, fmt.Errorf("report of a build: %s", quote.Line(faults[0].String(), nameLimit))
	}
	var r Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return Report{}, fmt.Errorf("report of a build: %w", err)
	}
	return r.bounded(func(text string) string { return text }), nil
}
