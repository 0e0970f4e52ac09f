// Package registry is how all of Stepwright reaches container registries: over which protocol, by which mirrors, with
// whose certificates and credentials, and what a registry's answers mean.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Mirror is a host, with optional port and path, that has the images of a registry.
type Mirror struct {
	Registry string `json:"registry"`
	Mirror   string `json:"mirror"`
}

// Source says where images come from.
type Source struct {
	Mirrors   []Mirror               // asked before the registry itself, in this order
	Insecure  []string               // hosts that are spoken to over plain HTTP
	Auth      *configfile.ConfigFile // credentials to pull with
	Transport http.RoundTripper
}

// Image is what a registry tells of an image without its layers.
type Image struct {
	Reference  string // repository@digest, for which the registry has exactly this
	Descriptor v1.Descriptor
	Manifest   []byte
	Config     []byte
}

// ErrNotFound is wrapped where the registry has no such image or blob.
var ErrNotFound = errors.New("not found")

// Image fetches manifest and configuration of an image, of an index those for the platform. The error is an
// outcome.Error: a BaseImageUnavailable, a BuilderUnsupported when the image is not for the platform, or a
// RegistryUnavailable, which is worth another try.
func (s Source) Image(ctx context.Context, reference string, platform v1.Platform) (Image, error) {
	var found Image
	err := s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		descriptor, err := remote.Get(ref, append(options, remote.WithPlatform(platform))...)
		if err != nil {
			return err
		}
		if descriptor.MediaType.IsIndex() && !has(descriptor, platform) {
			return outcome.Errorf(outcome.BuilderUnsupported, "it is not for %s", platform)
		}
		image, err := descriptor.Image()
		if err != nil {
			return err
		}
		if found.Manifest, err = image.RawManifest(); err != nil {
			return err
		}
		if found.Config, err = image.RawConfigFile(); err != nil {
			return err
		}
		config, err := image.ConfigFile()
		if err != nil {
			return err
		}
		if config.OS != platform.OS || config.Architecture != platform.Architecture {
			return outcome.Errorf(
				outcome.BuilderUnsupported, "it is for %s/%s, and not for %s", config.OS, config.Architecture,
				platform,
			)
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
	found.Reference = named(ref.Context()) + "@" + found.Descriptor.Digest.String()
	return found, nil
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

// named is a repository as people write it: Docker Hub is docker.io.
func named(repository name.Repository) string {
	if host := repository.RegistryStr(); host != name.DefaultRegistry {
		return repository.Name()
	}
	return "docker.io/" + repository.RepositoryStr()
}

// Open opens a blob of an image's repository. What is not what the digest says does not read to its end. Errors are
// those of Image.
func (s Source) Open(ctx context.Context, reference string, blob v1.Hash) (content io.ReadCloser, err error) {
	err = s.each(ctx, reference, func(ref name.Reference, options []remote.Option) error {
		layer, err := remote.Layer(ref.Context().Digest(blob.String()), options...)
		if err != nil {
			return err
		}
		content, err = layer.Compressed()
		return err
	})
	return content, err
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
	var mirrors []error
	for _, ref := range places {
		host := ref.Context().RegistryStr()
		gate := &gate{next: s.Transport, host: host, plain: s.isPlain(host)}
		options := []remote.Option{
			remote.WithContext(ctx), remote.WithTransport(gate), remote.WithAuth(s.authenticator(ref)),
			// the step tries again
			remote.WithRetryPredicate(func(error) bool { return false }), remote.WithRetryStatusCodes(),
		}
		err := try(ref, options)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err = failure(reference, host, err); len(mirrors)+1 == len(places) {
			return outcome.Of(joined(err, mirrors))
		}
		mirrors = append(mirrors, err)
	}
	return nil
}

// joined adds what mirrors said to what the registry did.
func joined(err error, mirrors []error) error {
	for _, m := range mirrors {
		err = fmt.Errorf("%w; its mirror: %s", err, m)
	}
	return err
}

// places are the references to ask for, one after another.
func (s Source) places(asked name.Reference) ([]name.Reference, error) {
	host := asked.Context().RegistryStr()
	var all []name.Reference
	for _, m := range s.Mirrors {
		if m.Registry != host && (m.Registry != "docker.io" || host != name.DefaultRegistry) {
			continue
		}
		at, prefix, _ := strings.Cut(strings.TrimSuffix(m.Mirror, "/"), "/")
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

func (s Source) isPlain(host string) bool {
	return slices.Contains(s.Insecure, host) || host == name.DefaultRegistry && slices.Contains(s.Insecure, "docker.io")
}

func (s Source) authenticator(ref name.Reference) authn.Authenticator {
	if s.Auth == nil {
		return authn.Anonymous
	}
	a, _, found := Find(s.Auth, ref.Context().Name())
	if !found {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{
		Username:      a.Username,
		Password:      a.Password,
		IdentityToken: a.IdentityToken,
		RegistryToken: a.RegistryToken,
	})
}

// failure makes an outcome of what went wrong. The texts of the library are not passed on where they may quote a token
// server's answer.
func failure(reference, host string, err error) error {
	fail := func(reason outcome.Reason, format string, args ...any) *outcome.Error {
		return outcome.Errorf(reason, "image %s: %w", reference, fmt.Errorf(format, args...))
	}
	if ours, ok := errors.AsType[*outcome.Error](err); ok {
		return fmt.Errorf("image %s: %w", reference, ours)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return fail(outcome.BaseImageUnavailable, "%s does not have it: %w", host, ErrNotFound)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fail(
				outcome.BaseImageUnavailable, "%s does not let us pull it: %d %s", host, answer.StatusCode,
				http.StatusText(answer.StatusCode),
			)
		}
		return fail(
			outcome.BaseImageUnavailable, "%s answers %d %s", host, answer.StatusCode,
			http.StatusText(answer.StatusCode),
		)
	}
	if authority, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fail(
			outcome.BaseImageUnavailable, "the certificate of %s is of an authority that is not trusted: %w", host,
			authority,
		).
			WithHint("Give the PEM certificate of the registry's authority as ca-bundle.")
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fail(outcome.BaseImageUnavailable, "the certificate of %s is not valid: %w", host, certificate)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fail(outcome.BaseImageUnavailable, "%s answers in plain HTTP, not in HTTPS", host).
			WithHint("Where unprotected images are acceptable, name the host in insecure-registries.")
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fail(outcome.RegistryUnavailable, "%s: %s", host, first)
}

// gate keeps requests to the protocol that was asked for, whatever ggcr thinks of a host's name, and makes an outcome
// of answers that are worth another try.
type gate struct {
	next  http.RoundTripper
	host  string // of the registry
	plain bool   // HTTP, not HTTPS
}

func (g *gate) RoundTrip(request *http.Request) (*http.Response, error) {
	out := request.Clone(request.Context())
	switch {
	case request.URL.Host == g.host && g.plain:
		out.URL.Scheme = "http"
	case request.URL.Host == g.host:
		out.URL.Scheme = "https"
	case request.URL.Scheme != "https" && !g.plain:
		return nil, outcome.Errorf(
			outcome.BaseImageUnavailable, "the registry %s leads to %s by %s, where images would travel unprotected",
			g.host, request.URL.Host, request.URL.Scheme,
		)
	}
	response, err := g.next.RoundTrip(out)
	if err != nil || response.StatusCode != http.StatusTooManyRequests && response.StatusCode < 500 {
		return response, err
	}
	response.Body.Close()
	return nil, outcome.Errorf(
		outcome.RegistryUnavailable, "%s answers %d %s", g.host, response.StatusCode,
		http.StatusText(response.StatusCode),
	).
		After(outcome.RetryAfter(response.Header.Get("Retry-After"), time.Now()))
}
