package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
	"github.com/stepwright/stepwright/templates"
)

// options are the flags of the command.
type options struct {
	mirror.Options
	out           *speaker
	addressFile   string
	ifUnreachable bool
	forRun        []string
}

// baseImages is the argument for all base images. A builder's argument is its family's name.
const baseImages = "base-images"

// placeholder is the argument of a command that the flags of stepwright run take the place of.
const placeholder = "{}"

func command(out *os.File) *cobra.Command {
	say := &speaker{out: out}
	o := options{Options: mirror.Options{Log: plainLog(say)}, out: say}
	cmd := &cobra.Command{
		Use:   "mirror [flags] [" + baseImages + "|BUILDER]... [-- COMMAND [ARGUMENT]...]",
		Short: "Serve stand-ins for base images and builders on loopback, under the names of the real ones",
		Long: `Serve stand-ins for base images and builders on loopback, under the names of the real ones.

They are made on this machine: from Debian packages, its Go and the source of this repository. A
stand-in is made when it is first asked for; those that are named, before anything is served:
` + baseImages + `, or a builder, ` + strings.Join(mirror.Builders(), ", ") + `.

With a command, the mirror is up while that runs, and its exit code is the command's. The argument {}
of the command stands for the flags of stepwright run that make it ask the mirror, and that name the
stand-in of a builder, if one is named. Without a command it serves until it is told to end.`,
		Example: `  mirror --address-file address gcp
  mirror --if-unreachable --for examples/link-shortener -- bin/stepwright run {} examples/link-shortener`,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, run := args, []string(nil)
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				names, run = args[:dash], args[dash:]
			}
			if len(run) > 0 {
				return o.while(cmd.Context(), names, run)
			}
			if o.ifUnreachable {
				return errors.New("--if-unreachable needs a command to run")
			}
			return o.serve(cmd.Context(), names)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "folder of what is served (default: mirror in the folder that the stand-ins are in)")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:0", "address to listen on")
	f.StringVar(&o.addressFile, "address-file", "", "file to write the mirror's address to, host:port, once it serves")
	f.BoolVar(
		&o.ifUnreachable, "if-unreachable", false,
		"run the command without a mirror, and without {}, where the registries of the real images answer",
	)
	f.StringArrayVar(
		&o.forRun, "for", nil,
		"file or folder with the WorkflowRun that the command runs: what it builds with is named; may be repeated",
	)
	return cmd
}

// plainLog is for people.
func plainLog(out io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// serve serves until the context ends.
func (o *options) serve(ctx context.Context, names []string) error {
	m, flags, err := o.start(ctx, names)
	if err != nil {
		return err
	}
	fmt.Fprintf(
		o.out, "Serving stand-ins at %s. The flags of stepwright run for it:\n  %s\n", m.Address(),
		strings.Join(flags, " "),
	)
	<-ctx.Done()
	return m.Close()
}

// while runs a command while a mirror is up, or without one where nobody needs it.
func (o *options) while(ctx context.Context, names, run []string) error {
	var flags []string
	if !o.ifUnreachable || !mirror.Reachable(ctx) {
		names = append(slices.Clone(names), o.needed()...)
		m, own, err := o.start(ctx, names)
		if err != nil {
			return err
		}
		defer m.Close()
		fmt.Fprintf(o.out, "Images come from a mirror at %s, which has stand-ins only\n", m.Address())
		flags = own
	}
	var args []string
	for _, arg := range run {
		if arg == placeholder {
			args = append(args, flags...)
		} else {
			args = append(args, arg)
		}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // and wait for it
	o.out.wait()
	err := cmd.Run()
	o.out.goOn()
	if cmd.ProcessState == nil {
		return err
	}
	switch code := cmd.ProcessState.ExitCode(); {
	case code < 0: // by a signal
		return err
	case code > 0:
		return &endedError{code}
	}
	return nil
}

// speaker tells people what goes on. While a command redraws their terminal it waits.
type speaker struct {
	out *os.File

	mu      sync.Mutex
	waiting bool
	unsaid  []byte
}

// Write implements io.Writer.
func (s *speaker) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		s.unsaid = append(s.unsaid, p...)
		return len(p), nil
	}
	return s.out.Write(p)
}

func (s *speaker) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = term.IsTerminal(int(s.out.Fd()))
}

func (s *speaker) goOn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = false
	s.out.Write(s.unsaid)
	s.unsaid = nil
}

// endedError says that the command has failed.
type endedError struct{ code int }

func (e *endedError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// start starts a mirror, makes the named stand-ins, and returns the flags of stepwright run.
func (o *options) start(ctx context.Context, names []string) (_ *mirror.Mirror, flags []string, err error) {
	m, err := mirror.Start(o.Options)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	flags = m.Flags()
	for _, name := range names {
		if name == baseImages {
			if err := m.MakeBaseImages(ctx); err != nil {
				return nil, nil, err
			}
			continue
		}
		builder, err := m.MakeBuilder(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(
			o.out, "Building with a builder for tests, %s, and its run image, instead of the template's own\n",
			builder[1],
		)
		flags = append(flags, builder...)
	}
	if o.addressFile != "" {
		err = renameio.WriteFile(o.addressFile, []byte(m.Address()+"\n"), 0o644)
	}
	return m, flags, err
}

// needed is the builder that the run of --for builds with. A faulty run has none: the command reports the fault.
func (o *options) needed() []string {
	if len(o.forRun) == 0 {
		return nil
	}
	run, err := workflowrun.Load("", o.forRun...)
	if err != nil {
		return nil
	}
	if run.Spec.Workflow.Name == templates.DockerfileBuilder {
		return []string{baseImages}
	}
	for _, builder := range templates.Builders() {
		if builder.Workflow == run.Spec.Workflow.Name && slices.Contains(mirror.Builders(), builder.Name) {
			return []string{builder.Name}
		}
	}
	return nil
}
