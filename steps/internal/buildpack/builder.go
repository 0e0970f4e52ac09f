package buildpack

import (
	"cmp"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// Where a builder has what it consists of (CNB platform specification), and where the build takes place.
const (
	lifecycleDir  = "/cnb/lifecycle"
	buildpacksDir = "/cnb/buildpacks"
	appDir        = "/workspace"
	layersDir     = "/layers"
	platformDir   = "/platform"
	defaultOrder  = "/cnb/order.toml"
	defaultConfig = "/cnb/build-config"
)

// platform is the platform of images: a builder builds for the machine it runs on.
var platform = v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}

// platformAPIs are those that the step can speak, the preferred one first: layouts need 0.12, and 0.14 takes layers for
// launch from a cache alone, which before took the last image, too.
var platformAPIs = []string{"0.14", "0.15", "0.13", "0.12"}

// incompatiblePlatformAPI is the lifecycle's exit code for a platform API that it does not have (CNB platform
// specification).
const incompatiblePlatformAPI = 11

// builder is the image that the step runs in.
type builder struct {
	image      string // for messages
	api        string // the platform API to drive it by
	buildpacks []buildpack
}

// buildpack is what a builder's buildpack.toml tells.
type buildpack struct {
	ID      string
	Version string
	meta    bool // it only names others
	targets []target
}

type target struct {
	OS   string `toml:"os"`
	Arch string `toml:"arch"`
}

func unsupported(image, format string, args ...any) *outcome.Error {
	return outcome.Errorf(
		outcome.BuilderUnsupported, "builder %s: %w", cmp.Or(image, "of this container"), fmt.Errorf(format, args...),
	)
}

// openBuilder checks that the image is a builder that the step can drive.
func openBuilder(ctx context.Context, in Parameters) (*builder, error) {
	b := &builder{image: in.BuilderImage}
	for _, name := range []string{"analyzer", "detector", "restorer", "builder", "exporter", "launcher"} {
		path := filepath.Join(lifecycleDir, name)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, unsupported(b.image, "it has no lifecycle: there is no %s", path).WithHint(
				"The step's container must be of a builder's image.",
			)
		}
		if err != nil {
			return nil, unsupported(b.image, "%w", err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return nil, unsupported(b.image, "%s is not a program", path)
		}
	}
	if err := b.checkMachine(); err != nil {
		return nil, err
	}
	if err := b.checkUser(); err != nil {
		return nil, err
	}
	var err error
	if b.api, err = b.chooseAPI(ctx, in.PlatformAPI); err != nil {
		return nil, err
	}
	if b.buildpacks, err = readBuildpacks(buildpacksDir); err != nil {
		return nil, unsupported(b.image, "%w", err)
	}
	return b, b.checkTargets()
}

// checkMachine refuses a builder of another architecture, which an emulator may run, but which would build for the
// wrong one.
func (b *builder) checkMachine() error {
	file, err := elf.Open(filepath.Join(lifecycleDir, "analyzer"))
	if err != nil {
		return nil // running it tells more
	}
	defer file.Close()
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if want, known := machines[runtime.GOARCH]; known && file.Machine != want {
		return unsupported(b.image, "its lifecycle is for %s, and this step for %s", file.Machine, platform)
	}
	return nil
}

// checkUser compares the process with the builder's user: the lifecycle insists on it, and cannot become it here.
func (b *builder) checkUser() error {
	for _, id := range []struct {
		variable, field string
		is              int
	}{
		{"CNB_USER_ID", "runAsUser", os.Getuid()}, {"CNB_GROUP_ID", "runAsGroup", os.Getgid()},
	} {
		want, err := strconv.Atoi(os.Getenv(id.variable))
		if err != nil {
			return unsupported(b.image, "it does not set %s to a number, as every builder does", id.variable)
		}
		if want != id.is {
			return unsupported(b.image, "its %s is %d, and the step runs as %d", id.variable, want, id.is).
				WithHint(fmt.Sprintf("Set the pod's %s to %d.", id.field, want))
		}
	}
	return nil
}

// chooseAPI asks the lifecycle itself: its exit code says which platform APIs it has.
func (b *builder) chooseAPI(ctx context.Context, asked string) (string, error) {
	candidates := slices.Clone(platformAPIs)
	if asked != "" {
		candidates = []string{asked}
	}
	for _, api := range candidates {
		cmd := exec.CommandContext(ctx, filepath.Join(lifecycleDir, "analyzer"), "-version")
		cmd.Env = append(os.Environ(), "CNB_PLATFORM_API="+api)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return api, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != incompatiblePlatformAPI {
			return "", unsupported(
				b.image, "its lifecycle does not run: %w: %s", err, transcript.LastLines(string(out), 3),
			)
		}
	}
	slices.Sort(candidates)
	return "", unsupported(
		b.image, "its lifecycle%s has none of the platform APIs %s", lifecycleVersion(),
		strings.Join(candidates, ", "),
	)
}

// lifecycleVersion is what lifecycle.toml says, which few builders keep.
func lifecycleVersion() string {
	var descriptor struct {
		APIs struct {
			Platform struct {
				Supported []string `toml:"supported"`
			} `toml:"platform"`
		} `toml:"apis"`
		Lifecycle struct {
			Version string `toml:"version"`
		} `toml:"lifecycle"`
	}
	if _, err := toml.DecodeFile(filepath.Join(lifecycleDir, "lifecycle.toml"), &descriptor); err != nil {
		return ""
	}
	text := " " + descriptor.Lifecycle.Version
	if supported := descriptor.APIs.Platform.Supported; len(supported) > 0 {
		text += " has " + strings.Join(supported, ", ") + " and"
	}
	return text
}

// readBuildpacks reads buildpack.toml of every buildpack in a folder: <escaped ID>/<version>/buildpack.toml.
func readBuildpacks(dir string) ([]buildpack, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "buildpack.toml"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there are no buildpacks in %s", dir)
	}
	var all []buildpack
	for _, file := range files {
		var descriptor struct {
			Buildpack struct {
				ID      string `toml:"id"`
				Version string `toml:"version"`
			} `toml:"buildpack"`
			Order   []any    `toml:"order"`
			Targets []target `toml:"targets"`
		}
		if _, err := toml.DecodeFile(file, &descriptor); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, buildpack{
			descriptor.Buildpack.ID, descriptor.Buildpack.Version, len(descriptor.Order) > 0, descriptor.Targets,
		})
	}
	return all, nil
}

// checkTargets refuses a builder none of whose buildpacks builds for the platform; what does not fit beside what does,
// the lifecycle passes over.
func (b *builder) checkTargets() error {
	var others []string
	for _, pack := range b.buildpacks {
		if pack.meta {
			continue
		}
		if len(pack.targets) == 0 {
			return nil
		}
		for _, t := range pack.targets {
			if (t.OS == "" || t.OS == platform.OS) && (t.Arch == "" || t.Arch == platform.Architecture) {
				return nil
			}
			others = append(others, t.OS+"/"+cmp.Or(t.Arch, "any"))
		}
	}
	if others == nil {
		return nil
	}
	slices.Sort(others)
	return unsupported(
		b.image, "its buildpacks are for %s, and none for %s", strings.Join(slices.Compact(others), ", "), platform,
	)
}
