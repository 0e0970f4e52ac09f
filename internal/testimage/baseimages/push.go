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
// `distroless/static-debian12:nonroot`. Images that are there already are left alone.
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
