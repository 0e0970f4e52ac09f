// Java is the buildpack for tests that builds applications in Java of Maven's layout, without Maven.
//
// It compiles src/main/java, and packs the classes with src/main/resources into a jar that starts with the main class
// that pom.xml names. Compiled classes stay in the cache until a source file changes. What the real buildpacks leave to
// Maven is not there: an application with dependencies is refused.
package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/buildpacks/libcnb"

	"github.com/stepwright/stepwright/internal/testimage/testbuilders/buildpacks/language"
)

func main() {
	language.Main(language.Buildpack{Name: "Java", Detect: detect, Build: build})
}

const (
	sources   = "src/main/java"
	resources = "src/main/resources"
)

func detect(app string) (string, error) {
	switch {
	case !language.Exists(app, "pom.xml"):
		return "there is no pom.xml", nil
	case !language.Exists(app, sources):
		return "there is no " + sources, nil
	}
	return "", nil
}

func build(app string, layers libcnb.Layers) (language.Image, error) {
	said, err := language.Output(language.Command(app, "javac", "-version"))
	if err != nil {
		return language.Image{}, err
	}
	version := strings.TrimPrefix(said, "javac ")
	if err := language.RequireVersion(
		version, "BP_JVM_VERSION", "GOOGLE_JAVA_VERSION", "GOOGLE_RUNTIME_VERSION",
	); err != nil {
		return language.Image{}, err
	}
	project, err := readProject(filepath.Join(app, "pom.xml"))
	if err != nil {
		return language.Image{}, err
	}
	files, err := filesIn(app, sources, resources)
	if err != nil {
		return language.Image{}, err
	}
	key, err := language.Key(app, append(files, "pom.xml"), version)
	if err != nil {
		return language.Image{}, err
	}
	classes := filepath.Join(layers.Path, "classes")
	jar := filepath.Join(layers.Path, "application", "application.jar")
	return language.Image{
		Runtime: []language.Component{
			{Type: "platform", Name: "openjdk", Version: version, PURL: "pkg:generic/openjdk@" + version},
		},
		Layers: []language.Layer{
			{ID: "classes", Cache: true, Key: key, Make: func(dir string) error { return compile(app, dir, files) }},
			{
				ID: "application", Launch: true,
				Make: func(string) error { return pack(app, classes, jar, project.mainClass()) },
				Components: func(string) ([]language.Component, error) {
					return []language.Component{{
						Type: "application", Name: project.ArtifactID, Version: project.Version,
						PURL: "pkg:maven/" + project.GroupID + "/" + project.ArtifactID + "@" + project.Version,
					}}, nil
				},
			},
		},
		Processes: []language.Process{{Type: "web", Command: []string{"java", "-jar", jar}}},
	}, nil
}

// A project is the relevant part of a pom.xml.
type project struct {
	GroupID      string `xml:"groupId"`
	ArtifactID   string `xml:"artifactId"`
	Version      string `xml:"version"`
	Dependencies []struct {
		ArtifactID string `xml:"artifactId"`
		Scope      string `xml:"scope"`
	} `xml:"dependencies>dependency"`
	Plugins []struct {
		MainClass string `xml:"configuration>archive>manifest>mainClass"`
	} `xml:"build>plugins>plugin"`
}

func readProject(file string) (project, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return project{}, err
	}
	var p project
	if err := xml.Unmarshal(content, &p); err != nil {
		return project{}, fmt.Errorf("pom.xml: %w", err)
	}
	for _, dependency := range p.Dependencies {
		if dependency.Scope != "test" {
			return project{}, fmt.Errorf(
				"pom.xml depends on %s, and this builder for tests has no Maven to fetch it", dependency.ArtifactID,
			)
		}
	}
	if p.mainClass() == "" {
		return project{}, errors.New("pom.xml names no mainClass, in archive and manifest of a plugin's configuration")
	}
	return p, nil
}

func (p project) mainClass() string {
	for _, plugin := range p.Plugins {
		if plugin.MainClass != "" {
			return plugin.MainClass
		}
	}
	return ""
}

// filesIn returns the files in folders of the application, by names relative to it.
func filesIn(app string, folders ...string) ([]string, error) {
	var files []string
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(app, folder), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && entry.IsDir() {
				return nil
			}
			if err != nil {
				return err
			}
			below, err := filepath.Rel(app, path)
			files = append(files, below)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func compile(app, dir string, files []string) error {
	args := []string{"-d", dir, "-encoding", "UTF-8", "-proc:none", "-parameters"}
	sources := slices.DeleteFunc(slices.Clone(files), func(name string) bool { return filepath.Ext(name) != ".java" })
	return language.Run(language.Command(app, "javac", append(args, sources...)...))
}

// pack makes a jar in which all entries have one time, the first that a jar can tell.
func pack(app, classes, jar, mainClass string) error {
	args := []string{
		"--create", "--date=1980-01-01T00:00:02Z", "--file", jar, "--main-class", mainClass, "-C", classes, ".",
	}
	if language.Exists(app, resources) {
		args = append(args, "-C", resources, ".")
	}
	return language.Run(language.Command(app, "jar", args...))
}
