package buildkit

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	frontend "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/archutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Probe is asked of a builder before a build: which programs it can run, and for which platforms images are.
type Probe struct {
	Platforms []ocispec.Platform // can programs for these be run?
	Images    []ImageAt          // each once
}

// ImageAt is an image for a platform.
type ImageAt struct {
	Image    string // as FROM names it
	Platform ocispec.Platform
}

// Findings are what a builder answers. What it does not know is in neither: the build itself will tell.
type Findings struct {
	// Runs tells, by the name of each platform that was asked for, whether the builder runs its programs: the machine
	// is of it, has a handler of binfmt_misc, or the builder brings an emulator.
	Runs map[string]bool
	// Images tells of which platform an image is that was asked for; nil: it is there, but not for that platform.
	Images map[ImageKey]*ocispec.Platform
}

// ImageKey names an ImageAt.
type ImageKey struct{ Image, Platform string }

// Key names the image.
func (i ImageAt) Key() ImageKey { return ImageKey{i.Image, platforms.FormatAll(i.Platform)} }

// Probe asks the builder. The session's attachables have the credentials for registries.
func (b *BuildKit) Probe(ctx context.Context, asked Probe, attached []session.Attachable) (Findings, error) {
	found := Findings{Runs: map[string]bool{}, Images: map[ImageKey]*ocispec.Platform{}}
	workers, err := b.ListWorkers(ctx)
	if err != nil {
		return found, err
	}
	var own []ocispec.Platform
	if len(workers) > 0 {
		own = workers[0].Platforms
	}
	_, err = b.Build(ctx, client.SolveOpt{Session: attached}, "stepwright-probe", func(
		ctx context.Context, c gateway.Client,
	) (*gateway.Result, error) {
		var mu sync.Mutex
		var asking errgroup.Group
		for _, p := range asked.Platforms {
			asking.Go(func() error {
				if runs, known := canRun(ctx, c, own, p); known {
					mu.Lock()
					defer mu.Unlock()
					found.Runs[platforms.FormatAll(p)] = runs
				}
				return nil
			})
		}
		for _, i := range asked.Images {
			asking.Go(func() error {
				if is, known := platformOf(ctx, c, own, i); known {
					mu.Lock()
					defer mu.Unlock()
					found.Images[i.Key()] = is
				}
				return nil
			})
		}
		return gateway.NewResult(), asking.Wait()
	}, nil)
	return found, err
}

// canRun tells whether the builder runs programs for a platform, and whether that is known. What it lists as its own it
// has tried itself. Else it may bring an emulator, so it is given a program to run.
func canRun(ctx context.Context, c gateway.Client, own []ocispec.Platform, p ocispec.Platform) (runs, known bool) {
	for _, listed := range own {
		if platforms.Only(listed).Match(p) {
			return true, true
		}
	}
	program, ok := programs[p.Architecture]
	if !ok || p.OS != "linux" {
		return false, false
	}
	unpacked, err := gzip.NewReader(strings.NewReader(program))
	if err != nil {
		return false, false
	}
	content, err := io.ReadAll(unpacked)
	if err != nil {
		return false, false
	}
	check := llb.Scratch().File(llb.Mkfile("/check", 0o755, content)).
		Run(llb.Args([]string{"/check"}), llb.Network(llb.NetModeNone)).Root()
	definition, err := check.Marshal(ctx, llb.Platform(p))
	if err != nil {
		return false, false
	}
	_, err = c.Solve(ctx, gateway.SolveRequest{Definition: definition.ToPB(), Evaluate: true})
	exit, exited := errors.AsType[*frontend.ExitError](err)
	switch {
	case err == nil:
		return true, true
	case !exited || ctx.Err() != nil:
		return false, false
	}
	// The program for amd64 tells the variant by its exit code.
	return p.Architecture == "amd64" && exit.ExitCode >= 64 && exit.ExitCode < 72, true
}

// programs are BuildKit's own that do nothing, by architecture, compressed by gzip. BuildKit has none for the
// architecture that it is built for itself.
var programs = map[string]string{
	"386": archutil.Binary386, "arm": archutil.Binaryarm, "loong64": archutil.Binaryloong64,
	"mips64": archutil.Binarymips64, "mips64le": archutil.Binarymips64le, "ppc64": archutil.Binaryppc64,
	"ppc64le": archutil.Binaryppc64le, "riscv64": archutil.Binaryriscv64, "s390x": archutil.Binarys390x,
}

// platformOf tells which platform an image is of that a build for a platform gets, and whether that is known. It is nil
// where the image is there for another platform, and not for this one.
func platformOf(
	ctx context.Context, c gateway.Client, own []ocispec.Platform, i ImageAt,
) (is *ocispec.Platform, known bool) {
	named, err := reference.ParseNormalizedNamed(i.Image)
	if err != nil {
		return nil, false
	}
	whole := reference.TagNameOnly(named).String()
	resolve := func(p ocispec.Platform) (*ocispec.Platform, error) {
		_, _, config, err := c.ResolveImageConfig(ctx, whole, sourceresolver.Opt{
			ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &p},
		})
		if err != nil {
			return nil, err
		}
		var image ocispec.Image
		if err := json.Unmarshal(bytes.TrimSpace(config), &image); err != nil {
			return nil, err
		}
		normalized := platforms.Normalize(image.Platform)
		return &normalized, nil
	}
	if is, err = resolve(i.Platform); err == nil {
		return is, is.Architecture != "" // else the image does not tell
	}
	if !IsRefusal(err) {
		return nil, false
	}
	// There may be no such image, or none for this platform. BuildKit's error does not tell which, nor whether a
	// daemon's network failed for a moment.
	for _, p := range append(own[:min(len(own), 1):1], common...) {
		if platforms.FormatAll(p) == platforms.FormatAll(i.Platform) {
			continue
		}
		if _, err := resolve(p); err == nil {
			_, err := resolve(i.Platform)
			return nil, err != nil && IsRefusal(err)
		}
	}
	return nil, false
}

// common are platforms that most images are for.
var common = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
