package dockerfile

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/disk"
)

// explain gives a build's failure its reason.
func (b *build) explain(err error, w *watch, builder *buildkit.BuildKit) error {
	err = said{strings.TrimPrefix(err.Error(), "failed to solve: "), err} // the client's words, which say nothing
	fault := buildkit.FaultOf(err)
	if fault.DiskFull {
		return b.outOfSpace(fault.Disk, err)
	}
	if full, is := disk.Full(b.in.Workspace.Image(), string(b.in.Workspace), b.in.BuildKitRoot); is {
		return b.outOfSpace(full, err)
	}
	if builder.IsLost(err) {
		return lost(err, builder)
	}
	first, last := b.where(err)
	place := b.source.name
	if first > 0 {
		place = fmt.Sprintf("%s line %d", b.source.name, first)
	}
	instruction := excerpt(b.source.original, first, last)

	var vertex *errdefs.VertexError
	inStep := errors.As(err, &vertex)
	if inStep && instruction == "" {
		instruction = w.names[vertex.Digest]
	}
	var exit *gateway.ExitError
	if errors.As(err, &exit) {
		output := ""
		if inStep {
			if output = w.lastLines(vertex.Digest); output != "" {
				output = ":\n" + output
			}
		}
		return outcome.Errorf(
			outcome.BuildFailed, "%s: %s: %w%s", place, instruction, exited(exit.ExitCode, err), output,
		)
	}
	if fault.Outcome != nil {
		return b.outside(fault, place, instruction)
	}
	// A daemon does not tell faults. There, what fails before a step runs, or at FROM, is taken for an image that
	// cannot be had.
	image, isBase := b.imageAt(first, last)
	if image != "" && b.in.BuildKitAddress != "" && (isBase || !inStep) {
		return outcome.Errorf(outcome.BaseImageUnavailable, "%s: base image %s: %w", place, image, err)
	}
	refused := !w.failed && buildkit.IsRefusal(err)
	switch {
	case inStep:
		if failure := b.absent(first, last, err); failure != nil {
			failure.Message = fmt.Sprintf("%s: %s: %s", place, instruction, failure.Message)
			return failure
		}
		return outcome.Errorf(outcome.BuildFailed, "%s: %s: %w", place, instruction, err).WithHint(
			"Correct the instruction that the message names, or what it takes.", // no command has said anything
		)
	case first > 0:
		return outcome.Errorf(outcome.DockerfileInvalid, "%s: %s: %w", place, instruction, err)
	case refused && len(w.checks) > 0 && b.source.checksFail(b.in):
		return outcome.Errorf(
			outcome.DockerfileInvalid, "%s: its checks found these faults, which check=error=true makes errors:\n  %s",
			b.source.name, strings.Join(w.checks, "\n  "),
		).WithHint("Correct these lines, or name the rules to leave out: # check=skip=RULE;error=true.")
	case refused:
		return outcome.Errorf(outcome.DockerfileInvalid, "%s: %w", place, err).WithHint(
			"Correct the Dockerfile, or what the build is given besides, such as build-args, where the message says.",
		)
	}
	return fmt.Errorf("build of %s: %w", b.source.name, err)
}

// outOfSpace names the disk that is full, and whose it is. It tells err and does not wrap it: of an error number of a
// full disk, outcome.Of keeps nothing else.
func (b *build) outOfSpace(full disk.Disk, err error) error {
	if full.Path == "" {
		return outcome.Errorf(outcome.OutOfSpace, "the disk is full: %v", err)
	}
	where, hint := full.Path, "Give the volume of "+full.Path+" more space."
	for _, place := range []struct{ path, name, hint string }{
		{string(b.in.Workspace), "the workspace, %s", outcome.OutOfSpace.Hint()},
		{b.in.BuildKitRoot, "buildkit-root, %s", "Give the volume of buildkit-root more space, or empty it between " +
			"builds: layers and caches are in it."},
		{os.TempDir(), "the folder for temporary files, %s", "Give the volume of " + os.TempDir() + " more space."},
	} {
		if place.path == "" {
			continue
		}
		if d, err := disk.Of(place.path); err == nil && d.Device == full.Device {
			where, hint = fmt.Sprintf(place.name, place.path), place.hint
			break
		}
	}
	return outcome.Errorf(outcome.OutOfSpace, "the disk is full: of %s, %s: %v", where, full, err).WithHint(hint)
}

// outside says of an image or file that could not be had which instruction names it. BuildKit fetches layers late: when
// an instruction needs them, or the image is exported.
func (b *build) outside(fault buildkit.Fault, place, instruction string) error {
	what, line := "base image "+fault.Image, 0
	if fault.URL != "" {
		what, line = "ADD", b.addOf(fault.URL)
	} else if fault.Image == "" {
		what = instruction
	} else if image, at := b.useOf(fault.Image); at > 0 {
		what, line = "base image "+image, at
	}
	if line > 0 {
		place = fmt.Sprintf("%s line %d", b.source.name, line)
	}
	failure := *fault.Outcome
	failure.Message = fmt.Sprintf("%s: %s: %s", place, what, failure.Message)
	return &failure
}

// addOf returns the line of the ADD of a URL, given without its query, or of a repository; 0 when none has it as it
// stands. Of several it is the one that has the same fragment, if any has.
func (b *build) addOf(url string) int {
	line := 0
	plain, _, _ := strings.Cut(url, "#")
	for _, stage := range b.source.stages {
		for _, command := range stage.Commands {
			add, ok := command.(*instructions.AddCommand)
			if !ok || len(add.Location()) == 0 {
				continue
			}
			for _, from := range add.SourcePaths {
				if from == url {
					return add.Location()[0].Start.Line
				}
				if at := strings.IndexAny(from, "?#"); at >= 0 {
					from = from[:at]
				}
				if from == plain && line == 0 {
					line = add.Location()[0].Start.Line
				}
			}
		}
	}
	return line
}

// useOf returns how an image of a repository is named where it is first used, and the line; 0 when no instruction has
// it as it stands.
func (b *build) useOf(repository string) (image string, line int) {
	is := func(image string) bool {
		ref, err := name.ParseReference(image, name.WeakValidation)
		return err == nil && registry.Name(ref.Context().Name()) == repository
	}
	for _, stage := range b.source.stages {
		if is(stage.BaseName) && len(stage.Location) > 0 {
			return stage.BaseName, stage.Location[0].Start.Line
		}
		for _, command := range stage.Commands {
			for _, from := range takenBy(command) {
				if at := command.Location(); is(from) && len(at) > 0 {
					return from, at[0].Start.Line
				}
			}
		}
	}
	return "", 0
}

// takenBy returns the stages or images that an instruction takes files from.
func takenBy(command instructions.Command) (from []string) {
	switch c := command.(type) {
	case *instructions.CopyCommand:
		from = append(from, c.From)
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			from = append(from, m.From)
		}
	}
	return from
}

// said is an error with another text than its own.
type said struct {
	text  string
	cause error
}

func (s said) Error() string { return s.text }

func (s said) Unwrap() error { return s.cause }

// exited says how a command ended. BuildKit's own text repeats the command.
func exited(code uint32, cause error) error {
	if code == 128+uint32(unix.SIGKILL) {
		return said{fmt.Sprintf("killed (exit code %d), most likely for want of memory", code), cause}
	}
	return said{fmt.Sprintf("exit code %d", code), cause}
}

// where finds the lines of the repository's Dockerfile that an error comes from; 0 when it does not say.
func (b *build) where(err error) (first, last int) {
	for _, src := range errdefs.Sources(err) {
		for _, r := range src.Ranges {
			start, end := b.source.lines.original(int(r.Start.Line)), b.source.lines.original(
				int(max(r.End.Line, r.Start.Line)),
			)
			if first == 0 || start < first {
				first = start
			}
			last = max(last, end)
		}
		if first > 0 {
			break
		}
	}
	return first, last
}

// imageAt returns the image that the instruction at these lines takes something from, if any, and whether it is a
// stage's base.
func (b *build) imageAt(first, last int) (image string, isBase bool) {
	if first == 0 {
		return "", false
	}
	for i, stage := range b.source.stages {
		if covers(stage, first, last) && !hasStage(b.source.stages[:i], stage.BaseName) {
			return stage.BaseName, true
		}
		for _, command := range stage.Commands {
			at := command.Location()
			if len(at) == 0 || at[0].Start.Line > last || at[len(at)-1].End.Line < first {
				continue
			}
			for _, from := range takenBy(command) {
				if from != "" && !hasStage(b.source.stages[:i], from) {
					return from, false
				}
			}
		}
	}
	return "", false
}

func covers(stage instructions.Stage, first, last int) bool {
	return len(stage.Location) > 0 && stage.Location[0].Start.Line <= last &&
		stage.Location[len(stage.Location)-1].End.Line >= first
}
