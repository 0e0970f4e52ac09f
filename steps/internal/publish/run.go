package publish

import (
	"context"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/signature"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// run is what is said of the run that made an image, the predicate of signature.RunPredicate
// (docs/platform/provenance.md). All of it is of the parameters: a build writes none of them.
type run struct {
	Run        named               `json:"run"`
	Component  *component          `json:"component,omitempty"`
	Source     *source             `json:"source,omitempty"`
	Image      string              `json:"image"` // registry/name:tag
	StartedOn  *time.Time          `json:"startedOn,omitempty"`
	FinishedOn time.Time           `json:"finishedOn"`
	Publisher  attestation.Builder `json:"publisher"` // who says all this
}

// named is a WorkflowRun.
type named struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace,omitempty"`
	UID       string `json:"uid,omitempty"` // of its Argo Workflow
}

type component struct {
	Project string `json:"project,omitempty"`
	Name    string `json:"name"`
}

// source is what was checked out.
type source struct {
	Repository string `json:"repository"`       // URL, without credentials
	Branch     string `json:"branch,omitempty"` // or tag; none where a commit was asked for
	Commit     string `json:"commit"`           // the full SHA
}

// run is the run that the parameters tell of; nil where they name none. Its end is not known yet.
func (in Parameters) run() (*run, error) {
	if in.RunName == "" {
		return nil, nil
	}
	made := &run{Run: named{in.RunName, in.Namespace, in.RunUID}, Publisher: attestation.BuilderOf("publish-image")}
	if in.Component != "" {
		made.Component = &component{in.Project, in.Component}
	}
	if in.Revision != "" {
		r, err := workspace.DecodeRevision(in.Revision)
		if err != nil {
			return nil, err
		}
		made.Source = &source{r.URL, r.Branch, r.Commit}
	}
	if in.RunStart != "" {
		at, err := time.Parse(time.RFC3339, in.RunStart)
		if err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "run-start: it is no time of RFC 3339: %w", err)
		}
		at = at.UTC()
		made.StartedOn = &at
	}
	return made, nil
}

// finish notes that the image is in the registry now.
func (r *run) finish(image string) {
	if r != nil {
		r.Image, r.FinishedOn = image, time.Now().UTC().Truncate(time.Second)
	}
}

// maxRuns is how many runs an image has statements of: one commit has one digest, however often it is built, and who
// verifies the image reads them all.
const maxRuns = 50

// full tells whether an image has statements of so many runs that it gets no more.
func (s *signing) full(ctx context.Context, one toSign) (bool, error) {
	list, err := s.referrers(ctx, describe("", one.subject.Raw).Digest)
	if err != nil {
		return false, err
	}
	n := 0
	for _, d := range list.Manifests {
		if d.Annotations[predicateAnnotation] == signature.RunPredicate {
			n++
		}
	}
	if n >= maxRuns {
		s.env.Log.Warn("The image has statements of many runs, and gets none of this one", "runs", n)
	}
	return n >= maxRuns, nil
}
