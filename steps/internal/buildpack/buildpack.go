// Package buildpack builds an application with the buildpacks of the image that it runs in: it drives the phases of the
// builder's lifecycle, without a container daemon and without privileges, and leaves an OCI image layout in the
// workspace.
package buildpack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/buildpacks-build.schema.json.
type Parameters struct {
	step.Common
	step.Owner
	AppPath            string            `json:"app-path"`
	BuildEnv           []step.NameValue  `json:"build-env"`
	BuilderImage       string            `json:"builder-image"`
	RunImage           string            `json:"run-image"`
	SourceDigest       string            `json:"source-digest"`
	Revision           string            `json:"revision"`
	ImageName          string            `json:"image-name"`
	ImageTag           string            `json:"image-tag"`
	GitRevision        string            `json:"git-revision"`
	Labels             []step.NameValue  `json:"labels"`
	PlatformAPI        string            `json:"platform-api"`
	SourceDateEpoch    int64             `json:"source-date-epoch"`
	BindingsDir        string            `json:"bindings-dir"`
	Cache              string            `json:"cache"`
	Registry           string            `json:"registry"`
	InsecurePlainHTTP  bool              `json:"insecure-plain-http"`
	RegistryPullSecret string            `json:"registry-pull-secret"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
}

// What the parameter cache may be.
const (
	cacheReuse    = "reuse"
	cacheDisabled = "disabled"
)

// Run builds the image. It results in image-digest, run-image, the reference of the image that it is built on, with its
// digest, and sbom, the folder of the bills of materials. What Fetch has left in the workspace it uses, and fetches
// what is not there.
//
// The workspace's image is replaced in one go when the new one is complete; a build that fails leaves it as it was.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	b, err := prepare(ctx, in, env)
	if err != nil {
		return nil, err
	}
	files := in.files()
	defer os.RemoveAll(string(files))
	if b.base, err = files.fetched(); errors.Is(err, fs.ErrNotExist) {
		b.base, err = fetch(ctx, in, env)
	}
	if err != nil {
		return nil, err
	}
	if err := b.lay(ctx); err != nil {
		return nil, err
	}
	return b.run(ctx)
}

// build is one image to be made.
type build struct {
	in       Parameters
	env      step.Environment
	app      string // the application's real path
	builder  *builder
	project  *project
	revision workspace.Revision
	epoch    time.Time // zero when there is none
	base     registry.Image
}

// prepare finds the faults of parameters, source and builder before anything is fetched.
func prepare(ctx context.Context, in Parameters, env step.Environment) (*build, error) {
	var faults []string
	for _, v := range in.BuildEnv {
		if fault := nameFault(v.Name); fault != "" {
			faults = append(faults, fmt.Sprintf("build-env: variable %.40q %s", v.Name, fault))
		}
	}
	if faults != nil {
		return nil, outcome.Invalid(faults...)
	}
	tree, revision, err := in.Workspace.Chained(in.SourceDigest, in.Revision)
	if err == nil && tree != nil {
		err = tree.Verify(ctx)
	}
	if err != nil {
		return nil, err
	}
	b := &build{in: in, env: env, revision: revision}
	if b.app, err = findApp(in); err != nil {
		return nil, err
	}
	b.epoch = b.revision.Time
	if in.SourceDateEpoch >= 0 {
		b.epoch = time.Unix(in.SourceDateEpoch, 0)
	}
	b.epoch = b.epoch.UTC()
	if b.project, err = readProject(b.app, env.Log); err != nil {
		return nil, err
	}
	if b.builder, err = openBuilder(ctx, in); err != nil {
		return nil, err
	}
	env.Log.Info(
		"Builder", "image", in.BuilderImage, "platform-api", b.builder.api, "buildpacks", len(b.builder.buildpacks),
	)
	return b, nil
}

// lay puts the application, variables and bindings where buildpacks find them.
func (b *build) lay(ctx context.Context) error {
	started := time.Now()
	for _, dir := range []string{appDir, layersDir, platformDir} {
		if err := empty(dir); err != nil {
			return fmt.Errorf("%s must be a folder that the step may write to: %w", dir, err)
		}
	}
	at := b.epoch
	if at.IsZero() {
		at = started
	}
	if err := copyApp(ctx, b.app, appDir, b.project.filter, at); err != nil {
		return fmt.Errorf("copy of the application: %w", err)
	}
	variables := map[string]string{}
	if !b.epoch.IsZero() {
		variables["SOURCE_DATE_EPOCH"] = strconv.FormatInt(b.epoch.Unix(), 10)
	}
	for _, v := range append(b.project.variables(), b.in.BuildEnv...) {
		variables[v.Name] = v.Value
	}
	if err := trustAuthorities(b.in.CABundle, variables); err != nil {
		return err
	}
	if err := copyBindings(b.in.BindingsDir, b.env.Secrets.Add); err != nil {
		return fmt.Errorf("bindings-dir: %w", err)
	}
	if err := writeVariables(variables); err != nil {
		return err
	}
	b.env.Log.Info(
		"Laid out the application", "from", b.in.AppPath, "variables", len(variables), "took", time.Since(started),
	)
	return nil
}

// run takes the application through the phases, and their result into the workspace.
func (b *build) run(ctx context.Context) (step.Results, error) {
	files := b.in.files()
	tag := b.in.ImageTag
	if b.in.GitRevision != "" {
		tag += "-" + b.in.GitRevision
	}
	temporary, err := os.MkdirTemp("", "buildpacks-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temporary)
	epoch := ""
	if !b.epoch.IsZero() {
		epoch = strconv.FormatInt(b.epoch.Unix(), 10)
	}
	environ, err := environment(b.builder.api, epoch, temporary)
	if err != nil {
		return nil, err
	}
	order, err := b.project.writeOrder(b.builder)
	if err != nil {
		return nil, err
	}
	output := localRegistry + "/" + b.in.ImageName + ":" + tag
	layout := []string{"-layout", "-layout-dir", files.layout()}
	user := []string{"-uid", strconv.Itoa(os.Getuid()), "-gid", strconv.Itoa(os.Getgid())}
	where := []string{"-no-color", "-layers", layersDir}
	tools := []string{"-app", appDir, "-platform", platformDir, "-buildpacks", buildpacksDir}
	var cache, chosen []string
	if b.in.Cache != cacheDisabled {
		cache = []string{"-cache-dir", files.cache()}
	}
	if order != "" {
		chosen = []string{"-order", order}
	}
	l := lifecycle{environ: environ, stderr: b.env.Stderr}
	for _, phase := range []struct {
		name string
		args [][]string
	}{
		{"analyzer", [][]string{where, layout, user, {"-run-image", localReference(b.base), output}}},
		{"detector", [][]string{where, tools, chosen}},
		{"restorer", [][]string{where, layout, user, cache}},
		{"builder", [][]string{where, tools}},
		{"exporter", [][]string{where, layout, user, cache, {"-app", appDir, output}}},
	} {
		started := time.Now()
		var args []string
		for _, a := range phase.args {
			args = append(args, a...)
		}
		ran, err := watch(temporary)
		if err != nil {
			b.env.Log.Warn("Cannot tell which buildpack runs", "error", err)
		}
		err = l.run(ctx, phase.name, args...)
		last := ran.last()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, b.explain(err, last)
		}
		b.env.Log.Info("Phase", "name", phase.name, "took", time.Since(started))
		if phase.name == "detector" {
			if err := b.refuseExtensions(); err != nil {
				return nil, err
			}
		}
	}
	return b.keep(filepath.Join(files.layout(), localRegistry, filepath.FromSlash(b.in.ImageName), tag), tag)
}

// keep takes image, cache and bills of materials into the workspace.
func (b *build) keep(layout, tag string) (step.Results, error) {
	digest, err := b.seal(imagelayout.Dir(layout), tag)
	if err != nil {
		return nil, fmt.Errorf("the lifecycle's image: %w", err)
	}
	if err := workspace.Replace(layout, b.in.Workspace.Image()); err != nil {
		return nil, err
	}
	if err := b.keepSBOM(); err != nil {
		return nil, fmt.Errorf("bills of materials: %w", err)
	}
	if err := os.RemoveAll(b.in.Workspace.Cache()); err != nil {
		return nil, err
	}
	if b.in.Cache != cacheDisabled {
		// A build without a cache is a build.
		if err := b.keepCache(); err != nil {
			b.env.Log.Warn("The next build has no cache", "error", err)
		}
	}
	b.env.Log.Info("Built", "digest", digest)
	bases, err := json.Marshal([]string{b.base.Reference})
	if err != nil {
		return nil, err
	}
	return step.Results{
		"image-digest": digest, "run-image": b.base.Reference, "base-images": string(bases),
		"sbom": b.in.Workspace.SBOM(),
	}, nil
}
