// Command publish-image pushes the image that the build step left in the workspace to a registry, and verifies that it
// is there. See --help for its parameters.
package main

import (
	"os"

	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() { os.Exit(step.Main("publish-image", publish.Run)) }
