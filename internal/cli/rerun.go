package cli

import (
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/outcome"
)

func rerunCommand() *cobra.Command {
	r := newRunner()
	r.flags.StringVarP(&r.namespace, "namespace", "n", "", "namespace of the run (default: the one that has it)")
	options := func() *runsOptions {
		return &runsOptions{
			state: r.here.plane.State, cluster: r.there.cluster, kubeconfig: r.there.kubeconfig,
			context: r.there.context, namespace: r.namespace,
		}
	}
	cmd := &cobra.Command{
		Use:   "rerun [flags] NAME [FILE|FOLDER...]",
		Short: "Run once more what a run has run, under a new name",
		Long: `Run once more what a run has run, with the parameters that it had and those of --set, under its name
with another time at the end.

On this machine the flags are those of stepwright run; none of them is remembered. A Component or a
workflow of your own is read of the files again. With --cluster the cluster must have OpenChoreo.
A run without a commit builds what its branch has now: --set repository.revision.commit=SHA builds
the old commit.`,
		Example: `  stepwright rerun cart-build-1767225600000
  stepwright rerun --cluster cart-build-1767225600000 --set repository.revision.commit=6dcb09b`,
		Args: cobra.MinimumNArgs(1),
	}
	r.addTo(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		from, _, err := options().source()
		if err != nil {
			return err
		}
		if r.again, err = from.Get(cmd.Context(), r.namespace, args[0]); err != nil {
			return err
		}
		if r.again.Spec.Workflow.Name == "" {
			return outcome.Misuse("rerun: this cluster has the run's Argo Workflow only, and no WorkflowRun, which " +
				"OpenChoreo keeps; run it again from its files with stepwright run")
		}
		return r.run(cmd, args[1:])
	}
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault // files
		}
		return options().completeRuns(1)(cmd, args, text)
	}
	return cmd
}
