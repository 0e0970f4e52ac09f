package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/programs"
)

func upCommand(state *node.State) *cobra.Command {
	var source, dir string
	var buildOnly bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster; build what is not built yet",
		Long: "Starts the cluster and returns when all of it is ready. What it is made of is built from Go modules " +
			"first; that is kept, by what it is built from.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newProgress(cmd.OutOrStdout())
			if inside() {
				return errors.New("this is inside a cluster already")
			}
			if err := tools("go", "iptables", "gcc"); err != nil {
				return err
			}
			if dir == "" {
				var err error
				if dir, err = programs.DefaultDir(); err != nil {
					return err
				}
			}
			set, err := programs.Builder{Source: source, Dir: dir, Log: p.say}.Build(cmd.Context())
			if err != nil {
				return err
			}
			if buildOnly {
				return nil
			}
			unlock, err := state.Lock(cmd.Context())
			if err != nil {
				return err
			}
			defer unlock()
			if pid, err := state.Running(); err != nil || pid != 0 {
				p.say("The cluster in %s is up already", state.Dir)
				return err
			}
			// What a crash has left.
			if err := state.Down(); err != nil {
				return err
			}
			p.say("Starting the cluster in %s", state.Dir)
			if err := state.Start(cmd.Context(), node.Config{Programs: set}, func(line string) {
				p.say("%s", line)
			}); err != nil {
				// Nobody wants the logs of what was interrupted, here or by down elsewhere.
				if _, gone := os.Stat(state.Path("init.pid")); cmd.Context().Err() == nil && gone == nil {
					logs, kept := os.MkdirTemp("", "stepwright-cluster-")
					if kept = errors.Join(kept, os.CopyFS(logs, os.DirFS(state.Path("log")))); kept == nil {
						err = fmt.Errorf("%w\nthe logs are in %s", err, logs)
					}
				}
				return errors.Join(err, state.Down())
			}
			p.say("The cluster is up: go run ./ci/cluster kubectl get pods -A")
			return nil
		},
	}
	cmd.Flags().StringVar(&source, "source", ".", "root of the project")
	cmd.Flags().StringVar(
		&dir, "programs", "",
		"folder that keeps what was built (default cluster/programs in $STEPWRIGHT_CACHE, or in stepwright in the "+
			"user's cache folder)",
	)
	cmd.Flags().BoolVar(&buildOnly, "build-only", false, "build what is not built yet, and start nothing")
	return cmd
}

func downCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the cluster and remove all that it has left",
		Long: "Ends the cluster, whoever started it and whatever state it is in: its processes, mounts, control " +
			"groups and files. It may be repeated.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := newProgress(cmd.OutOrStdout())
			if inside() {
				return errors.New("the cluster cannot be ended from inside")
			}
			if err := state.Down(); err != nil {
				return err
			}
			p.say("The cluster is down")
			return nil
		},
	}
}

func statusCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the node's processes, and where their logs are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			processes, err := state.Processes(cmd.Context())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, process := range processes {
				how := "stopped"
				if process.PID != 0 {
					how = fmt.Sprintf("running (%d)", process.PID)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", process.Name, how, process.Log)
			}
			return w.Flush()
		},
	}
}

func actCommand(state *node.State, action string) *cobra.Command {
	return &cobra.Command{
		Use: action + " PROCESS",
		Short: map[string]string{
			"start":   "Start one of the node's processes",
			"stop":    "Stop one of the node's processes",
			"restart": "Stop and start one of the node's processes",
		}[action],
		Long: "Returns when the process has ended, or is ready. It works inside the cluster too. Command status " +
			"knows the processes' names.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return state.Act(cmd.Context(), args[0], action)
		},
	}
}

func execCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use:   "exec COMMAND [ARGUMENT…]",
		Short: "Run a command inside the cluster's namespaces",
		Long: `Runs a command inside the cluster's namespaces, in the same folder of the same file system, and
exits as it does. It finds the cluster's programs first (kubectl, argo, ctr, cluster), KUBECONFIG is the
administrator's, and ` +
			node.StateVariable +
			` is the cluster's state.`,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
				return cmd.Help()
			}
			return enter(state, args...)
		},
	}
}

func kubectlCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARGUMENT…]",
		Short:              "Run kubectl as the cluster's administrator",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			return enter(state, append([]string{"kubectl"}, args...)...)
		},
	}
}

func enter(state *node.State, args ...string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if inside() {
		config, err := state.ReadConfig()
		if err != nil {
			return err
		}
		return state.Run(config, dir, args...)
	}
	return state.Enter(dir, args...)
}

// tools tells which programs are missing.
func tools(names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf(
			"%s: not found; ci/install/install.sh cluster installs what a cluster needs", strings.Join(missing, ", "),
		)
	}
	return nil
}

// progress tells people what is being done, each line with the seconds since the start.
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
