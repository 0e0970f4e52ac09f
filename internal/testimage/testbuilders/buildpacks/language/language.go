// Package language is what the buildpacks for tests have in common: a buildpack looks whether it knows the application,
// and then makes layers and tells how to start it.
package language

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/buildpacks/libcnb"
)

// A Buildpack builds applications of one language.
type Buildpack struct {
	Name string // of the language, for messages

	// Detect returns why the buildpack does not apply to the application in a folder; empty: it does.
	Detect func(app string) (because string, err error)

	// Build tells what the application's image is made of.
	Build func(app string, layers libcnb.Layers) (Image, error)
}

// An Image is what a buildpack adds to the run image, beside the application's own files.
type Image struct {
	Layers    []Layer     // made in this order
	Processes []Process   // the first is the one that starts by default
	Runtime   []Component // what the application needs of the run image, for the bill of materials

	Variables map[string]string // set when the application starts, unless the one who starts it does
	Finish    func() error      // runs when the layers are there; nil: nothing
}

// A Process is one that can be started in the image.
type Process struct {
	Type    string   // web for the one that serves
	Command []string // run without a shell
}

// Main runs the phase of the buildpack that the program is called for: bin/detect or bin/build.
func Main(b Buildpack) { libcnb.Main(phases{b}, phases{b}) }

type phases struct{ Buildpack }

func (p phases) Detect(c libcnb.DetectContext) (libcnb.DetectResult, error) {
	because, err := p.Buildpack.Detect(c.Application.Path)
	if err != nil {
		return libcnb.DetectResult{}, err
	}
	if because != "" {
		fmt.Printf("%s: %s\n", p.Name, because)
	}
	return libcnb.DetectResult{Pass: because == ""}, nil
}

func (p phases) Build(c libcnb.BuildContext) (libcnb.BuildResult, error) {
	image, err := p.Buildpack.Build(c.Application.Path, c.Layers)
	if err != nil {
		return libcnb.BuildResult{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	own, err := entrypoint(c.Application.Path)
	if err != nil {
		return libcnb.BuildResult{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	if own != "" {
		image.Processes = append([]Process{{"web", Shell(own)}}, without(image.Processes, "web")...)
	}
	if len(image.Processes) == 0 {
		return libcnb.BuildResult{}, fmt.Errorf(
			"%s: nothing tells how to start the application; set GOOGLE_ENTRYPOINT, or add a Procfile with a line "+
				"`web: <command>`",
			p.Name,
		)
	}
	result := libcnb.NewBuildResult()
	for i, process := range image.Processes {
		fmt.Printf("%s: process %s is %q\n", p.Name, process.Type, process.Command)
		result.Processes = append(result.Processes, libcnb.Process{
			Type: process.Type, Command: process.Command[0], Arguments: process.Command[1:], Direct: true,
			Default: i == 0,
		})
	}
	finish := Layer{ID: "environment", Launch: true, variables: image.Variables, Make: func(string) error {
		if image.Finish == nil {
			return nil
		}
		return image.Finish()
	}}
	for _, layer := range append(image.Layers, finish) {
		layer.language = p.Name
		result.Layers = append(result.Layers, layer)
	}
	return result, writeBOM(c.Layers.LaunchSBOMPath(libcnb.CycloneDXJSON), image.Runtime)
}

// Shell is a command that a shell runs, as the real buildpacks run an entrypoint.
func Shell(command string) []string { return []string{"bash", "-c", command} }

func without(processes []Process, kind string) []Process {
	var others []Process
	for _, process := range processes {
		if process.Type != kind {
			others = append(others, process)
		}
	}
	return others
}

// entrypoint returns the command that the developer set: in GOOGLE_ENTRYPOINT, or as process web of a Procfile.
func entrypoint(app string) (string, error) {
	if command := os.Getenv("GOOGLE_ENTRYPOINT"); command != "" {
		return command, nil
	}
	file, err := os.Open(filepath.Join(app, "Procfile"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if kind, command, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(kind) == "web" {
			return strings.TrimSpace(command), nil
		}
	}
	return "", lines.Err()
}

// Variable returns the first of these variables that is set, and its value.
func Variable(names ...string) (name, value string) {
	for _, name := range names {
		if value := strings.TrimSpace(os.Getenv(name)); value != "" {
			return name, value
		}
	}
	return "", ""
}

// RequireVersion fails when the developer asks, by one of these variables, for another version than the one there is.
func RequireVersion(have string, names ...string) error {
	name, want := Variable(names...)
	if want == "" {
		return nil
	}
	constraint, err := semver.NewConstraint(want)
	if err != nil {
		return fmt.Errorf("%s is %q, which is no version: %w", name, want, err)
	}
	numbers := strings.Split(have, ".")
	version, err := semver.NewVersion(strings.Join(numbers[:min(len(numbers), 3)], ".")) // Java's may have four
	if err != nil {
		return err
	}
	if !constraint.Check(version) {
		return fmt.Errorf("version %s is asked for by %s, and this builder for tests has only %s", want, name, have)
	}
	return nil
}

// Exists tells whether the application has a file.
func Exists(app, name string) bool {
	_, err := os.Stat(filepath.Join(app, name))
	return err == nil
}

// Command prepares a tool of the builder that runs in the application's folder and prints to the build's log.
func Command(app, tool string, args ...string) *exec.Cmd {
	cmd := exec.Command(tool, args...)
	cmd.Dir = app
	cmd.Env = os.Environ()
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// Run runs a command. Its own complaints are in the build's log.
func Run(cmd *exec.Cmd) error {
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// Output runs a command and returns what it prints, without the end of line.
func Output(cmd *exec.Cmd) (string, error) {
	cmd.Stdout = nil
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
