// Package cli is the stepwright command: a file per subcommand.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs the command with these arguments until it ends or is interrupted, and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "stepwright",
		Short:         "Turns a Git revision into a container image and an OpenChoreo Workload",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		runCommand(), listCommand(), getCommand(), logsCommand(), validateCommand(), renderCommand(), devAPICommand(),
	)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		how := outcomeOf(ctx, err)
		fmt.Fprintf(stderr, "%s: %s\n%s\n", how.Reason, how.Message, how.Hint)
		return how.ExitCode
	}
	return 0
}
