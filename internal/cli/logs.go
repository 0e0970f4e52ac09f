package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

func logsCommand() *cobra.Command {
	var o runsOptions
	var follow bool
	cmd := o.flags(&cobra.Command{
		Use:   "logs [flags] NAME [TASK]",
		Short: "Print what a run's tasks wrote",
		Long:  "With --component it is that component's latest run, and TASK alone may follow.",
		Example: `  stepwright logs -f cart-build-1767225600000
  stepwright logs --component cart containerfile-build`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, interval, err := o.source()
			if err != nil {
				return err
			}
			l := logs{from: from, interval: interval, namespace: o.namespace, follow: follow,
				out: cmd.OutOrStdout(), terminal: isTerminal(cmd.OutOrStdout())}
			switch {
			case o.component != "":
				run, err := o.one(cmd.Context(), from, args[min(len(args), 1):])
				if err != nil {
					return err
				}
				l.namespace, l.name = run.Namespace, run.Name
			case len(args) == 0:
				return outcome.Misuse("give the NAME of a run, or --component for its latest")
			default:
				l.name, args = args[0], args[1:]
			}
			if len(args) == 1 {
				l.only = args[0]
			}
			return l.print(cmd.Context())
		},
	})
	o.componentFlag(cmd, "print the logs of this component's latest run, instead of NAME")
	cmd.ValidArgsFunction = o.completeRuns(2)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	return cmd
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// logs prints the logs of a run.
type logs struct {
	from            source
	interval        time.Duration // how often to look whether the run has gone on
	namespace, name string
	only            string // one task; empty: all
	follow          bool
	out             io.Writer
	terminal        bool // out is one: colours stay

	open map[string]*taskLog
}

// taskLog is the log of one task, as far as it was read.
type taskLog struct {
	io.Closer
	lines *bufio.Reader
}

// pollTime is how often a log of this machine that is followed is looked at.
const pollTime = 200 * time.Millisecond

func (l *logs) print(ctx context.Context) error {
	tick := time.NewTicker(l.interval)
	defer tick.Stop()
	l.open = map[string]*taskLog{}
	defer func() {
		for _, log := range l.open {
			log.Close()
		}
	}()
	for {
		// The run is read before its logs: what a completed run has written is all there.
		run, err := l.from.Get(ctx, l.namespace, l.name)
		if err != nil {
			return err
		}
		last := !l.follow || runstatus.Completed(run)
		if last && l.only != "" && !slices.ContainsFunc(run.Status.Tasks, func(t v1alpha1.WorkflowTask) bool {
			return t.Name == l.only
		}) {
			return outcome.Misuse(fmt.Sprintf("run %s has no task %q; it has %s", l.name, l.only, taskNames(run)))
		}
		var gone error
		for _, task := range run.Status.Tasks {
			if l.only != "" && l.only != task.Name {
				continue
			}
			switch err := l.copy(ctx, run, task.Name); {
			case errors.Is(err, fs.ErrNotExist):
				if task.CompletedAt != nil {
					gone = errors.Join(gone, err)
				}
			case err != nil:
				return err
			}
		}
		if last {
			return gone
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// copy prints the lines there are; a source hands on whole ones.
func (l *logs) copy(ctx context.Context, run *v1alpha1.WorkflowRun, task string) error {
	log := l.open[task]
	if log == nil {
		body, err := l.from.Log(ctx, run, task, l.follow)
		if err != nil {
			return err
		}
		log = &taskLog{body, bufio.NewReaderSize(body, quote.LineLimit)}
		l.open[task] = log
	}
	for {
		piece, err := log.lines.ReadSlice('\n')
		if err := l.line(task, string(piece)); err != nil {
			return err
		}
		if errors.Is(err, bufio.ErrBufferFull) { // a line without an end goes on in the next
			continue
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// line prints a line, or what there is of it.
func (l *logs) line(task, line string) error {
	if line == "" {
		return nil
	}
	line = quote.Output(line, l.terminal)
	if l.only == "" {
		line = cell(task) + " │ " + line
	}
	_, err := fmt.Fprintln(l.out, line)
	return err
}

func taskNames(run *v1alpha1.WorkflowRun) string {
	var names []string
	for _, task := range run.Status.Tasks {
		names = append(names, task.Name)
	}
	return strings.Join(names, ", ")
}
