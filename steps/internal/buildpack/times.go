package buildpack

import (
	"encoding/json"
	"errors"
	"io/fs"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// times notes the parts of a build for its report.
type times struct {
	Started time.Time `json:"started"`
	Parts   []timed   `json:"parts"`

	made buildreport.Report // images and attestations of the build that succeeded
}

// timed is a part, and when it was.
type timed struct {
	buildreport.Part
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

func newTimes() *times { return &times{Started: time.Now()} }

// add notes a part that has ended now.
func (t *times) add(p buildreport.Part, from time.Time, err error) {
	if p.Status == "" {
		p.Status = buildreport.Ran
	}
	if err != nil {
		p.Status = buildreport.Failed
	}
	t.Parts = append(t.Parts, timed{p, from, time.Now()})
}

// addPhase notes a phase that has ended now, and the buildpacks that it ran.
func (t *times) addPhase(j *job, name string, from time.Time, ran []begun, err error) {
	t.add(buildreport.Part{Name: name, Kind: buildreport.Phase}, from, err)
	to := t.Parts[len(t.Parts)-1].To
	for i, b := range ran {
		p := timed{buildreport.Part{Kind: buildreport.Buildpack, Status: buildreport.Ran}, b.at, to}
		if i+1 < len(ran) {
			p.To = ran[i+1].at
		} else if err != nil {
			p.Status = buildreport.Failed
		}
		id, version, found := j.buildpackOf(b.name)
		if !found {
			continue // a folder that is somebody else's
		}
		p.Name = id + " " + version
		t.Parts = append(t.Parts, p)
	}
}

// slack is how much the clocks of containers of a pod may seem to differ: they are one, which is read in turn.
const slack = time.Second

// claim takes what Build tells of its parts: the user's code may have written it. What cannot have been between two
// times is an error.
func (t *times) claim(raw []byte, after, before time.Time) error {
	told, err := buildreport.Parse(raw)
	if err != nil {
		return err
	}
	ended := told.StartedAt.Add(time.Duration(told.DurationMs) * time.Millisecond)
	if told.StartedAt.Before(after.Add(-slack)) || ended.After(before.Add(slack)) {
		return errors.New("it tells of another time than that of the build")
	}
	t.gap("the container of the build starts", after, told.StartedAt.Time)
	for _, p := range told.Parts {
		if p.StartMs+p.DurationMs > told.DurationMs+slack.Milliseconds() {
			return errors.New("it tells of parts that ended after the build")
		}
		p.Claimed = true
		from := told.StartedAt.Add(time.Duration(p.StartMs) * time.Millisecond)
		t.Parts = append(t.Parts, timed{p, from, from.Add(time.Duration(p.DurationMs) * time.Millisecond)})
	}
	t.gap("the container that seals the image starts", ended, before)
	return nil
}

// gap notes a time in which a container of the pod was not there yet, which may have taken long: its image is fetched
// and unpacked. The other end of it is only claimed.
func (t *times) gap(name string, from, to time.Time) {
	if to.Sub(from) < slack {
		return
	}
	p := buildreport.Part{Name: name, Kind: buildreport.Internal, Status: buildreport.Ran, Claimed: true}
	t.Parts = append(t.Parts, timed{p, from, to})
}

// seal takes down what was made, from a layout that is to be published. base is the image that it is built on.
func (t *times) seal(layout imagelayout.Dir, base registry.Image) error {
	images, attestations, err := layout.Describe()
	if err != nil {
		return err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(base.Manifest, &manifest); err != nil {
		return err
	}
	for _, below := range manifest.Layers {
		for i := range images {
			for j := range images[i].Layers {
				l := &images[i].Layers[j]
				l.Base = l.Base || l.Digest == below.Digest.String()
			}
		}
	}
	t.made.Images, t.made.Attestations = images, attestations
	return nil
}

// report is the report of the build, which has ended now.
func (t *times) report() buildreport.Report {
	r := t.made
	r.Builder, r.StartedAt = buildreport.Buildpacks, buildreport.Moment{Time: t.Started}
	r.DurationMs = time.Since(t.Started).Milliseconds()
	for _, p := range t.Parts {
		part := p.Part
		part.StartMs, part.DurationMs = p.From.Sub(t.Started).Milliseconds(), p.To.Sub(p.From).Milliseconds()
		r.Parts = append(r.Parts, part)
	}
	return r
}

// readTimes is what Fetch and Build have left of their parts: that of Build the user's code can have written, and is
// left out where it cannot be. Nothing that is missing is a reason to fail.
func (in Parameters) readTimes(env step.Environment) *times {
	now := time.Now()
	t := newTimes()
	r, err := in.fetched().readRecord()
	if err != nil || r.Times == nil {
		return t // there is nothing to build on, which is said elsewhere
	}
	t.Started, t.Parts = r.Times.Started, r.Times.Parts
	fetched := t.Started
	for _, p := range t.Parts {
		fetched = p.To
	}
	raw, err := in.handover().ReadFile(buildreport.Name, buildreport.Limit)
	if err == nil {
		err = t.claim(raw, fetched, now)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		env.Log.Warn("What the build tells of its parts is not believed", "error", err)
	}
	return t
}
