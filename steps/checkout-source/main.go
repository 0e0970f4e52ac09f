// Checkout-source checks out one revision of a Git repository into the workspace: the first step of every workflow.
package main

import (
	"os"

	"github.com/stepwright/stepwright/steps/internal/gitsource"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() { os.Exit(step.Main("checkout-source", gitsource.Run)) }
