// Command commit-status tells a Git host how the build of a commit goes: pending, success, failure or cancelled. It
// assumes nothing of Argo: any CI runs it with a repository, a commit and a token. See --help for its parameters.
package main

import (
	"os"

	"github.com/stepwright/stepwright/steps/internal/commitstatus"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() { os.Exit(step.Main("commit-status", commitstatus.Run)) }
