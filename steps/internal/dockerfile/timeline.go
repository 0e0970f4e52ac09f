package dockerfile

import (
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// timeline notes what builders do, and when, for the report of the build. It is safe for concurrent use.
type timeline struct {
	started time.Time
	once    sync.Once // leaves

	mu       sync.Mutex
	vertices map[builderVertex]*vertex
	order    []*vertex
	made     buildreport.Report // images and attestations of the build that succeeded
}

// builderVertex names a vertex of the builder for some platforms; several builders have one build's vertices each.
type builderVertex struct {
	platforms string
	digest    digest.Digest
}

// vertex is what a builder tells of a vertex, in one update after another.
type vertex struct {
	platforms string
	about     client.Vertex
	works     []span
	fetched   map[string]int64 // bytes, by what was fetched or transferred
}

// span is a time in which a vertex worked; it may have no end yet.
type span struct{ from, to time.Time }

// mostVertices is how many vertices are noted: a Dockerfile has no more than some hundreds.
const mostVertices = 20_000

func newTimeline() *timeline {
	return &timeline{started: time.Now(), vertices: map[builderVertex]*vertex{}}
}

// note takes what a builder tells. platforms are those that it builds for, where others build for others.
func (t *timeline) note(platforms string, status *client.SolveStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range status.Vertexes {
		known := t.vertices[builderVertex{platforms, v.Digest}]
		if known == nil {
			if len(t.order) == mostVertices {
				continue
			}
			known = &vertex{platforms: platforms, fetched: map[string]int64{}}
			t.vertices[builderVertex{platforms, v.Digest}] = known
			t.order = append(t.order, known)
		}
		known.update(v)
	}
	for _, s := range status.Statuses {
		known := t.vertices[builderVertex{platforms, s.Vertex}]
		if known != nil && isTransfer(s.ID) {
			known.fetched[s.ID] = max(known.fetched[s.ID], s.Current)
		}
	}
}

// own notes what the step itself has done since then, without a builder.
func (t *timeline) own(name string, since time.Time) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.order = append(t.order, &vertex{about: client.Vertex{Name: name}, works: []span{{since, now}}})
}

// update takes the newest about a vertex. One that works a second time tells of a start of its own.
func (v *vertex) update(now *client.Vertex) {
	v.about = *now
	if now.Started == nil {
		return
	}
	if n := len(v.works); n == 0 || !v.works[n-1].from.Equal(*now.Started) {
		v.works = append(v.works, span{from: *now.Started})
	}
	if now.Completed != nil {
		v.works[len(v.works)-1].to = *now.Completed
	}
}

// isTransfer tells whether an item of a vertex is bytes on their way: a blob of a registry, or files of the context.
func isTransfer(id string) bool {
	return strings.HasPrefix(id, "sha256:") || strings.HasPrefix(id, "transferring ")
}

// part is the vertex as a part of a build that has begun and ended then; false where it never started.
func (v *vertex) part(began, ended time.Time) (buildreport.Part, bool) {
	if len(v.works) == 0 {
		return buildreport.Part{}, false
	}
	name := strings.Join(strings.Fields(v.about.Name), " ") // of an instruction of several lines, too
	p := buildreport.Part{Name: name, Kind: kind(name), Status: buildreport.Ran}
	if v.platforms != "" {
		p.Name = "[" + v.platforms + "] " + p.Name
	}
	for _, bytes := range v.fetched {
		p.Bytes += bytes
	}
	complete := true
	first, last, busy := v.works[0].from, v.works[0].from, time.Duration(0)
	for _, work := range v.works {
		if work.to.IsZero() {
			work.to, complete = ended, false
		}
		if work.from.Before(last) { // it has begun again before it had ended
			work.from = last
		}
		if work.to.After(work.from) {
			busy += work.to.Sub(work.from)
			last = work.to
		}
	}
	p.StartMs, p.DurationMs = first.Sub(began).Milliseconds(), last.Sub(first).Milliseconds()
	p.BusyMs = busy.Milliseconds()
	switch failure := v.about.Error; {
	case strings.HasSuffix(failure, "context canceled"), failure == "" && !complete:
		p.Status = buildreport.Cancelled
	case failure != "":
		p.Status = buildreport.Failed
	case v.about.Cached:
		p.Status = buildreport.Cached
	case p.Kind == buildreport.Base && p.Bytes > 0:
		p.Status = buildreport.Downloaded
	}
	return p, true
}

// kind is what sort of work a vertex is by the name that the frontend gives it: "[stage 2/4] RUN make".
func kind(name string) buildreport.Kind {
	work := name
	if strings.HasPrefix(name, "[") {
		if mark, after, found := strings.Cut(name[1:], "] "); found {
			if mark == "internal" {
				if strings.HasPrefix(after, "load ") && !strings.HasPrefix(after, "load metadata") {
					return buildreport.Source
				}
				return buildreport.Internal
			}
			work = after
		}
	}
	word, _, _ := strings.Cut(work, " ")
	switch strings.ToUpper(word) {
	case "FROM":
		return buildreport.Base
	case "RUN":
		return buildreport.Run
	case "COPY", "ADD":
		return buildreport.Copy
	case "EXPORTING":
		return buildreport.Export
	}
	return buildreport.Internal
}

// seal takes down what was made, from a layout that is to be published.
func (t *timeline) seal(layout imagelayout.Dir) error {
	images, attestations, err := layout.Describe()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made.Images, t.made.Attestations = images, attestations
	return err
}

// leave leaves the report of the build, which has ended now, and does nothing when it is called again.
func (t *timeline) leave(env step.Environment) {
	t.once.Do(func() { env.LeaveBuildReport(t.report(time.Now())) })
}

// report is the report of the build, which has ended then.
func (t *timeline) report(ended time.Time) buildreport.Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.made
	r.Builder, r.StartedAt = buildreport.Dockerfile, buildreport.Moment{Time: t.started}
	r.DurationMs = ended.Sub(t.started).Milliseconds()
	for _, v := range t.order {
		if part, started := v.part(t.started, ended); started {
			r.Parts = append(r.Parts, part)
		}
	}
	return r
}
