// Command sbom-scanner lists the packages of a file system for BuildKit, which runs it in an image of its own by its
// protocol for SBOM generators (https://docs.docker.com/build/metadata/attestations/sbom-protocol/): variables say
// where the file systems are, and where the lists go. It is syft behind that protocol, asks no network, and writes the
// same bytes for the same file system.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv); err != nil {
		fmt.Fprintln(os.Stderr, "sbom-scanner:", err)
		os.Exit(1)
	}
}
