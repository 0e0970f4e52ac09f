package baseimages

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/filelock"
)

// Push puts the named images, or all when none is named, into a registry on plain HTTP: host and port, such as
// `127.0.0.1:5000`. Each gets the path it has in its own registry, as a mirror needs: `library/busybox:1`,
// `distroless/static-debian12:nonroot`. What is there already is left alone.
func (s Store) Push(ctx context.Context, host string, names ...string) error {
	names, err := s.known(names)
	if err != nil {
		return err
	}
	unlock, err := filelock.Shared(ctx, s.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	group, ctx := errgroup.WithContext(ctx)
	for _, ref := range names {
		group.Go(func() error {
			if err := s.push(ctx, host, ref); err != nil {
				return fmt.Errorf("push base image %s to %s: %w", ref, host, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (s Store) push(ctx context.Context, host, ref string) error {
	started := time.Now()
	img, err := s.Image(ref)
	if err != nil {
		return err
	}
	_, path, _ := strings.Cut(ref, "/")
	target, err := name.ParseReference(host+"/"+path, name.Insecure, name.StrictValidation)
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	there, err := remote.Head(target, remote.WithContext(ctx))
	var status *transport.Error
	switch {
	case err == nil && there.Digest == digest:
		return nil
	case err != nil && !(errors.As(err, &status) && status.StatusCode == http.StatusNotFound):
		return err
	}
	if err := remote.Write(target, img, remote.WithContext(ctx)); err != nil {
		return err
	}
	s.log().Info("Pushed the base image", "image", target, "took", time.Since(started).Round(10*time.Millisecond))
	return nil
}

// Reachable tells whether the registries of the real images answer, within seconds. Then nobody needs the ones made
// here.
func Reachable(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for _, endpoint := range []string{"https://registry-1.docker.io/v2/", "https://gcr.io/v2/"} {
		group.Go(func() error { return answers(ctx, endpoint) })
	}
	return group.Wait() == nil
}

// answers tells whether a registry is there: it lets in or asks for a token. A proxy that refuses does neither.
func answers(ctx context.Context, endpoint string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s answered %s", endpoint, response.Status)
	}
	return nil
}
