// Nodejs is the buildpack for tests that builds applications for Node.js with npm.
//
// It installs what package-lock.json names, runs the scripts that BP_NODE_RUN_SCRIPTS or GOOGLE_NODE_RUN_SCRIPTS list,
// and starts the script start, or else the main file. The installed packages stay in the cache until package-lock.json
// changes.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildpacks/libcnb"

	"github.com/stepwright/stepwright/internal/testimage/testbuilders/buildpacks/language"
)

func main() {
	language.Main(language.Buildpack{Name: "Node.js", Detect: detect, Build: build})
}

func detect(app string) (string, error) {
	if language.Exists(app, "package.json") {
		return "", nil
	}
	return "there is no package.json", nil
}

// A manifest is what a package.json says.
type manifest struct {
	Main            string
	Scripts         map[string]string
	Dependencies    map[string]string
	DevDependencies map[string]string
}

func build(app string, layers libcnb.Layers) (language.Image, error) {
	version, err := language.Output(language.Command(app, "node", "--version"))
	if err != nil {
		return language.Image{}, err
	}
	version = strings.TrimPrefix(version, "v")
	if err := language.RequireVersion(
		version, "BP_NODE_VERSION", "GOOGLE_NODEJS_VERSION", "GOOGLE_RUNTIME_VERSION",
	); err != nil {
		return language.Image{}, err
	}
	content, err := os.ReadFile(filepath.Join(app, "package.json"))
	if err != nil {
		return language.Image{}, err
	}
	var m manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return language.Image{}, fmt.Errorf("package.json: %w", err)
	}
	image := language.Image{
		Runtime: []language.Component{
			{Type: "platform", Name: "node", Version: version, PURL: "pkg:generic/node@" + version},
		},
		Variables: map[string]string{"NODE_ENV": "production"},
		Processes: m.processes(app),
	}
	if len(m.Dependencies)+len(m.DevDependencies) > 0 {
		if !language.Exists(app, "package-lock.json") {
			return language.Image{}, errors.New(
				"package.json has dependencies and there is no package-lock.json, which tells their versions; npm " +
					"install --package-lock-only makes it",
			)
		}
		key, err := language.Key(app, []string{"package.json", "package-lock.json", ".npmrc"}, version)
		if err != nil {
			return language.Image{}, err
		}
		image.Layers = append(image.Layers, language.Layer{
			ID: "modules", Launch: true, Cache: true, Key: key,
			Make:       func(dir string) error { return install(app, dir) },
			Components: packages,
		})
	}
	image.Finish = func() error {
		if len(image.Layers) > 0 {
			// Node looks for modules in the folders above a file, and so in the application's.
			if err := os.Symlink(
				filepath.Join(layers.Path, "modules", "node_modules"), filepath.Join(app, "node_modules"),
			); err != nil {
				return err
			}
		}
		_, scripts := language.Variable("BP_NODE_RUN_SCRIPTS", "GOOGLE_NODE_RUN_SCRIPTS")
		for script := range strings.FieldsFuncSeq(scripts, func(r rune) bool { return r == ',' || r == ' ' }) {
			if err := npm(app, "run", script); err != nil {
				return err
			}
		}
		return nil
	}
	return image, nil
}

func (m manifest) processes(app string) []language.Process {
	if start := m.Scripts["start"]; start != "" {
		return []language.Process{{Type: "web", Command: language.Shell(start)}}
	}
	for _, file := range []string{m.Main, "server.js", "index.js"} {
		if file != "" && language.Exists(app, file) {
			return []language.Process{{Type: "web", Command: []string{"node", file}}}
		}
	}
	return nil
}

// install fills a layer with the packages that the application runs with. npm puts them into the application's folder.
func install(app, dir string) error {
	if err := os.RemoveAll(filepath.Join(app, "node_modules")); err != nil {
		return err
	}
	if err := npm(app, "ci", "--omit=dev"); err != nil {
		return err
	}
	installed := filepath.Join(app, "node_modules")
	return errors.Join(language.Run(language.Command(app, "cp", "-a", installed, dir)), os.RemoveAll(installed))
}

// npm runs npm with a cache that ends with it.
func npm(app string, args ...string) error {
	cache, err := os.MkdirTemp("", "npm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(cache)
	return language.Run(language.Command(app, "npm", append(args, "--cache="+
		cache, "--no-audit", "--no-fund", "--no-update-notifier")...))
}

// packages reads the list of packages that npm has installed.
func packages(dir string) ([]language.Component, error) {
	content, err := os.ReadFile(filepath.Join(dir, "node_modules", ".package-lock.json"))
	if err != nil {
		return nil, err
	}
	var lock struct {
		Packages map[string]struct{ Version string }
	}
	if err := json.Unmarshal(content, &lock); err != nil {
		return nil, err
	}
	var components []language.Component
	for folder, installed := range lock.Packages {
		name := folder[strings.LastIndex(folder, "node_modules/")+len("node_modules/"):]
		components = append(components, language.Component{
			Type: "library", Name: name, Version: installed.Version,
			PURL: "pkg:npm/" + strings.ReplaceAll(name, "@", "%40") + "@" + installed.Version,
		})
	}
	return components, nil
}
