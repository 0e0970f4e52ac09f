package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/outcome"
)

// outcomeOf is how a command that returned err ended. Its exit code is the exit code of the step that failed, or of the
// command's own failure.
func outcomeOf(ctx context.Context, err error) outcome.Report {
	failure := outcome.Of(err)
	if ctx.Err() != nil {
		failure = outcome.Errorf(outcome.Cancelled, "%s", failure.Message)
	}
	return outcome.Report{}.FailedBy(failure)
}

// unreadable is the failure of a command that was given the path of a file or folder that it cannot read. Other errors
// stay as they are.
func unreadable(err error) error {
	if _, path := errors.AsType[*fs.PathError](err); !path && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return outcome.Errorf(outcome.UsageError, "%w", err)
}

// withUsage has the failure of a misused command say how the command is used.
func withUsage(cmd *cobra.Command, err error) error {
	failure := outcome.Of(err)
	if failure.Reason != outcome.UsageError || failure.Hint != "" {
		return err
	}
	usage := cmd.UseLine()
	if cmd.HasAvailableSubCommands() {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		usage = cmd.CommandPath() + " COMMAND, which is one of " + strings.Join(names, ", ")
	}
	return failure.WithHint(fmt.Sprintf("Usage: %s\n%s --help explains it.", usage, cmd.CommandPath()))
}
