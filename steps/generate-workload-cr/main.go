// Command generate-workload-cr makes a component's Workload of its descriptor (workload.yaml) and image, creates or
// updates it through the OpenChoreo API, and annotates the WorkflowRun. It assumes nothing of Argo: external CI runs it
// with --dry-run or --output, or without a WorkflowRun. See --help for its parameters.
package main

import (
	"os"

	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workload"
)

func main() { os.Exit(step.Main("generate-workload-cr", workload.Run)) }
