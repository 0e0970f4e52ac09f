package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/renameio/v2/maybe"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/report"
)

func reportCommand() *cobra.Command {
	var o runsOptions
	var file string
	cmd := o.flags(&cobra.Command{
		Use:   "report [flags] NAME",
		Short: "Make a picture of a run: one HTML page that needs nothing else",
		Long: `The page shows what was built of which commit, when each step and each part of the build ran, what came
from the cache, where the seconds and the bytes went, the layers and what changed in them since the
component's last image, why the run failed, provenance, and the logs, which can be searched. It loads
nothing from anywhere, and can be attached to an issue as it is, or printed.

It is written as NAME.html into this folder, or where --output says.`,
		Example: `  stepwright report cart-build-1767225600000
  stepwright report --component cart -o cart.html
  stepwright report --cluster --component cart -o - > cart.html`,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, _, run, err := o.find(cmd.Context(), args)
			if err != nil {
				return err
			}
			page, err := picture(cmd.Context(), from, run)
			if err != nil {
				return err
			}
			if file == "-" {
				_, err := cmd.OutOrStdout().Write(page)
				return err
			}
			return writeReport(cmd.OutOrStdout(), file, run, page)
		},
	})
	o.componentFlag(cmd, "show this component's latest run, instead of NAME")
	cmd.ValidArgsFunction = o.completeRuns(1)
	cmd.Flags().StringVarP(&file, "output", "o", "", "file to write, or - for the standard output (default NAME.html)")
	_ = cmd.MarkFlagFilename("output", "html")
	return cmd
}

// picture is the page that shows a run.
func picture(ctx context.Context, from source, run *v1alpha1.WorkflowRun) ([]byte, error) {
	p, err := report.Of(ctx, from, run, time.Now())
	if err != nil {
		return nil, err
	}
	var page bytes.Buffer
	err = p.Write(&page)
	return page.Bytes(), err
}

// writeReport writes a page into a file, in its place if there is one already, and says where.
func writeReport(out io.Writer, file string, run *v1alpha1.WorkflowRun, page []byte) error {
	if file == "" {
		// A cluster may answer anything.
		if faults := validation.IsDNS1123Subdomain(run.Name); len(faults) > 0 {
			return outcome.Misuse(fmt.Sprintf("--output: the run's name is no name of a file: %s", faults[0]))
		}
		file = run.Name + ".html"
	}
	if err := maybe.WriteFile(file, page, 0o644); err != nil {
		return outcome.Misuse("--output: " + strings.TrimSpace(err.Error()))
	}
	_, err := fmt.Fprintln(out, cell(file))
	return err
}
