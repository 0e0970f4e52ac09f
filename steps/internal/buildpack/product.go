package buildpack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/regularfile"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Where the build leaves its product below the folder of layers (CNB platform specification).
const (
	groupFile    = "group.toml"
	configDir    = "config"
	metadataFile = "metadata.toml"
	sbomDir      = "sbom"
	launchBills  = "launch" // the bills in sbomDir of what the image holds
	buildBills   = "build"  // and those of what made it
)

// What a build may leave.
const (
	tomlLimit     = 4 << 20   // bytes of a file that the lifecycle holds in memory
	sbomFileLimit = 64 << 20  // bytes of a bill of materials
	sbomLimit     = 256 << 20 // bytes of all
	sbomFiles     = 10_000
	sbomDepth     = 16
)

// unsealable is the failure of a build whose product is not one. The words may hold a name that the user's code chose.
func unsealable(format string, args ...any) *outcome.Error {
	text := quote.Line(fmt.Sprintf(format, args...), 500)
	return outcome.Errorf(outcome.BuildFailed, "what the buildpacks left cannot be made an image: %s", text).WithHint(
		"Buildpacks must leave what their specification says, and nothing else in its place.",
	)
}

// inspect looks at what the user's code left where the exporter reads or writes by name: it follows links, and waits
// for pipes. Layers and application it reads without following any, so that they may hold what they like. No process of
// the build is left that could change anything afterwards.
func (b *builder) inspect(layers string) error {
	root, err := os.OpenRoot(layers)
	if err != nil {
		return err
	}
	defer root.Close()
	ids, err := b.group(layers)
	if err != nil {
		return err
	}
	if err := onlyPlain(root, configDir, tomlLimit); err != nil {
		return err
	}
	if err := onlyPlain(root, sbomDir, sbomFileLimit); err != nil {
		return err
	}
	for _, id := range ids {
		if err := checkLayers(root, strings.ReplaceAll(id, "/", "_")); err != nil {
			return err
		}
	}
	return nil
}

// group reads the buildpacks that built. Each is one of the builder's own.
func (b *builder) group(layers string) ([]string, error) {
	group, err := readGroup(layers)
	if err != nil {
		return nil, unsealable("%s: %v", groupFile, err)
	}
	if err := b.refuse(group.Extensions); err != nil {
		return nil, err
	}
	if len(group.Group) == 0 {
		return nil, unsealable("%s names no buildpack", groupFile)
	}
	var ids []string
	for _, g := range group.Group {
		if !slices.ContainsFunc(b.buildpacks, func(has buildpack) bool {
			return has.ID == g.ID && has.Version == g.Version
		}) {
			return nil, unsealable(
				"%s names the buildpack %s %s, which the builder does not have", groupFile, g.ID, g.Version,
			)
		}
		ids = append(ids, g.ID)
	}
	return ids, nil
}

// groupTOML is what group.toml says.
type groupTOML struct {
	Group []struct {
		ID      string `toml:"id"`
		Version string `toml:"version"`
	} `toml:"group"`
	Extensions []extension `toml:"group-extensions"`
}

type extension struct {
	ID string `toml:"id"`
}

func readGroup(layers string) (group groupTOML, err error) {
	raw, err := regularfile.Read(filepath.Join(layers, groupFile), tomlLimit)
	if err == nil {
		_, err = toml.Decode(string(raw), &group)
	}
	return group, err
}

// refuseExtensions ends a build that would change its base images by Dockerfiles: that takes root.
func (b *builder) refuseExtensions() error {
	group, err := readGroup(layersDir)
	if err != nil {
		return fmt.Errorf("%s: %w", groupFile, err)
	}
	return b.refuse(group.Extensions)
}

func (b *builder) refuse(extensions []extension) error {
	if len(extensions) == 0 {
		return nil
	}
	return unsupported(
		b.image, "its extension %s would change base images, which this step cannot do without privileges",
		quote.Line(extensions[0].ID, 200),
	)
}

// onlyPlain refuses what is neither a folder nor a file, at any depth, and files that are too large. It need not be
// there.
func onlyPlain(root *os.Root, name string, limit int64) error {
	return walk(root, name, 0, func(name string, info fs.FileInfo) error {
		switch {
		case info.IsDir():
			return nil
		case !info.Mode().IsRegular():
			return unsealable("%s is neither a folder nor a file", name)
		case info.Size() > limit:
			return unsealable("%s is larger than %d bytes", name, limit)
		}
		return nil
	})
}

// walk visits a name and what is below it, without following a link.
func walk(root *os.Root, name string, depth int, visit func(name string, info fs.FileInfo) error) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if depth > sbomDepth {
		return unsealable("%s is nested more than %d deep", name, sbomDepth)
	}
	if err := visit(name, info); err != nil || !info.IsDir() {
		return err
	}
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for seen := 0; ; {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			if seen++; seen > sbomFiles {
				return unsealable("%s has more than %d entries", name, sbomFiles)
			}
			if err := walk(root, path.Join(name, e.Name()), depth+1, visit); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// checkLayers looks at the folder of a buildpack's layers: the exporter reads the descriptors beside them.
func checkLayers(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return unsealable("%s is not a folder", name)
	}
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if suffix := path.Ext(e.Name()); suffix != ".toml" && suffix != ".sha" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() > tomlLimit {
			return unsealable("%s is not a file of at most %d bytes", path.Join(name, e.Name()), tomlLimit)
		}
	}
	return nil
}

// keepSBOM takes the bills of materials into the workspace. That of what the image holds is in the image, too; that of
// its builder is not.
func (s *sealing) keepSBOM() error {
	to := s.in.Workspace.SBOM()
	finished, err := workspace.Stage(to)
	if err != nil {
		return err
	}
	defer os.RemoveAll(finished)
	root, err := os.OpenRoot(layersDir)
	if err != nil {
		return err
	}
	defer root.Close()
	var files, size int64
	for _, kind := range []string{launchBills, buildBills} {
		from := path.Join(sbomDir, kind)
		err := walk(root, from, 0, func(name string, info fs.FileInfo) error {
			target := filepath.Join(finished, strings.TrimPrefix(name, sbomDir))
			if info.IsDir() {
				return os.Mkdir(target, 0o755)
			}
			if files++; files > sbomFiles {
				return unsealable("there are more than %d bills of materials", sbomFiles)
			}
			if size += info.Size(); size > sbomLimit {
				return unsealable("the bills of materials have more than %d bytes", sbomLimit)
			}
			return copyPlain(root, name, target, info.Size())
		})
		if err != nil {
			return err
		}
	}
	if err := workspace.MakeReadable(finished); err != nil {
		return err
	}
	return workspace.Replace(finished, to)
}

// copyPlain copies a regular file of that size.
func copyPlain(root *os.Root, name, to string, size int64) error {
	in, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return unsealable("%s is not a file", name)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, size))
	return errors.Join(err, out.Close())
}
