package testbuilders

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/templates"
)

// lifecycleVersion is the version that the module in folder builder requires.
const lifecycleVersion = "0.21.13"

// stackID is of the systems. Buildpacks written with libcnb want one.
const stackID = "com.github.stepwright.test"

// epoch is the time that images carry.
var epoch = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// make writes the layout with all images beside its folder and moves it there when it is whole.
func (s Store) make(ctx context.Context, plan plan) error {
	unfinished, err := os.MkdirTemp(s.dir(), unfinishedPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	p := parts{source: plan.source, dir: filepath.Join(unfinished, "parts")}
	if err := p.build(ctx); err != nil {
		return err
	}
	registry, err := devregistry.New(devregistry.Options{Dir: filepath.Join(p.dir, "registry")})
	if err != nil {
		return err
	}
	defer registry.Close()
	host, err := registry.Start("")
	if err != nil {
		return err
	}
	into := filepath.Join(unfinished, "layout")
	images, err := layout.Write(into, empty.Index)
	if err != nil {
		return err
	}
	for _, family := range Families() {
		run, err := family.system(plan.systems[baseimages.Runtimes], family.RunUser)
		if err != nil {
			return err
		}
		build, err := family.system(plan.systems[baseimages.Toolchains], family.BuildUser)
		if err != nil {
			return err
		}
		if slices.Contains(family.Buildpacks, ballerinaBuildpack) {
			if build, err = withStandIn(build, family, filepath.Join(plan.source, own, "standin", "bal")); err != nil {
				return err
			}
		}
		buildName := "docker.io/stepwright/" + family.Name + "-build"
		if err := errors.Join(
			push(ctx, build, mirrored(buildName, host)), push(ctx, run, mirrored(family.Run, host)),
		); err != nil {
			return err
		}
		config, err := p.builderConfig(family, buildName)
		if err != nil {
			return err
		}
		if err := p.createBuilder(ctx, host, config, family.Builder); err != nil {
			return err
		}
		for _, ref := range []string{family.Builder, family.Run} {
			if err := s.copyInto(ctx, images, into, host, ref); err != nil {
				return err
			}
		}
	}
	if err := os.Chmod(into, 0o755); err != nil {
		return err
	}
	return os.Rename(into, plan.folder)
}

// copyInto puts an image of the registry into a layout. Layers that the base images have already are linked, not
// copied.
func (s Store) copyInto(ctx context.Context, images layout.Path, dir, host, ref string) error {
	parsed, err := name.ParseReference(mirrored(ref, host), name.Insecure)
	if err != nil {
		return err
	}
	img, err := remote.Image(parsed, remote.WithContext(ctx))
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		found, err := filepath.Glob(filepath.Join(s.Dir, "*", "blobs", "sha256", digest.Hex))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			_ = os.Link(found[0], filepath.Join(blobs, digest.Hex)) // where it cannot be linked it is copied
		}
	}
	return images.AppendImage(img, layout.WithAnnotations(map[string]string{refName: ref}))
}

// system is one of the base images, with a user and all that makes it a build image or a run image.
func (f Family) system(base v1.Image, user User) (v1.Image, error) {
	users, err := userLayer(user)
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(base, mutate.Addendum{
		Layer: users, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "stepwright: user " + user.String()},
	})
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := file.Config.DeepCopy()
	config.User = user.String()
	config.Env = append(
		config.Env, fmt.Sprintf("CNB_USER_ID=%d", user.UID), fmt.Sprintf("CNB_GROUP_ID=%d", user.GID),
		"CNB_STACK_ID="+stackID,
	)
	config.Cmd, config.WorkingDir = nil, ""
	config.Labels = map[string]string{
		"io.buildpacks.stack.id":            stackID,
		"io.buildpacks.base.distro.name":    "debian",
		"io.buildpacks.base.distro.version": "12",
		"org.opencontainers.image.title":    "Stepwright's stand-in for " + f.Name,
	}
	return mutate.Config(img, *config)
}

// userLayer has the accounts of a system and the user's home.
func userLayer(user User) (v1.Layer, error) {
	const home = "home/cnb"
	return layerOf(
		text("etc/group", 0o644, fmt.Sprintf("root:x:0:\ncnb:x:%d:\nnogroup:x:65534:\n", user.GID)),
		text(
			"etc/passwd", 0o644,
			fmt.Sprintf(
				"root:x:0:0:root:/root:/bin/bash\ncnb:x:%d:%d::/%s:/bin/bash\n"+
					"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
				user.UID, user.GID, home,
			),
		),
		folder(home, user),
	)
}

// withStandIn adds a program to a build image, and the folders that the family's template mounts.
func withStandIn(build v1.Image, family Family, file string) (v1.Image, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, writable := range family.Writable {
		name := strings.TrimPrefix(writable, "/")
		entries = append(entries, folder(path.Dir(name), family.BuildUser), folder(name, family.BuildUser))
	}
	layer, err := layerOf(append(entries, text("usr/local/bin/"+filepath.Base(file), 0o755, string(content)))...)
	if err != nil {
		return nil, err
	}
	return mutate.Append(build, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer,
		History: v1.History{
			Created:   v1.Time{Time: epoch},
			CreatedBy: "stepwright: stand-in for " + filepath.Base(file),
		},
	})
}

// An entry is one of a layer.
type entry struct {
	header  tar.Header
	content string
}

func text(name string, mode int64, content string) entry {
	return entry{tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: epoch}, content}
}

func folder(name string, user User) entry {
	return entry{
		tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Uid: user.UID, Gid: user.GID, ModTime: epoch},
		"",
	}
}

func layerOf(entries ...entry) (v1.Layer, error) {
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	for _, entry := range entries {
		if err := w.WriteHeader(&entry.header); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, entry.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// parts are the parts of a builder: programs and archives in a folder.
type parts struct {
	source string // root of this repository
	dir    string
}

// build compiles the buildpacks, the lifecycle and the program that makes builders.
func (p parts) build(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.compileBuildpacks(ctx) })
	group.Go(func() error { return p.compileLifecycle(ctx) })
	return group.Wait()
}

func (p parts) compileBuildpacks(ctx context.Context) error {
	for _, known := range buildpacks {
		id := known.id
		source := filepath.Join(p.source, own, "buildpacks", path.Base(id))
		if id == ballerinaBuildpack {
			source = filepath.Join(p.source, "images", "ballerina-builder", "buildpack")
		}
		bin := filepath.Join(p.dir, "buildpacks", path.Base(id), "bin")
		if err := os.MkdirAll(bin, 0o755); err != nil {
			return err
		}
		if err := p.goBuild(ctx, source, filepath.Join(bin, "main"), "-s -w", "."); err != nil {
			return err
		}
		// One program: it knows by its name which phase it is in.
		for _, phase := range []string{"detect", "build"} {
			if err := os.Symlink("main", filepath.Join(bin, phase)); err != nil {
				return err
			}
		}
		descriptor, err := os.ReadFile(filepath.Join(source, "buildpack.toml"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(bin), "buildpack.toml"), descriptor, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p parts) compileLifecycle(ctx context.Context) error {
	source, lifecycle := filepath.Join(p.source, own, "builder"), filepath.Join(p.dir, "lifecycle")
	if err := os.MkdirAll(lifecycle, 0o755); err != nil {
		return err
	}
	const imported = "github.com/buildpacks/lifecycle"
	flags := "-s -w -X " + imported + "/cmd.Version=" + lifecycleVersion
	for _, program := range []string{"lifecycle", "launcher"} {
		if err := p.goBuild(ctx, source, filepath.Join(lifecycle, program), flags, imported+"/cmd/"+
			program); err != nil {
			return err
		}
	}
	for _, phase := range []string{
		"analyzer", "builder", "creator", "detector", "exporter", "extender", "rebaser", "restorer",
	} {
		if err := os.Symlink("lifecycle", filepath.Join(lifecycle, phase)); err != nil {
			return err
		}
	}
	if err := p.goBuild(ctx, source, p.program("packager"), "", imported+"/tools/packager"); err != nil {
		return err
	}
	if err := p.goBuild(ctx, source, p.program("builder"), "", "."); err != nil {
		return err
	}
	out, err := output(command(ctx, source, "go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", imported))
	if err != nil {
		return err
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if version != "v"+lifecycleVersion {
		return fmt.Errorf("the module in %s requires lifecycle %s, want v%s", source, version, lifecycleVersion)
	}
	_, err = output(command(ctx, p.dir, p.program("packager"), "-archivePath", p.lifecycleArchive(),
		"-descriptorPath", filepath.Join(dir, "lifecycle.toml"), "-inputDir", lifecycle, "-version", lifecycleVersion))
	return err
}

func (p parts) program(name string) string { return filepath.Join(p.dir, "programs", name) }
func (p parts) lifecycleArchive() string   { return filepath.Join(p.dir, "lifecycle.tgz") }

// builderConfig writes the builder.toml of a family. Its buildpacks are tried one after the other, until one applies.
func (p parts) builderConfig(family Family, buildImage string) (string, error) {
	file := filepath.Join(p.dir, family.Name+".toml")
	if slices.Contains(family.Buildpacks, ballerinaBuildpack) {
		config, err := p.ballerinaConfig(family, buildImage)
		if err != nil {
			return "", err
		}
		return file, os.WriteFile(file, []byte(config), 0o644)
	}
	var config strings.Builder
	fmt.Fprintf(&config, "description = %q\n\n", "Stepwright's stand-in for "+family.Builder+", for tests")
	for _, id := range family.Buildpacks {
		fmt.Fprintf(
			&config, "[[buildpacks]]\nid = %q\nuri = %q\n\n[[order]]\n[[order.group]]\nid = %q\n\n", id,
			"buildpacks/"+path.Base(id), id,
		)
	}
	fmt.Fprintf(&config, "[lifecycle]\nuri = %q\n\n[build]\nimage = %q\n\n[run]\n[[run.images]]\nimage = %q\n",
		filepath.Base(p.lifecycleArchive()), buildImage, family.Run)
	return file, os.WriteFile(file, []byte(config.String()), 0o644)
}

// ballerinaConfig is the product's own builder.toml, with this machine's files in place of downloads.
func (p parts) ballerinaConfig(family Family, buildImage string) (string, error) {
	content, err := os.ReadFile(filepath.Join(p.source, "images", "ballerina-builder", "builder.toml"))
	if err != nil {
		return "", err
	}
	config := string(content)
	for _, change := range []struct{ from, to string }{
		{`uri = "buildpack"`, `uri = "buildpacks/` + path.Base(ballerinaBuildpack) + `"`},
		{`version = "` + lifecycleVersion + `"`, `uri = "` + filepath.Base(p.lifecycleArchive()) + `"`},
		{`"ghcr.io/stepwright/ballerina-build:` + templates.Version() + `"`, `"` + buildImage + `"`},
		{`"ghcr.io/stepwright/ballerina-run:` + templates.Version() + `"`, `"` + family.Run + `"`},
	} {
		if strings.Count(config, change.from) != 1 {
			return "", fmt.Errorf("builder.toml of images/ballerina-builder has not once %s", change.from)
		}
		config = strings.Replace(config, change.from, change.to, 1)
	}
	return config, nil
}

func (p parts) createBuilder(ctx context.Context, host, config, ref string) error {
	cmd := command(ctx, p.dir, p.program("builder"), "--mirror", host, config, ref)
	cmd.Env = append(cmd.Env, "PACK_HOME="+filepath.Join(p.dir, "pack"), "SOURCE_DATE_EPOCH="+fmt.Sprint(epoch.Unix()))
	_, err := output(cmd)
	return err
}

// goBuild compiles a package to a file that is the same on every machine.
func (p parts) goBuild(ctx context.Context, dir, file, linker, pkg string) error {
	cmd := command(ctx, dir, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", linker, "-o", file, pkg)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOEXPERIMENT=")
	_, err := output(cmd)
	return err
}

// command prepares a program that ends, with those it started, when the context does.
func command(ctx context.Context, dir, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output runs a command and returns what it prints. What it complains about becomes the error.
func output(cmd *exec.Cmd) ([]byte, error) {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}

// mirrored is where a registry has an image that it mirrors: under the path that the image has in its own.
func mirrored(ref, host string) string {
	_, path, _ := strings.Cut(ref, "/")
	return host + "/" + path
}
