// Package replay marks the lines of a log that were printed by another container before. OpenChoreo shows the log of a
// pod's main container only, so that container prints what an init container has said once more; who has shown that
// container's log already leaves the marked lines out.
package replay

import "strings"

// mark begins every line that is printed once more.
const mark = "build │ "

// Mark returns a line as it is printed once more.
func Mark(line string) string { return mark + line }

// Marked tells whether a line of a step's log is printed once more: as it is, behind the bar of what is no line of the
// step's own, or as the message of a log in JSON. It is asked of containers that run no code of strangers only.
func Marked(line string) bool {
	if strings.HasPrefix(line, "{") {
		return strings.Contains(line, `"msg":"`+mark)
	}
	return strings.HasPrefix(strings.TrimPrefix(line, "| "), mark)
}
