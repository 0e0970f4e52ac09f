package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// push publishes an image that build has made in dir as <registry>/<step>:<version>, with the credentials of Docker's
// configuration. A registry may have a path. It returns the reference with the digest.
func push(ctx context.Context, dir, step, registry string, plainHTTP bool) (string, error) {
	index, version, err := openLayout(filepath.Join(dir, step))
	if err != nil {
		return "", err
	}
	options := []name.Option{name.StrictValidation}
	if plainHTTP {
		options = append(options, name.Insecure)
	}
	tag, err := name.NewTag(registry+"/"+step+":"+version, options...)
	if err != nil {
		return "", err
	}
	err = remote.WriteIndex(tag, index,
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("stepwright/images"),
		remote.WithTransport(guard{remote.DefaultTransport, plainHTTP}))
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag, err)
	}
	digest, err := index.Digest()
	if err != nil {
		return "", err
	}
	return tag.Name() + "@" + digest.String(), nil
}

// openLayout returns the one image of a layout and its tag.
func openLayout(dir string) (v1.ImageIndex, string, error) {
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, "", err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, "", err
	}
	if len(manifest.Manifests) != 1 {
		return nil, "", fmt.Errorf("%s has %d images, not one", dir, len(manifest.Manifests))
	}
	index, err := root.ImageIndex(manifest.Manifests[0].Digest)
	return index, manifest.Manifests[0].Annotations[refName], err
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
