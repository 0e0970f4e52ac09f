package dockerfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// recipe is a Dockerfile as its frontend understands it, as far as that can be known without its base images. The
// frontend keeps this to itself; the parser and the rules of expansion are its own.
type recipe struct {
	parsed *parser.Result
	lex    *shell.Lex
	global []instructions.ArgCommand // those before the first FROM
	stages []instructions.Stage

	triggers [][]instructions.Command // what each stage leaves, by ONBUILD, to those that start from it
}

// placed is an instruction of a stage, and where the Dockerfile has it: a trigger's place is the FROM that pulls it.
type placed struct {
	instructions.Command
	at []parser.Range
}

// setTriggers reads the triggers of all stages. The frontend does so when it builds a stage upon them, and finds their
// faults then.
func (p *recipe) setTriggers() {
	p.triggers = make([][]instructions.Command, len(p.stages))
	for i, stage := range p.stages {
		for _, command := range stage.Commands {
			trigger, ok := command.(*instructions.OnbuildCommand)
			if !ok {
				continue
			}
			if tree, err := parser.Parse(strings.NewReader(trigger.Expression)); err == nil {
				for _, node := range tree.AST.Children {
					if later, err := instructions.ParseCommand(node); err == nil {
						p.triggers[i] = append(p.triggers[i], later)
					}
				}
			}
		}
	}
}

// commands returns the instructions of a stage, those first that the stage below has left to it.
func (p *recipe) commands(stage int, bases []int) []placed {
	var all []placed
	if below := bases[stage]; below >= 0 {
		for _, trigger := range p.triggers[below] {
			all = append(all, placed{trigger, p.stages[stage].Location})
		}
	}
	for _, command := range p.stages[stage].Commands {
		all = append(all, placed{command, command.Location()})
	}
	return all
}

// values are arguments or environment variables, by name.
type values map[string]string

// Get implements shell.EnvGetter.
func (v values) Get(name string) (string, bool) {
	value, ok := v[name]
	return value, ok
}

// Keys implements shell.EnvGetter.
func (v values) Keys() []string {
	var keys []string
	for key := range v {
		keys = append(keys, key)
	}
	return keys
}

// arguments returns what FROM sees: arguments of the platforms, and the Dockerfile's own before its first FROM. What
// the build gives wins over both. machine is the platform of the builder, target the one that is built for.
func (p *recipe) arguments(in Parameters, machine, target ocispec.Platform) values {
	given := in.given()
	stage := in.Target
	if stage == "" && len(p.stages) > 0 {
		stage = p.stages[len(p.stages)-1].Name
	}
	if stage == "" {
		stage = "default"
	}
	args := values{
		"BUILDPLATFORM":   platforms.Format(machine),
		"BUILDOS":         machine.OS,
		"BUILDOSVERSION":  machine.OSVersion,
		"BUILDARCH":       machine.Architecture,
		"BUILDVARIANT":    machine.Variant,
		"TARGETPLATFORM":  platforms.FormatAll(target),
		"TARGETOS":        target.OS,
		"TARGETOSVERSION": target.OSVersion,
		"TARGETARCH":      target.Architecture,
		"TARGETVARIANT":   target.Variant,
		"TARGETSTAGE":     stage,
	}
	for name := range args {
		if value, ok := given[name]; ok {
			args[name] = value
		}
	}
	for _, command := range p.global {
		p.declare(args, command, given, nil)
	}
	return args
}

// declare does what ARG does: a value that is given wins over the default, and that over what is inherited.
func (p *recipe) declare(env values, command instructions.ArgCommand, given, inherited values) {
	for _, arg := range command.Args {
		if value, ok := given[arg.Key]; ok {
			env[arg.Key] = value
		} else if arg.Value != nil {
			if value, ok := p.expand(*arg.Value, env); ok {
				env[arg.Key] = value
			}
		} else if value, ok := inherited[arg.Key]; ok {
			env[arg.Key] = value
		}
	}
}

// expand returns a word with its variables replaced, and whether it is one to the frontend.
func (p *recipe) expand(word string, env values) (string, bool) {
	result, err := p.lex.ProcessWordWithMatches(word, env)
	return result.Result, err == nil
}

// given returns the build arguments of the user by name.
func (in Parameters) given() values {
	given := values{}
	for _, arg := range in.BuildArgs {
		given[arg.Name] = arg.Value
	}
	return given
}

// bases returns, for each stage, the index of the stage that it starts from; -1 where that is an image. A name means
// the last stage before that has it.
func (p *recipe) bases(args values) []int {
	bases := make([]int, len(p.stages))
	names := map[string]int{}
	for i, stage := range p.stages {
		bases[i] = -1
		if base, ok := p.expand(stage.BaseName, args); ok {
			if at, ok := names[base]; ok {
				bases[i] = at
			}
		}
		if stage.Name != "" {
			names[stage.Name] = i
		}
	}
	return bases
}

// stage returns the index of the stage that COPY --from and the like mean by a name or number; -1 for an image.
func (p *recipe) stage(name string) int {
	if number, err := strconv.Atoi(name); err == nil && number >= 0 && number < len(p.stages) {
		return number
	}
	for i, stage := range slices.Backward(p.stages) {
		if stage.Name != "" && strings.EqualFold(stage.Name, name) {
			return i
		}
	}
	return -1
}

// built tells of each stage whether the target is made of it. Instructions of the others are not even looked at.
func (p *recipe) built(target string, bases []int) []bool {
	built := make([]bool, len(p.stages))
	var add func(int)
	add = func(i int) {
		if i < 0 || built[i] {
			return
		}
		built[i] = true
		add(bases[i])
		for _, command := range p.commands(i, bases) {
			for _, from := range takenBy(command.Command) {
				if from != "" {
					add(p.stage(from))
				}
			}
		}
	}
	if target == "" {
		add(len(p.stages) - 1)
	} else {
		add(p.stage(target))
	}
	return built
}

// environment returns the variables that an instruction of a stage sees, without those of its base image, which are
// not known.
func (p *recipe) environment(in Parameters, args values, bases []int, stage int, until instructions.Command) values {
	env := values{}
	if bases[stage] >= 0 {
		env = p.environment(in, args, bases, bases[stage], nil)
	} else {
		for _, v := range in.BuildEnv {
			env[v.Name] = v.Value
		}
	}
	given := in.given()
	for _, command := range p.commands(stage, bases) {
		if command.Command == until {
			break
		}
		switch c := command.Command.(type) {
		case *instructions.ArgCommand:
			p.declare(env, *c, given, args)
		case *instructions.EnvCommand:
			before := values{}
			for name, value := range env {
				before[name] = value
			}
			for _, v := range c.Env {
				if value, ok := p.expand(v.Value, before); ok {
					env[v.Key] = value
				}
			}
		}
	}
	return env
}

// line is the number of an instruction's first line; 0 when it is not known.
func line(at []parser.Range) int {
	if len(at) == 0 {
		return 0
	}
	return at[0].Start.Line
}
