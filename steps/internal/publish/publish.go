// Package publish pushes the built image to a registry and makes sure that it is there.
package publish

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/baselayer"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/publish-image.schema.json.
type Parameters struct {
	step.Common
	step.Owner
	secret.Awaited
	CheckOnly bool `json:"check-only"`

	Registry           string   `json:"registry"`
	ImageName          string   `json:"image-name"`
	ImageTag           string   `json:"image-tag"`
	GitRevision        string   `json:"git-revision"`
	ImageSource        string   `json:"image-source"`
	ImageDigest        string   `json:"image-digest"`
	BaseImages         []string `json:"base-images"`
	RegistryPushSecret string   `json:"registry-push-secret"`
	PushSecretRequired bool     `json:"push-secret-required"`
	InsecurePlainHTTP  bool     `json:"insecure-plain-http"`
	MountFrom          []string `json:"mount-from"`
	Jobs               int      `json:"jobs"`
	CacheSource        string   `json:"cache-source"`
	Signing            string   `json:"signing"`
	SigningKey         string   `json:"signing-key"`
	SigningPassword    string   `json:"signing-password"`

	SigningIdentityTokenFile string `json:"signing-identity-token-file"`
	FulcioURL                string `json:"fulcio-url"`
	InsecureFulcioHTTP       bool   `json:"insecure-fulcio-http"`
	TimestampURL             string `json:"timestamp-url"`
	RekorURL                 string `json:"rekor-url"`

	Revision string `json:"revision"`
	RunName  string `json:"run-name"`
	RunUID   string `json:"run-uid"`
	RunStart string `json:"run-start"`

	RegistryPullSecret string            `json:"registry-pull-secret"`
	PullSecretRequired bool              `json:"pull-secret-required"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
}

// awaitSecrets waits for the Secrets of the platform that the step cannot do without.
func (in Parameters) awaitSecrets(ctx context.Context, env step.Environment) error {
	var registries []string
	if in.PushSecretRequired {
		registries = append(registries, in.RegistryPushSecret)
	}
	if in.PullSecretRequired {
		registries = append(registries, in.RegistryPullSecret)
	}
	if err := in.Await(ctx, env.Log, outcome.AuthenticationFailed, registries...); err != nil || in.Signing != "key" {
		return err
	}
	// A key is always wanted by those who sign with one; signature tells of one that nobody waits for.
	if in.SecretTimeout == 0 {
		return nil
	}
	return in.Await(ctx, env.Log, outcome.SigningFailed, in.SigningKey)
}

// progressEvery is how often a long push tells how far it is.
const progressEvery = 10 * time.Second

// Run pushes the image of the workspace as <registry>/<image-name>:<image-tag>-<git-revision> (docs/contract.md section
// 1), and signs it where signing says so, with a statement of the run that made it. Its results are image,
// registry/name:tag@digest, image-digest, signature-digest, the digest of the manifest that holds the signature, and
// sbom-digests, those of the statements that are bills of materials, as JSON. The caches that the build left it pushes
// as <registry>/<image-name>:cache and :cache-mounts; that this fails is no failure. What it reads stays as it is,
// however Run ends.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	if in.CheckOnly {
		return nil, in.probe(ctx, env)
	}
	to, err := in.target()
	if err != nil {
		return nil, err
	}
	pulls, err := trust.Transport(in.CABundle)
	if err != nil {
		return nil, err
	}
	defer pulls.CloseIdleConnections()
	if err := in.awaitSecrets(ctx, env); err != nil {
		return nil, err
	}
	pushing, err := registry.LoadCredentials(in.RegistryPushSecret, env.Secrets)
	if err != nil {
		return nil, err
	}
	made, err := in.run()
	if err != nil {
		return nil, err
	}
	image, err := in.open(ctx, env.Log)
	if err != nil {
		return nil, err
	}
	defer image.Close()
	// Before the push: an image without its signature helps nobody.
	signer, err := in.signer(ctx, pulls, env)
	if err != nil {
		return nil, err
	}

	pulling, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return nil, err
	}
	source := registry.Source{
		Mirrors:     in.RegistryMirrors,
		Insecure:    in.InsecureRegistries,
		Credentials: pulling,
		Transport:   pulls,
	}
	if in.InsecurePlainHTTP { // the component's cache is there, in which a build may leave layers
		source.Insecure = append(slices.Clone(source.Insecure), to.repository.RegistryStr())
	}
	sources, err := in.sources(to)
	if err != nil {
		return nil, err
	}
	pushes := uploads(pulls)
	defer pushes.CloseIdleConnections()
	repository := newRepository(to.repository, pushing, in.InsecurePlainHTTP, pushes)
	for _, c := range []*registry.Credentials{pushing, pulling} {
		if warning := c.Warning(); warning != "" {
			env.Log.Warn(warning)
		}
	}
	if err := env.Retry.Do(ctx, func(ctx context.Context) error {
		return repository.connect(ctx, sources)
	}); err != nil {
		return nil, err
	}
	p := &push{
		repository: repository,
		image:      image,
		bases:      &baselayer.Bases{Images: in.BaseImages, Source: source},
		tag:        to.tag,
		sources:    sources,
		env:        env,
		jobs:       max(in.Jobs, 1),
	}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	digest := image.Root().Digest.String()
	published := to.text + "@" + digest
	p.report(published)
	p.leaveTransfer()
	results := step.Results{"image": published, "image-digest": digest}
	if sboms, err := p.billsOfMaterials(); err != nil {
		env.Log.Warn("Which SBOMs the image has is not known", "because", err)
	} else if len(sboms) > 0 {
		raw, err := json.Marshal(sboms)
		if err != nil {
			return nil, err
		}
		results["sbom-digests"] = string(raw)
	}
	if signer != nil {
		made.finish(to.text)
		if results["signature-digest"], err = (&signing{p, signer, made}).run(ctx); err != nil {
			return nil, err
		}
	}
	in.pushCaches(ctx, repository, image, source, env)
	return results, nil
}

// billsOfMaterials are the digests of statements in the image's index that are bills of materials.
func (p *push) billsOfMaterials() (digests []string, err error) {
	attestations, err := p.image.Attestations()
	if err != nil {
		return nil, err
	}
	for _, a := range attestations {
		raw, err := p.image.ReadStatement(a, maxStatement)
		if err != nil {
			return nil, err
		}
		var statement struct {
			PredicateType string `json:"predicateType"`
		}
		if err := json.Unmarshal(raw, &statement); err != nil {
			return nil, err
		}
		if _, is := imagelayout.BillOfMaterials(statement.PredicateType); is {
			digests = append(digests, a.Statement.Digest.String())
		}
	}
	return digests, nil
}

// fixedTag is the tag of a repository whose caches cannot be pushed anew, since its tags are immutable. It saves
// sending a cache that the registry then refuses.
const fixedTag = workspace.CacheTag + "-is-immutable"

// leftCache is something that the build left for the component's next one.
type leftCache struct {
	path, tag string
	lost      string // a warning for when it cannot be pushed
}

// leftCaches are the caches that the build left. Those in the workspace are looked for, and need not be there.
func (in Parameters) leftCaches() (left []leftCache) {
	layers := leftCache{in.CacheSource, workspace.CacheTag,
		"The cache is not pushed: the component's next build has an older one, or none"}
	mounts := leftCache{"", workspace.CacheMountsTag,
		"What cache mounts held is not pushed: the component's next build has older ones, or empty ones"}
	if layers.path != "" {
		mounts.path = filepath.Join(layers.path, filepath.Base(in.Workspace.CacheMounts()))
	} else {
		layers.path, mounts.path = in.Workspace.Cache(), in.Workspace.CacheMounts()
	}
	// A link in the place of the cache's folder leads out of the workspace.
	folder, err := os.Lstat(layers.path)
	hasMounts := err == nil && (folder.IsDir() || in.CacheSource != "") && !imagelayout.IsEmpty(mounts.path)
	_, noIndex := os.Lstat(filepath.Join(layers.path, "index.json"))
	switch {
	case hasMounts && errors.Is(noIndex, fs.ErrNotExist): // mounts alone
	case in.CacheSource != "", err == nil && !imagelayout.IsEmpty(layers.path),
		err != nil && !errors.Is(err, fs.ErrNotExist):
		left = append(left, layers)
	}
	if hasMounts {
		left = append(left, mounts)
	}
	return left
}

// pushCaches pushes what the build left for the component's next one. published is the image, which the repository has.
// That it fails is a warning.
func (in Parameters) pushCaches(
	ctx context.Context, repository *repository, published *imagelayout.Image, source registry.Source,
	env step.Environment,
) {
	left := in.leftCaches()
	if len(left) == 0 {
		return
	}
	fixed, err := repository.names(ctx, fixedTag, published.Root())
	if err == nil && fixed != nothing {
		env.Log.Info(
			"The cache stays as it is, since the registry's tags are immutable. Exempt the tags from that, and delete "+
				"the tag that tells of it", "exempt", workspace.CacheTag+", "+workspace.CacheMountsTag,
			"delete", fixedTag,
		)
		return
	}
	for _, cache := range left {
		if err := in.pushCache(ctx, cache, repository, published, source, env); err != nil && ctx.Err() == nil {
			env.Log.Warn(cache.lost, "error", err)
		}
	}
}

// pushCache pushes one of them. It may lack layers of the image, and of the component's last cache.
func (in Parameters) pushCache(
	ctx context.Context, left leftCache, repository *repository, published *imagelayout.Image, source registry.Source,
	env step.Environment,
) error {
	cache, err := imagelayout.Open(ctx, left.path, os.TempDir())
	if err != nil {
		return err
	}
	defer cache.Close()
	if err := in.checkOwner(cache); err != nil {
		return err
	}
	reference := repository.name.Name() + ":" + left.tag
	p := &push{
		repository: repository,
		image:      cache,
		bases:      &baselayer.Bases{Images: []string{reference}, Source: source},
		published:  published,
		tag:        left.tag,
		env:        env,
		jobs:       max(in.Jobs, 1),
	}
	err = p.run(ctx)
	if outcome.Of(err) != nil && outcome.Of(err).Reason == outcome.TagImmutable {
		err = errors.Join(err, repository.put(ctx, fixedTag, published.Root()))
	}
	if err != nil {
		return err
	}
	p.report(reference)
	return nil
}

// open reads the image that the parameters name, or the one in the workspace.
func (in Parameters) open(ctx context.Context, log *slog.Logger) (*imagelayout.Image, error) {
	started := time.Now()
	path := in.ImageSource
	if path == "" {
		var err error
		if path, err = imagelayout.Locate(in.Workspace); err != nil {
			return nil, err
		}
	}
	image, err := imagelayout.Open(ctx, path, os.TempDir())
	if err != nil {
		return nil, err
	}
	if err := in.check(image); err != nil {
		image.Close()
		return nil, err
	}
	log.Info("Read the image", "path", path, "digest", image.Root().Digest, "manifests", len(image.Manifests), "blobs",
		len(image.Blobs),
		"size", buildreport.SizeText(image.Size()), "in base images", len(image.Absent), "took", time.Since(started))
	return image, nil
}

// check wants the image to be the one that the build step made, as far as the parameters tell of it.
func (in Parameters) check(image *imagelayout.Image) error {
	if got := image.Root().Digest.String(); in.ImageDigest != "" && got != in.ImageDigest {
		return outcome.Errorf(
			outcome.ImageInvalid, "the image in %s is %s, and not %s, which the build step made", image.Path, got,
			in.ImageDigest,
		)
	}
	return in.checkOwner(image)
}

// maxLabel is how much of a stranger's label a message quotes, in bytes.
const maxLabel = 200

// checkOwner refuses the image, or cache, of another component. One that tells no owner may be of a build step that
// knows none.
func (in Parameters) checkOwner(image *imagelayout.Image) error {
	owner := in.Owner.Label()
	if owner == "" {
		return nil
	}
	labels, err := image.Labels(step.OwnerLabel)
	if err != nil {
		return err
	}
	for _, label := range labels {
		if label != owner {
			return outcome.Errorf(
				outcome.ImageInvalid, "the image in %s is of %q, as its label %s tells, and not of %s", image.Path,
				outcome.Clip(label, maxLabel), step.OwnerLabel, owner,
			).WithHint("A build step that does not set the label inherits it from a base image: set it there.")
		}
	}
	return nil
}

// target is where the image goes.
type target struct {
	repository name.Repository
	tag        string
	text       string // registry/name:tag as it was asked for
}

// repositoryPath is what a registry takes as a repository (OCI distribution specification).
var repositoryPath = regexp.MustCompile(`^[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*$`)

// target takes the registry's host as it stands. A reference as a whole would be ambiguous: ggcr takes registry/app for
// an image of Docker Hub.
func (in Parameters) target() (target, error) {
	registry := strings.TrimSuffix(in.Registry, "/")
	host, prefix, hasPrefix := strings.Cut(registry, "/")
	path := in.ImageName
	if hasPrefix {
		path = prefix + "/" + path
	}
	server, err := name.NewRegistry(host, name.StrictValidation)
	if err != nil {
		return target{}, outcome.Errorf(
			outcome.InvalidParameters, "registry: %q is not a host with an optional port: %w", host, err,
		)
	}
	if !repositoryPath.MatchString(path) || len(path) > 255 {
		return target{}, outcome.Errorf(
			outcome.InvalidParameters, "registry, image-name: %q is not the name of a repository", path,
		)
	}
	tag := in.ImageTag
	if in.GitRevision != "" {
		tag += "-" + in.GitRevision
	}
	return target{repository: server.Repo(path), tag: tag, text: registry + "/" + in.ImageName + ":" + tag}, nil
}

// maxSources bounds the questions asked for one blob, and the scopes of a token.
const maxSources = 8

// sources are the repositories of the same registry that may hold blobs already: those of mount-from, then those of the
// base images, and of mirrors of them.
func (in Parameters) sources(to target) ([]string, error) {
	host, _, _ := strings.Cut(to.text, "/")
	var all []string
	add := func(path string) {
		if path != to.repository.RepositoryStr() && !slices.Contains(all, path) {
			all = append(all, path)
		}
	}
	for _, from := range in.MountFrom {
		path := strings.TrimPrefix(from, host+"/")
		if !repositoryPath.MatchString(path) {
			return nil, outcome.Errorf(
				outcome.InvalidParameters, "mount-from: %q is not the name of a repository", from,
			)
		}
		add(path)
	}
	for _, base := range in.BaseImages {
		at, err := name.NewDigest(base)
		if err == nil && !repositoryPath.MatchString(at.RepositoryStr()) {
			err = fmt.Errorf("there is no repository %q", at.RepositoryStr())
		}
		if err != nil {
			return nil, outcome.Errorf(
				outcome.InvalidParameters, "base-images: %q is not the reference of an image with its digest: %w", base,
				err,
			)
		}
		host := at.RegistryStr()
		for _, place := range append([]string{host}, registry.MirrorsOf(host, in.RegistryMirrors)...) {
			server, prefix, _ := strings.Cut(place, "/")
			if server == to.repository.RegistryStr() {
				add(strings.TrimPrefix(prefix+"/"+at.RepositoryStr(), "/"))
			}
		}
	}
	return all[:min(len(all), maxSources)], nil
}

// push is one image on its way into a registry.
type push struct {
	repository *repository
	image      *imagelayout.Image
	bases      *baselayer.Bases
	published  *imagelayout.Image // that the repository has; may be nil
	tag        string
	sources    []string // repositories of the same registry that may hold blobs already
	env        step.Environment
	jobs       int

	started                    time.Time
	sent                       atomic.Int64 // bytes of blobs, as they go
	uploaded, skipped, mounted tally
	unchanged                  bool     // the registry had the image under this tag before
	own                        sync.Map // digests of blobs that this push sent
}

// tally counts blobs.
type tally struct{ blobs, bytes atomic.Int64 }

func (t *tally) add(b v1.Descriptor) {
	t.blobs.Add(1)
	t.bytes.Add(b.Size)
}

func (t *tally) String() string {
	if t.blobs.Load() == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%s)", t.blobs.Load(), buildreport.SizeText(t.bytes.Load()))
}

func (p *push) run(ctx context.Context) error {
	p.started = time.Now()
	if p.unchanged = p.isThere(ctx); p.unchanged || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := p.findAbsent(ctx); err != nil {
		return err
	}
	p.env.Log.Info("Pushing", "to", p.repository.name.Name()+":"+p.tag, "jobs", p.jobs)
	if err := p.blobs(ctx); err != nil {
		return err
	}
	for i, manifest := range p.image.Manifests {
		reference := manifest.Digest.String()
		if i == len(p.image.Manifests)-1 {
			reference = p.tag
		}
		if err := p.env.Retry.Do(ctx, func(ctx context.Context) error {
			err := p.repository.put(ctx, reference, manifest)
			if lost := p.lost(err); len(lost) > 0 {
				err = errors.Join(p.restore(ctx, lost), err) // and once more
			}
			return err
		}); err != nil {
			if err = p.immutable(ctx, reference, err); err != nil {
				return err
			}
		}
	}
	return p.verify(ctx)
}

// isThere tells whether the registry has this image under this tag already. That is a mere saving: one question, and
// whatever is wrong shows when pushing.
func (p *push) isThere(ctx context.Context) bool {
	root := p.image.Root()
	seen, err := p.repository.names(ctx, p.tag, root)
	if err != nil {
		seen, err = p.repository.shows(ctx, p.tag, root)
	}
	if err != nil && ctx.Err() == nil && outcome.Of(err).Reason.Class() == outcome.Transient {
		p.env.Log.Warn("It is not known whether the registry has this image already", "because", err)
	}
	return err == nil && seen == same
}

// blobs pushes what the manifests name, the largest first so that none is left to travel alone.
func (p *push) blobs(ctx context.Context) error {
	pushing, done := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { p.tell(pushing, progressEvery) })
	// The log is the next thing that is read when the push has ended.
	defer telling.Wait()
	defer done()

	blobs := slices.Clone(p.image.Blobs)
	slices.SortStableFunc(blobs, func(a, b v1.Descriptor) int { return cmp.Compare(b.Size, a.Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.jobs)
	for _, blob := range blobs {
		g.Go(func() error {
			return p.env.Retry.Do(ctx, func(ctx context.Context) error { return p.blob(ctx, blob) })
		})
	}
	return g.Wait()
}

// blob brings one blob into the repository in the cheapest way there is.
func (p *push) blob(ctx context.Context, blob v1.Descriptor) error {
	own := p.repository.name.RepositoryStr()
	there, err := p.repository.has(ctx, own, blob)
	if err != nil {
		return err
	}
	if there {
		p.skipped.add(blob)
		return nil
	}
	if mounted, err := p.mount(ctx, blob); err != nil || mounted {
		return err
	}
	err = p.upload(ctx, blob)
	if errors.Is(err, errNoWord) && p.arrives(ctx, blob) {
		err = nil
	}
	if err == nil {
		p.uploaded.add(blob)
		p.own.Store(blob.Digest, true)
	}
	return err
}

// upload sends one blob.
func (p *push) upload(ctx context.Context, blob v1.Descriptor) error {
	location, err := p.repository.start(ctx, blob)
	if err != nil {
		return err
	}
	return p.repository.send(ctx, location, func() (io.ReadCloser, error) { return p.open(ctx, blob) }, blob, &p.sent)
}

// arrives waits for a blob that was sent whole, and of which there is no word: a proxy may have less patience than the
// registry needs to store it.
func (p *push) arrives(ctx context.Context, blob v1.Descriptor) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second+time.Duration(blob.Size/10e6)*time.Second)
	defer cancel()
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		if there, err := p.repository.has(ctx, p.repository.name.RepositoryStr(), blob); err == nil && there {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// lost returns the blobs that the registry showed, and that it misses now that a manifest names them: it may remove
// them at any time while no manifest does. Those that this push sent it may not see yet.
func (p *push) lost(err error) (blobs []v1.Descriptor) {
	fault, ok := errors.AsType[*registry.Fault](err)
	if !ok || fault.Kind != registry.Lost ||
		!fault.Says(transport.BlobUnknownErrorCode, transport.ManifestBlobUnknownErrorCode) {
		return nil
	}
	named := false
	for _, blob := range p.image.Blobs {
		if _, own := p.own.Load(blob.Digest); own {
			named = named || fault.Names(blob.Digest.String())
			continue
		}
		if fault.Names(blob.Digest.String()) {
			return []v1.Descriptor{blob}
		}
		blobs = append(blobs, blob)
	}
	if named {
		return nil
	}
	return blobs
}

// restore sends blobs that the registry has lost.
func (p *push) restore(ctx context.Context, blobs []v1.Descriptor) error {
	for _, blob := range blobs {
		if err := p.upload(ctx, blob); err != nil {
			return err
		}
		p.uploaded.add(blob)
		p.own.Store(blob.Digest, true)
		p.env.Log.Warn("Sent a blob that the registry showed, and does not have", "blob", blob.Digest)
	}
	return nil
}

// immutable says of a refused tag that it exists already, if it does.
func (p *push) immutable(ctx context.Context, reference string, err error) error {
	fault, ok := errors.AsType[*registry.Fault](err)
	if !ok || reference != p.tag || !fixed(fault) {
		return p.unsupported(fault, err)
	}
	seen, unseen := p.repository.names(ctx, p.tag, p.image.Root())
	if unseen != nil {
		seen, unseen = p.repository.shows(ctx, p.tag, p.image.Root())
	}
	switch {
	case unseen == nil && seen == same:
		return nil // somebody else was faster with the same image
	case unseen != nil || seen == nothing:
		return p.unsupported(fault, err)
	}
	return outcome.Errorf(
		outcome.TagImmutable, "%s:%s is another image already, and %s does not let it change: %s", p.repository.name,
		p.tag, fault.Host, fault.Said(),
	)
}

// unsupported adds to a refusal of an index, or of what it lists, how to build without one.
func (p *push) unsupported(fault *registry.Fault, err error) error {
	if fault == nil || fault.Kind != registry.Refused || !p.image.Root().MediaType.IsIndex() {
		return err
	}
	return outcome.Of(err).WithHint(
		"The registry's own words say why. Old registries take neither OCI indexes nor attestations: build with " +
			"provenance=none and sbom=none.",
	)
}

// fixed tells whether an answer to a tag may mean that it is immutable. Registries say so in many ways.
func fixed(fault *registry.Fault) bool {
	switch fault.Status {
	case http.StatusMethodNotAllowed, http.StatusConflict, http.StatusPreconditionFailed:
		return true
	}
	return fault.Says("TAG_INVALID") || fault.Status == http.StatusBadRequest && fault.Says(transport.DeniedErrorCode)
}

// mount makes a blob of another repository one of ours, if there is one that has it and the registry wants to.
func (p *push) mount(ctx context.Context, blob v1.Descriptor) (bool, error) {
	checked := p.image.Absent[blob.Digest] // a base image names it
	for _, from := range p.sources {
		// Asking first is cheaper than a mount that fails: that leaves an upload open.
		there, err := p.repository.has(ctx, from, blob)
		if err != nil {
			return false, err
		}
		if !there {
			continue
		}
		if !checked {
			// Who knows no more of a blob than its digest and size does not get its content from a repository that
			// the push credentials may read, and the build may not.
			if err := p.image.Check(ctx, blob); err != nil {
				return false, err
			}
			checked = true
		}
		mounted, err := p.repository.mount(ctx, blob, from)
		if err != nil {
			return false, err
		}
		if mounted {
			p.mounted.add(blob)
			return true, nil
		}
	}
	return false, nil
}

// open reads a blob from the layout, or from the base image's repository, where a sparse layout leaves it.
func (p *push) open(ctx context.Context, blob v1.Descriptor) (io.ReadCloser, error) {
	if !p.image.Absent[blob.Digest] {
		return p.image.Open(blob)
	}
	return p.bases.Open(ctx, blob.Digest)
}

// findAbsent makes sure that base images have the layers that the layout lacks.
func (p *push) findAbsent(ctx context.Context) error {
	if len(p.image.Absent) == 0 {
		return nil
	}
	var absent []v1.Descriptor
	for _, blob := range p.image.Blobs {
		if p.image.Absent[blob.Digest] && !p.published.Has(blob) {
			absent = append(absent, blob)
		}
	}
	return p.bases.Find(ctx, p.image.Path, absent, p.env.Retry)
}

// verify reads back what was pushed: the tag and the digest must both be this image, byte for byte. Where it cannot be
// read back, the registry's word that it took the image counts.
func (p *push) verify(ctx context.Context) error {
	root := p.image.Root()
	retry := p.env.Retry
	for _, reference := range []string{root.Digest.String(), p.tag} {
		err := retry.Do(ctx, func(ctx context.Context) error {
			seen, err := p.repository.shows(ctx, reference, root)
			if err != nil {
				named, unnamed := p.repository.names(ctx, reference, root)
				if unnamed != nil {
					return unreadable{err}
				}
				seen = named
			}
			shown := "something else than " + root.Digest.String()
			switch seen {
			case same:
				return nil
			case nothing:
				shown = "nothing there: not found"
			}
			// Some registries take a moment until they show what they took.
			return outcome.Errorf(
				outcome.RegistryUnavailable, "%s:%s was pushed, but %s shows %s", p.repository.name, p.tag, reference,
				shown,
			).
				WithHint("Run the step again; if it happens again, look for another build that pushes the same tag.")
		})
		if _, ok := errors.AsType[unreadable](err); ok && ctx.Err() == nil {
			p.env.Log.Warn("The image is pushed, and cannot be read back", "reference", reference, "because", err)
			retry.Attempts = 1
			continue
		}
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	return nil
}

// unreadable is why a manifest cannot be read.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// leaveTransfer leaves what publishing came to, for the picture of the run. Of an image that was there already nothing
// was sent.
func (p *push) leaveTransfer() {
	raw, err := buildreport.Transfer{
		Uploaded: p.uploaded.told(), Skipped: p.skipped.told(), Mounted: p.mounted.told(),
	}.Encode()
	if err != nil {
		p.env.Log.Warn("What was sent is not told", "error", err)
		return
	}
	p.env.Leave(buildreport.TransferName, raw)
}

func (t *tally) told() buildreport.Blobs {
	return buildreport.Blobs{Count: t.blobs.Load(), Bytes: t.bytes.Load()}
}

func (p *push) report(published string) {
	took := time.Since(p.started)
	if p.unchanged {
		p.env.Log.Info("The registry has this image already", "image", published, "took", took)
		return
	}
	p.env.Log.Info(
		"Published", "image", published, "uploaded", p.uploaded.String(), "skipped", p.skipped.String(), "mounted",
		p.mounted.String(), "took", took,
	)
}

// tell logs from time to time how far the blobs are.
func (p *push) tell(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			done := p.uploaded.blobs.Load() + p.skipped.blobs.Load() + p.mounted.blobs.Load()
			p.env.Log.Info("Still pushing", "sent", buildreport.SizeText(p.sent.Load()), "of", buildreport.SizeText(
				p.image.Size()-p.skipped.bytes.Load()-p.mounted.bytes.Load(),
			),
				"blobs", fmt.Sprintf("%d of %d", done, len(p.image.Blobs)), "took", time.Since(p.started))
		}
	}
}
