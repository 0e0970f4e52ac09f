package buildpack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/buildpacks/pack/pkg/project/types"
	v01 "github.com/buildpacks/pack/pkg/project/v01"
	v03 "github.com/buildpacks/pack/pkg/project/v03"
	ignore "github.com/sabhiram/go-gitignore"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// projectFile holds a developer's settings for buildpacks, in the application's folder. pack's own way to it would
// bring go-git and parts of BuildKit, so only what pack decodes it with is used; a test compares the two.
const projectFile = "project.toml"

// projectLimit is how large project.toml may be, in bytes.
const projectLimit = 1 << 20

// project is what project.toml asks for, as far as it concerns a build.
type project struct {
	types.Build
	filter func(path string) bool // whether a file belongs to the application
}

func invalidProject(format string, args ...any) *outcome.Error {
	return outcome.Errorf(outcome.DescriptorInvalid, "%s: %w", projectFile, fmt.Errorf(format, args...)).
		WithHint("Correct project.toml; https://buildpacks.io/docs/reference/config/project-descriptor describes it.")
}

// readProject reads the application's project.toml; without one everything belongs to it.
func readProject(app string, log *slog.Logger) (*project, error) {
	everything := &project{filter: func(string) bool { return true }}
	// The repository may have put a link in its place.
	path, err := workspace.Resolve(app, projectFile)
	if errors.Is(err, fs.ErrNotExist) {
		return everything, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > projectLimit {
		return nil, invalidProject("it is not a file of at most %d bytes", projectLimit)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p, err := parseProject(text, log)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func parseProject(text []byte, log *slog.Logger) (*project, error) {
	var versioned struct {
		Project struct {
			Version string `toml:"schema-version"`
		} `toml:"_"`
	}
	if _, err := toml.NewDecoder(bytes.NewReader(text)).Decode(&versioned); err != nil {
		return nil, invalidProject("%w", err)
	}
	build, unknown, err := decodeProject(text, versioned.Project.Version)
	if err != nil {
		return nil, invalidProject("%w", err)
	}
	if len(unknown) > 0 {
		log.Warn(
			"project.toml has keys that mean nothing", "schema-version", versioned.Project.Version, "keys",
			strings.Join(unknown, ", "),
		)
	}
	if build.Builder != "" {
		log.Warn(
			"project.toml asks for a builder, but which one builds is the workflow's choice", "asked", build.Builder,
		)
	}
	if len(build.Buildpacks) > 0 && len(build.Pre.Buildpacks)+len(build.Post.Buildpacks) > 0 {
		log.Warn("project.toml names all buildpacks in group, so those before and after the builder's do not count")
	}
	p := &project{Build: build}
	return p, p.check()
}

// schemaVersions are pack's decoders by the version of the descriptor's schema.
var schemaVersions = map[string]func(text string) (types.Descriptor, toml.MetaData, error){
	"":    v01.NewDescriptor,
	"0.1": v01.NewDescriptor,
	"0.2": decode02,
	"0.3": v03.NewDescriptor,
}

// decode02 decodes version 0.2 as pack does, whose own decoder would bring go-git.
func decode02(text string) (types.Descriptor, toml.MetaData, error) {
	type buildpack struct {
		ID      string       `toml:"id"`
		Version string       `toml:"version"`
		URI     string       `toml:"uri"`
		Script  types.Script `toml:"script"`
	}
	type variable struct {
		Name  string `toml:"name"`
		Value string `toml:"value"`
	}
	type addition struct {
		Buildpacks []buildpack `toml:"group"`
	}
	var d struct {
		Project v03.Project `toml:"_"`
		IO      struct {
			Buildpacks struct {
				Include []string    `toml:"include"`
				Exclude []string    `toml:"exclude"`
				Group   []buildpack `toml:"group"`
				Env     struct {    // what it was called at first
					Build []variable `toml:"build"`
				} `toml:"env"`
				Build struct {
					Env []variable `toml:"env"`
				} `toml:"build"`
				Builder string   `toml:"builder"`
				Pre     addition `toml:"pre"`
				Post    addition `toml:"post"`
			} `toml:"buildpacks"`
		} `toml:"io"`
	}
	meta, err := toml.Decode(text, &d)
	if err != nil {
		return types.Descriptor{}, meta, err
	}
	in := d.IO.Buildpacks
	group := func(from []buildpack) (all []types.Buildpack) {
		for _, b := range from {
			all = append(all, types.Buildpack{ID: b.ID, Version: b.Version, URI: b.URI, Script: b.Script})
		}
		return all
	}
	build := types.Build{
		Include:    in.Include,
		Exclude:    in.Exclude,
		Buildpacks: group(in.Group),
		Builder:    in.Builder,
		Pre:        types.GroupAddition{Buildpacks: group(in.Pre.Buildpacks)},
		Post:       types.GroupAddition{Buildpacks: group(in.Post.Buildpacks)},
	}
	variables := in.Build.Env
	if variables == nil {
		variables = in.Env.Build
	}
	for _, v := range variables {
		build.Env = append(build.Env, types.EnvVar{Name: v.Name, Value: v.Value})
	}
	return types.Descriptor{Project: types.Project{Licenses: d.Project.Licenses}, Build: build}, meta, nil
}

// decodeProject decodes a descriptor of any schema version, as pack does, and names the keys it does not know.
func decodeProject(text []byte, version string) (build types.Build, unknown []string, err error) {
	decode, known := schemaVersions[version]
	if !known {
		return build, nil, fmt.Errorf("its schema-version is %q, and not 0.1, 0.2 or 0.3", version)
	}
	descriptor, meta, err := decode(string(text))
	if err != nil {
		return build, nil, err
	}
	for _, license := range descriptor.Project.Licenses {
		if license.Type == "" && license.URI == "" {
			return build, nil, errors.New("a license has neither type nor uri")
		}
	}
	for _, key := range meta.Undecoded() {
		// Other tables are for other tools.
		if name := key.String(); strings.HasPrefix(name, "build.") || strings.HasPrefix(name, "io.buildpacks") {
			unknown = append(unknown, name)
		}
	}
	return descriptor.Build, unknown, nil
}

// check refuses what contradicts itself.
func (p *project) check() error {
	var faults []string
	if p.Include != nil && p.Exclude != nil {
		faults = append(faults, "it has both include and exclude")
	}
	for _, asked := range p.Buildpacks {
		switch {
		case asked.ID == "" && asked.URI == "":
			faults = append(faults, "a buildpack has neither id nor uri")
		case asked.URI != "" && asked.Version != "":
			faults = append(faults, fmt.Sprintf("buildpack %s has both uri and version", asked.URI))
		}
	}
	for _, v := range p.Env {
		if fault := nameFault(v.Name); fault != "" {
			faults = append(faults, fmt.Sprintf("variable %q %s", v.Name, fault))
		}
	}
	if len(faults) > 0 {
		return invalidProject("%s", strings.Join(faults, "; "))
	}
	p.filter = func(string) bool { return true }
	if len(p.Exclude) > 0 {
		excluded := ignore.CompileIgnoreLines(p.Exclude...)
		p.filter = func(path string) bool { return !excluded.MatchesPath(path) }
	}
	if len(p.Include) > 0 {
		p.filter = ignore.CompileIgnoreLines(p.Include...).MatchesPath
	}
	return nil
}

// variables returns the variables for buildpacks, without those for other execution environments than production.
func (p *project) variables() []step.NameValue {
	var all []step.NameValue
	for _, v := range p.Env {
		if len(v.ExecEnv) == 0 || slices.Contains(v.ExecEnv, "production") || slices.Contains(v.ExecEnv, "*") {
			all = append(all, step.NameValue{Name: v.Name, Value: v.Value})
		}
	}
	return all
}
