// Command cluster runs a Kubernetes of one node on this machine, with Argo Workflows and OpenChoreo's control plane,
// from their Go modules: no image and no binary is downloaded. All of it is in namespaces of its own, with one process
// at their head, and leaves with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := newProgress(os.Stdout)
	provider, state, err := chosen(p)
	if err == nil {
		err = command(provider, state, p).ExecuteContext(ctx)
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(max(failed.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}
