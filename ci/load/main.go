// Command load measures the templates under many runs at once: on a Kubernetes with the real Argo and the real
// OpenChoreo of ci/cluster, and with nodes that kwok plays. It writes docs/reference/scale.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "load:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

// run does on the machine what comes before and after the cluster, and inside the cluster what it is for.
func run(ctx context.Context, args []string) error {
	o, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	if inside() {
		return o.measureAll(ctx)
	}
	return o.inCluster(ctx, args)
}
