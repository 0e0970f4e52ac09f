package buildkit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/snapshot"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Each unmount of an overlay has the kernel write all that is in memory for the disk, base images that were just
// unpacked included, and wait for it. Where a build's state is unsynced, layers are mounted with the option volatile,
// without that.

// volatileOption is the mount option of overlays.
const volatileOption = "volatile"

// layers is a snapshotter whose overlays may be volatile.
type layers struct {
	snapshot.Snapshotter
	volatile bool
}

// Mounts implements snapshot.Snapshotter.
func (l layers) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := l.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return layerMount{m, l.volatile}, nil
}

type layerMount struct {
	snapshot.Mountable
	volatile bool
}

// Mount implements snapshot.Mountable.
func (m layerMount) Mount() ([]mount.Mount, func() error, error) {
	mounts, release, err := m.Mountable.Mount()
	if err != nil {
		return nil, nil, err
	}
	mounts, err = again(mounts, m.volatile)
	if err != nil {
		return nil, nil, errors.Join(err, release())
	}
	return mounts, release, nil
}

// again has overlays mounted that were volatile before: it removes what the kernel left to have that refused, since
// after a crash files would be lacking. It gives those that can be written to the option, if they are to be volatile.
func again(mounts []mount.Mount, volatile bool) ([]mount.Mount, error) {
	mounts = slices.Clone(mounts)
	for i, m := range mounts {
		work := slices.IndexFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "workdir=") })
		if m.Type != "overlay" || work < 0 {
			continue
		}
		dir := strings.TrimPrefix(m.Options[work], "workdir=")
		if err := os.RemoveAll(filepath.Join(dir, "work", "incompat")); err != nil {
			return nil, err
		}
		if volatile {
			mounts[i].Options = append(slices.Clone(m.Options), volatileOption)
		}
	}
	return mounts, nil
}

// canBeVolatile tells whether the kernel knows the option, for overlays in a directory.
func canBeVolatile(dir string) bool {
	trial, err := os.MkdirTemp(dir, "volatile-")
	if err != nil {
		return false
	}
	defer os.RemoveAll(trial)
	in := func(name string) string { return filepath.Join(trial, name) }
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(in(name), 0o700); err != nil {
			return false
		}
	}
	overlay := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + in("lower"), "upperdir=" + in("upper"), "workdir=" + in("work"), volatileOption,
	}}
	if err := overlay.Mount(in("merged")); err != nil {
		return false
	}
	return mount.Unmount(in("merged"), 0) == nil
}

// unpacking mounts overlays for an applier, which would take the option from them.
type unpacking struct{ diff.Applier }

// Apply implements diff.Applier.
func (u unpacking) Apply(
	ctx context.Context, layer ocispecs.Descriptor, to []mount.Mount, options ...diff.ApplyOpt,
) (applied ocispecs.Descriptor, err error) {
	if len(to) != 1 || !slices.Contains(to[0].Options, volatileOption) {
		return u.Applier.Apply(ctx, layer, to, options...)
	}
	dir, err := os.MkdirTemp("", "layer-")
	if err != nil {
		return applied, err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(to, dir); err != nil {
		return applied, err
	}
	defer func() { err = errors.Join(err, mount.Unmount(dir, 0)) }()
	return u.Applier.Apply(ctx, layer, []mount.Mount{
		{Type: "bind", Source: dir, Options: []string{"rw", "rbind"}},
	}, options...)
}
