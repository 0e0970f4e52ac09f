package dockerfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// explain gives a build's failure its reason.
func (b *build) explain(err error, w *watch, builder *buildkit.BuildKit) error {
	err = said{strings.TrimPrefix(err.Error(), "failed to solve: "), err} // the client's words, which say nothing
	fault := buildkit.FaultOf(err)
	if fault == buildkit.DiskFull ||
		workspace.IsDiskFull(b.in.Workspace.Image(), string(b.in.Workspace), b.in.BuildKitRoot) {
		return outcome.Errorf(outcome.OutOfSpace, "the disk is full: %w", err)
	}
	if buildkit.Lost(err) {
		return outcome.Errorf(
			outcome.BuilderUnavailable, "the builder ended in the middle of the build: %w",
			errors.Join(builder.Close(), err),
		).
			WithHint("Where it was killed, the pod most likely needs more memory.")
	}
	first, last := b.where(err)
	place := b.source.name
	if first > 0 {
		place = fmt.Sprintf("%s line %d", b.source.name, first)
	}
	instruction := excerpt(b.source.original, first, last)

	var vertex *errdefs.VertexError
	inStep := errors.As(err, &vertex)
	var exit *gateway.ExitError
	if errors.As(err, &exit) {
		output := ""
		if inStep {
			if output = w.lastLines(vertex.Digest); output != "" {
				output = ":\n" + output
			}
			if instruction == "" {
				instruction = w.names[vertex.Digest]
			}
		}
		return outcome.Errorf(
			outcome.BuildFailed, "%s: %s: %w%s", place, instruction, exited(exit.ExitCode, err), output,
		)
	}
	// A daemon does not tell faults. There, what fails before a step runs, or at FROM, is taken for an image that
	// cannot be had.
	image, isBase := b.imageAt(first, last)
	if image != "" && (fault != buildkit.NoFault || b.in.BuildKitAddress != "" && (isBase || !inStep)) {
		switch fault {
		case buildkit.Unreachable:
			return outcome.Errorf(outcome.RegistryUnavailable, "%s: base image %s: %w", place, image, err)
		case buildkit.Denied:
			return outcome.Errorf(
				outcome.BaseImageUnavailable, "%s: base image %s may not be pulled: %w", place, image, err,
			)
		default:
			return outcome.Errorf(outcome.BaseImageUnavailable, "%s: base image %s: %w", place, image, err)
		}
	}
	switch {
	case inStep:
		return outcome.Errorf(outcome.BuildFailed, "%s: %s: %w", place, instruction, err)
	case first > 0:
		return outcome.Errorf(outcome.DockerfileInvalid, "%s: %s: %w", place, instruction, err)
	}
	return fmt.Errorf("build of %s: %w", b.source.name, err)
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
			switch c := command.(type) {
			case *instructions.CopyCommand:
				if c.From != "" && !hasStage(b.source.stages[:i], c.From) {
					return c.From, false
				}
			case *instructions.RunCommand:
				for _, m := range instructions.GetMounts(c) {
					if m.From != "" && !hasStage(b.source.stages[:i], m.From) {
						return m.From, false
					}
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
