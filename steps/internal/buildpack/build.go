package buildpack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// Build lays out the application and takes it through the phases that run strangers' code. In a pod it is an init
// container of the builder's image, with the source read-only, so that the kubelet ends whatever the buildpacks left
// running before Seal starts. How it ended, and what was printed, it leaves for Seal to say, which is where people
// look: it fails itself only when it is told to end, or cannot even leave that.
func Build(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	base, err := in.fetched().read()
	if _, failed := errors.AsType[*outcome.Error](err); failed {
		env.Log.Info("There is nothing to build on: what failed is said at the end")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	left := in.handover()
	if err := handover.Clear(left.Dir); err != nil {
		return nil, err
	}
	record, err := left.Record()
	if err != nil {
		return nil, err
	}
	defer record.Close()
	env, flush := env.Tee(record)
	times := newTimes()
	b, err := newBuild(ctx, in, env, times)
	if err == nil {
		err = b.run(ctx, base)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	failure := outcome.Of(err)
	if failure != nil {
		env.Log.Error("The build will end with this", "reason", failure.Reason)
	}
	flush()
	raw, err := times.report().Encode(env.Secrets.String)
	if err == nil {
		err = left.WriteFile(buildreport.Name, raw)
	}
	if err != nil {
		env.Log.Warn("The report of the build lacks its parts", "error", err)
	}
	return nil, errors.Join(record.Close(), left.Write(failure, env.Secrets.String))
}

// build is an application that is being built.
type build struct {
	*job
	app      string // the application's real path
	project  *project
	order    []orderGroup // that project.toml asks for; none: the builder's
	bindings map[string]binding
	// variables that buildpacks see where neither the developer nor another buildpack sets them
	defaults map[string]string
}

// newBuild finds the faults of parameters, source and builder before a buildpack runs.
func newBuild(ctx context.Context, in Parameters, env step.Environment, times *times) (*build, error) {
	if faults := in.unsupportedVariables(); faults != nil {
		return nil, outcome.Invalid(faults...)
	}
	bindings, err := in.waitForBindings(ctx, env)
	if err != nil {
		return nil, err
	}
	if err := in.Workspace.VerifySource(ctx, in.SourceDigest, env.Log); err != nil {
		return nil, err
	}
	b := &build{bindings: bindings}
	if b.app, err = findApp(in); err != nil {
		return nil, err
	}
	if b.project, err = readProject(b.app, env.Log); err != nil {
		return nil, err
	}
	if b.job, err = newJob(ctx, in, env, times); err != nil {
		return nil, err
	}
	b.order, err = b.project.order(b.builder, b.app)
	return b, err
}

// run builds on a run image.
func (b *build) run(ctx context.Context, base registry.Image) error {
	if err := b.lay(ctx); err != nil {
		return err
	}
	return b.phases(ctx, base)
}

// lay puts the application, variables and bindings where buildpacks find them.
func (b *build) lay(ctx context.Context) error {
	started := time.Now()
	for _, dir := range []string{appDir, layersDir, platformDir} {
		if err := handover.Clear(dir); err != nil {
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
	if epoch := b.epochText(); epoch != "" {
		variables["SOURCE_DATE_EPOCH"] = epoch
	}
	for _, v := range append(b.project.variables(), b.in.BuildEnv...) {
		variables[v.Name] = v.Value
	}
	if _, set := variables[revisionVariable]; !set && b.revision.Commit != "" {
		b.defaults = map[string]string{revisionVariable: b.revision.Commit}
	}
	if err := trustAuthorities(b.in.CABundle, variables); err != nil {
		return err
	}
	for name, values := range b.bindings {
		if err := writeBinding(name, values); err != nil {
			return err
		}
	}
	if err := writeVariables(variables); err != nil {
		return err
	}
	b.env.Log.Info(
		"Laid out the application", "from", b.in.AppPath, "variables", len(variables),
		"bindings", strings.Join(slices.Sorted(maps.Keys(b.bindings)), ","), "took", time.Since(started),
	)
	return nil
}

// phases takes the application through the phases.
func (b *build) phases(ctx context.Context, base registry.Image) error {
	temporary, err := os.MkdirTemp("", "buildpacks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	order, err := writeOrder(b.order, layersDir)
	if err != nil {
		return err
	}
	config := filepath.Join(temporary, "build-config")
	if err := writeDefaults(b.defaults, config); err != nil {
		return err
	}
	layout, configured := []string{"-layout", "-layout-dir", b.in.fetched().layout()}, []string{"-build-config", config}
	var cache, chosen []string
	if b.in.Cache != cacheDisabled {
		// The lifecycle writes there, and the fetched one is not the build's to change.
		own := filepath.Join(temporary, "cache")
		if err := b.in.fetched().linkCache(own); err != nil {
			return err
		}
		cache = []string{"-cache-dir", own}
	}
	if order != "" {
		chosen = []string{"-order", order}
	}
	return b.takeThrough(ctx, temporary, []phase{
		{"analyzer", [][]string{where, layout, user(), {"-run-image", localReference(base), b.output()}}},
		{"detector", [][]string{where, tools, configured, chosen}},
		{"restorer", [][]string{where, layout, user(), cache}},
		{"builder", [][]string{where, tools, configured}},
	}, func(phase string) error {
		if phase == "detector" {
			return b.builder.refuseExtensions()
		}
		return nil
	})
}
