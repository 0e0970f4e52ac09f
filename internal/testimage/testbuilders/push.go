package testbuilders

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/filelock"
)

// Push puts the images of the named families, or of all when none is named, into a registry on plain HTTP: host and
// port, such as `127.0.0.1:5000`. Each gets the path it has in its own registry, as a mirror needs:
// `buildpacks/builder:latest`. Images that are there already are left alone.
func (s Store) Push(ctx context.Context, host string, families ...Family) error {
	if len(families) == 0 {
		families = Families()
	}
	unlock, err := filelock.Shared(ctx, s.lockFile())
	if err != nil {
		return err
	}
	defer unlock()
	for _, family := range families {
		for _, ref := range []string{family.Builder, family.Run} {
			img, err := s.Image(ref)
			if err != nil {
				return err
			}
			if err := push(ctx, img, mirrored(ref, host)); err != nil {
				return fmt.Errorf("push %s to %s: %w", ref, host, err)
			}
		}
	}
	return nil
}

func push(ctx context.Context, img v1.Image, ref string) error {
	target, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(target, img, remote.WithContext(ctx))
}
