package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/cachedir"
)

// kindProvider has the cluster in Docker.
type kindProvider struct {
	state *node.State
	say   func(format string, args ...any)
}

func newKind(state *node.State, p *progress) (Provider, error) {
	return &kindProvider{state, p.say}, nil
}

// Extend implements Provider: there is nothing that only this one has.
func (k *kindProvider) Extend(_, _ *cobra.Command) {}

// Up implements Provider.
func (k *kindProvider) Up(ctx context.Context) error {
	if err := tools("go", "docker"); err != nil {
		return err
	}
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	if err := cluster.Up(ctx); err != nil {
		return fmt.Errorf("%w\nwhat there is of the cluster is left to look at; down removes it", err)
	}
	k.say(isUp)
	return nil
}

// Down implements Provider.
func (k *kindProvider) Down(ctx context.Context) error {
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	return cluster.Down(ctx)
}

// Exec implements Provider. The command runs in the network of the cluster's node.
func (k *kindProvider) Exec(ctx context.Context, args ...string) error {
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	var options []string
	if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
		options = append(options, "--tty")
	}
	cmd := cluster.Inside(dir, args, options...).Cmd(ctx)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// Act implements Provider. The parts are of OpenChoreo's control plane.
func (k *kindProvider) Act(ctx context.Context, part, action string) error {
	cluster, err := k.cluster()
	if err != nil {
		return err
	}
	return cluster.Act(ctx, part, action)
}

func (k *kindProvider) cluster() (*kind.Cluster, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	cache, err := cachedir.Path()
	if err != nil {
		return nil, err
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	// Docker would make it as root.
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	return &kind.Cluster{State: *k.state, Root: root, Cache: cache, Output: output, Say: k.say}, nil
}

// output runs a command. Its standard error is shown only when it fails.
func output(ctx context.Context, command kind.Command) ([]byte, error) {
	cmd := command.Cmd(ctx)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		// It does not wrap the error: this program exits silently, and as it did, only for a command that a person ran
		// inside.
		return nil, fmt.Errorf("%s: %v\n%s%s", strings.Join(command.Args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}
