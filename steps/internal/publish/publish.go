// Package publish pushes the built image to a registry and makes sure that it is there.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Parameters are the parameters in schemas/publish-image.schema.json.
type Parameters struct {
	step.Common
	step.Owner
	Registry           string   `json:"registry"`
	ImageName          string   `json:"image-name"`
	ImageTag           string   `json:"image-tag"`
	GitRevision        string   `json:"git-revision"`
	ImageSource        string   `json:"image-source"`
	ImageDigest        string   `json:"image-digest"`
	BaseImages         []string `json:"base-images"`
	RegistryPushSecret string   `json:"registry-push-secret"`
	InsecurePlainHTTP  bool     `json:"insecure-plain-http"`
	MountFrom          []string `json:"mount-from"`
	Jobs               int      `json:"jobs"`
	CacheSource        string   `json:"cache-source"`

	RegistryPullSecret string            `json:"registry-pull-secret"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
}

// progressEvery is how often a long push tells how far it is.
const progressEvery = 10 * time.Second

// Run pushes the image of the workspace as <registry>/<image-name>:<image-tag>-<git-revision> (docs/contract.md section
// 1). Its results are image, registry/name:tag@digest, and image-digest. The cache that the build left it pushes as
// <registry>/<image-name>:cache; that this fails is no failure. What it reads stays as it is, however Run ends.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	to, err := in.target()
	if err != nil {
		return nil, err
	}
	transport, err := trust.Transport(in.CABundle)
	if err != nil {
		return nil, err
	}
	defer transport.CloseIdleConnections()
	pushing, err := registry.LoadCredentials(in.RegistryPushSecret, env.Secrets)
	if err != nil {
		return nil, err
	}
	image, err := in.open(ctx, env.Log)
	if err != nil {
		return nil, err
	}
	defer image.Close()

	pulling, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return nil, err
	}
	bases := registry.Source{
		Mirrors:     in.RegistryMirrors,
		Insecure:    in.InsecureRegistries,
		Credentials: pulling,
		Transport:   transport,
	}
	sources, err := in.mountSources(to, image)
	if err != nil {
		return nil, err
	}
	repository := newRepository(to.repository, pushing, in.InsecurePlainHTTP, transport)
	if err := env.Retry.Do(ctx, func(ctx context.Context) error {
		return repository.connect(ctx, sources.all())
	}); err != nil {
		return nil, err
	}
	p := &push{
		repository: repository,
		image:      image,
		bases:      bases,
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
	if err := in.pushCache(ctx, repository, env); err != nil && ctx.Err() == nil {
		env.Log.Warn("The cache is not pushed: the component's next build has an older one, or none", "error", err)
	}
	return step.Results{"image": published, "image-digest": digest}, nil
}

// pushCache pushes the cache that the build left for the component's next one, if it left one.
func (in Parameters) pushCache(ctx context.Context, repository *repository, env step.Environment) error {
	path := in.CacheSource
	if path == "" {
		path = in.Workspace.Cache()
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	cache, err := imagelayout.Open(ctx, path, string(in.Workspace))
	if err != nil {
		return err
	}
	defer cache.Close()
	if len(cache.Elsewhere) > 0 {
		return fmt.Errorf("the cache in %s is incomplete", path)
	}
	p := &push{repository: repository, image: cache, tag: workspace.CacheTag, env: env, jobs: max(in.Jobs, 1)}
	if err := p.run(ctx); err != nil {
		return err
	}
	p.report(repository.name.Name() + ":" + workspace.CacheTag)
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
	image, err := imagelayout.Open(ctx, path, string(in.Workspace))
	if err != nil {
		return nil, err
	}
	if got := image.Root().Digest.String(); in.ImageDigest != "" && got != in.ImageDigest {
		image.Close()
		return nil, outcome.Errorf(
			outcome.ImageInvalid, "the image in %s is %s, and not %s, which the build step made", path, got,
			in.ImageDigest,
		)
	}
	log.Info("Read the image", "path", path, "digest", image.Root().Digest, "manifests", len(image.Manifests), "blobs",
		len(image.Blobs),
		"size", size(image.Size()), "in base images", len(image.Elsewhere), "took", time.Since(started))
	return image, nil
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

// sources are the repositories of the registry that may hold blobs already.
type sources struct {
	every  []string             // for any blob
	single map[v1.Hash][]string // for one blob
}

// sourceAnnotation, followed by a registry's host, is where containerd and BuildKit note from which repositories they
// pulled a layer.
const sourceAnnotation = "containerd.io/distribution.source."

// maxSources bounds the questions asked for one blob, and the scopes of a token.
const maxSources = 8

// mountSources are the repositories in the parameters, then those in the image's annotations.
func (in Parameters) mountSources(to target, image *imagelayout.Image) (sources, error) {
	host, _, _ := strings.Cut(to.text, "/")
	own := to.repository.RepositoryStr()
	s := sources{single: map[v1.Hash][]string{}}
	for _, from := range in.MountFrom {
		path := strings.TrimPrefix(from, host+"/")
		if !repositoryPath.MatchString(path) {
			return s, outcome.Errorf(outcome.InvalidParameters, "mount-from: %q is not the name of a repository", from)
		}
		if path != own && !slices.Contains(s.every, path) {
			s.every = append(s.every, path)
		}
	}
	for _, base := range image.Bases {
		ref, err := name.ParseReference(base)
		if err != nil || ref.Context().RegistryStr() != to.repository.RegistryStr() {
			continue
		}
		if path := ref.Context().RepositoryStr(); path != own && !slices.Contains(s.every, path) {
			s.every = append(s.every, path)
		}
	}
	for _, blob := range image.Blobs {
		for path := range strings.SplitSeq(blob.Annotations[sourceAnnotation+host], ",") {
			if path != own && repositoryPath.MatchString(path) && !slices.Contains(s.every, path) {
				s.single[blob.Digest] = append(s.single[blob.Digest], path)
			}
		}
	}
	return s, nil
}

// of lists the repositories that may hold a blob, the likeliest first.
func (s sources) of(blob v1.Hash) []string {
	all := append(slices.Clone(s.single[blob]), s.every...)
	return all[:min(len(all), maxSources)]
}

// all lists the repositories that are asked for any blob.
func (s sources) all() []string {
	all := slices.Clone(s.every)
	for blob := range s.single {
		all = append(all, s.of(blob)...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return all[:min(len(all), maxSources)]
}

// push is one image on its way into a registry.
type push struct {
	repository *repository
	image      *imagelayout.Image
	bases      registry.Source
	tag        string
	sources    sources
	env        step.Environment
	jobs       int

	started                    time.Time
	sent                       atomic.Int64 // bytes of blobs, as they go
	uploaded, skipped, mounted tally
	unchanged                  bool // the registry had the image under this tag before
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
	return fmt.Sprintf("%d (%s)", t.blobs.Load(), size(t.bytes.Load()))
}

func (p *push) run(ctx context.Context) error {
	p.started = time.Now()
	var err error
	if p.unchanged, err = p.isThere(ctx); err != nil || p.unchanged {
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
			return p.repository.put(ctx, reference, manifest)
		}); err != nil {
			return err
		}
	}
	return p.verify(ctx)
}

// isThere tells whether the registry has this image under this tag already. That is a mere saving: only that the
// registry cannot be reached is an error, whatever else is wrong shows when pushing.
func (p *push) isThere(ctx context.Context) (bool, error) {
	root, there := p.image.Root(), false
	err := p.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		there, err = p.repository.shows(ctx, p.tag, root)
		if err == nil && there {
			there, err = p.repository.shows(ctx, root.Digest.String(), root)
		}
		return err
	})
	return err == nil && there, onlyTransient(err)
}

// blobs pushes what the manifests name, the largest first so that none is left to travel alone.
func (p *push) blobs(ctx context.Context) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	go p.tell(ctx, progressEvery)

	blobs := slices.Clone(p.image.Blobs)
	slices.SortStableFunc(blobs, func(a, b v1.Descriptor) int { return int(min(max(b.Size-a.Size, -1), 1)) })
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
	for _, from := range p.sources.of(blob.Digest) {
		// Asking first is cheaper than a mount that fails: that leaves an upload open.
		there, err := p.repository.has(ctx, from, blob)
		if err == nil && there {
			there, err = p.repository.mount(ctx, blob, from)
		}
		if err != nil {
			return err
		}
		if there {
			p.mounted.add(blob)
			return nil
		}
	}
	location, err := p.repository.start(ctx, blob)
	if err != nil {
		return err
	}
	if err := p.repository.send(ctx, location, func() (io.ReadCloser, error) {
		return p.open(ctx, blob)
	}, blob, &p.sent); err != nil {
		return err
	}
	p.uploaded.add(blob)
	return nil
}

// open reads a blob from the layout, or from the base image's repository, where a sparse layout leaves it.
func (p *push) open(ctx context.Context, blob v1.Descriptor) (io.ReadCloser, error) {
	base, elsewhere := p.image.Elsewhere[blob.Digest]
	if !elsewhere {
		return p.image.Open(blob)
	}
	return p.bases.Open(ctx, base, blob.Digest)
}

// verify reads back what was pushed: the tag and the digest must both be this image, byte for byte.
func (p *push) verify(ctx context.Context) error {
	root := p.image.Root()
	for _, reference := range []string{root.Digest.String(), p.tag} {
		err := p.env.Retry.Do(ctx, func(ctx context.Context) error {
			same, err := p.repository.shows(ctx, reference, root)
			if err != nil || same {
				return err
			}
			// Some registries take a moment until they show what they took.
			return outcome.Errorf(
				outcome.RegistryUnavailable, "%s:%s was pushed, but %s shows something else than %s", p.repository.name,
				p.tag, reference, root.Digest,
			).
				WithHint("Run the step again; if it happens again, look for another build that pushes the same tag.")
		})
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	return nil
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
			p.env.Log.Info("Still pushing", "sent", size(p.sent.Load()), "of", size(
				p.image.Size()-p.skipped.bytes.Load()-p.mounted.bytes.Load(),
			),
				"blobs", fmt.Sprintf("%d of %d", done, len(p.image.Blobs)), "took", time.Since(p.started))
		}
	}
}

// size is a number of bytes for people.
func size(bytes int64) string {
	switch {
	case bytes >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(bytes)/1e9)
	case bytes >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(bytes)/1e6)
	case bytes >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%d B", bytes)
}
