package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
)

// A Provider is a way to have a cluster. The commands of this program are the same with each.
type Provider interface {
	// Up starts the cluster and returns when all of it is ready.
	Up(ctx context.Context) error
	// Down ends the cluster, whatever state it is in, and removes all that it has left.
	Down(ctx context.Context) error
	// Exec runs a command inside, in this process's folder and with its input and output. An *exec.ExitError is of that
	// command.
	Exec(ctx context.Context, args ...string) error
	// Act starts, stops or restarts a part of the cluster, and returns when that is done.
	Act(ctx context.Context, part, action string) error
	// Logs writes what helps to look into a failure into a folder that is there; nothing, when there is no cluster.
	Logs(ctx context.Context, dir string) error
	// Extend adds what only this provider has: flags of the command up, and other commands.
	Extend(root, up *cobra.Command)
}

// providers are made by these functions, each by the name that the environment has for it.
var providers = map[string]func(*node.State, *progress) (Provider, error){"": newNode, kind.Name: newKind}

// chosen is the provider that the environment chooses, for a cluster whose state is in its folder by default.
func chosen(p *progress) (Provider, *node.State, error) {
	name := os.Getenv(kind.Variable)
	make := providers[name]
	if make == nil {
		return nil, nil, fmt.Errorf(
			"%s=%s: there is only %s, and without it the cluster that needs no Docker", kind.Variable, name, kind.Name,
		)
	}
	state := &node.State{Dir: node.DefaultDir()}
	if name != "" && !inside() {
		state.Dir = filepath.Join(filepath.Dir(state.Dir), name) // beside the other's
	}
	provider, err := make(state, p)
	return provider, state, err
}

// isUp is what people hear of a cluster that is ready.
const isUp = "The cluster is up: go run ./ci/cluster kubectl get pods -A"

// inside tells whether this process is in the cluster.
func inside() bool { return os.Getenv(node.StateVariable) != "" }
