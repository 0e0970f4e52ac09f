// Package buildpack builds an application with the buildpacks of the image that it runs in: it drives the phases of the
// builder's lifecycle, without a container daemon and without privileges, and leaves an OCI image layout in the
// workspace.
//
// A build is three programs, so that strangers' code gets nothing but what it must have. Fetch gets from registries
// what the build needs, by credentials. Build runs the buildpacks, and has neither these credentials nor anything that
// a later step reads. Seal makes the image of what Build left, after all processes of its container have ended, and
// believes nothing else that it left. All does the three in one container, for those who trust what they build.
package buildpack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/disk"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/buildpacks-build.schema.json.
type Parameters struct {
	step.Common
	step.Owner
	secret.Awaited
	AppPath            string            `json:"app-path"`
	BuildEnv           []step.NameValue  `json:"build-env"`
	BuilderImage       string            `json:"builder-image"`
	RunImage           string            `json:"run-image"`
	ImageName          string            `json:"image-name"`
	ImageTag           string            `json:"image-tag"`
	GitRevision        string            `json:"git-revision"`
	Labels             []step.NameValue  `json:"labels"`
	PlatformAPI        string            `json:"platform-api"`
	SourceDateEpoch    int64             `json:"source-date-epoch"`
	BindingsDir        string            `json:"bindings-dir"`
	BindingsRequired   bool              `json:"bindings-required"`
	BindingsTimeout    int               `json:"bindings-timeout"` // seconds
	Cache              string            `json:"cache"`
	Rebuild            bool              `json:"rebuild"` // as if cache were rebuild instead of reuse
	Provenance         string            `json:"provenance"`
	SBOM               string            `json:"sbom"`
	Registry           string            `json:"registry"`
	InsecurePlainHTTP  bool              `json:"insecure-plain-http"`
	RegistryPullSecret string            `json:"registry-pull-secret"`
	PullSecretRequired bool              `json:"pull-secret-required"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
	SourceDigest       string            `json:"source-digest"`
	Revision           string            `json:"revision"`
	FetchedDir         string            `json:"fetched-dir"`
	HandoverDir        string            `json:"handover-dir"`
}

// What the parameter cache may be.
const (
	cacheReuse    = "reuse"
	cacheDisabled = "disabled"
)

// All fetches, builds and seals in one container. What the buildpacks leave running there, or write where the image is
// sealed, is not out of their reach: it is for those who run the program alone, on an application that they trust.
// It results in what Seal results in.
func All(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	dir, err := os.MkdirTemp("", "buildpacks-all-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in.FetchedDir, in.HandoverDir = filepath.Join(dir, "fetched"), filepath.Join(dir, "handover")
	times := newTimes()
	defer func() { env.LeaveBuildReport(times.report()) }()
	b, err := newBuild(ctx, in, env, times)
	if err != nil {
		return nil, err
	}
	base, err := fetch(ctx, in, env, times)
	if err != nil {
		return nil, err
	}
	if err := b.run(ctx, base); err != nil {
		return nil, err
	}
	s, err := newSealing(b.job, base)
	if err != nil {
		return nil, err
	}
	return s.run(ctx)
}

// job is what Build and Seal have in common.
type job struct {
	in       Parameters
	env      step.Environment
	builder  *builder
	revision workspace.Revision
	epoch    time.Time // zero when there is none
	started  time.Time
	times    *times
}

func newJob(ctx context.Context, in Parameters, env step.Environment, times *times) (*job, error) {
	j := &job{in: in, env: env, started: time.Now().UTC(), times: times}
	var err error
	if j.revision, err = in.readRevision(); err != nil {
		return nil, err
	}
	j.epoch = j.revision.Time
	if in.SourceDateEpoch >= 0 {
		j.epoch = time.Unix(in.SourceDateEpoch, 0)
	}
	j.epoch = j.epoch.UTC()
	if j.builder, err = openBuilder(ctx, in); err != nil {
		return nil, err
	}
	env.Log.Info(
		"Builder", "image", in.BuilderImage, "platform-api", j.builder.api, "buildpacks", len(j.builder.buildpacks),
	)
	return j, nil
}

// readRevision is what checkout-source told of the source. It is empty when nothing is known.
func (in Parameters) readRevision() (workspace.Revision, error) {
	if in.SourceDigest != "" && in.Revision == "" {
		return workspace.Revision{}, nil // what the workspace tells is not believed
	}
	_, revision, err := in.Workspace.Chained("", in.Revision) // the source is verified where it is built
	return revision, err
}

// epochText is the variable SOURCE_DATE_EPOCH; empty when there is none.
func (j *job) epochText() string {
	if j.epoch.IsZero() {
		return ""
	}
	return strconv.FormatInt(j.epoch.Unix(), 10)
}

// tag is the image's tag in the layout.
func (j *job) tag() string {
	if j.in.GitRevision == "" {
		return j.in.ImageTag
	}
	return j.in.ImageTag + "-" + j.in.GitRevision
}

// output is the reference under which the lifecycle knows the image.
func (j *job) output() string { return localRegistry + "/" + j.in.ImageName + ":" + j.tag() }

// phase is one of the lifecycle's programs, and its arguments.
type phase struct {
	name string
	args [][]string
}

// exporter is the phase that writes the image.
const exporter = "exporter"

// Arguments that several phases have.
var (
	where = []string{"-no-color", "-layers", layersDir}
	tools = []string{"-app", appDir, "-platform", platformDir, "-buildpacks", buildpacksDir}
)

func user() []string {
	return []string{"-uid", strconv.Itoa(os.Getuid()), "-gid", strconv.Itoa(os.Getgid())}
}

// takeThrough runs phases in order, in an environment with that folder for temporary files. after is called at the end
// of each.
func (j *job) takeThrough(ctx context.Context, temporary string, phases []phase, after func(phase string) error) error {
	environ, err := environment(j.builder.api, j.epochText(), temporary)
	if err != nil {
		return err
	}
	l := lifecycle{environ: environ, stderr: j.env.Stderr}
	for _, phase := range phases {
		started := time.Now()
		var args []string
		for _, a := range phase.args {
			args = append(args, a...)
		}
		ran, err := watch(temporary)
		if err != nil {
			j.env.Log.Warn("Cannot tell which buildpack runs", "error", err)
		}
		scarcest := func() (disk.Disk, bool) { return disk.Disk{}, false }
		if phase.name == exporter { // which only writes, and no buildpack runs
			scarcest = disk.Watch(j.in.Workspace.Image(), j.in.Workspace.Cache(), os.TempDir())
		}
		err = l.run(ctx, ran, phase.name, args...)
		scarce, wasScarce := scarcest()
		last, said := ran.end()
		var buildpacks []begun
		if phase.name == "builder" {
			buildpacks = ran.begun()
		}
		j.times.addPhase(j, phase.name, started, buildpacks, err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			failed, ok := errors.AsType[*phaseError](err)
			if ok && wasScarce {
				failed.scarce = &scarce
			}
			return j.explain(err, last, said)
		}
		j.env.Log.Info("Phase", "name", phase.name, "took", time.Since(started))
		if err := after(phase.name); err != nil {
			return err
		}
	}
	return nil
}

// unsupportedVariables lists the faults of variables for buildpacks.
func (in Parameters) unsupportedVariables() []string {
	var faults []string
	for _, v := range in.BuildEnv {
		if fault := nameFault(v.Name); fault != "" {
			faults = append(faults, fmt.Sprintf("build-env: variable %.40q %s", v.Name, fault))
		}
	}
	return faults
}

// handover is the folder in which Build tells Seal how it ended. The user's code can write there, too.
func (in Parameters) handover() handover.Folder {
	return handover.Folder{
		Dir: in.HandoverDir, Who: "the build", MayFail: mayFail, Broken: outcome.BuildFailed,
		Hint: "Buildpacks must leave alone what is not theirs.",
	}
}

// mayFail are the reasons that a build may end with. Build tells Seal one of them, and so can the user's code.
var mayFail = map[outcome.Reason]bool{
	outcome.BuildFailed:           true,
	outcome.NoBuildpackDetected:   true,
	outcome.DetectionFailed:       true,
	outcome.InvalidParameters:     true,
	outcome.PathEscapesRepository: true,
	outcome.DescriptorInvalid:     true,
	outcome.BuilderUnsupported:    true,
	outcome.OutOfSpace:            true,
	outcome.SourceChanged:         true,
	outcome.Failed:                true,
}
