package runstatus

import (
	"fmt"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// NotFoundError says that there is no such run.
type NotFoundError struct {
	Name  string
	Where string   // the place that was looked in; empty: the runs of this machine
	There []string // namespace/name of some that are there
}

func (e *NotFoundError) Error() string {
	missing := fmt.Sprintf("there is no run %q", e.Name)
	if e.Where != "" {
		missing += " in " + e.Where
	}
	if len(e.There) == 0 {
		return missing + ": nothing was run yet"
	}
	return missing + "; there is " + strings.Join(e.There, ", ")
}

// Unwrap returns the outcome of a command that wanted the run.
func (e *NotFoundError) Unwrap() error {
	hint := "stepwright list shows the runs; --state says where they are kept, --kubeconfig looks in a cluster."
	if e.Where != "" {
		hint = "stepwright list with the same --kubeconfig shows the runs; a run goes some time after its end."
	}
	return outcome.Errorf(outcome.NotFound, "%s", e.Error()).WithHint(hint)
}
