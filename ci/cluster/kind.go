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
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// kindCommands are this program's on kind: of the same names, and with the same meaning.
func kindCommands(state *node.State) []*cobra.Command {
	command := func(
		use, short string, args cobra.PositionalArgs, run func(*cobra.Command, *kind.Cluster, []string) error,
	) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			cluster, err := newKind(*state, newProgress(cmd.OutOrStdout()))
			if err != nil {
				return err
			}
			return run(cmd, cluster, args)
		}}
	}
	up := command("up", "Start the cluster in Docker", cobra.NoArgs, func(
		cmd *cobra.Command, c *kind.Cluster, _ []string,
	) error {
		if err := tools("go", "docker"); err != nil {
			return err
		}
		if err := c.Up(cmd.Context()); err != nil {
			return fmt.Errorf("%w\nwhat there is of the cluster is left to look at; down removes it", err)
		}
		c.Say("The cluster is up: go run ./ci/cluster kubectl get pods -A")
		return nil
	})
	down := command("down", "End the cluster and remove all that it has left", cobra.NoArgs, func(
		cmd *cobra.Command, c *kind.Cluster, _ []string,
	) error {
		if err := c.Down(cmd.Context()); err != nil {
			return err
		}
		c.Say("The cluster is down")
		return nil
	})
	execute := command("exec COMMAND [ARGUMENT…]", "Run a command in the network of the cluster's node",
		cobra.MinimumNArgs(1),
		func(
			cmd *cobra.Command, c *kind.Cluster, args []string,
		) error {
			return enterKind(cmd.Context(), c, args...)
		})
	kubectl := command("kubectl [ARGUMENT…]", "Run kubectl as the cluster's administrator", nil, func(
		cmd *cobra.Command, c *kind.Cluster, args []string,
	) error {
		return enterKind(cmd.Context(), c, append([]string{"kubectl"}, args...)...)
	})
	execute.DisableFlagParsing, kubectl.DisableFlagParsing = true, true
	images := loadImagesCommand(state, func(ctx context.Context, args ...string) error {
		cluster, err := newKind(*state, newProgress(os.Stdout))
		if err != nil {
			return err
		}
		return enterKind(ctx, cluster, args...)
	})
	commands := []*cobra.Command{up, down, execute, kubectl, images, serveCommand(state)}
	for _, action := range []string{"start", "stop", "restart"} {
		commands = append(commands, command(action+" PART", strings.ToUpper(action[:1])+action[1:]+
			" a part of OpenChoreo's control plane", cobra.ExactArgs(1),
			func(cmd *cobra.Command, c *kind.Cluster, args []string) error {
				return c.Act(cmd.Context(), args[0], action)
			}))
	}
	return commands
}

func newKind(state node.State, p *progress) (*kind.Cluster, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	images, err := baseimages.DefaultDir()
	if err != nil {
		return nil, err
	}
	if images, err = filepath.Abs(images); err != nil {
		return nil, err
	}
	// Docker would make it as root.
	if err := os.MkdirAll(images, 0o755); err != nil {
		return nil, err
	}
	return &kind.Cluster{State: state, Root: root, Cache: filepath.Dir(images), Output: output, Say: p.say}, nil
}

// output runs a command. What it says on standard error is this program's to say only when it fails.
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

// enterKind runs a command inside with this process's input and output.
func enterKind(ctx context.Context, c *kind.Cluster, args ...string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	var options []string
	if terminal(os.Stdin) && terminal(os.Stdout) {
		options = append(options, "--tty")
	}
	cmd := c.Inside(dir, args, options...).Cmd(ctx)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

func terminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// onKind tells whether the environment chooses the cluster in Docker.
func onKind() (bool, error) {
	switch provider := os.Getenv(kind.Variable); provider {
	case "":
		return false, nil
	case kind.Name:
		return true, nil
	default:
		return false, fmt.Errorf(
			"%s=%s: there is only %s, and without it the cluster that needs no Docker", kind.Variable, provider,
			kind.Name,
		)
	}
}
