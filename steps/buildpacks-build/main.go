// Command buildpacks-build builds an application of the checked-out source with the buildpacks of the image it runs in.
// --help lists its parameters. Two more commands are for the pod's init containers: "install DIR" copies the program
// into a folder that the builder's container sees, and "fetch" gets what the build needs from registries, so that the
// build itself holds no credentials.
package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/stepwright/stepwright/steps/internal/buildpack"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "install":
		if err := buildpack.Install(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "buildpacks-build install:", err)
			os.Exit(1)
		}
	case len(os.Args) > 1 && os.Args[1] == "fetch":
		os.Args = slices.Delete(os.Args, 1, 2)
		os.Exit(step.Main("buildpacks-build", buildpack.Fetch))
	default:
		os.Exit(step.Main("buildpacks-build", buildpack.Run))
	}
}
