// Command stepwright drives Stepwright's steps: on this machine, without a cluster, the way a WorkflowPlane would.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "stepwright",
		Short:         "Turns a Git revision into a container image and an OpenChoreo Workload",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(), listCommand(), getCommand(), logsCommand(), validateCommand(), renderCommand(), devAPICommand())
	if err := root.ExecuteContext(ctx); err != nil {
		reason := reasonOf(ctx, err)
		fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", reason.Name, err, reason.Hint)
		os.Exit(reason.ExitCode)
	}
}
