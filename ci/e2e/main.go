// Command e2e runs the end-to-end tests: the templates, as kubectl applies them, with the images that make images makes, on a Kubernetes with
// Argo and OpenChoreo. It starts the cluster of ci/cluster and ends it again, whatever happens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/ci/baseimages"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, `e2e runs the end-to-end tests on a cluster of their own, from the module's root:

  go run ./ci/e2e                                          all of them
  go run ./ci/e2e -keep -run TestTemplates/failures        some, and leave the cluster running to look at
  CLUSTER=kind go run ./ci/e2e                             on a cluster in Docker; see ci/cluster/README.md

`)
		flag.PrintDefaults()
	}
	r := runner{stdout: os.Stdout, stderr: os.Stderr}
	flag.StringVar(&r.run, "run", "", "regular expression of the tests to run, as of go test (default all)")
	flag.BoolVar(&r.keep, "keep", false, "leave the cluster running; make cluster-down ends it")
	flag.Parse()
	if err := r.all(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

type runner struct {
	run            string
	keep           bool
	stdout, stderr io.Writer
}

// The programs that it builds, and where the tests leave their tables.
const (
	clusterBin = "bin/cluster"
	cliBin     = "bin/stepwright"
	testBin    = "bin/e2e.test"
	table      = "dist/e2e.txt"
	version    = "e2e" // of the images, as the overlays name it
)

func (r runner) all(ctx context.Context) (err error) {
	if err := os.MkdirAll(filepath.Dir(table), 0o755); err != nil {
		return err
	}
	if err := r.step(ctx, "Building the tests", func(ctx context.Context) error {
		return errors.Join(
			r.command(ctx, "go", "build", "-o", clusterBin, "./ci/cluster"),
			r.command(ctx, "go", "build", "-o", cliBin, "./ci/stepwright"),
			// What the images of components run.
			r.command(ctx, "go", "build", "-o", "bin/", "./ci/e2e/registry", "./ci/cluster/pause", "github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl"),
			r.command(ctx, "go", "test", "-c", "-tags", "e2e", "-o", testBin, "./ci/e2e"))
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "Making base images", func(ctx context.Context) error {
		dir, err := baseimages.DefaultDir()
		if err != nil {
			return err
		}
		return baseimages.Store{Dir: dir, Log: slog.New(slog.NewTextHandler(r.stderr, nil))}.Ensure(ctx, append(baseimages.Names(), baseimages.Rootless)...)
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "Making the steps' images", func(ctx context.Context) error {
		return r.command(ctx, "go", "run", "./images", "build", "--version", version, "--arch", "amd64")
	}); err != nil {
		return err
	}
	if !r.keep {
		defer func() {
			// Also after an interrupt.
			err = errors.Join(err, r.step(context.WithoutCancel(ctx), "Ending the cluster", func(ctx context.Context) error { return r.command(ctx, clusterBin, "down") }))
		}()
	}
	if err := r.step(ctx, "Starting the cluster", func(ctx context.Context) error {
		// A new one: a node keeps the images it has, and OpenChoreo the runs.
		for _, verb := range []string{"down", "up", "load-images"} {
			if err := r.command(ctx, clusterBin, verb); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return r.step(ctx, "Testing", func(ctx context.Context) error {
		args := []string{"exec", testBin, "-test.v", "-test.timeout", "30m", "-test.parallel", "4", "-stepwright", cliBin, "-repository", ".", "-report", table}
		if r.run != "" {
			args = append(args, "-test.run", r.run)
		}
		return r.command(ctx, clusterBin, args...)
	})
}

// step says what is being done, and how long it took.
func (r runner) step(ctx context.Context, what string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	fmt.Fprintf(r.stdout, "e2e: %s\n", what)
	err := do(ctx)
	fmt.Fprintf(r.stdout, "e2e: %s took %s\n", what, time.Since(began).Round(100*time.Millisecond))
	return err
}

func (r runner) command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // some of what is built runs in images without a libc
	cmd.Stdout, cmd.Stderr = r.stdout, r.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}
