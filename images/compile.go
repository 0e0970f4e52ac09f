package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// The binaries are the same wherever and whenever they are built from the same files by the same Go: they know neither
// paths nor the commit, and the builder's own settings are overruled.
var (
	buildFlags = []string{"build", "-trimpath", "-buildvcs=false"}
	strip      = "-s -w"
	settings   = []string{
		"GOOS=linux", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=",
		"CGO_CFLAGS=", "CGO_CPPFLAGS=", "CGO_LDFLAGS=",
	}
)

// compileSteps puts the binaries of images for an architecture into a directory.
func compileSteps(ctx context.Context, s source, images []image, architecture, into string) error {
	args := slices.Concat(buildFlags, []string{"-ldflags", strip, "-o", into + string(filepath.Separator)})
	environment := []string{"CGO_ENABLED=0", "GOARCH=" + architecture}
	steps := len(args)
	for _, img := range images {
		if img.module == "" {
			args = append(args, "./steps/"+img.step)
			continue
		}
		own := append(slices.Clone(args[:steps]), ".")
		if err := compile(ctx, filepath.Join(s.dir, img.module), own, environment...); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(images, func(img image) bool { return img.git }) {
		args = append(args, "./steps/"+gitStep)
	}
	if len(args) == steps {
		return nil
	}
	return compile(ctx, s.dir, args, environment...)
}

// triplets are Debian's names for architectures, by which it calls its cross compilers and where it puts libraries.
var triplets = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

// noToolchain names the missing parts of a C compiler for another architecture.
type noToolchain struct{ missing, architecture string }

func (e noToolchain) Error() string {
	return fmt.Sprintf("%s is missing, needed to build runc for %s", e.missing, e.architecture)
}

// compileRunc builds runc as a file that needs no libraries. For another architecture than this machine's it needs a
// cross compiler and a libseccomp of that one; where they are absent, the error is a noToolchain.
func compileRunc(ctx context.Context, s source, architecture, path string) error {
	environment := []string{"CGO_ENABLED=1", "GOARCH=" + architecture}
	if !native(architecture) {
		compiler := triplets[architecture] + "-gcc"
		if _, err := exec.LookPath(compiler); err != nil {
			return noToolchain{compiler, architecture}
		}
		libraries := filepath.Join("/usr/lib", triplets[architecture])
		if _, err := os.Stat(filepath.Join(libraries, "libseccomp.a")); err != nil {
			return noToolchain{"libseccomp-dev:" + architecture, architecture}
		}
		environment = append(environment, "CC="+compiler, "PKG_CONFIG_LIBDIR="+filepath.Join(libraries, "pkgconfig"))
	}
	// Without build IDs: Go's tells of the objects that went in, and those in its cache may be of older C headers, of
	// which Go knows nothing.
	args := slices.Concat(buildFlags, []string{
		"-tags", "seccomp netgo osusergo", "-ldflags",
		strip + " -buildid= -B none -linkmode external -extldflags -static", "-o", path,
		"github.com/opencontainers/runc",
	})
	return compile(ctx, filepath.Join(s.dir, "images", "runc"), args, environment...)
}

func compile(ctx context.Context, dir string, args []string, environment ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), settings, environment)
	_, err := output(cmd)
	return err
}

// authorities is where Debian's package ca-certificates has what Mozilla trusts. The bundle in /etc may have more: this
// machine's own.
const authorities = "/usr/share/ca-certificates/mozilla"

// certificateBundle joins the certificate authorities of the web.
func certificateBundle() ([]byte, error) {
	paths, err := filepath.Glob(filepath.Join(authorities, "*.crt"))
	if err != nil {
		return nil, err
	}
	var bundle bytes.Buffer
	for _, path := range paths {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		bundle.Write(bytes.TrimSpace(pem))
		bundle.WriteByte('\n')
	}
	if bundle.Len() == 0 {
		return nil, errors.New(authorities + " has no certificates: install Debian's package ca-certificates")
	}
	return bundle.Bytes(), nil
}
