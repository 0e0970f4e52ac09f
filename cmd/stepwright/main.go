// Command stepwright runs Stepwright's pipelines on this machine or submits them to a cluster, checks what goes into
// them, and shows what came of them.
package main

import (
	"os"

	"github.com/stepwright/stepwright/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], os.Stdout, os.Stderr))
}
