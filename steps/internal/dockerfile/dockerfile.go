// Package dockerfile builds a Dockerfile of the checked-out source into an OCI image layout in the workspace.
package dockerfile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/disk"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/containerfile-build.schema.json.
type Parameters struct {
	step.Common
	step.Owner
	secret.Awaited
	CheckOnly bool `json:"check-only"`

	DockerContext      string            `json:"docker-context"`
	DockerfilePath     string            `json:"dockerfile-path"`
	BuildArgs          []step.NameValue  `json:"build-args"`
	BuildEnv           []step.NameValue  `json:"build-env"`
	Labels             []step.NameValue  `json:"labels"`
	Target             string            `json:"target"`
	Platform           string            `json:"platform"`
	Platforms          []string          `json:"platforms"`
	BuildSecretsDir    string            `json:"build-secrets-dir"`
	BuildSecrets       []buildSecret     `json:"build-secrets"`
	SecretsTimeout     int               `json:"build-secrets-timeout"` // seconds
	SourceDateEpoch    int64             `json:"source-date-epoch"`
	Timestamps         string            `json:"timestamps"`
	Provenance         string            `json:"provenance"`
	SBOM               string            `json:"sbom"`
	SBOMScanner        string            `json:"sbom-scanner"`
	RegistryPullSecret string            `json:"registry-pull-secret"`
	PullSecretRequired bool              `json:"pull-secret-required"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
	BuildKitAddress    string            `json:"buildkit-address"`
	BuildKitTLSDir     string            `json:"buildkit-tls-dir"`
	BuildKitRoot       string            `json:"buildkit-root"`
	NoCache            bool              `json:"no-cache"`
	Cache              string            `json:"dockerfile-cache"`
	Compression        string            `json:"compression"`
	CompressionLevel   int               `json:"compression-level"`
	CacheMountLimit    string            `json:"cache-mount-limit"`
	Registry           string            `json:"registry"`
	ImageName          string            `json:"image-name"`
	InsecurePlainHTTP  bool              `json:"insecure-plain-http"`
	SourceDigest       string            `json:"source-digest"`
	Revision           string            `json:"revision"`
}

// Run builds the image. It results in image-digest, the digest of the layout's one root (an index when there is
// provenance, else the image's manifest); in base-images, a JSON array of the images that BuildKit resolved for it,
// each a reference with tag and digest; and in run-isolation, the buildkit.Isolation of the step's own builder.
//
// With a source digest, the source is verified as a whole while the build goes on, which leaves nothing unless it is
// what it must be. The builder gets nothing else: each file is verified again as the builder gets it.
//
// The workspace's image is replaced in one go when the new one is complete; a build that fails leaves it as it was.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	if in.CheckOnly {
		return nil, in.probe(ctx, env)
	}
	if err := in.checkArguments(); err != nil {
		return nil, err
	}
	tree, revision, err := in.Workspace.Chained(in.SourceDigest, in.Revision)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		return in.run(ctx, env, nil, revision, func() error { return nil })
	}
	building, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	verified := make(chan struct{})
	var failure error
	go func() {
		defer close(verified)
		started := time.Now()
		if failure = tree.Verify(ctx); failure != nil {
			stop(failure)
			return
		}
		env.Log.Info("Verified the source", "digest", in.SourceDigest, "files", tree.Len(), "took", time.Since(started))
	}()
	verify := func() error {
		<-verified
		return failure
	}
	results, err := in.run(building, env, tree, revision, verify)
	if err := verify(); err != nil { // a build of what was changed may fail by anything
		return nil, err
	}
	return results, err
}

// run builds a source. What it builds is left only if verify says that the source is what it must be.
func (in Parameters) run(
	ctx context.Context, env step.Environment, tree *workspace.Tree, revision workspace.Revision, verify func() error,
) (step.Results, error) {
	ctx, traced := buildkit.Traced(ctx)
	defer traced()
	// Faults of the Dockerfile are found before anything starts.
	if err := in.checkPlatforms(); err != nil {
		return nil, err
	}
	parts, err := in.parts()
	if err != nil {
		return nil, err
	}
	if err := in.Workspace.RemoveUnfinished(); err != nil {
		env.Log.Warn("Cannot remove what an earlier attempt left", "error", err)
	}
	a := &assembly{in: in, env: env, verify: verify, times: newTimeline()}
	defer a.times.leave(env)
	for _, part := range parts {
		src, err := findSource(part, tree)
		if err != nil {
			return nil, err
		}
		a.parts = append(a.parts, &build{
			in: part, asked: in.Platforms, several: len(parts) > 1, env: env, source: src, revision: revision,
			epoch: in.epoch(revision), times: a.times,
		})
	}
	if err := errors.Join(in.checkCompression(), in.checkScanner()); err != nil {
		return nil, err
	}
	for _, warning := range a.parts[0].source.warnings(in) {
		env.Log.Warn(warning)
	}
	secrets, err := in.waitForSecrets(ctx, env)
	if err != nil {
		return nil, err
	}
	if err := in.Await(ctx, env.Log, outcome.AuthenticationFailed, in.platformSecrets()...); err != nil {
		return nil, err
	}
	credentials, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return nil, err
	}
	for _, b := range a.parts {
		b.secrets, b.credentials = secrets, credentials
	}
	if warning := credentials.Warning(); warning != "" {
		env.Log.Warn(warning)
	}
	defer a.close()
	defer a.times.leave(env) // before the builders are closed, which may take long
	beginning := time.Now()
	err = a.begin(ctx)
	a.times.own("get builder and caches ready", beginning)
	if err != nil {
		return nil, err
	}
	if err := a.checkPlatforms(ctx); err != nil {
		return nil, err
	}

	var built sealed
	err = env.Retry.Do(ctx, func(ctx context.Context) error {
		built, err = a.solve(ctx)
		if a.drop(ctx, err) {
			built, err = a.solve(ctx)
		}
		return err
	})
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		full, _ := disk.OfError(err)
		err = a.parts[0].outOfSpace(full, err)
	}
	if err != nil {
		return nil, err
	}
	bases := append(a.cached(), built.bases...)
	told, err := json.Marshal(bases[:min(len(bases), mostBases)])
	if err != nil {
		return nil, err
	}
	results := step.Results{"image-digest": built.digest, "base-images": string(told)}
	if isolation := a.parts[0].builder.Isolation; isolation != "" {
		// Not in the provenance: the image's digest is the same wherever it is built.
		results["run-isolation"] = string(isolation)
	}
	return results, nil
}

// begin takes the caches and connects to a daemon, all at once. A builder of the step's own is started afterwards: it
// is told of the caches.
func (b *build) begin(ctx context.Context) (builder *buildkit.BuildKit, err error) {
	var noCache, noMounts, noDaemon error
	var waiting sync.WaitGroup
	if b.several {
		b.env.Log.Info("Layers stay in the BuildKit daemons: none are kept in the registry",
			"platforms", strings.Join(b.in.Platforms, ","))
	} else {
		waiting.Go(func() { b.cache, noCache = newLayerCache(ctx, b.in, b.credentials, b.env) })
	}
	waiting.Go(func() { b.mounts, noMounts = newMountCache(ctx, b.in, b.source, b.credentials, b.env) })
	if b.in.late() {
		waiting.Go(func() { builder, noDaemon = connect(ctx, b.in, b.env) })
	}
	waiting.Wait()
	if err := cmp.Or(noCache, noMounts, noDaemon); err != nil {
		if builder != nil {
			err = errors.Join(err, builder.Close())
		}
		return nil, err
	}
	if builder == nil {
		builder, err = start(ctx, b.in, b, b.env)
	}
	return builder, err
}

// mostBases is how many base images publish-image takes. It only looks in them for layers that it need not push.
const mostBases = 64

// connect connects to a daemon at the address.
func connect(ctx context.Context, in Parameters, env step.Environment) (*buildkit.BuildKit, error) {
	started := time.Now()
	if len(in.RegistryMirrors)+len(in.InsecureRegistries) > 0 || in.CABundle != "" {
		env.Log.Warn(
			"The BuildKit daemon pulls base images with its own settings: registry-mirrors, insecure-registries " +
				"and ca-bundle are not for it",
		)
	}
	builder, err := in.pool().Dial(ctx)
	if err == nil {
		env.Log.Info("Builder is ready", "address", builder.Address, "took", time.Since(started))
	}
	return builder, err
}

// start starts a builder of the process's own.
func start(
	ctx context.Context, in Parameters, b *build, env step.Environment,
) (*buildkit.BuildKit, error) {
	started := time.Now()
	config := buildkit.Config{
		Root:     in.BuildKitRoot,
		Mirrors:  in.RegistryMirrors,
		Insecure: in.InsecureRegistries,
		CABundle: in.CABundle,

		Credentials: b.credentials,
		Times:       b.fileTime(),
		Compression: in.compression(),
		Mounts:      b.mounts.config(),
		Outlines:    b.cache.outlines(),
	}
	if config.Root == "" {
		config.Temporary = true
		root, err := os.MkdirTemp(string(in.Workspace), buildkit.TemporaryPattern)
		if err != nil {
			return nil, err
		}
		config.Root = root
	}
	builder, err := buildkit.Start(ctx, config, env.Stderr, func(holder string) {
		env.Log.Info("Waiting for another build, which has buildkit-root", "held by", holder, "state", config.Root)
	})
	if err != nil {
		if config.Temporary {
			err = errors.Join(err, os.RemoveAll(config.Root))
		}
		return nil, err
	}
	env.Log.Info("Builder is ready", "state", config.Root, "isolation", builder.Isolation, "took", time.Since(started))
	return builder, nil
}

// epoch is the time that the image carries: the one asked for, else the commit's, else nil.
func (in Parameters) epoch(r workspace.Revision) *time.Time {
	at := r.Time
	for _, arg := range in.BuildArgs {
		if seconds, err := strconv.ParseInt(arg.Value, 10, 64); err == nil && arg.Name == epochArg {
			at = time.Unix(seconds, 0)
		}
	}
	if in.SourceDateEpoch >= 0 {
		at = time.Unix(in.SourceDateEpoch, 0)
	}
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}

func (in Parameters) checkCompression() error {
	if err := in.compression().Check(); err != nil {
		return outcome.Errorf(outcome.InvalidParameters, "compression-level: %w", err)
	}
	return nil
}

// compression is how layers are compressed.
func (in Parameters) compression() buildkit.Compression {
	return buildkit.Compression{Type: in.Compression, Level: in.CompressionLevel}
}

// build is what one builder makes: an image, or those for its platforms.
type build struct {
	in          Parameters // of this builder
	asked       []string   // all platforms that were asked for
	several     bool       // whether other builders make images for other platforms
	env         step.Environment
	source      *source
	revision    workspace.Revision
	epoch       *time.Time
	secrets     map[string][]byte
	credentials *registry.Credentials
	cache       *layerCache            // nil: there is to be none
	mounts      *mountCache            // nil: no cache mount is kept
	baseLayers  map[digest.Digest]bool // of the image, as a daemon has left it; nil: they are not known
	builder     *buildkit.BuildKit
	times       *timeline
}

// solve builds once, into a layout in the folder dir, and returns it with the making, which the caller ends.
func (b *build) solve(ctx context.Context, dir string) (layout string, built sealed, m *making, err error) {
	about := []any{"dockerfile", b.source.name, "context", b.in.DockerContext, "target", b.in.Target}
	if len(b.in.Platforms) > 0 {
		about = append(about, "platforms", strings.Join(b.in.Platforms, ","))
	}
	b.env.Log.Info("Building", about...)
	m = &making{build: b}
	layout, files := filepath.Join(dir, "image"), filepath.Join(dir, "dockerfile")
	if err := b.source.writeDockerfile(files); err != nil {
		return "", sealed{}, m, err
	}
	options, err := b.options(files)
	if err != nil {
		return "", sealed{}, m, err
	}
	output, platforms := b.env.Stderr, ""
	if b.several {
		platforms = strings.Join(b.in.Platforms, ",")
		marked := newMarked(output, platforms)
		defer marked.end()
		output = marked
	}
	watch, err := newWatch(output, b.source, func(status *client.SolveStatus) { b.times.note(platforms, status) })
	if err != nil {
		return "", sealed{}, m, err
	}
	err = m.make(ctx, b.builder, options, layout, dir, watch.statuses)
	watch.wait()
	if ctx.Err() != nil {
		return "", sealed{}, m, context.Cause(ctx)
	}
	if changed := b.source.changed(); changed != nil {
		return "", sealed{}, m, changed
	}
	if err != nil {
		if err := b.move(ctx, err, watch, b.builder); err != nil {
			return "", sealed{}, m, err
		}
		m.end()
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			return "", sealed{}, m, err
		}
		return b.solve(ctx, dir)
	}
	built, err = seal(layout, b.dates(), b.known())
	return layout, built, m, err
}

// options tells the builder what to build: the context, and the Dockerfile in the folder files.
func (b *build) options(files string) (client.SolveOpt, error) {
	contextFS, err := b.source.contextFS(b.in.BuildArgs, b.fileTime())
	if err != nil {
		return client.SolveOpt{}, err
	}
	dockerfileFS, err := fsutil.NewFS(files)
	if err != nil {
		return client.SolveOpt{}, err
	}
	attrs := map[string]string{
		// The frontend is always the built-in one: a `# syntax=` line would fetch and run a program from a registry.
		"cmdline":  "",
		"filename": b.source.name,
	}
	if b.in.Target != "" {
		attrs["target"] = b.in.Target
	}
	if len(b.in.Platforms) > 0 {
		attrs["platform"] = strings.Join(platformNames(b.in.targets()), ",")
	} else if b.in.Platform != "" {
		attrs["platform"] = b.in.Platform
	}
	for _, a := range b.in.BuildArgs {
		attrs["build-arg:"+a.Name] = a.Value
	}
	for name, value := range b.source.environmentArgs {
		attrs["build-arg:"+name] = value
	}
	for name, value := range b.labels() {
		attrs["label:"+name] = value
	}
	b.in.confine(attrs)
	export := b.exports(map[string]string{"tar": "false"})
	if b.epoch != nil {
		attrs["build-arg:"+epochArg] = strconv.FormatInt(b.frontendEpoch().Unix(), 10)
	}
	if b.in.NoCache || b.in.Timestamps == commitTimes && b.in.BuildKitAddress == "" {
		// What an earlier commit's build has left has that commit's time.
		attrs["no-cache"] = ""
	}
	// Without any, too: it is where BuildKit tells which base images it took. seal takes it out again.
	mode := b.in.Provenance
	if mode == attestation.ProvenanceNone {
		mode = attestation.ProvenanceMin
	}
	attrs["attest:provenance"] = "mode=" + mode + ",version=v1"
	b.in.scan(attrs)
	if b.revision.Commit != "" {
		attrs["vcs:source"], attrs["vcs:revision"] = b.revision.URL, b.revision.Commit
	}
	return client.SolveOpt{
		SharedKey:     b.sharedKey(),
		Frontend:      "dockerfile.v0",
		FrontendAttrs: attrs,
		LocalMounts:   map[string]fsutil.FS{"context": contextFS, "dockerfile": dockerfileFS},
		Exports:       []client.ExportEntry{{Type: client.ExporterOCI, Attrs: export}},
		Session:       []session.Attachable{secretsprovider.FromMap(b.secrets), &credentials{known: b.credentials}},
	}, nil
}

// exports adds how a daemon is to compress layers to the attributes of an export.
func (b *build) exports(attrs map[string]string) map[string]string {
	if b.in.late() {
		maps.Copy(attrs, b.in.compression().Attributes(b.dates().late))
	}
	return attrs
}

// labels are those asked for, and where the image comes from.
func (b *build) labels() map[string]string {
	var created time.Time
	if b.epoch != nil {
		created = *b.epoch
	}
	labels := b.revision.Labels(created)
	for _, l := range b.in.Labels {
		labels[l.Name] = l.Value
	}
	if owner := b.in.Owner.Label(); owner != "" {
		labels[step.OwnerLabel] = owner
	}
	return labels
}

// contextFS is the build context. Git's own directory stays out of it, as it does when BuildKit clones a context
// itself, and so do those of submodules: they differ between two clones of one commit. The same build argument as
// there, BUILDKIT_CONTEXT_KEEP_GIT_DIR, keeps them.
//
// All files have the time at, unless it is nil: those that Git has written are of the time of the checkout. What was
// checked out has the modes that Git knows, whatever the volume has made of them.
func (s *source) contextFS(args []step.NameValue, at *time.Time) (fsutil.FS, error) {
	tree, err := fsutil.NewFS(s.context)
	if err != nil {
		return nil, err
	}
	if s.tree != nil {
		tree = &verifiedFS{tree, s}
	}
	if s.ignore != nil && !utf8.Valid(s.ignore.text) {
		// On its way to the builder, a pattern becomes UTF-8 and another one.
		if tree, err = fsutil.NewFilterFS(tree, &fsutil.FilterOpt{ExcludePatterns: s.ignore.patterns}); err != nil {
			return nil, err
		}
	}
	filter := &fsutil.FilterOpt{}
	if !keepsGit(args) {
		filter.ExcludePatterns = []string{"**/.git"}
	}
	filter.Map = func(_ string, stat *types.Stat) fsutil.MapResult {
		if at != nil {
			stat.ModTime = at.UnixNano()
		}
		if s.tree != nil {
			stat.Mode = uint32(workspace.Mode(fs.FileMode(stat.Mode)))
		}
		return fsutil.MapResultKeep
	}
	return fsutil.NewFilterFS(tree, filter)
}

// keepsGit tells whether the build arguments ask for the folders of Git.
func keepsGit(args []step.NameValue) bool {
	for _, a := range args {
		if keep, err := strconv.ParseBool(a.Value); err == nil && keep && a.Name == "BUILDKIT_CONTEXT_KEEP_GIT_DIR" {
			return true
		}
	}
	return false
}

// writeDockerfile writes the Dockerfile as it is to be built where the repository has it, but under dir, and the ignore
// file next to it.
func (s *source) writeDockerfile(dir string) error {
	path := filepath.Join(dir, s.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if s.ignore != nil {
		// Where the frontend looks first, and never empty: then it would look further.
		text := append(slices.Clip(s.ignore.text), '\n')
		if err := os.WriteFile(path+".dockerignore", text, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(path, s.text, 0o644)
}
