package dockerfile

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"

	"github.com/stepwright/stepwright/internal/outcome"
)

// The frontend tells the line of most faults of a Dockerfile. check finds the others, and what a build may not do.

// invalid is the fault of a Dockerfile that cannot be parsed.
func (s *source) invalid(err error) error {
	var at *parser.LocationError
	failure := outcome.Errorf(outcome.DockerfileInvalid, "%s: %w", s.name, err)
	if errors.As(err, &at) && len(at.Locations) > 0 && line(at.Locations[0]) > 0 {
		number := line(at.Locations[0])
		failure = outcome.Errorf(outcome.DockerfileInvalid, "%s line %d: %w", s.name, number, err)
		if text := excerpt(s.original, number, number); text != "" {
			failure.Message += ": " + text
		}
	}
	if frontend, at := s.otherFrontend(); frontend != "" {
		failure = failure.WithHint(fmt.Sprintf(
			"The built-in frontend reads the Dockerfile, not %s of line %d. Use what docker/dockerfile:1 knows.",
			frontend, at,
		))
	}
	return failure
}

// at is a fault of an instruction.
func (s *source) at(place []parser.Range, format string, args ...any) *outcome.Error {
	first, last := 0, 0
	if len(place) > 0 {
		first, last = place[0].Start.Line, place[len(place)-1].End.Line
	}
	return outcome.Errorf(outcome.DockerfileInvalid, "%s line %d: %s: %w", s.name, first,
		excerpt(s.original, first, last), fmt.Errorf(format, args...))
}

// check finds faults of a Dockerfile that can be parsed.
func (s *source) check(in Parameters) error {
	if len(s.stages) == 0 {
		return outcome.Errorf(outcome.DockerfileInvalid, "%s has no FROM, so there is nothing to build", s.name).
			WithHint("Begin the image with FROM and the image that it starts from, or FROM scratch.")
	}
	if _, ok := instructions.HasStage(s.stages, in.Target); in.Target != "" && !ok { // by its number, none is found
		return outcome.Errorf(
			outcome.DockerfileInvalid, "target: %s has no stage %q; there is %s", s.name, in.Target,
			stageNames(s.stages),
		).
			WithHint("Name a stage of the Dockerfile (FROM … AS name) in target, or leave it empty for the last one.")
	}
	if options, _, at, ok := parser.ParseDirective("check", s.original); ok {
		if _, err := linter.ParseLintOptions(options); err != nil {
			return outcome.Errorf(
				outcome.DockerfileInvalid, "%s line %d: # check=%s: %w", s.name, line(at), options, err,
			)
		}
	}
	for _, stage := range s.stages {
		for _, command := range stage.Commands {
			if c, ok := command.(*instructions.CopyCommand); ok && c.From != "" {
				if err := s.checkFrom(c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkFrom finds faults of COPY --from, which the frontend tells without a line.
func (s *source) checkFrom(c *instructions.CopyCommand) error {
	if from, ok := s.expand(c.From, nil); !ok || from != c.From {
		return s.at(c.Location(), "--from cannot have variables").WithHint(fmt.Sprintf(
			"Give it a stage of its own: ARG before the first FROM, then FROM %s AS name, and COPY --from=name.",
			c.From,
		))
	}
	if number, err := strconv.Atoi(c.From); err == nil && (number < 0 || number >= len(s.stages)) {
		return s.at(c.Location(), "there is no stage %d; the Dockerfile has %d, from 0", number, len(s.stages)).
			WithHint("Name the stage (FROM … AS name), and copy from its name.")
	}
	return nil
}

// checkRun finds what no build may do, in the stages that are built. A daemon may have devices.
func (s *source) checkRun(in Parameters) error {
	for c, at := range s.runs(in) {
		switch {
		case instructions.GetNetwork(c) == instructions.NetworkHost:
			return s.at(at, "a build may not use the network of its machine").WithHint(
				"Remove --network=host: without it, RUN reaches what the build step's pod reaches.",
			)
		case instructions.GetSecurity(c) == instructions.SecurityInsecure:
			return s.at(at, "a build may not have the rights of its machine").WithHint(
				"Remove --security=insecure, and do without what needs it.",
			)
		}
		for _, device := range instructions.GetDevices(c) {
			if device.Required && in.BuildKitAddress == "" {
				return s.at(at, "the builder has no devices, and %q is required", device.Name).WithHint(
					"Remove --device, or let a daemon build that has the device: buildkit-address.",
				)
			}
		}
	}
	return nil
}

// runs yields each RUN of the stages that are built for any platform, and its place.
func (s *source) runs(in Parameters) iter.Seq2[*instructions.RunCommand, []parser.Range] {
	return func(yield func(*instructions.RunCommand, []parser.Range) bool) {
		type key struct {
			command *instructions.RunCommand
			stage   int
		}
		seen := map[key]bool{}
		for _, v := range s.views {
			for i, built := range s.built(in.Target, v.inherits) {
				if !built {
					continue
				}
				for _, command := range s.commands(i, v.inherits) {
					c, ok := command.Command.(*instructions.RunCommand)
					if at := (key{c, i}); !ok || seen[at] {
						continue
					} else if seen[at] = true; !yield(c, command.at) {
						return
					}
				}
			}
		}
	}
}

// warnings are what a build does not do though it is asked to, and goes on.
func (s *source) warnings(in Parameters) []string {
	var all []string
	if frontend, at := s.otherFrontend(); frontend != "" {
		all = append(all, fmt.Sprintf(
			"%s line %d: %s is not used: the built-in frontend reads the Dockerfile", s.name, at, frontend,
		))
	}
	for c, at := range s.runs(in) {
		for _, device := range instructions.GetDevices(c) {
			if !device.Required && in.BuildKitAddress == "" {
				all = append(all, fmt.Sprintf(
					"%s line %d: the builder has no devices, so RUN goes without %q", s.name, line(at), device.Name,
				))
			}
		}
	}
	if unused := s.unused(in); len(unused) > 0 {
		told := fmt.Sprintf(
			"One or more build-args [%s] were not consumed: %s has no ARG for them", strings.Join(unused, " "), s.name,
		)
		for _, arg := range unused {
			for _, other := range s.declared() {
				if isSimilar(arg, other) {
					told += fmt.Sprintf("; instead of %s, it has %s", arg, other)
					break
				}
			}
		}
		all = append(all, told)
	}
	return all
}

// isSimilar tells whether one name may be a slip for another. Between short ones, too much is.
func isSimilar(name, other string) bool {
	if strings.EqualFold(name, other) {
		return true
	}
	_, is := suggest.Search(name, []string{other}, false)
	return is && len(name) > 3
}

// checksFail tells whether what the frontend's checks find fails the build.
func (s *source) checksFail(in Parameters) bool {
	options, _, _, _ := parser.ParseDirective("check", s.original)
	if given, ok := in.given()["BUILDKIT_DOCKERFILE_CHECK"]; ok {
		options = given
	}
	config, err := linter.ParseLintOptions(options)
	return err == nil && config.ReturnAsError
}

// otherFrontend returns the frontend that a `# syntax=` line names, and the line, if that frontend knows what the
// built-in one may not.
func (s *source) otherFrontend() (frontend string, at int) {
	image, _, location, ok := parser.DetectSyntax(s.original)
	if !ok {
		return "", 0
	}
	ref, err := name.ParseReference(image, name.WeakValidation)
	if err == nil && !strings.Contains(ref.Identifier(), "labs") && slices.Contains(
		[]string{"docker/dockerfile", "docker/dockerfile-upstream"}, ref.Context().RepositoryStr(),
	) && ref.Context().RegistryStr() == name.DefaultRegistry {
		return "", 0
	}
	return image, line(location)
}

func hasStage(stages []instructions.Stage, target string) bool {
	if i, ok := instructions.HasStage(stages, target); ok && i >= 0 {
		return true
	}
	for i := range stages {
		if target == fmt.Sprint(i) {
			return true
		}
	}
	return false
}

func stageNames(stages []instructions.Stage) string {
	var names []string
	for _, stage := range stages {
		if stage.Name != "" {
			names = append(names, fmt.Sprintf("%q", stage.Name))
		}
	}
	if len(names) == 0 {
		return "none that has a name"
	}
	return strings.Join(names, ", ")
}
