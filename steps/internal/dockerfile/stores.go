package dockerfile

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// A making is the making of an image by a builder, and of caches for the next build.
type making struct {
	*build
	cache    *caching
	mounts   *keeping
	response *client.SolveResponse
}

// make has the builder make the image in the folder layout. Other files go into the folder dir.
func (m *making) make(
	ctx context.Context, builder *buildkit.BuildKit, options client.SolveOpt, layout, dir string,
	statuses chan *client.SolveStatus,
) error {
	b := m.build
	image, err := newSparse(layout, b.elsewhere(builder))
	if err != nil {
		close(statuses)
		return err
	}
	stores := map[string]content.Store{"export": image}
	if b.cache != nil {
		m.cache, err = b.cache.prepare(ctx, builder, image, dir, &options, stores)
		if err != nil {
			close(statuses)
			return err
		}
	}
	if b.mounts != nil {
		m.mounts, err = b.mounts.prepare(ctx, dir, stores)
		if err != nil {
			b.env.Log.Warn("Cache mounts are not kept for the next build", "error", err)
		}
	}
	m.response, err = solve(ctx, builder, options, stores, statuses)
	if err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(m.response.ExporterResponse[exptypes.ExporterImageDescriptorKey])
	var root ocispec.Descriptor
	if err == nil {
		err = json.Unmarshal(raw, &root)
	}
	if err == nil {
		err = imagelayout.Dir(layout).WriteIndex(root)
	}
	if err != nil {
		return err
	}
	if b.in.late() {
		b.findBases(ctx, builder, image)
	}
	return nil
}

// elsewhere tells of a layer of the image whether publish-image finds it without the workspace. A layer that is to be
// dated must be in the layout, unless it was before.
func (b *build) elsewhere(builder *buildkit.BuildKit) func(context.Context, digest.Digest) bool {
	switch {
	case b.dates().late:
		return b.cache.isDated
	case b.in.late():
		return b.cache.elsewhere
	}
	near := b.beside(builder)
	return func(ctx context.Context, blob digest.Digest) bool {
		return b.cache.elsewhere(ctx, blob) || near.layer(ctx, blob)
	}
}

// keep leaves caches for the next build.
func (m *making) keep(ctx context.Context, image sealed) {
	exported := m.response.ExporterResponse
	if m.cache != nil {
		if err := m.cache.keep(
			ctx, exported["cache.manifest"], exported[buildkit.Outlines], image.layers,
		); err != nil {
			m.env.Log.Warn("No cache is kept for the next build", "error", err)
		}
	}
	// After the cache, which takes the place of all that was in its folder. What an earlier build left is older.
	err := os.RemoveAll(m.in.Workspace.CacheMounts())
	if err == nil && m.mounts != nil {
		err = m.mounts.keep(ctx, exported[buildkit.MountsIndex])
	}
	if err != nil {
		m.env.Log.Warn("Cache mounts are not kept for the next build", "error", err)
	}
}

// end lets go of the files.
func (m *making) end() {
	if m.cache != nil {
		if err := m.cache.end(); err != nil {
			m.env.Log.Warn("The cache's files stay in the workspace", "error", err)
		}
	}
	if m.mounts != nil {
		if err := m.mounts.end(); err != nil {
			m.env.Log.Warn("Files of cache mounts stay in the workspace", "error", err)
		}
	}
}

// findBases finds the layers that an image has of its base images.
func (b *build) findBases(ctx context.Context, builder *buildkit.BuildKit, image *sparse) {
	b.baseLayers = map[digest.Digest]bool{}
	for _, base := range basesIn(ctx, image.Store, time.Time{}) {
		layers, err := layersOf(ctx, builder, base)
		if err != nil {
			b.env.Log.Debug("Layers of a base image are not known", "image", base, "because", err)
			b.baseLayers = nil
			return
		}
		for _, layer := range layers {
			b.baseLayers[layer] = true
		}
	}
}

// late tells whether layers get their times in the layout. A daemon's do.
func (in Parameters) late() bool { return in.BuildKitAddress != "" }

func nowhere(context.Context, digest.Digest) bool { return false }

// solve has a builder solve, with a session in which it finds content stores by their names. BuildKit's client has such
// stores for images, and none for caches.
func solve(
	ctx context.Context, builder *buildkit.BuildKit, options client.SolveOpt, stores map[string]content.Store,
	statuses chan *client.SolveStatus,
) (*client.SolveResponse, error) {
	s, folders, err := newSession(ctx, options)
	if err != nil {
		close(statuses)
		return nil, err
	}
	s.Allow(filesync.NewFSSyncProvider(folders))
	for _, attachable := range options.Session {
		s.Allow(attachable)
	}
	var gate gate
	s.Allow(sessioncontent.NewAttachable(gate.before(stores)))
	// Not the build's context: the builder asks the session while it ends a build that was cancelled.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(context.WithoutCancel(ctx), builder.Dialer())
	}()
	defer func() {
		s.Close()
		<-ended
		gate.shut() // the session's server does not wait for what it has begun
	}()
	options.SharedSession, options.SessionPreInitialized = s, true
	return builder.Solve(ctx, nil, options, statuses)
}

// gate is before stores until nobody may write to them any more.
type gate struct {
	mu      sync.Mutex
	isShut  bool
	writing sync.WaitGroup
}

// before returns the stores with the gate before each.
func (g *gate) before(stores map[string]content.Store) map[string]content.Store {
	gated := map[string]content.Store{}
	for name, store := range stores {
		gated[name] = gatedStore{store, g}
	}
	return gated
}

// shut lets no writer in, and returns when all have gone.
func (g *gate) shut() {
	g.mu.Lock()
	g.isShut = true
	g.mu.Unlock()
	g.writing.Wait()
}

type gatedStore struct {
	content.Store
	*gate
}

// Writer implements content.Ingester.
func (s gatedStore) Writer(ctx context.Context, options ...content.WriterOpt) (content.Writer, error) {
	if !s.enter() {
		return nil, fmt.Errorf("the build has ended: %w", errdefs.ErrFailedPrecondition)
	}
	w, err := s.Store.Writer(ctx, options...)
	if err != nil {
		s.writing.Done()
		return nil, err
	}
	return gatedWriter{w, sync.OnceFunc(s.writing.Done)}, nil
}

// enter lets a writer in, unless the gate is shut.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isShut {
		g.writing.Add(1)
	}
	return !g.isShut
}

type gatedWriter struct {
	content.Writer
	leave func()
}

// Close implements io.Closer.
func (w gatedWriter) Close() error {
	defer w.leave()
	return w.Writer.Close()
}

// newSession makes a session, and the folders that it will offer. As by BuildKit's client, all their files are root's.
func newSession(ctx context.Context, options client.SolveOpt) (*session.Session, filesync.StaticDirSource, error) {
	folders := filesync.StaticDirSource{}
	for name, files := range options.LocalMounts {
		owned, err := fsutil.NewFilterFS(files, &fsutil.FilterOpt{Map: func(_ string, s *types.Stat) fsutil.MapResult {
			s.Uid, s.Gid = 0, 0
			return fsutil.MapResultKeep
		}})
		if err != nil {
			return nil, nil, err
		}
		folders[name] = owned
	}
	s, err := session.NewSession(ctx, options.SharedKey)
	return s, folders, err
}

// sparse is the store of a layout that a builder writes. To the builder it has blobs that the registry has, too, and so
// is not sent them.
type sparse struct {
	content.Store
	elsewhere func(context.Context, digest.Digest) bool

	mu    sync.Mutex
	spare map[digest.Digest]bool // blobs that were asked for, and are elsewhere
}

// newSparse opens the store in a folder, which it makes.
func newSparse(dir string, elsewhere func(context.Context, digest.Digest) bool) (*sparse, error) {
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return nil, err
	}
	return &sparse{Store: store, elsewhere: elsewhere, spare: map[digest.Digest]bool{}}, nil
}

// Info implements content.InfoProvider. The session's server asks it before it takes a blob.
func (s *sparse) Info(ctx context.Context, blob digest.Digest) (content.Info, error) {
	info, err := s.Store.Info(ctx, blob)
	if err == nil || !s.elsewhere(ctx, blob) {
		return info, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare[blob] = true
	return content.Info{Digest: blob}, nil
}

// Writer implements content.Ingester. A layer that is in several places of a cache is sent several times at once.
func (s *sparse) Writer(ctx context.Context, options ...content.WriterOpt) (content.Writer, error) {
	for {
		w, err := s.Store.Writer(ctx, options...)
		if !errdefs.IsUnavailable(err) {
			return w, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(2 * time.Millisecond): // until the other one is done
		}
	}
}

// Abort implements content.IngestManager. The session's server aborts what it finds to be there already. Another
// stream may be sending the same then, and must not lose its file. What is left goes with the folder of all that is on
// its way.
func (s *sparse) Abort(context.Context, string) error { return nil }

// lacks tells whether a builder was told that the store has a blob which it has not.
func (s *sparse) lacks(blob digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spare[blob]
}

// has tells whether the store has a blob, or a builder was told so.
func (s *sparse) has(ctx context.Context, blob digest.Digest) bool {
	_, err := s.Store.Info(ctx, blob)
	return err == nil || s.lacks(blob)
}

// fetching is a store that has what is in a folder, and fetches layers when they are asked for.
type fetching struct {
	content.Store
	dir    string
	layers map[digest.Digest]cacheLayer
	open   func(context.Context, cacheLayer) (io.ReadCloser, error)
	ctx    context.Context // fetches stop with it

	mu      sync.Mutex
	fetched map[digest.Digest]*fetch
	fault   error // why a layer could not be had; nil when none was lacking
}

// newFetching opens the store in a folder, which it makes.
func newFetching(
	ctx context.Context, dir string, layers map[digest.Digest]cacheLayer,
	open func(context.Context, cacheLayer) (io.ReadCloser, error),
) (*fetching, error) {
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return nil, err
	}
	return &fetching{
		Store: store, dir: dir, layers: layers, open: open, ctx: ctx, fetched: map[digest.Digest]*fetch{},
	}, nil
}

// Info implements content.InfoProvider.
func (f *fetching) Info(ctx context.Context, blob digest.Digest) (content.Info, error) {
	if layer, known := f.layers[blob]; known {
		return content.Info{Digest: blob, Size: layer.Size}, nil
	}
	return f.Store.Info(ctx, blob)
}

// ReaderAt implements content.Provider. A layer is fetched once. Its reader waits for what is on its way, and fails
// where it does not arrive, or is not what its digest says.
func (f *fetching) ReaderAt(ctx context.Context, blob ocispec.Descriptor) (content.ReaderAt, error) {
	layer, known := f.layers[blob.Digest]
	if !known {
		return f.Store.ReaderAt(ctx, blob)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.fetched[blob.Digest]
	if one == nil {
		file, err := os.Create(filepath.Join(f.dir, blob.Digest.Encoded()))
		if err != nil {
			return nil, err
		}
		one = &fetch{file: file, size: layer.Size}
		one.arrived.L = &one.mu
		f.fetched[blob.Digest] = one
		go f.fetch(one, layer)
	}
	return one, nil
}

func (f *fetching) fetch(one *fetch, layer cacheLayer) {
	content, err := f.open(f.ctx, layer)
	if err == nil {
		_, err = io.Copy(one, content)
		content.Close()
	}
	if err == nil && one.n != layer.Size {
		err = fmt.Errorf("%s: %d of %d bytes: %w", layer.Digest, one.n, layer.Size, io.ErrUnexpectedEOF)
	}
	one.end(err)
	if err != nil && f.ctx.Err() == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.fault = err
	}
}

// broken returns why a layer could not be had, if one could not.
func (f *fetching) broken() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault
}

// close closes the files, which nobody may read any more.
func (f *fetching) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.fetched {
		one.stop()
	}
}

// fetch is a layer on its way into a file.
type fetch struct {
	file *os.File
	size int64

	mu      sync.Mutex
	arrived sync.Cond
	n       int64
	done    bool
	err     error
}

// Write takes what arrives.
func (o *fetch) Write(p []byte) (int, error) {
	n, err := o.file.WriteAt(p, o.n)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.n += int64(n)
	return n, err
}

func (o *fetch) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done, o.err = true, err
	o.arrived.Broadcast()
}

func (o *fetch) stop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.file.Close()
}

// ReadAt implements io.ReaderAt. It returns no byte before the whole is here and is what its digest says: a builder
// that has some of a layer goes on behind them when it gets the layer from elsewhere.
func (o *fetch) ReadAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	for !o.done {
		o.arrived.Wait()
	}
	err := o.err
	o.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return o.file.ReadAt(p, off)
}

// Size implements content.ReaderAt.
func (o *fetch) Size() int64 { return o.size }

// Close implements content.ReaderAt. The fetch goes on for the next reader.
func (o *fetch) Close() error { return nil }
