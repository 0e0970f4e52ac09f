// Command mirror serves stand-ins for base images and builders on loopback, for machines that cannot reach the
// registries of the real ones. It runs a command that has them, or serves until it is told to end.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Stderr).ExecuteContext(ctx)
	stop()
	var ended *endedError
	switch {
	case errors.As(err, &ended):
		os.Exit(ended.code) // it has said itself why
	case err != nil:
		fmt.Fprintf(os.Stderr, "mirror: %v\n", err)
		os.Exit(1)
	}
}
