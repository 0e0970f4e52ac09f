// Checkout-source checks out one revision of a Git repository into the workspace: the first step of every workflow.
package main

import (
	"os"
	"runtime/debug"

	"github.com/stepwright/stepwright/steps/internal/gitsource"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() {
	debug.SetGCPercent(gitsource.GarbagePercent)
	os.Exit(step.Main("checkout-source", gitsource.Run))
}
