package dockerfile

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
)

// A build for a platform that is not the machine's fails late and darkly by itself: where a RUN cannot execute the
// first program of its image, or an image is not there for the platform. Both can be known before.

// use is an image that a Dockerfile takes for a platform.
type use struct {
	buildkit.ImageAt
	line int
	base bool // whether what is built is made upon it, and so is of its platform
}

// foreign is a RUN, and the platform that it runs on.
type foreign struct {
	platform    ocispec.Platform
	line        int
	instruction string
	image       string // that the stage starts from
}

// uses are the images, and the RUNs, of the stages that are built for a platform.
func (s *source) uses(in Parameters, v view) (images []use, runs []foreign) {
	built := s.built(in.Target, v.inherits)
	last := len(s.stages) - 1
	if in.Target != "" {
		last = s.stage(in.Target)
	}
	final, _ := s.start(v, max(last, 0))
	for i, is := range built {
		if !is {
			continue
		}
		platform := s.platformOf(v, i)
		_, base := s.start(v, i)
		if v.inherits[i] < 0 && base != fromNothing {
			images = append(images, use{
				buildkit.ImageAt{Image: base, Platform: platform}, line(s.stages[i].Location), i == final,
			})
		}
		for _, command := range s.commands(i, v.inherits) {
			for _, from := range takenBy(command.Command) {
				// Variables in a mount's image are not known here, and copied files are the target's.
				if from != "" && s.stage(from) < 0 && !strings.Contains(from, "$") {
					images = append(images, use{
						buildkit.ImageAt{Image: from, Platform: v.target}, line(command.at), false,
					})
				}
			}
			if _, ok := command.Command.(*instructions.RunCommand); ok {
				at := line(command.at)
				end := at
				if len(command.at) > 0 {
					end = command.at[len(command.at)-1].End.Line
				}
				runs = append(runs, foreign{platform, at, excerpt(s.original, at, end), base})
			}
		}
	}
	return images, runs
}

// faults are what keeps images from being built for their platforms: lines of a message.
type faults struct {
	mu     sync.Mutex
	absent []string // images that are not there for a platform
	runs   []string // RUNs that cannot run
}

// checkPlatforms asks the builders before the build whether they can do what the Dockerfile wants for each platform.
// All faults are told at once.
func (a *assembly) checkPlatforms(ctx context.Context) error {
	found := &faults{}
	var asking errgroup.Group
	for _, b := range a.parts {
		asking.Go(func() error { return b.ask(ctx, found) })
	}
	if err := asking.Wait(); err != nil {
		return err
	}
	name := a.parts[0].source.name
	told := strings.Join(append(slices.Clone(found.absent), found.runs...), "\n  ")
	switch {
	case len(found.absent) > 0:
		hint := "Take an image that is built for all platforms, or a platform out of docker.platforms."
		if len(found.runs) > 0 {
			hint += " " + outcome.EmulationUnavailable.Hint()
		}
		return outcome.Errorf(
			outcome.BaseImageUnavailable, "%s cannot be built for all its platforms:\n  %s", name, told,
		).WithHint(hint)
	case len(found.runs) > 0:
		return outcome.Errorf(
			outcome.EmulationUnavailable, "%s has instructions that this machine cannot run:\n  %s", name, told,
		)
	}
	return nil
}

// ask asks the builder, unless it is certain without asking. That it does not answer is for the build to tell.
func (b *build) ask(ctx context.Context, found *faults) error {
	own := machine()
	if b.builder.Platform != nil {
		own = *b.builder.Platform
	}
	var images []use
	var runs []foreign
	for _, v := range b.source.views {
		taken, run := b.source.uses(b.in, v)
		images, runs = append(images, taken...), append(runs, run...)
	}
	var asked buildkit.Probe
	add := func(p ocispec.Platform) {
		if formatted(p) != formatted(own) && !slices.Contains(platformNames(asked.Platforms), formatted(p)) {
			asked.Platforms = append(asked.Platforms, p)
		}
	}
	for _, run := range runs {
		add(run.platform)
	}
	if len(asked.Platforms) == 0 && len(b.asked) == 0 {
		return nil
	}
	for _, image := range images {
		if !slices.ContainsFunc(asked.Images, func(i buildkit.ImageAt) bool { return i.Key() == image.Key() }) {
			asked.Images = append(asked.Images, image.ImageAt)
		}
	}
	told, err := b.builder.Probe(ctx, asked, []session.Attachable{&credentials{known: b.credentials}})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		b.env.Log.Debug("The builder does not tell what it can run", "because", err)
		return nil
	}
	b.judge(images, runs, own, told, found)
	return nil
}

// judge adds the faults that the findings show.
func (b *build) judge(
	images []use, runs []foreign, own ocispec.Platform, told buildkit.Findings, found *faults,
) {
	found.mu.Lock()
	defer found.mu.Unlock()
	note := func(list *[]string, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, image := range images {
		is, known := told.Images[image.Key()]
		switch {
		case !known:
		case is == nil:
			note(&found.absent, "line %d: %s is not there for %s", image.line, image.Image, formatted(image.Platform))
		case image.base && len(b.asked) > 0 && !sameMachine(*is, image.Platform):
			note(&found.absent, "line %d: %s is for %s only, and not for %s", image.line, image.Image, formatted(*is),
				formatted(image.Platform))
		}
	}
	for _, run := range runs {
		runnable, known := told.Runs[formatted(run.platform)]
		if !known || runnable {
			continue
		}
		// An image with a single platform is taken for whatever platform is asked for.
		if is := told.Images[(buildkit.ImageAt{Image: run.image, Platform: run.platform}).Key()]; is != nil &&
			sameMachine(*is, own) {
			continue
		}
		note(&found.runs, "line %d: %s: needs %s", run.line, run.instruction, formatted(run.platform))
	}
}

// sameMachine tells whether programs for two platforms are for one kind of machine.
func sameMachine(a, b ocispec.Platform) bool { return a.OS == b.OS && a.Architecture == b.Architecture }
