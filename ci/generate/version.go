package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// versionFile is the home of the version.
const versionFile = "templates/VERSION"

// semver is a version without build metadata, which tags of images cannot have.
const semver = `\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?`

var wholeVersion = regexp.MustCompile(`\A` + semver + `\z`)

// versioned are the files that have the version, each with what stands before it there.
var versioned = map[string]*regexp.Regexp{
	"README.md":                                    before(`--version |VERSION=`),
	workflowPlane + "/kustomization.yaml":          before(`app\.kubernetes\.io/version: |newTag: `),
	"templates/buildkit-daemon/kustomization.yaml": before(`newTag: `),
	controlPlane + "/kustomization.yaml":           before(`app\.kubernetes\.io/version: `),
	"steps/internal/attestation/VERSION":           before(`\A`),
	actionFile:                                     before(`\n  version:\n    description: [^\n]*\n    default: `),
	pipelines + "gitlab/.gitlab-ci.yml":            before(download),
	pipelines + "jenkins/Jenkinsfile":              before(download),
	withoutDocker:                                  before(download),
	ballerina + "README.md":                        before(ours),
	ballerina + "builder.toml":                     before(ours),
	ballerina + "buildpack/buildpack.toml":         before(`\nversion = "`),
}

const (
	pipelines     = "examples/external-ci/"
	withoutDocker = pipelines + "jenkins/Jenkinsfile.without-docker"
	ballerina     = "images/ballerina-builder/"

	download = `https://github\.com/stepwright/stepwright/releases/download/v`
	ours     = `ghcr\.io/stepwright/[a-z-]+:`
)

func before(what string) *regexp.Regexp { return regexp.MustCompile(`(` + what + `)` + semver) }

// readVersion reads the project's version.
func readVersion(root string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(root, versionFile))
	if err != nil {
		return "", err
	}
	version := strings.TrimSpace(string(raw))
	if !wholeVersion.MatchString(version) {
		return "", fmt.Errorf("%s: %q is no version such as 1.2.3 or 1.2.3-rc.1", versionFile, version)
	}
	return version, nil
}

// stamp puts the version into the files that have it: into those of files, or else into those of the project in root.
func stamp(root, version string, files map[string]string) error {
	for name, places := range versioned {
		text, generated := files[name]
		if !generated {
			raw, err := os.ReadFile(filepath.Join(root, name))
			if err != nil {
				return err
			}
			text = string(raw)
		}
		if !places.MatchString(text) {
			return fmt.Errorf("%s: has no place for the version", name)
		}
		files[name] = places.ReplaceAllString(text, "${1}"+version)
	}
	return nil
}
