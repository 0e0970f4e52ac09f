// Command buildpacks-build builds an application of the checked-out source with the buildpacks of the image it runs in.
// --help lists its parameters. A pod runs it in four containers: "install DIR PRODUCT" copies the program into a folder
// that the builder's containers see, and makes the folders for what is built, "fetch" gets what the build needs from
// registries, "build" runs the buildpacks, and "seal", which is the default, makes the image of what they left. "all"
// fetches, builds and seals in one container, for an application that is trusted.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/stepwright/stepwright/steps/internal/buildpack"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() {
	switch {
	case len(os.Args) == 4 && os.Args[1] == "install":
		if err := errors.Join(handover.Install(os.Args[2]), buildpack.MakeProduct(os.Args[3])); err != nil {
			fmt.Fprintln(os.Stderr, "buildpacks-build install:", err)
			os.Exit(1)
		}
	default:
		run := buildpack.Seal
		if len(os.Args) > 1 {
			if named, ok := commands[os.Args[1]]; ok {
				run, os.Args = named, slices.Delete(os.Args, 1, 2)
			}
		}
		os.Exit(step.Main("buildpacks-build", run))
	}
}

var commands = map[string]func(context.Context, buildpack.Parameters, step.Environment) (step.Results, error){
	"fetch": buildpack.Fetch, "build": buildpack.Build, "seal": buildpack.Seal, "all": buildpack.All,
}
