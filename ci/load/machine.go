package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/templates"
)

// The programs that it builds, and the application that the real runs build.
const (
	clusterBin  = "bin/cluster"
	loadBin     = "bin/load"
	kwokBin     = "bin/kwok"
	application = "examples/greeting-service"
	logsDir     = "dist/load-logs"
)

// inCluster builds what it takes, starts a cluster, runs itself inside, and ends the cluster.
func (o options) inCluster(ctx context.Context, args []string) (err error) {
	if err := step(ctx, "Building the programs and the steps' images", build); err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx) // also after an interrupt
		if err != nil {
			err = errors.Join(err, command(ctx, clusterBin, "logs", logsDir))
		}
		if !o.keep {
			err = errors.Join(err, step(ctx, "Ending the cluster", func(ctx context.Context) error {
				return command(ctx, clusterBin, "down")
			}))
		}
	}()
	if err := step(ctx, "Starting the cluster", func(ctx context.Context) error {
		for _, verb := range []string{"down", "up", "load-images"} {
			if err := command(ctx, clusterBin, verb); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	return step(ctx, "Measuring", func(ctx context.Context) error {
		itself := []string{"with-git", application, "--", loadBin, "-git", "{}"}
		return command(ctx, clusterBin, append(itself, args...)...)
	})
}

func build(ctx context.Context) error {
	return errors.Join(
		command(ctx, "go", "build", "-o", clusterBin, "./ci/cluster"),
		command(ctx, "go", "build", "-o", loadBin, "./ci/load"),
		command(ctx, "go", "build", "-C", "ci/load/kwok", "-o", "../../../"+kwokBin, "sigs.k8s.io/kwok/cmd/kwok"),
		command(
			ctx, "go", "run", "./images", "build", "--version", templates.Version(), "--arch", runtime.GOARCH,
		),
	)
}

// step prints the name of a piece of work, and how long it took.
func step(ctx context.Context, what string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	say("%s", what)
	err := do(ctx)
	say("%s took %s", what, time.Since(began).Round(100*time.Millisecond))
	return err
}

func say(format string, args ...any) {
	fmt.Printf("load: "+format+"\n", args...)
}

func command(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
