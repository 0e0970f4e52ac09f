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
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	other, err := onKind()
	if err == nil {
		err = command(other).ExecuteContext(ctx)
	}
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		os.Exit(max(failed.ExitCode(), 1))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster: %v\n", err)
		os.Exit(1)
	}
}

// command is this program, for the cluster of this machine's or for the other, in Docker.
func command(other bool) *cobra.Command {
	state := &node.State{Dir: defaultState(other)}
	root := &cobra.Command{
		Use:   "cluster",
		Short: "A Kubernetes of one node with Argo Workflows and OpenChoreo, on this machine",
		Long: `Runs a Kubernetes of one node on this machine, with Argo Workflows and OpenChoreo's control plane.

The cluster has network, mounts, processes and host name of its own: nothing of it is reachable from this machine but by
"cluster exec", which runs a command inside. In there, every name in ` + node.Domain + ` is the node (` +
			node.Address + `):

  api.` + node.Domain + `:8090        OpenChoreo's API
  idp.` + node.Domain + `:8091        its identity provider: POST /oauth2/token
  ` + node.Registry + `   the registry, plain HTTP; every image is pulled from here, whatever registry its name says

It needs root, iptables, and Go and gcc to build everything at the first start, some 15 minutes of two
processors. That is kept: later starts take half a minute.

With ` + kind.Variable + `=` + kind.Name +
			` in the environment the cluster is one of kind instead, for machines with Docker and a network.`,
		Example: `  cluster up
  cluster load-images                          # after make images
  cluster kubectl get pods -A
  cluster exec go test ./your/test             # a test inside the cluster
  cluster restart openchoreo-api
  cluster down`,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Flags before exec are this program's, those after it the command's.
		TraverseChildren: true,
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			state.Dir, err = filepath.Abs(state.Dir)
			return err
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().StringVar(
		&state.Dir, "state", state.Dir, "folder with all that the running cluster keeps; made by up, removed by down",
	)
	if other {
		root.AddCommand(kindCommands(state)...)
		return root
	}
	images := loadImagesCommand(state, func(_ context.Context, args ...string) error { return enter(state, args...) })
	root.AddCommand(
		upCommand(state), downCommand(state), statusCommand(state), execCommand(state), kubectlCommand(state), images,
	)
	for _, action := range []string{"start", "stop", "restart"} {
		root.AddCommand(actCommand(state, action))
	}
	root.AddCommand(initCommand(state), nodeCommand(state), serveCommand(state))
	return root
}

// defaultState is the folder of this machine's cluster, or of the other, beside it.
func defaultState(other bool) string {
	if !other || inside() {
		return node.DefaultDir()
	}
	return filepath.Join(filepath.Dir(node.DefaultDir()), kind.Name)
}

// inside tells whether this process is in the cluster's namespaces.
func inside() bool { return os.Getenv(node.StateVariable) != "" }
