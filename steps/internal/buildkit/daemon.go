package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	httpsource "github.com/moby/buildkit/source/http"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/userns"
)

// daemon is what of buildkitd a step needs: the solver, the Dockerfile frontend, and one worker that runs instructions
// with runc.
type daemon struct {
	config     Config
	isolation  Isolation
	worker     *base.Worker
	controller *control.Controller
	pulls      *pulls
	ids        userns.IDs
}

func newDaemon(ctx context.Context, c Config, isolation Isolation, unsynced bool) (*daemon, error) {
	t, err := trust.Transport(c.CABundle)
	if err != nil {
		return nil, err
	}
	t.ForceAttemptHTTP2 = true
	pulls := newPulls(c, t)
	rt, err := isolation.runtime(c.Root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	ids, err := userns.Here()
	if err != nil {
		return nil, err
	}
	dns, err := nameServers("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	options, err := runc.NewWorkerOpt(
		c.Root, snapshotter(c.Root), rt.rootless, rt.mode, nil, nil, netproviders.Opt{Mode: "host"}, dns, rt.command,
		"", false, nil, "", rt.cgroup, nil,
	)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	options.Snapshotter = layers{options.Snapshotter, unsynced && canBeVolatile(c.Root)}
	options.Applier = unpacking{options.Applier}
	options.RegistryHosts = pulls.registries
	var times *timekeeper
	if c.Times != nil {
		times = newTimekeeper(*c.Times, options.MetadataStore)
		options.Snapshotter = &settling{options.Snapshotter, times}
	}
	options.Executor = runs{options.Executor, ids}
	options.Applier = owners{options.Applier, options.ContentStore, ids}
	w, err := base.NewWorker(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	// BuildKit's own reaches servers without the CA bundle.
	w.HTTPSource, err = httpsource.NewSource(httpsource.Opt{CacheAccessor: w.CacheMgr, Transport: downloads{t}})
	if err != nil {
		return nil, err
	}
	w.SourceManager.Register(w.HTTPSource)
	repositories, err := newRepositories(w.CacheMgr, c)
	if err != nil {
		return nil, err
	}
	w.SourceManager.Register(repositories)
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	lazy := lazyWorker{Worker: w, compression: c.Compression.config(), timed: times != nil}
	if c.Mounts != nil {
		lazy.mounts = newMountKeeper(w.CacheMgr, c, sessions, times)
		w.CacheMgr = lazy.mounts
	}
	lazy.copies = newCopies(w, c.Outlines)
	w.CacheMgr = holding{w.CacheMgr, lazy.copies}
	workers := &worker.Controller{}
	if err := workers.Add(lazy); err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(c.Root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	history, err := boltutil.SafeOpen(filepath.Join(c.Root, "history.db"), 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType,
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	controller, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), lazy.copies.build(dockerfile.Build)),
		},
		CacheManager: solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		CacheStore:   cache,
		// The step holds the cache of the registry, and hands it over by the session.
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"local": lazyImporter(sessions),
		},
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"local": compressedExporter(sessions, c.Compression.config()),
		},
		HistoryDB: history,
		// records hold what instructions print, and so, maybe, secrets
		HistoryConfig:  &config.HistoryConfig{MaxEntries: new(int64(0))},
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Root, err)
	}
	return &daemon{config: c, isolation: isolation, worker: w, controller: controller, pulls: pulls, ids: ids}, nil
}

// snapshotter stacks layers with overlayfs where the file system under root can carry it, and copies them elsewhere.
func snapshotter(root string) runc.SnapshotterFactory {
	if err := overlayutils.Supported(root); err != nil {
		fmt.Fprintf(os.Stderr, "WARNING: layers are copied, which is slow: %v\n", err)
		return runc.SnapshotterFactory{Name: "native", New: native.NewSnapshotter}
	}
	return runc.SnapshotterFactory{Name: "overlayfs", New: func(root string) (snapshots.Snapshotter, error) {
		return overlay.NewSnapshotter(root)
	}}
}

// work answers until the listener is closed, which ends all that was asked, and closes the daemon.
func (d *daemon) work(listener *single, options ...grpc.ServerOption) error {
	server := grpc.NewServer(append(options,
		grpc.UnaryInterceptor(d.explainFailures),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.WaitForHandlers(true),
	)...)
	d.controller.Register(server)
	server.Serve(listener)
	defer d.isolation.end()
	stopped, closed := make(chan struct{}), make(chan error, 1)
	go func() {
		server.Stop()
		close(stopped)
		closed <- d.close()
	}()
	// Nobody may be left to kill a builder that hangs.
	select {
	case <-stopped:
	case <-time.After(patience):
		return errors.New("the builder does not end the build")
	}
	select {
	case err := <-closed:
		return err
	case <-time.After(tidying):
		return errors.New("the builder does not end")
	}
}

// close ends the daemon. State that is kept is brought below its bound before.
func (d *daemon) close() error {
	var errs []error
	if !d.config.Temporary {
		errs = append(errs, d.prune())
	}
	return errors.Join(append(errs, d.controller.Close())...)
}

func (d *daemon) prune() error {
	ctx := context.Background()
	gone := make(chan client.UsageInfo)
	go func() {
		for range gone {
		}
	}()
	defer close(gone)
	return errors.Join(d.worker.Prune(ctx, gone, client.PruneInfo{
		All:          true,
		MaxUsedSpace: keep,
	}), d.worker.GarbageCollect(ctx))
}

// registries tells where the images of a registry's host are asked for: its mirrors, then itself. Plain HTTP is spoken
// to hosts that are named as insecure only.
func (p *pulls) registries(name string) ([]docker.RegistryHost, error) {
	client := p.client(name)
	host := func(name string) docker.RegistryHost {
		name, path, _ := strings.Cut(name, "/")
		return docker.RegistryHost{
			Client:       client,
			Host:         name,
			Scheme:       p.login(name).Scheme(),
			Path:         strings.TrimRight("/v2/"+path, "/"),
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		}
	}
	var hosts []docker.RegistryHost
	for _, mirror := range registry.MirrorsOf(name, p.config.Mirrors) {
		hosts = append(hosts, host(mirror))
	}
	address, err := docker.DefaultHost(name)
	if err != nil {
		return nil, err
	}
	return append(hosts, host(address)), nil
}
