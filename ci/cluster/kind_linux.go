package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

// extend adds what the namespaces of an engine need.
func (k *kindProvider) extend(root *cobra.Command) {
	root.AddCommand(
		&cobra.Command{
			Use: "init", Hidden: true, Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return k.state.Init() },
		},
		&cobra.Command{
			Use: "node", Hidden: true, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := k.state.FurnishEngine(); err != nil {
					return err
				}
				out := os.NewFile(3, "progress")
				fmt.Fprintln(out, node.Ready)
				out.Close()
				<-cmd.Context().Done()
				return nil
			},
		},
		&cobra.Command{
			Use: "within", Hidden: true, DisableFlagParsing: true,
			Short: "Run a command in the namespaces of the engine, which has no other way in",
			RunE: func(_ *cobra.Command, args []string) error {
				dir, err := os.Getwd()
				if err != nil {
					return err
				}
				return k.state.Enter(dir, args...)
			},
		},
	)
}

// startNamespaces starts, if they are not there, the namespaces of the cluster's own engine.
func (k *kindProvider) startNamespaces(ctx context.Context, runc string) error {
	if pid, err := k.state.Running(); err != nil || pid != 0 {
		return err
	}
	configuration := fmt.Sprintf(`[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
[engine.runtimes]
runc = [%q]
`, runc)
	if err := os.WriteFile(k.state.Path("containers.conf"), []byte(configuration), 0o644); err != nil {
		return err
	}
	return k.state.Start(ctx, node.Config{}, func(line string) { k.say("%s", line) })
}

// endNamespaces ends the engine with all that it runs, and removes what it has left.
func (k *kindProvider) endNamespaces() error { return k.state.Down() }
