package verification

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Run is a run that published an image, as its publisher tells (docs/platform/provenance.md).
type Run struct {
	Name       string     `json:"name"`
	Namespace  string     `json:"namespace,omitempty"`
	UID        string     `json:"uid,omitempty"`
	Project    string     `json:"project,omitempty"`
	Component  string     `json:"component,omitempty"`
	Repository string     `json:"repository,omitempty"` // URL
	Branch     string     `json:"branch,omitempty"`     // or tag; empty where a commit was asked for
	Commit     string     `json:"commit,omitempty"`
	StartedOn  *time.Time `json:"startedOn,omitempty"`
	FinishedOn *time.Time `json:"finishedOn,omitempty"`
	Signer     Signer     `json:"signer"`
}

// readRun reads a statement of a run.
func readRun(s Statement) (Run, error) {
	var doc struct {
		Predicate struct {
			Run struct {
				Name, Namespace, UID string
			} `json:"run"`
			Component struct {
				Project, Name string
			} `json:"component"`
			Source struct {
				Repository, Branch, Commit string
			} `json:"source"`
			StartedOn, FinishedOn *time.Time
		} `json:"predicate"`
	}
	if err := json.Unmarshal(s.Payload, &doc); err != nil {
		return Run{}, err
	}
	told := doc.Predicate
	return Run{
		Name: told.Run.Name, Namespace: told.Run.Namespace, UID: told.Run.UID,
		Project: told.Component.Project, Component: told.Component.Name,
		Repository: told.Source.Repository, Branch: told.Source.Branch, Commit: told.Source.Commit,
		StartedOn: told.StartedOn, FinishedOn: told.FinishedOn, Signer: s.Signer,
	}, nil
}

// otherwise says what a run tells otherwise; empty when nothing.
func (e Expected) otherwise(r Run) string {
	var d differences
	d.add("the run", e.Run, r.Name, e.Run == r.Name)
	d.add("the namespace", e.Namespace, r.Namespace, e.Namespace == r.Namespace)
	d.add("the branch", e.Branch, r.Branch, e.Branch == r.Branch)
	e.source(&d, r.Repository, r.Commit)
	return d.String()
}

// checkRuns wants one of the runs to be the one that is expected, and returns what is left to expect of provenances.
// Where an image has no statement of a run, its provenances may tell the run.
func (e Expected) checkRuns(r Report) (Expected, error) {
	if e.Run == "" && e.Namespace == "" && e.Branch == "" {
		return e, nil
	}
	left := e
	left.Run, left.Namespace, left.Branch = "", "", ""
	var wrong []string
	for _, run := range r.Runs {
		mismatch := e.otherwise(run)
		if mismatch == "" {
			return left, nil
		}
		wrong = append(wrong, mismatch)
	}
	switch {
	case len(wrong) == 0 && e.Namespace == "" && e.Branch == "":
		left.Run = e.Run
		return left, nil
	case len(wrong) == 0:
		return left, outcome.Errorf(
			outcome.VerificationFailed, "%s has no statement of a run that is signed by whom it should be", r.Image,
		)
	case len(wrong) > maxComplaints:
		wrong = append(wrong[:maxComplaints], "…")
	}
	return left, outcome.Errorf(
		outcome.VerificationFailed, "%s is of another run than expected: %s", r.Image, strings.Join(wrong, "; "),
	)
}
