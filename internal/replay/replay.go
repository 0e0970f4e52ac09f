// Package replay marks the lines of a log that were printed by another container before. OpenChoreo shows the log of a
// pod's main container only, so that container prints what an init container has said once more; who has shown that
// container's log already leaves the marked lines out.
package replay

import "strings"

// mark begins every line that is printed once more.
const mark = "build │ "

// Mark returns a line as it is printed once more.
func Mark(line string) string { return mark + line }

// Marked tells whether a line is printed once more. Nobody but a step prints marked lines into the log of a container
// that runs no code of strangers.
func Marked(line string) bool { return strings.HasPrefix(line, mark) }
