package buildkit

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/frontend"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// lazyWorker is a worker whose OCI exporter pulls no layer that the step's store has already, and compresses new ones
// in its own way. BuildKit's own pulls all layers of the image before it asks. While an image is exported, its cache
// mounts are saved.
type lazyWorker struct {
	*base.Worker
	compression compression.Config
	mounts      *mountKeeper // nil: none are
	copies      *copies
	timed       bool // whether times of files are settled, so that instructions can be remembered by them
}

// ResolveOp implements worker.Worker.
func (w lazyWorker) ResolveOp(
	v solver.Vertex, bridge frontend.FrontendLLBBridge, sessions *session.Manager, proxy worker.ProxyOpt,
) (solver.Op, error) {
	op, err := w.Worker.ResolveOp(v, bridge, sessions, proxy)
	if err != nil {
		return nil, err
	}
	if w.timed {
		op = timedKey(v, op)
	}
	return w.copies.op(v, op), nil
}

// GetRemotes is asked by worker.WorkerRef. It tells of no variants of other compressions, of which there are none:
// where a layer is here and those below are not, BuildKit would choose one for the cache that it cannot have.
func (w lazyWorker) GetRemotes(
	ctx context.Context, ref cache.ImmutableRef, create bool, config config.RefConfig, _ bool, group session.Group,
) ([]*solver.Remote, error) {
	if ref == nil {
		return nil, nil
	}
	return ref.GetRemotes(ctx, create, config, false, group)
}

// Exporter implements worker.Worker.
func (w lazyWorker) Exporter(name string, sessions *session.Manager) (exporter.Exporter, error) {
	e, err := w.Worker.Exporter(name, sessions)
	if err != nil || name != client.ExporterOCI {
		return e, err
	}
	return lazyExporter{e, w}, nil
}

type lazyExporter struct {
	exporter.Exporter
	worker lazyWorker
}

// Resolve implements exporter.Exporter.
func (e lazyExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	instance, err := e.Exporter.Resolve(ctx, id, attrs)
	if err != nil {
		return nil, err
	}
	return lazyInstance{instance, e.worker}, nil
}

type lazyInstance struct {
	exporter.ExporterInstance
	worker lazyWorker
}

// Export implements exporter.ExporterInstance.
func (i lazyInstance) Export(ctx context.Context, source *exporter.Source, info exporter.ExportBuildInfo) (
	map[string]string, exporter.FinalizeFunc, exporter.DescriptorReference, error,
) {
	source = source.Clone()
	if source.Ref != nil {
		source.Ref = lazyRef{source.Ref, i.worker.compression}
	}
	for platform, ref := range source.Refs {
		if ref != nil {
			source.Refs[platform] = lazyRef{ref, i.worker.compression}
		}
	}
	ended := func(map[string]string) {}
	if i.worker.mounts != nil {
		ended = i.worker.mounts.export(ctx, info)
	}
	response, finalize, described, err := i.ExporterInstance.Export(ctx, source, info)
	ended(response)
	if response != nil {
		response[Outlines] = i.worker.copies.ended(ctx, session.NewGroup(info.SessionID))
	}
	return response, finalize, described, err
}

// lazyRef is a result whose layers are pulled one by one, when they are read.
type lazyRef struct {
	cache.ImmutableRef
	compression compression.Config
}

// Clone implements cache.ImmutableRef.
func (r lazyRef) Clone() cache.ImmutableRef { return lazyRef{r.ImmutableRef.Clone(), r.compression} }

// GetRemotes implements cache.ImmutableRef. The providers are no cache.Unlazier.
func (r lazyRef) GetRemotes(
	ctx context.Context, create bool, config config.RefConfig, all bool, group session.Group,
) ([]*solver.Remote, error) {
	config.Compression = r.compression
	remotes, err := r.ImmutableRef.GetRemotes(ctx, create, config, all, group)
	if err != nil {
		return nil, err
	}
	for i, remote := range remotes {
		if remote.Provider != nil {
			remotes[i] = &solver.Remote{Descriptors: remote.Descriptors, Provider: onlyReads{remote.Provider}}
		}
	}
	return remotes, nil
}

// compressedExporter leaves caches in the step's stores.
func compressedExporter(sessions *session.Manager, by compression.Config) remotecache.ResolveCacheExporterFunc {
	resolve := local.ResolveCacheExporterFunc(sessions)
	return func(ctx context.Context, group session.Group, attrs map[string]string) (remotecache.Exporter, error) {
		e, err := resolve(ctx, group, attrs)
		if err != nil {
			return nil, err
		}
		return compressedCache{e, by}, nil
	}
}

// lazyImporter takes caches from the step's stores. BuildKit's own pulls all layers of a result at once, since a
// session may end before they are needed; the step's lasts as long as the build.
func lazyImporter(sessions *session.Manager) remotecache.ResolveCacheImporterFunc {
	return func(
		ctx context.Context, group session.Group, attrs map[string]string,
	) (remotecache.Importer, ocispec.Descriptor, error) {
		caller, err := sessions.Get(ctx, group.SessionIterator().NextSession(), false)
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		store := sessioncontent.NewCallerStore(caller, "local:"+attrs["src"])
		info, err := store.Info(ctx, digest.Digest(attrs["digest"]))
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		return remotecache.NewImporter(store), ocispec.Descriptor{Digest: info.Digest, Size: info.Size}, nil
	}
}

type onlyReads struct{ content.InfoReaderProvider }
