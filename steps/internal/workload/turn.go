package workload

import (
	"cmp"
	"fmt"
	"time"

	"github.com/stepwright/stepwright/steps/internal/openchoreo"
)

// The annotations of a Workload that tell which WorkflowRun it is of. They stay when the run is deleted.
const (
	runAnnotation     = "stepwright.dev/workflow-run"
	createdAnnotation = "stepwright.dev/workflow-run-created" // RFC 3339, to the second
)

// turn is a WorkflowRun's place in the order of its component's runs: the one that was created last is the newest.
type turn struct {
	run     string
	created time.Time
}

// turnOf is the turn of a WorkflowRun as the API shows it.
func turnOf(run openchoreo.Object) turn {
	// One without a time, which a real API does not have, is the oldest.
	created, _ := time.Parse(time.RFC3339, run.Text("metadata", "creationTimestamp"))
	return turn{run.Name(), created.UTC()}
}

// turnIn is the turn of the run that a Workload is of, and whether it tells that.
func turnIn(workload openchoreo.Object) (turn, bool) {
	run := workload.Text("metadata", "annotations", runAnnotation)
	created, err := time.Parse(time.RFC3339, workload.Text("metadata", "annotations", createdAnnotation))
	return turn{run, created.UTC()}, run != "" && err == nil
}

// compare is positive if t is the newer turn. Kubernetes tells a creation to the second only; of runs of one second any
// order does that all of them agree on, and by this one cart-10 is newer than cart-9.
func (t turn) compare(other turn) int {
	return cmp.Or(
		t.created.Compare(other.created), cmp.Compare(len(t.run), len(other.run)), cmp.Compare(t.run, other.run),
	)
}

func (t turn) String() string {
	return fmt.Sprintf("WorkflowRun %s, created %s,", t.run, t.created.Format(time.RFC3339))
}

// claim is what a run is to publish, or has published. It is left in the run's annotations before the Workload is
// written, so that every run that writes the Workload can see it.
type claim struct {
	turn
	workload   openchoreo.Object
	fromSource bool
}

// claimOf reads the claim of a WorkflowRun; false when there is none, or one for another component.
func claimOf(run openchoreo.Object, project, component string) (claim, bool) {
	payload := run.Text("metadata", "annotations", payloadAnnotation)
	if payload == "" {
		return claim{}, false
	}
	w, err := openchoreo.Decode([]byte(payload))
	c := claim{turnOf(run), w, run.Text("metadata", "annotations", fromSourceAnnotation) == "true"}
	return c, err == nil && w.Text("spec", "container", "image") != "" &&
		w.Text("spec", "owner", "projectName") == project && w.Text("spec", "owner", "componentName") == component
}

// of returns the Workload with the annotations of the claim's run.
func (t turn) of(workload openchoreo.Object) openchoreo.Object {
	return workload.With(t.run, "metadata", "annotations", runAnnotation).
		With(t.created.Format(time.RFC3339), "metadata", "annotations", createdAnnotation)
}
