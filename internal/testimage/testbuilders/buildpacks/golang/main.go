// Golang is the buildpack for tests that builds applications in Go.
//
// It builds the packages that BP_GO_TARGETS or GOOGLE_BUILDABLE name, by default the one in the application's folder.
// Modules and compiled packages stay in the cache.
package main

import (
	"debug/buildinfo"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/buildpacks/libcnb"

	"github.com/stepwright/stepwright/internal/testimage/testbuilders/buildpacks/language"
)

func main() {
	language.Main(language.Buildpack{Name: "Go", Detect: detect, Build: build})
}

func detect(app string) (string, error) {
	if language.Exists(app, "go.mod") {
		return "", nil
	}
	return "there is no go.mod", nil
}

func build(app string, layers libcnb.Layers) (language.Image, error) {
	g := golang{app: app, cache: filepath.Join(layers.Path, "cache")}
	version, err := language.Output(g.command("env", "GOVERSION"))
	if err != nil {
		return language.Image{}, err
	}
	version = strings.TrimPrefix(version, "go")
	if err := language.RequireVersion(
		version, "BP_GO_VERSION", "GOOGLE_GO_VERSION", "GOOGLE_RUNTIME_VERSION",
	); err != nil {
		return language.Image{}, err
	}
	targets, err := g.targets()
	if err != nil {
		return language.Image{}, err
	}
	image := language.Image{
		Layers: []language.Layer{
			{ID: "cache", Cache: true, Make: func(string) error { return nil }},
			{ID: "targets", Launch: true, Make: func(dir string) error { return g.compile(dir, targets) },
				Components: components},
		},
	}
	for _, target := range targets {
		image.Processes = append(image.Processes, language.Process{
			Type:    target.name,
			Command: []string{filepath.Join(layers.Path, "targets", "bin", target.name)},
		})
	}
	if !slices.ContainsFunc(targets, func(t target) bool { return t.name == web }) {
		image.Processes[0].Type = web
	}
	return image, nil
}

// web is the type of the process that serves.
const web = "web"

// A target is a program: the name of its file, and its package.
type target struct{ name, pkg string }

// A golang is Go's own command in the application's folder.
type golang struct {
	app   string
	cache string // layer for what Go downloads and compiles
}

func (g golang) command(args ...string) *exec.Cmd {
	cmd := language.Command(g.app, "go", args...)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOCACHE="+filepath.Join(g.cache, "build"), "GOMODCACHE="+
		filepath.Join(g.cache, "modules"))
	return cmd
}

// targets returns the packages to build.
func (g golang) targets() ([]target, error) {
	_, value := language.Variable("BP_GO_TARGETS", "GOOGLE_BUILDABLE")
	if value == "" {
		value = "."
	}
	var targets []target
	for pkg := range strings.SplitSeq(value, ":") {
		if !strings.HasPrefix(pkg, ".") {
			pkg = "./" + pkg
		}
		imported, err := language.Output(g.command("list", "-buildvcs=false", "-f", "{{.ImportPath}}", pkg))
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{path.Base(imported), pkg})
	}
	return targets, nil
}

// compile builds the targets into a layer.
func (g golang) compile(dir string, targets []target) error {
	_, ldflags := language.Variable("BP_GO_BUILD_LDFLAGS", "GOOGLE_GOLDFLAGS")
	for _, target := range targets {
		file := filepath.Join(dir, "bin", target.name)
		if err := language.Run(
			g.command("build", "-trimpath", "-buildvcs=false", "-ldflags", ldflags, "-o", file, target.pkg),
		); err != nil {
			return err
		}
	}
	return nil
}

// components reads the modules that are linked into a layer's programs.
func components(dir string) ([]language.Component, error) {
	programs, err := filepath.Glob(filepath.Join(dir, "bin", "*"))
	if err != nil {
		return nil, err
	}
	linked := map[language.Component]bool{}
	for _, program := range programs {
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			return nil, err
		}
		linked[module("std", info.GoVersion)] = true
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			linked[module(dep.Path, dep.Version)] = true
		}
	}
	var components []language.Component
	for component := range linked {
		components = append(components, component)
	}
	return components, nil
}

func module(name, version string) language.Component {
	return language.Component{Type: "library", Name: name, Version: version, PURL: "pkg:golang/" + name + "@" + version}
}
