// Command containerfile-build builds a Dockerfile of the checked-out source into an OCI image layout in the workspace.
// BuildKit is part of it: it needs no daemon and no privileges, only runc. --help lists its parameters. With metrics as
// its first argument it stands beside a daemon instead, and serves the daemon's metrics.
package main

import (
	"os"

	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/dockerfile"
	"github.com/stepwright/stepwright/steps/internal/metrics"
	"github.com/stepwright/stepwright/steps/internal/step"
)

func main() {
	buildkit.RunIfChild()
	metrics.RunIfCommand()
	os.Exit(step.Main("containerfile-build", dockerfile.Run))
}
