// Python is the buildpack for tests that builds applications in Python.
//
// It installs what requirements.txt names, with pip, and starts main.py or app.py. The installed packages, compiled,
// stay in the cache until requirements.txt changes.
package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildpacks/libcnb"

	"github.com/stepwright/stepwright/internal/testimage/testbuilders/buildpacks/language"
)

func main() {
	language.Main(language.Buildpack{Name: "Python", Detect: detect, Build: build})
}

const requirements = "requirements.txt"

// programs are the files that are started when nothing else is said, in this order.
var programs = []string{"main.py", "app.py"}

func detect(app string) (string, error) {
	for _, name := range append([]string{requirements}, programs...) {
		if language.Exists(app, name) {
			return "", nil
		}
	}
	return "there is no " + requirements + ", " + strings.Join(programs, " or "), nil
}

func build(app string, layers libcnb.Layers) (language.Image, error) {
	said, err := language.Output(language.Command(app, "python3", "--version"))
	if err != nil {
		return language.Image{}, err
	}
	version := strings.TrimPrefix(said, "Python ")
	if err := language.RequireVersion(
		version, "BP_CPYTHON_VERSION", "GOOGLE_PYTHON_VERSION", "GOOGLE_RUNTIME_VERSION",
	); err != nil {
		return language.Image{}, err
	}
	image := language.Image{
		Runtime: []language.Component{
			{Type: "platform", Name: "python", Version: version, PURL: "pkg:generic/python@" + version},
		},
		// The layer's files are compiled, and the application's folder may not be one to write to.
		Variables: map[string]string{"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
	}
	if language.Exists(app, requirements) {
		key, err := language.Key(app, []string{requirements}, version)
		if err != nil {
			return language.Image{}, err
		}
		image.Layers = append(image.Layers, language.Layer{
			ID: "packages", Launch: true, Cache: true, Key: key,
			Make:       func(dir string) error { return install(app, dir) },
			Components: func(dir string) ([]language.Component, error) { return packages(app, dir) },
		})
		image.Variables["PYTHONPATH"] = filepath.Join(layers.Path, "packages")
	}
	for _, program := range programs {
		if language.Exists(app, program) {
			image.Processes = []language.Process{{Type: "web", Command: []string{"python3", program}}}
			break
		}
	}
	return image, nil
}

// install puts the required packages into a folder, and compiles them to files that do not depend on any file's time.
func install(app, dir string) error {
	if err := language.Run(language.Command(app, "python3", "-m", "pip", "install", "--quiet", "--no-cache-dir",
		"--no-compile",
		"--disable-pip-version-check", "--target", dir, "--requirement", requirements)); err != nil {
		return err
	}
	cmd := language.Command(app, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", dir)
	cmd.Env = append(cmd.Env, "PYTHONHASHSEED=0")
	return language.Run(cmd)
}

func packages(app, dir string) ([]language.Component, error) {
	cmd := language.Command(
		app, "python3", "-m", "pip", "list", "--disable-pip-version-check", "--format", "json", "--path", dir,
	)
	cmd.Stderr = os.Stderr
	out, err := language.Output(cmd)
	if err != nil {
		return nil, err
	}
	var installed []struct{ Name, Version string }
	if err := json.Unmarshal([]byte(out), &installed); err != nil {
		return nil, err
	}
	var components []language.Component
	for _, p := range installed {
		components = append(components, language.Component{
			Type: "library", Name: p.Name, Version: p.Version,
			PURL: "pkg:pypi/" + strings.ToLower(p.Name) + "@" + p.Version,
		})
	}
	return components, nil
}
