package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/machine"
	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/programs"
)

// command is this program, for a cluster of that provider's.
func command(provider Provider, state *node.State, p *progress) *cobra.Command {
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
			` in the environment the cluster is one of kind instead, in Docker or another engine for containers.
` + programs.OpenChoreoVariable + ` there is the version of OpenChoreo: ` +
			programs.OpenChoreos[0] + `, the default, or ` + strings.Join(programs.OpenChoreos[1:], ", ") + `.`,
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
	up := upCommand(provider)
	root.AddCommand(
		up, downCommand(provider, p), execCommand(provider), kubectlCommand(provider),
		loadImagesCommand(provider, p), serveCommand(state), logsCommand(provider),
		inventoryCommand(), withGitCommand(provider),
	)
	for _, action := range []string{"start", "stop", "restart"} {
		root.AddCommand(actCommand(provider, action))
	}
	provider.Extend(root, up)
	return root
}

func upCommand(provider Provider) *cobra.Command {
	return &cobra.Command{
		Use:   "up",
		Short: "Start the cluster",
		Long: "Starts the cluster and returns when all of it is ready. " + programs.KubernetesVariable + " and " +
			programs.OpenChoreoVariable + " choose\nother versions, such as 1.36 and 1.2.0.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inside() {
				return errors.New("this is inside a cluster already")
			}
			return provider.Up(cmd.Context())
		},
	}
}

func downCommand(provider Provider, p *progress) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the cluster and remove all that it has left",
		Long: "Ends the cluster in whatever state it is, also one that another user started, and removes all that it " +
			"has left. " +
			"It may be repeated.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if inside() {
				return errors.New("the cluster cannot be ended from inside")
			}
			if err := provider.Down(cmd.Context()); err != nil {
				return err
			}
			p.say("The cluster is down")
			return nil
		},
	}
}

func actCommand(provider Provider, action string) *cobra.Command {
	return &cobra.Command{
		Use: action + " PART",
		Short: map[string]string{
			"start":   "Start a part of the cluster",
			"stop":    "Stop a part of the cluster",
			"restart": "Stop and start a part of the cluster",
		}[action],
		Long: "Returns when the part has ended, or is ready. It works inside the cluster too.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return provider.Act(cmd.Context(), args[0], action)
		},
	}
}

func execCommand(provider Provider) *cobra.Command {
	return &cobra.Command{
		Use:   "exec COMMAND [ARGUMENT…]",
		Short: "Run a command inside the cluster",
		Long: `Runs a command inside the cluster, in the same folder, and exits as it does. It finds the cluster's
programs first, such as kubectl; KUBECONFIG is the administrator's, and ` +
			node.StateVariable +
			` is the cluster's state.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
				return cmd.Help()
			}
			return provider.Exec(cmd.Context(), args...)
		},
	}
}

func kubectlCommand(provider Provider) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGUMENT…]",
		Short:              "Run kubectl as the cluster's administrator",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return provider.Exec(cmd.Context(), append([]string{"kubectl"}, args...)...)
		},
	}
}

func logsCommand(provider Provider) *cobra.Command {
	return &cobra.Command{
		Use:   "logs FOLDER",
		Short: "Write the logs of the cluster's parts into a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			return provider.Logs(cmd.Context(), dir)
		},
	}
}

func inventoryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inventory",
		Short: "List what a cluster could change of this machine",
		Long: `Lists, on Linux, what a cluster could change of this machine: mounts, settings, control groups,
network links, rules of the firewall, routes, kernel modules, processes in namespaces of their own, files that programs
for containers keep, and all that engines for containers have. Two lists, of before and after, tell what a cluster
has left.`,
		Example: `  cluster inventory > before
  cluster up && cluster down
  cluster inventory | diff before -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lines, err := machine.Inventory(cmd.Context())
			for _, line := range lines {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
			return err
		},
	}
}

// tools tells which programs are missing, and by which of its words the project's script installs them.
func tools(word string, names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf(
			"%s: not found; ci/install/install.sh %s installs what a cluster needs", strings.Join(missing, ", "), word,
		)
	}
	return nil
}

// progress prints a line for each piece of work, with the seconds since the start.
type progress struct {
	mu      sync.Mutex
	out     io.Writer
	started time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, started: time.Now()} }

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
}
