package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Source says where images come from.
type Source struct {
	Mirrors     []Mirror     // asked before the registry itself, in this order
	Insecure    []string     // hosts that are spoken to over plain HTTP
	Credentials *Credentials // to pull with; may be nil
	Transport   http.RoundTripper
}

// Image is what a registry tells of an image without its layers.
type Image struct {
	Reference  string // repository@digest, for which the registry has exactly this
	Descriptor v1.Descriptor
	Manifest   []byte
	Config     []byte
}

// Image fetches manifest and configuration of an image, of an index those for the platform. The error is an
// outcome.Error: a BuilderUnsupported when the image is not for the platform, or of a Fault, and then what its Pulling
// says.
func (s Source) Image(ctx context.Context, reference string, platform v1.Platform) (Image, error) {
	var found Image
	err := s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		image, err := get(ref, platform, options)
		if err != nil {
			return err
		}
		if found.Manifest, err = image.RawManifest(); err != nil {
			return err
		}
		if found.Config, err = image.RawConfigFile(); err != nil {
			return err
		}
		digest, err := image.Digest()
		if err != nil {
			return err
		}
		mediaType, err := image.MediaType()
		if err != nil {
			return err
		}
		found.Descriptor = v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(found.Manifest))}
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	ref, err := name.ParseReference(reference, name.WeakValidation)
	if err != nil {
		return Image{}, err
	}
	found.Reference = Name(ref.Context().Name()) + "@" + found.Descriptor.Digest.String()
	return found, nil
}

// maxManifest is the largest manifest in bytes that registries take (OCI distribution specification), and maxImages how
// many images of an index count.
const (
	maxManifest = 4 << 20
	maxImages   = 32
)

// Layers lists the layers of an image by their digests, with their sizes in bytes; of an index those of the images of
// all platforms. It fails as Image does.
func (s Source) Layers(ctx context.Context, reference string) (layers map[v1.Hash]int64, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		layers = map[v1.Hash]int64{}
		descriptor, err := remote.Get(ref, options...)
		if err != nil {
			return err
		}
		if !descriptor.MediaType.IsIndex() {
			return addLayers(layers, descriptor.Manifest)
		}
		if len(descriptor.Manifest) > maxManifest {
			return tooLarge(len(descriptor.Manifest))
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(descriptor.Manifest))
		if err != nil {
			return err
		}
		images := slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return !d.MediaType.IsImage() })
		for _, d := range images[:min(len(images), maxImages)] {
			image, err := remote.Get(ref.Context().Digest(d.Digest.String()), options...)
			if err != nil {
				return err
			}
			if err := addLayers(layers, image.Manifest); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return layers, nil
}

func addLayers(layers map[v1.Hash]int64, raw []byte) error {
	if len(raw) > maxManifest {
		return tooLarge(len(raw))
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		layers[l.Digest] = l.Size
	}
	return nil
}

func tooLarge(bytes int) error {
	return fmt.Errorf("its manifest has %d bytes, more than a registry takes (%d)", bytes, maxManifest)
}

// get fetches manifest and configuration of an image for the platform.
func get(ref name.Reference, platform v1.Platform, options []remote.Option) (v1.Image, error) {
	descriptor, err := remote.Get(ref, append(options, remote.WithPlatform(platform))...)
	if err != nil {
		return nil, err
	}
	if descriptor.MediaType.IsIndex() && !has(descriptor, platform) {
		return nil, outcome.Errorf(outcome.BuilderUnsupported, "it is not for %s", platform)
	}
	image, err := descriptor.Image()
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	if config.OS != platform.OS || config.Architecture != platform.Architecture {
		return nil, outcome.Errorf(
			outcome.BuilderUnsupported, "it is for %s/%s, and not for %s", config.OS, config.Architecture, platform,
		)
	}
	return image, nil
}

// has tells whether an index names an image for the platform.
func has(descriptor *remote.Descriptor, platform v1.Platform) bool {
	index, err := descriptor.ImageIndex()
	if err != nil {
		return false
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(manifest.Manifests, func(d v1.Descriptor) bool {
		return d.Platform == nil || d.Platform.OS == platform.OS && d.Platform.Architecture == platform.Architecture
	})
}

// Files reads the files of an image for the platform, with their owners, as one tar archive. Each layer is fetched when
// its turn comes; one that has another digest does not read to its end. Opening and reading fail as Image does.
func (s Source) Files(ctx context.Context, reference string, platform v1.Platform) (files io.ReadCloser, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		image, err := get(ref, platform, options)
		if err == nil {
			files = &content{mutate.Extract(image), func(err error) error {
				return explain(ctx, reference, FaultOf(ref.Context().RegistryStr(), err))
			}}
		}
		return err
	})
	return files, err
}

// Manifest fetches a manifest as it is, an index or whatever else has this reference, and returns it with its media
// type and digest. It fails as Image does, and when the manifest is too large.
func (s Source) Manifest(ctx context.Context, reference string) (raw []byte, as v1.Descriptor, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		found, err := remote.Get(ref, options...)
		if err != nil {
			return err
		}
		if len(found.Manifest) > maxManifest {
			return tooLarge(len(found.Manifest))
		}
		raw, as = found.Manifest, found.Descriptor
		return nil
	})
	return raw, as, err
}

// Referrers lists the manifests that refer to an image, given by its digest: by the registry's own list, or by the one
// under a tag where the registry has none (OCI distribution specification 1.1). It fails as Image does.
func (s Source) Referrers(ctx context.Context, reference string) (all []v1.Descriptor, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		index, err := remote.Referrers(ref.Context().Digest(ref.Identifier()), options...)
		if err != nil {
			return err
		}
		list, err := index.IndexManifest()
		if err == nil {
			all = list.Manifests
		}
		return err
	})
	return all, err
}

// Open opens a blob of an image's repository. Content that has another digest does not read to its end. Opening and
// reading fail as Image does.
func (s Source) Open(ctx context.Context, reference string, blob v1.Hash) (opened io.ReadCloser, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		layer, err := remote.Layer(ref.Context().Digest(blob.String()), options...)
		if err != nil {
			return err
		}
		compressed, err := layer.Compressed()
		if err == nil {
			opened = &content{compressed, func(err error) error {
				return explain(ctx, reference, FaultOf(ref.Context().RegistryStr(), err))
			}}
		}
		return err
	})
	return opened, err
}

// Has tells whether an image's repository has a blob. It fails as Image does.
func (s Source) Has(ctx context.Context, reference string, blob v1.Hash) (has bool, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		layer, err := remote.Layer(ref.Context().Digest(blob.String()), options...)
		if err != nil {
			return err
		}
		has, err = partial.Exists(layer)
		return err
	})
	return has, err
}

// content is of an image on its way here. What breaks then, or arrives as something else, is a fault of the registry.
type content struct {
	io.ReadCloser
	explain func(error) error
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, os.ErrClosed) {
		err = outcome.Of(c.explain(err))
	}
	return n, err
}

// explain gives what went wrong with an image, at the places where it was asked for, its outcome.
func explain(ctx context.Context, reference string, faults ...*Fault) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return outcome.Of(fmt.Errorf("image %s: %w", reference, Pulling(faults)))
}

// each tries the mirrors of a reference's registry in order, then the registry itself, until one succeeds.
func (s Source) each(ctx context.Context, reference string, try func(name.Reference, []remote.Option) error) error {
	asked, err := name.ParseReference(reference, name.WeakValidation)
	if err != nil {
		return outcome.Errorf(outcome.InvalidParameters, "%q is not the reference of an image: %w", reference, err)
	}
	places, err := s.places(asked)
	if err != nil {
		return err
	}
	var faults []*Fault
	for _, ref := range places {
		host := ref.Context().RegistryStr()
		login := &Login{
			Gate: Gate{Host: host, Insecure: IsInsecure(host, s.Insecure), Next: s.Transport},
			Find: func(string) (authn.Authenticator, error) {
				return s.Credentials.Authenticator(ref.Context().Name())
			},
		}
		err = try(ref, []remote.Option{
			remote.WithContext(ctx), remote.WithTransport(follow{login}),
			// the asker tries again
			remote.WithRetryPredicate(func(error) bool { return false }), remote.WithRetryStatusCodes(),
		})
		if err == nil {
			return nil
		}
		faults = append(faults, FaultOf(host, err))
	}
	return explain(ctx, reference, faults...)
}

// follow follows a registry's redirections, of which ggcr refuses those to a private address. That is where a company's
// own registry has its storage.
type follow struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (f follow) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := (&http.Client{Transport: f.next}).Do(request)
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // ggcr's client wraps it again
	}
	return response, err
}

// places are the references to ask for, one after another.
func (s Source) places(asked name.Reference) ([]name.Reference, error) {
	var all []name.Reference
	for _, mirror := range MirrorsOf(asked.Context().RegistryStr(), s.Mirrors) {
		at, prefix, _ := strings.Cut(mirror, "/")
		registry, err := name.NewRegistry(at)
		if err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "registry-mirrors: %w", err)
		}
		repository := registry.Repo(strings.TrimPrefix(prefix+"/"+asked.Context().RepositoryStr(), "/"))
		if digest, ok := asked.(name.Digest); ok {
			all = append(all, repository.Digest(digest.DigestStr()))
		} else {
			all = append(all, repository.Tag(asked.Identifier()))
		}
	}
	return append(all, asked), nil
}
