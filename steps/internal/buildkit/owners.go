package buildkit

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/userns"
)

// stranger is a user or group that the builder's user namespace does not have.
type stranger struct {
	who  string // such as "user 70000"; empty: it is not known which
	what string // the file that is to be theirs, or USER
	here userns.IDs
}

func (s *stranger) Error() string {
	who := s.who
	if who == "" {
		who = "its user or group"
	}
	return fmt.Sprintf("%s: %s does not exist where the image is built: there are %s", s.what, who, s.here)
}

func (s *stranger) outcome() *outcome.Error {
	return outcome.Errorf(outcome.BuildFailed, "%w", s).WithHint(
		"Take a lower id, also in base images and archives. Where the platform can do more: it has all ids in a pod " +
			"without a user namespace of Kubernetes' own (hostUsers), for a user with a longer range in /etc/subuid " +
			"and /etc/subgid, and with a daemon (buildkit-address).",
	)
}

// strangerOf returns the stranger that an error is due to; nil: none.
func strangerOf(err error, here userns.IDs) *stranger {
	if s, ok := errors.AsType[*stranger](err); ok {
		return s
	}
	if path, ok := refused(err); ok {
		return &stranger{what: filepath.Base(path), here: here}
	}
	return nil
}

// refused returns the path of the file that could not be given to an owner, because there is no such owner.
func refused(err error) (path string, ok bool) {
	change, ok := errors.AsType[*fs.PathError](err)
	if !ok || change.Op != "lchown" || !errors.Is(change.Err, syscall.EINVAL) {
		return "", false
	}
	return change.Path, true
}

// owners unpacks layers, and says which file cannot have its owner.
type owners struct {
	diff.Applier
	blobs content.Provider
	ids   userns.IDs
}

func (o owners) Apply(
	ctx context.Context, layer ocispecs.Descriptor, to []mount.Mount, options ...diff.ApplyOpt,
) (ocispecs.Descriptor, error) {
	applied, err := o.Applier.Apply(ctx, layer, to, options...)
	if _, ok := refused(err); ok {
		if s := o.find(ctx, layer); s != nil {
			err = errors.Join(err, s)
		}
	}
	return applied, err
}

// find returns the first stranger in a layer; nil when there is none, or the layer cannot be read.
func (o owners) find(ctx context.Context, layer ocispecs.Descriptor) *stranger {
	blob, err := o.blobs.ReaderAt(ctx, layer)
	if err != nil {
		return nil
	}
	defer blob.Close()
	plain, err := compression.DecompressStream(content.NewReader(blob))
	if err != nil {
		return nil
	}
	defer plain.Close()
	for files := tar.NewReader(plain); ; {
		header, err := files.Next()
		if err != nil {
			return nil
		}
		if who := o.ids.Lacks(header.Uid, header.Gid); who != "" {
			return &stranger{who: who, what: filepath.Clean("/" + header.Name), here: o.ids}
		}
	}
}
