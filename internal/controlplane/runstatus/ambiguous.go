package runstatus

import (
	"fmt"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// AmbiguousError says that several namespaces have a run of that name.
type AmbiguousError struct {
	Name       string
	Namespaces []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf(
		"there is a run %q in each of the namespaces %s: choose one with --namespace", e.Name,
		strings.Join(e.Namespaces, ", "),
	)
}

// Unwrap returns the outcome of a command that wanted one run.
func (e *AmbiguousError) Unwrap() error { return outcome.Errorf(outcome.UsageError, "%s", e.Error()) }
