package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/plane"
	"github.com/stepwright/stepwright/ci/cluster/programs"
)

// nodeProvider has the cluster in namespaces of this machine, from Go modules.
type nodeProvider struct {
	state     *node.State
	say       func(format string, args ...any)
	source    string
	programs  string // folder that keeps them; empty: programs.DefaultDir
	buildOnly bool
}

func newNode(state *node.State, p *progress) (Provider, error) {
	return &nodeProvider{state: state, say: p.say}, nil
}

// Extend implements Provider.
func (n *nodeProvider) Extend(root, up *cobra.Command) {
	up.Short += "; build what is not built yet"
	up.Long += " What it is made of is built from Go modules first; that is kept, by what it is built from."
	up.Flags().StringVar(&n.source, "source", ".", "root of the project")
	up.Flags().StringVar(
		&n.programs, "programs", "",
		"folder that keeps what was built (default cluster/programs in $STEPWRIGHT_CACHE, or in stepwright in the "+
			"user's cache folder)",
	)
	up.Flags().BoolVar(&n.buildOnly, "build-only", false, "build what is not built yet, and start nothing")
	root.AddCommand(n.statusCommand(), n.initCommand(), n.nodeCommand())
}

// Up implements Provider.
func (n *nodeProvider) Up(ctx context.Context) error {
	if err := tools("cluster", "go", "iptables", "gcc"); err != nil {
		return err
	}
	if n.programs == "" {
		var err error
		if n.programs, err = programs.DefaultDir(); err != nil {
			return err
		}
	}
	set, err := programs.Builder{Source: n.source, Dir: n.programs, Log: n.say}.Build(ctx)
	if err != nil || n.buildOnly {
		return err
	}
	unlock, err := n.state.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if pid, err := n.state.Running(); err != nil || pid != 0 {
		n.say("The cluster in %s is up already", n.state.Dir)
		return err
	}
	// Remains of a crash.
	if err := n.state.Down(); err != nil {
		return err
	}
	n.say("Starting the cluster in %s", n.state.Dir)
	if err := n.state.Start(ctx, node.Config{Programs: set}, func(line string) { n.say("%s", line) }); err != nil {
		// Nobody wants the logs of what was interrupted, here or by down elsewhere.
		if _, gone := os.Stat(n.state.Path("init.pid")); ctx.Err() == nil && gone == nil {
			logs, kept := os.MkdirTemp("", "stepwright-cluster-")
			if kept = errors.Join(kept, os.CopyFS(logs, os.DirFS(n.state.Path("log")))); kept == nil {
				err = fmt.Errorf("%w\nthe logs are in %s", err, logs)
			}
		}
		return errors.Join(err, n.state.Down())
	}
	n.say(isUp)
	return nil
}

// Down implements Provider.
func (n *nodeProvider) Down(context.Context) error { return n.state.Down() }

// Exec implements Provider.
func (n *nodeProvider) Exec(_ context.Context, args ...string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if !inside() {
		return n.state.Enter(dir, args...)
	}
	config, err := n.state.ReadConfig()
	if err != nil {
		return err
	}
	return n.state.Run(config, dir, args...)
}

// Act implements Provider. The parts are the node's processes.
func (n *nodeProvider) Act(ctx context.Context, part, action string) error {
	return n.state.Act(ctx, part, action)
}

// Logs implements Provider.
func (n *nodeProvider) Logs(_ context.Context, dir string) error {
	if pid, err := n.state.Running(); err != nil || pid == 0 {
		return err // a cluster that did not start says itself where its logs are
	}
	return os.CopyFS(dir, os.DirFS(n.state.Path("log")))
}

func (n *nodeProvider) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the node's processes, which are the cluster's parts, and where their logs are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			processes, err := n.state.Processes(cmd.Context())
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

// initCommand is the first process of the namespaces.
func (n *nodeProvider) initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return n.state.Init() },
	}
}

// nodeCommand starts the cluster inside the namespaces and keeps its processes. It says on descriptor 3 how it gets on.
func (n *nodeProvider) nodeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "node", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := os.NewFile(3, "progress")
			log := newProgress(os.Stderr)
			s := &node.Supervisor{State: *n.state, Say: func(format string, args ...any) {
				log.say(format, args...)
				fmt.Fprintf(out, format+"\n", args...) // nobody may listen any more
			}}
			config, err := n.state.ReadConfig()
			if err != nil {
				return err
			}
			n.state.Adopt(config)
			if err := n.state.Furnish(); err != nil {
				return err
			}
			if err := s.Serve(); err != nil {
				return err
			}
			if err := plane.New(s, config.Programs).Start(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(out, node.Ready)
			out.Close()
			<-cmd.Context().Done()
			return nil
		},
	}
}
