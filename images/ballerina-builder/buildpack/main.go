// Buildpack builds Ballerina packages: it runs `bal build`, makes a layer of the jar, and tells how to start it.
//
// What bal downloads from Ballerina Central stays in the cache. What it generates besides the jar, such as OpenAPI
// definitions, goes into /app/generated-artifacts, where the platform has such a folder.
package main

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/buildpacks/libcnb"
)

func main() { libcnb.Main(buildpack{}, buildpack{}) }

type buildpack struct{}

const (
	manifest = "Ballerina.toml"

	// artifacts is a folder that OpenChoreo lets this buildpack write to.
	artifacts = "/app/generated-artifacts"
)

func (buildpack) Detect(c libcnb.DetectContext) (libcnb.DetectResult, error) {
	_, err := os.Stat(filepath.Join(c.Application.Path, manifest))
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("Ballerina: there is no " + manifest)
		return libcnb.DetectResult{}, nil
	}
	return libcnb.DetectResult{Pass: err == nil}, err
}

func (buildpack) Build(c libcnb.BuildContext) (libcnb.BuildResult, error) {
	var project struct {
		Package struct{ Org, Name, Version string } `toml:"package"`
	}
	if _, err := toml.DecodeFile(filepath.Join(c.Application.Path, manifest), &project); err != nil {
		return libcnb.BuildResult{}, fmt.Errorf("%s: %w", manifest, err)
	}
	central := filepath.Join(c.Layers.Path, "central")
	jar := filepath.Join(c.Layers.Path, "application", "application.jar")
	result := libcnb.NewBuildResult()
	result.Layers = []libcnb.LayerContributor{
		layer{"central", libcnb.LayerTypes{Cache: true}, func(libcnb.Layer) error { return nil }},
		layer{"application", libcnb.LayerTypes{Launch: true}, func(l libcnb.Layer) error {
			built, err := build(c.Application.Path, central)
			if err != nil {
				return err
			}
			if err := pack(built, jar); err != nil {
				return fmt.Errorf("pack %s: %w", filepath.Base(built), err)
			}
			return writeBOM(
				l.SBOMPath(libcnb.CycloneDXJSON), project.Package.Org, project.Package.Name, project.Package.Version,
			)
		}},
	}
	result.Processes = []libcnb.Process{
		{Type: "web", Command: "java", Arguments: []string{"-jar", jar}, Direct: true, Default: true},
	}
	return result, nil
}

// A layer is a folder that is filled in each build, on top of its content in the cache.
type layer struct {
	name  string
	types libcnb.LayerTypes
	fill  func(libcnb.Layer) error
}

func (l layer) Name() string { return l.name }

func (l layer) Contribute(layer libcnb.Layer) (libcnb.Layer, error) {
	if err := os.MkdirAll(layer.Path, 0o755); err != nil {
		return layer, err
	}
	layer.LayerTypes = l.types
	if err := l.fill(layer); err != nil {
		return layer, err
	}
	return layer, nil
}

// build runs bal in the application's folder and returns the jar that it made. Nothing that is there before is taken
// for it.
func build(app, central string) (jar string, err error) {
	target := filepath.Join(app, "target")
	if err := os.RemoveAll(target); err != nil {
		return "", err
	}
	cmd := exec.Command("bal", append([]string{"build"}, strings.Fields(os.Getenv("OTHER_BAL_BUILD_ARGS"))...)...)
	cmd.Dir = app
	// bal keeps what it downloads below its home, by default the user's, which need not be one to write to.
	cmd.Env = append(os.Environ(), "BALLERINA_HOME_DIR="+central)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("bal build: %w", err)
	}
	jars, err := filepath.Glob(filepath.Join(target, "bin", "*.jar"))
	if err != nil {
		return "", err
	}
	if len(jars) != 1 {
		return "", fmt.Errorf(
			"bal build left %d jars in target/bin, want 1: has the package a service or a main function?", len(jars),
		)
	}
	if info, err := os.Stat(artifacts); err == nil && info.IsDir() {
		if err := keepArtifacts(target); err != nil {
			fmt.Printf("Ballerina: cannot keep what bal has generated: %v\n", err) // the image is none the worse for it
		}
	}
	// Move the jar out of the application: it has a layer of its own, and the rest of target only differs
	// from build to build.
	moved := filepath.Join(os.TempDir(), filepath.Base(jars[0]))
	return moved, errors.Join(copyFile(jars[0], moved), os.RemoveAll(target))
}

// keepArtifacts copies the files that bal has generated, but for programs and caches.
func keepArtifacts(target string) error {
	for _, name := range []string{"openapi", "asyncapi"} {
		from := filepath.Join(target, name)
		err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			below, err := filepath.Rel(target, path)
			if err != nil {
				return err
			}
			to := filepath.Join(artifacts, below)
			if entry.IsDir() {
				return os.MkdirAll(to, 0o755)
			}
			return copyFile(path, to)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// beginning is the first time that a zip file can tell.
var beginning = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC)

// pack copies a jar without the times of its entries, so that two builds of one source make one layer.
func pack(from, to string) error {
	source, err := zip.OpenReader(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	target := zip.NewWriter(file)
	for _, entry := range ordered(source.File) {
		if err := packEntry(target, entry); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	return errors.Join(target.Close(), file.Close())
}

func packEntry(target *zip.Writer, entry *zip.File) error {
	w, err := target.CreateHeader(&zip.FileHeader{Name: entry.Name, Method: entry.Method, Modified: beginning})
	if err != nil || entry.FileInfo().IsDir() {
		return err
	}
	content, err := entry.Open()
	if err != nil {
		return err
	}
	defer content.Close()
	_, err = io.Copy(w, content)
	return err
}

// ordered sorts the entries of a jar by name. The manifest comes first, where Java expects it.
func ordered(entries []*zip.File) []*zip.File {
	place := func(f *zip.File) string {
		switch f.Name {
		case "META-INF/":
			return "0"
		case "META-INF/MANIFEST.MF":
			return "1"
		}
		return "2" + f.Name
	}
	return slices.SortedStableFunc(slices.Values(entries), func(a, b *zip.File) int {
		return strings.Compare(place(a), place(b))
	})
}

// writeBOM writes a bill of materials in CycloneDX that names the package.
func writeBOM(path, org, name, version string) error {
	type component struct {
		Type    string `json:"type"`
		Group   string `json:"group,omitempty"`
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		PURL    string `json:"purl"`
	}
	content, err := json.Marshal(struct {
		Format     string      `json:"bomFormat"`
		Spec       string      `json:"specVersion"`
		Version    int         `json:"version"`
		Components []component `json:"components"`
	}{"CycloneDX", "1.4", 1,
		[]component{{"application", org, name, version, "pkg:generic/" + org + "/" + name + "@" + version}}})
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
