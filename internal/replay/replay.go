// Package replay marks the lines of a log that were printed by another container before. OpenChoreo shows the log of a
// pod's main container only, so that container prints what an init container has said once more; who has shown that
// container's log already leaves the marked lines out.
package replay

import (
	"slices"
	"strings"
)

// The init containers whose log main prints once more: they run code of strangers.
const (
	Build = "build" // of a build by buildpacks
	Check = "check" // of scan-gate
)

var containers = []string{Build, Check}

// Repeated tells whether main prints the log of an init container of this name once more.
func Repeated(container string) bool { return slices.Contains(containers, container) }

// Mark returns a line of an init container as it is printed once more.
func Mark(container, line string) string { return mark(container) + line }

// mark begins every line that is printed once more.
func mark(container string) string { return container + " │ " }

// Marked tells whether a line of a step's log is printed once more: as it is, behind the bar of what is no line of the
// step's own, or as the message of a log in JSON. It is asked of containers that run no code of strangers only.
func Marked(line string) bool {
	return slices.ContainsFunc(containers, func(container string) bool {
		if strings.HasPrefix(line, "{") {
			return strings.Contains(line, `"msg":"`+mark(container))
		}
		return strings.HasPrefix(strings.TrimPrefix(line, "| "), mark(container))
	})
}
