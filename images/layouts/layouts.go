// Package layouts attests and publishes images that lie in folders, as OCI image layouts of one image each.
package layouts

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// RefName is the annotation of a layout's image that holds its tag.
const RefName = "org.opencontainers.image.ref.name"

// Push publishes the one image of a layout, an index or an image, as <repository>:<its tag>, with the credentials of
// Docker's configuration. A repository is host, optional port and path. It returns the reference with the digest.
func Push(ctx context.Context, dir, repository string, plainHTTP bool) (string, error) {
	root, described, err := only(dir)
	if err != nil {
		return "", err
	}
	options := []name.Option{name.StrictValidation}
	if plainHTTP {
		options = append(options, name.Insecure)
	}
	tag, err := name.NewTag(repository+":"+described.Annotations[RefName], options...)
	if err != nil {
		return "", err
	}
	to := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("stepwright/images"), remote.WithTransport(guard{remote.DefaultTransport, plainHTTP}),
	}
	if described.MediaType.IsIndex() {
		var index v1.ImageIndex
		if index, err = root.ImageIndex(described.Digest); err == nil {
			err = remote.WriteIndex(tag, index, to...)
		}
	} else {
		var img v1.Image
		if img, err = root.Image(described.Digest); err == nil {
			err = remote.Write(tag, img, to...)
		}
	}
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag, err)
	}
	return tag.Name() + "@" + described.Digest.String(), nil
}

// Index returns the one image of a layout, which is an index, and its tag.
func Index(dir string) (v1.ImageIndex, string, error) {
	root, described, err := only(dir)
	if err != nil {
		return nil, "", err
	}
	index, err := root.ImageIndex(described.Digest)
	return index, described.Annotations[RefName], err
}

// only returns a layout and what it says of its one image.
func only(dir string) (v1.ImageIndex, v1.Descriptor, error) {
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, v1.Descriptor{}, fmt.Errorf("%s has %d images, not one", dir, len(manifest.Manifests))
	}
	return root, manifest.Manifests[0], nil
}

// A guard lets nothing out in the clear: go-containerregistry, by itself, tries plain HTTP on whatever looks like a
// private network.
type guard struct {
	next      http.RoundTripper
	plainHTTP bool // to this machine
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		if !loopback(r.URL.Hostname()) {
			return nil, fmt.Errorf("%s is not on this machine: plain HTTP would show it our credentials", r.URL.Host)
		}
		if !g.plainHTTP {
			return nil, fmt.Errorf("%s is spoken to over plain HTTP only with --plain-http", r.URL.Host)
		}
	}
	return g.next.RoundTrip(r)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
