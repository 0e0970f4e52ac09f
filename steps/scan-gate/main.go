// Command scan-gate lets a check of the platform's, such as a scanner for vulnerabilities, decide whether an image is
// published. --help lists its parameters. A pod runs it in three containers: "prepare DIR" copies the program into a
// folder that the check's container sees, and puts together what is to be checked, "check" runs the check in its own
// image, and "decide", which is the default, says what came of it.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/stepwright/stepwright/steps/internal/gate"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() {
	run := gate.Decide
	if len(os.Args) > 2 && os.Args[1] == "prepare" {
		if err := handover.Install(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "scan-gate prepare:", err)
			os.Exit(1)
		}
		run, os.Args = gate.Prepare, slices.Delete(os.Args, 1, 3)
	} else if len(os.Args) > 1 {
		if named, ok := commands[os.Args[1]]; ok {
			run, os.Args = named, slices.Delete(os.Args, 1, 2)
		}
	}
	os.Exit(step.Main("scan-gate", run))
}

var commands = map[string]func(context.Context, gate.Parameters, step.Environment) (step.Results, error){
	"check": gate.Check, "decide": gate.Decide,
}
