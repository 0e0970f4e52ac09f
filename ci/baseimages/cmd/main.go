// Baseimages makes the base images that builds start from out of Debian packages and the machine's Go, and pushes them into a
// local registry: for machines that cannot reach the registries the real ones live in.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/stepwright/stepwright/ci/baseimages"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "baseimages:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	dir, err := baseimages.DefaultDir()
	flag.StringVar(&dir, "dir", dir, "`folder` the images are kept in")
	push := flag.String("push", "", "registry, as `host:port` on plain HTTP, to push the images into")
	force := flag.Bool("force", false, "make images anew that are there")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Makes base images that are missing, all or those named:\n  %s\n\nusage: baseimages [flags] [image...]\n", strings.Join(baseimages.Names(), "\n  "))
		flag.PrintDefaults()
	}
	flag.Parse()
	if dir == "" {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil { // apt reads relative paths as its own
		return err
	}
	store := baseimages.Store{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Force: *force}
	if err := store.Ensure(ctx, flag.Args()...); err != nil || *push == "" {
		return err
	}
	return store.Push(ctx, *push, flag.Args()...)
}
