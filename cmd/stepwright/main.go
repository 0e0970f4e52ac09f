// Command stepwright runs Stepwright's pipelines on this machine or submits them to a cluster, checks what goes into
// them, and shows what came of them.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/stepwright/stepwright/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run := cli.Main
	if cli.IsPlugin(os.Args[0]) {
		run = cli.Plugin
	}
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
