package dockerfile

import (
	"cmp"
	"errors"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
)

// A Dockerfile is built for each platform that is asked for, by one builder in one go, or, where daemons are for
// certain platforms, by the daemons of each. What becomes of it is one index then.

// checkPlatforms finds faults of platforms and platform.
func (in Parameters) checkPlatforms() error {
	var errs []error
	if _, err := platforms.Parse(in.Platform); in.Platform != "" && err != nil {
		errs = append(errs, outcome.Errorf(outcome.InvalidParameters, "platform: %w", err))
	}
	for i, name := range in.Platforms {
		if _, err := platforms.Parse(name); err != nil {
			errs = append(errs, outcome.Errorf(outcome.InvalidParameters, "platforms[%d]: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// targets are the platforms that are asked for, each once; none: the builder's own.
func (in Parameters) targets() []ocispec.Platform {
	names := in.Platforms
	if len(names) == 0 && in.Platform != "" {
		names = []string{in.Platform}
	}
	var all []ocispec.Platform
	for _, name := range names {
		parsed, err := platforms.Parse(name)
		if err != nil {
			continue
		}
		target := platforms.Normalize(parsed)
		if !slices.Contains(platformNames(all), formatted(target)) {
			all = append(all, target)
		}
	}
	return all
}

func formatted(p ocispec.Platform) string { return platforms.FormatAll(p) }

// platformNames are the names of platforms.
func platformNames(all []ocispec.Platform) []string {
	var names []string
	for _, p := range all {
		names = append(names, formatted(p))
	}
	return names
}

// parts are the parameters of the builds that the image is put together of, each by a builder of its own: most often
// one.
func (in Parameters) parts() ([]Parameters, error) {
	if in.BuildKitAddress == "" {
		return []Parameters{in}, nil
	}
	daemons, err := buildkit.DaemonsAt(in.BuildKitAddress)
	if err != nil {
		return nil, err
	}
	targets := in.targets()
	if len(targets) == 0 {
		d, ok := buildkit.DaemonsFor(daemons, machine())
		if !ok {
			d = daemons[0]
		}
		in.BuildKitAddress = d.Addresses
		return []Parameters{in}, nil
	}
	var parts []Parameters
	var faults []string
	for _, target := range targets {
		d, ok := buildkit.DaemonsFor(daemons, target)
		if !ok {
			faults = append(faults, "platforms: no daemon of buildkit-address is for "+formatted(target))
			continue
		}
		at := slices.IndexFunc(parts, func(p Parameters) bool { return p.BuildKitAddress == d.Addresses })
		if at < 0 {
			part := in
			part.BuildKitAddress, part.Platforms = d.Addresses, nil
			parts, at = append(parts, part), len(parts)
		}
		parts[at].Platforms = append(parts[at].Platforms, formatted(target))
	}
	if faults != nil {
		return nil, outcome.Invalid(faults...)
	}
	if len(parts) == 1 {
		parts[0].Platforms = in.Platforms // as they were given
	}
	return parts, nil
}

// machine is the platform of this machine.
func machine() ocispec.Platform { return platforms.Normalize(platforms.DefaultSpec()) }

// view is how the frontend understands a Dockerfile for one platform.
type view struct {
	target   ocispec.Platform
	args     values // what FROM sees
	inherits []int  // the bases of the stages
}

// views are those for the platforms that are asked for, by a builder on a machine.
func (p *recipe) views(in Parameters, machine ocispec.Platform) []view {
	targets := in.targets()
	if len(targets) == 0 {
		targets = []ocispec.Platform{machine}
	}
	var all []view
	for _, target := range targets {
		args := p.arguments(in, machine, target)
		all = append(all, view{target, args, p.bases(args)})
	}
	return all
}

// fromNothing is the base of stages that start from nothing.
const fromNothing = "scratch"

// start is the stage that a stage starts from in the end, and its base as FROM names it: an image, or scratch.
func (p *recipe) start(v view, stage int) (root int, base string) {
	for v.inherits[stage] >= 0 {
		stage = v.inherits[stage]
	}
	base, _ = p.expand(p.stages[stage].BaseName, v.args)
	return stage, base
}

// platformOf is the platform of a stage, on which its RUNs run.
func (p *recipe) platformOf(v view, stage int) ocispec.Platform {
	root, base := p.start(v, stage)
	word := p.stages[root].Platform
	if word == "" || base == fromNothing {
		return v.target
	}
	name, ok := p.expand(word, v.args)
	if !ok {
		return v.target
	}
	parsed, err := platforms.Parse(name)
	if err != nil {
		return v.target // the frontend tells the fault
	}
	return platforms.Normalize(parsed)
}

// differing returns the line of a FROM that starts from a stage for one platform, and from an image for another; 0
// when there is none.
func (s *source) differing() int {
	for i := range s.stages {
		for _, v := range s.views[1:] {
			if v.inherits[i] < 0 != (s.views[0].inherits[i] < 0) {
				return cmp.Or(line(s.stages[i].Location), 1)
			}
		}
	}
	return 0
}
