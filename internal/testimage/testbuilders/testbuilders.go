// Package testbuilders makes builders of Cloud Native Buildpacks for tests, and for machines that cannot reach the
// registries that the real ones live in: images of real parts under the real ones' names.
//
// Each has the lifecycle and the launcher from their own module, systems of Debian packages from
// internal/testimage/baseimages, and four small buildpacks, in the folder buildpacks, which know the variables that
// users of the real ones set. pack's own code puts them together. They are for the machine's own platform only, have
// one version of each language, and are no product: the real builders find far more, and download the versions that
// they are asked for. The builder for Ballerina has the product's own buildpack, of images/ballerina-builder, but a
// stand-in for Ballerina itself, which is no Debian package.
package testbuilders

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/templates"
)

// edition is part of the key of every image. Raise it when the code here changes their content.
const edition = 1

// A Family is a builder and the run image of what it builds, under the names of the real ones.
type Family struct {
	Name       string   // of the builder in templates/builders.yaml
	Builder    string   // image that builds
	Run        string   // image that a built image starts with
	Buildpacks []string // IDs, in the order in which they are tried

	BuildUser, RunUser User
	Writable           []string // folders that the buildpacks write to, besides those of every builder
}

// A User is whom an image runs as.
type User struct{ UID, GID int }

func (u User) String() string { return fmt.Sprintf("%d:%d", u.UID, u.GID) }

// ballerinaBuildpack is the ID of the product's own buildpack. The others are of the languages that their IDs end with.
const ballerinaBuildpack = "stepwright/ballerina"

// buildpacks are the buildpacks for each language, as templates/builders.yaml calls it, in the order in which they are
// tried.
var buildpacks = []struct{ language, id string }{
	{"Go", "stepwright-test/golang"}, {"Java", "stepwright-test/java"}, {"Node.js", "stepwright-test/nodejs"},
	{"Python", "stepwright-test/python"}, {"Ballerina", ballerinaBuildpack},
}

// Families are those that can be made.
func Families() []Family {
	var all []Family
	for _, b := range templates.Builders() {
		if family, ok := StandIn(b); ok {
			all = append(all, family)
		}
	}
	return all
}

// StandIn is the family that stands in for a builder of the templates: for it and its run image, by their names, users
// and languages. ok is false for a builder whose languages have no buildpack here.
func StandIn(b templates.Builder) (family Family, ok bool) {
	family = Family{
		Name: b.Name, Builder: b.Builder.Name + ":latest", Run: b.Run.Name + ":latest",
		BuildUser: User{b.Builder.User, b.Builder.Group}, RunUser: User{b.Run.User, b.Run.Group},
		Writable: b.Writable,
	}
	if b.Builder.Name == b.Run.Name { // their tags tell them apart
		family.Builder, family.Run = b.Builder.Name+":"+b.Builder.Tag, b.Run.Name+":"+b.Run.Tag
	}
	for _, known := range buildpacks {
		if slices.Contains(b.Languages, known.language) {
			family.Buildpacks = append(family.Buildpacks, known.id)
		}
	}
	return family, len(family.Buildpacks) > 0
}

// A Store is a folder of builders, inside one of base images. Several processes may use one at a time.
type Store struct {
	Dir string // baseimages.DefaultDir, or another
	// root of this repository, which the buildpacks are built from; empty: found upwards from the working directory
	Source string
	Log    *slog.Logger // hears of each image and how long it took; nil: nobody
}

// Ensure makes the builders and run images of all families where they are absent, or were made from other packages,
// another Go or another source than the present ones. When all are there it takes milliseconds and needs no network.
func (s Store) Ensure(ctx context.Context) error {
	base := baseimages.Store{Dir: s.Dir, Log: s.Log}
	if err := base.Ensure(ctx, baseimages.Toolchains, baseimages.Runtimes); err != nil {
		return err
	}
	unlock, err := filelock.Exclusive(ctx, s.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	p, err := s.plan()
	if err != nil {
		return err
	}
	now := time.Now()
	if err := os.Chtimes(p.folder, now, now); err == nil {
		return nil
	}
	started := time.Now()
	s.log().Info("Making the builders for tests")
	if err := s.make(ctx, p); err != nil {
		return fmt.Errorf("make the builders for tests: %w", err)
	}
	s.log().Info("Made the builders for tests", "took", time.Since(started).Round(10*time.Millisecond))
	return s.removeOld(now)
}

// Image opens a builder or a run image, by its name in Families, that Ensure has made.
func (s Store) Image(name string) (v1.Image, error) {
	p, err := s.plan()
	if err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(p.folder)
	if err != nil {
		return nil, fmt.Errorf("open the builders for tests: %w", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("open the builders for tests: %w", err)
	}
	for _, descriptor := range manifest.Manifests {
		if descriptor.Annotations[refName] == name {
			return index.Image(descriptor.Digest)
		}
	}
	return nil, fmt.Errorf("%s is no builder for tests and no run image of one: %w", name, fs.ErrNotExist)
}

// A plan tells what the builders would be made of now, and where they are then.
type plan struct {
	source  string              // root of this repository
	systems map[string]v1.Image // base images, by their names
	folder  string              // of the layout; the name is a hash of its sources
}

func (s Store) plan() (plan, error) {
	p := plan{systems: map[string]v1.Image{}}
	var err error
	if p.source, err = s.source(); err != nil {
		return plan{}, err
	}
	for _, name := range []string{baseimages.Toolchains, baseimages.Runtimes} {
		if p.systems[name], err = (baseimages.Store{Dir: s.Dir}).Image(name); err != nil {
			return plan{}, err
		}
	}
	facts, err := inputs(p.source, p.systems)
	if err != nil {
		return plan{}, err
	}
	key := sha256.Sum256([]byte(facts))
	p.folder = filepath.Join(s.dir(), "layout@"+hex.EncodeToString(key[:6]))
	return p, nil
}

// refName is the annotation of a layout's image that holds its name.
const refName = "org.opencontainers.image.ref.name"

func (s Store) dir() string { return filepath.Join(s.Dir, "test-builders") }

// lockFile is locked by one process to make builders, and by any number to read them.
func (s Store) lockFile() string { return filepath.Join(s.dir(), ".lock") }

func (s Store) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// kept is how long a layout stays that nobody uses. Work trees of several commits use one store in turn.
const kept = 24 * time.Hour

// removeOld removes layouts that were made of something else long ago, and what killed processes left.
func (s Store) removeOld(now time.Time) error {
	entries, err := os.ReadDir(s.dir())
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, statErr := entry.Info()
		if statErr == nil && entry.IsDir() && (strings.HasPrefix(entry.Name(), unfinishedPrefix) ||
			now.Sub(info.ModTime()) > kept) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir(), entry.Name())))
		}
	}
	return err
}

const unfinishedPrefix = ".unfinished-"

const (
	module = "github.com/stepwright/stepwright"
	own    = "internal/testimage/testbuilders" // folder of this package in the repository
)

// source returns the root of this repository.
func (s Store) source() (string, error) {
	if s.Source != "" {
		return s.Source, nil
	}
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if first, _, _ := strings.Cut(string(content), "\n"); err == nil && first == "module "+module {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf(
				"the buildpacks for tests are built from Stepwright's source, and %s is not in it", start,
			)
		}
	}
}

// inputs lists the sources of the builders, a fact a line: the same facts make the same images.
func inputs(source string, systems map[string]v1.Image) (string, error) {
	var facts strings.Builder
	fmt.Fprintf(&facts, "edition %d\nplatform linux/%s\ncompiler %s\n", edition, runtime.GOARCH, runtime.Version())
	for _, family := range Families() {
		fmt.Fprintln(&facts, family)
	}
	for _, name := range []string{baseimages.Toolchains, baseimages.Runtimes} {
		digest, err := systems[name].Digest()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&facts, name, digest)
	}
	for _, part := range []string{
		own + "/builder", own + "/buildpacks", own + "/standin", "images/ballerina-builder",
	} {
		if err := filepath.WalkDir(filepath.Join(source, part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			below, err := filepath.Rel(source, path)
			fmt.Fprintf(&facts, "%s %x\n", below, sha256.Sum256(content))
			return err
		}); err != nil {
			return "", err
		}
	}
	return facts.String(), nil
}
