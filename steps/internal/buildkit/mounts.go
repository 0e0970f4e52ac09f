package buildkit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/contenthash"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/steps/internal/cachemount"
)

// Mounts is how a builder of the process's own keeps what cache mounts hold from one build to the next.
type Mounts struct {
	// Index describes the cachemount.Index that earlier builds left, in the store TakenMounts of a build's session. An
	// empty digest: they left none.
	Index ocispec.Descriptor
	// Limit is how many bytes all mounts may have, compressed.
	Limit int64
	// Namespace is the frontend's BUILDKIT_CACHE_MOUNT_NS, which begins each id.
	Namespace string
}

// Names of a session's stores: that of the blobs which earlier builds left, and that in which this one leaves its own.
const (
	TakenMounts = "cache-mounts-taken"
	KeptMounts  = "cache-mounts-kept"
)

// MountsIndex is the key in a build's response under which its cachemount.Index is described, by a descriptor in JSON.
const MountsIndex = "stepwright.cache-mounts"

// mountKeeper makes the records of cache mounts that BuildKit asks for. It fills one from what an earlier build left
// when a RUN is about to see it: a build whose RUNs need not run fetches nothing.
type mountKeeper struct {
	cache.Manager
	config   Mounts
	scratch  string // folder for temporary files
	sessions *session.Manager
	times    *timekeeper // may be nil
	began    time.Time   // when the build's clock began

	mu      sync.Mutex
	index   *cachemount.Index // what earlier builds left; nil: it was not read yet
	lost    bool              // whether it could not be read
	held    map[string]*held  // by the ids of records
	earlier map[int64]bool    // times that the clocks of earlier builds have given, in nanoseconds since 1970
}

func newMountKeeper(manager cache.Manager, config Config, sessions *session.Manager, t *timekeeper) *mountKeeper {
	return &mountKeeper{
		Manager: manager, config: *config.Mounts, scratch: config.Root, sessions: sessions, times: t,
		began: time.Now().Add(-slack), held: map[string]*held{}, earlier: map[int64]bool{},
	}
}

// held is a mount of which this process knows what it is.
type held struct {
	key    cachemount.Key
	index  string             // by which BuildKit finds the record
	parent cache.ImmutableRef // what it began with; nil: nothing, or it is not known
	// again makes another record; nil: the record was there before this process.
	again func(context.Context, session.Group) (cache.MutableRef, error)

	mu       sync.Mutex
	filled   bool
	used     bool
	unpacked *cachemount.Unpacked
}

// Keys of BuildKit's metadata: its own of a cache mount's record, with the prefix of its index; and ours. The last one
// is there while a mount is being filled: what a builder that was killed left half full is of no use.
const (
	cacheDirKey    = "cache-dir"
	cacheDirIndex  = cacheDirKey + ":"
	mountKey       = "stepwright.cache-mount"
	fillingKey     = "stepwright.cache-mount.filling"
	fillingStarted = "started"
)

// New implements cache.Accessor.
func (k *mountKeeper) New(
	ctx context.Context, parent cache.ImmutableRef, s session.Group, options ...cache.RefOption,
) (cache.MutableRef, error) {
	ref, err := k.Manager.New(ctx, parent, s, options...)
	if err != nil || ref.GetRecordType() != client.UsageRecordTypeCacheMount {
		return ref, err
	}
	h := &held{again: func(ctx context.Context, s session.Group) (cache.MutableRef, error) {
		return k.Manager.New(ctx, parent, s, options...)
	}}
	if parent != nil {
		if h.key.Base, err = contenthash.Checksum(ctx, parent, "/", contenthash.ChecksumOpts{}, s); err != nil {
			return nil, errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
		}
		h.parent = parent.Clone()
		parent = h.parent // for again
	}
	return &mountRef{ref, k, h}, nil
}

// GetMutable implements cache.Accessor.
func (k *mountKeeper) GetMutable(
	ctx context.Context, id string, options ...cache.RefOption,
) (cache.MutableRef, error) {
	ref, err := k.Manager.GetMutable(ctx, id, options...)
	if err != nil || ref.GetRecordType() != client.UsageRecordTypeCacheMount {
		return ref, err
	}
	if ref.GetString(fillingKey) != "" {
		return nil, errors.Join(errors.New("what a cache mount holds is not whole"), discard(ctx, ref))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[id]
	if h == nil {
		h = &held{filled: true, index: ref.GetString(cacheDirKey)}
		if json.Unmarshal([]byte(ref.GetString(mountKey)), &h.key) != nil {
			return ref, nil // an older version's
		}
		k.held[id] = h
	}
	return &mountRef{ref, k, h}, nil
}

// discard removes a record that is of no use.
func discard(ctx context.Context, ref cache.MutableRef) error {
	return errors.Join(
		ref.SetCachePolicyDefault(), ref.ClearValueAndIndex(cacheDirKey, cacheDirIndex),
		ref.Release(context.WithoutCancel(ctx)),
	)
}

// mountRef is the record of a cache mount.
type mountRef struct {
	cache.MutableRef
	keeper *mountKeeper
	held   *held
}

// SetString implements cache.RefMetadata. By it, BuildKit names a new record.
func (m *mountRef) SetString(key, value, index string) error {
	if key != cacheDirKey || m.held.index != "" {
		return m.MutableRef.SetString(key, value, index)
	}
	known, err := m.keeper.Search(context.Background(), index, false)
	if err != nil {
		return err
	}
	h := m.held
	h.index = value
	h.key.ID, h.key.Ordinal = strings.TrimPrefix(value, m.keeper.config.Namespace+"/"), len(known)
	if h.parent != nil {
		h.key.ID = strings.TrimSuffix(h.key.ID, ":"+h.parent.ID())
	}
	m.keeper.mu.Lock()
	maps.DeleteFunc(m.keeper.held, func(_ string, other *held) bool { return other.key == h.key }) // is without a name
	m.keeper.held[m.ID()] = h
	m.keeper.mu.Unlock()
	return h.name(m.MutableRef)
}

// name gives a record its name.
func (h *held) name(ref cache.MutableRef) error {
	key, err := json.Marshal(h.key)
	if err != nil {
		return err
	}
	return errors.Join(
		ref.SetString(mountKey, string(key), ""), ref.SetString(cacheDirKey, h.index, cacheDirIndex+h.index),
	)
}

// Mount implements cache.Mountable. The first time, it fills the mount.
func (m *mountRef) Mount(ctx context.Context, readonly bool, s session.Group) (snapshot.Mountable, error) {
	m.held.mu.Lock()
	defer m.held.mu.Unlock()
	if !m.held.filled {
		if err := m.fill(ctx, s); err != nil {
			return nil, err
		}
		m.held.filled = true
	}
	m.held.used = true
	return m.MutableRef.Mount(ctx, readonly, s)
}

// fill fills a mount from what an earlier build left, if it left that. What cannot be had, or is not what it should be,
// costs the build nothing but time: the mount is empty then.
func (m *mountRef) fill(ctx context.Context, s session.Group) error {
	store, err := m.keeper.store(ctx, s)
	if err != nil {
		return err
	}
	known, found := m.keeper.find(ctx, store, m.held.key)
	if !found {
		return nil
	}
	if err := m.MutableRef.SetString(fillingKey, fillingStarted, ""); err != nil {
		return err
	}
	started := time.Now()
	err = mounted(ctx, m.MutableRef, s, func(dir string) (err error) {
		m.held.unpacked, err = cachemount.Unpack(ctx, dir, known, store)
		return err
	})
	if err == nil {
		m.keeper.learn(m.held.unpacked.Times())
		fmt.Fprintf(os.Stderr, "Restored cache mount %s: %d files in %.1fs\n", m.held.shown(), known.Files,
			time.Since(started).Seconds())
		return m.MutableRef.SetString(fillingKey, "", "")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	fmt.Fprintf(os.Stderr, "WARNING: cache mount %s is empty: %s\n", m.held.shown(), plain(err))
	m.held.unpacked = nil
	return m.replace(ctx, s)
}

// plain is an error of the step's for people: it has come by gRPC, once or twice.
func plain(err error) string {
	return strings.ReplaceAll(err.Error(), "rpc error: code = Unknown desc = ", "")
}

// replace puts an empty record in the place of one that is of no use.
func (m *mountRef) replace(ctx context.Context, s session.Group) error {
	fresh, err := m.held.again(ctx, s)
	if err != nil {
		return err
	}
	spoilt := m.MutableRef
	m.keeper.mu.Lock()
	delete(m.keeper.held, spoilt.ID())
	m.keeper.held[fresh.ID()] = m.held
	m.keeper.mu.Unlock()
	m.MutableRef = fresh
	return errors.Join(discard(ctx, spoilt), m.held.name(fresh))
}

// shown is a mount's id in a Dockerfile, for messages.
func (h *held) shown() string { return fmt.Sprintf("%q", h.key.String()) }

// mounted has a function use the folder of a record.
func mounted(ctx context.Context, ref cache.Mountable, s session.Group, use func(dir string) error) error {
	mountable, err := ref.Mount(ctx, false, s)
	if err != nil {
		return err
	}
	mounter := snapshot.LocalMounter(mountable)
	dir, err := mounter.Mount()
	if err != nil {
		return err
	}
	return errors.Join(use(dir), mounter.Unmount())
}

// learn takes note of times that earlier builds have given.
func (k *mountKeeper) learn(times []int64) {
	k.mu.Lock()
	for _, at := range times {
		k.earlier[at] = true
	}
	k.mu.Unlock()
	if k.times != nil {
		k.times.learn(times)
	}
}

// own tells whether the clock of this build, or of an earlier one, has given a time.
func (k *mountKeeper) own(at int64) bool {
	if at >= k.began.UnixNano() && at <= time.Now().Add(slack).UnixNano() {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.earlier[at]
}

// find finds a mount among those that earlier builds left.
func (k *mountKeeper) find(ctx context.Context, store *mountStore, key cachemount.Key) (cachemount.Mount, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.index == nil {
		index, err := store.index(ctx, k.config)
		if err != nil {
			if ctx.Err() != nil {
				return cachemount.Mount{}, false
			}
			k.lost = true
			fmt.Fprintf(os.Stderr, "WARNING: cache mounts are empty: %v\n", err)
		}
		k.index = &index
	}
	return k.index.Find(key)
}

// store returns the stores of a session.
func (k *mountKeeper) store(ctx context.Context, s session.Group) (*mountStore, error) {
	caller, err := k.sessions.Get(ctx, s.SessionIterator().NextSession(), false)
	if err != nil {
		return nil, err
	}
	return &mountStore{
		taken: sessioncontent.NewCallerStore(caller, TakenMounts),
		kept:  sessioncontent.NewCallerStore(caller, KeptMounts),
	}, nil
}

// mountStore is the store of mounts that a session offers.
type mountStore struct{ taken, kept content.Store }

// index reads what earlier builds left.
func (s *mountStore) index(ctx context.Context, config Mounts) (index cachemount.Index, err error) {
	if config.Index.Digest == "" {
		return index, nil
	}
	if config.Index.Size > cachemount.MostIndex {
		return index, fmt.Errorf("their index has %d bytes", config.Index.Size)
	}
	raw, err := content.ReadBlob(ctx, s.taken, config.Index)
	if err != nil {
		return index, err
	}
	if digest.FromBytes(raw) != config.Index.Digest {
		return index, errors.New("their index is damaged")
	}
	if err = json.Unmarshal(raw, &index); err == nil {
		err = index.Check()
	}
	if err != nil {
		return cachemount.Index{}, err
	}
	index, _ = index.Fit(config.Limit)
	return index, nil
}

// Open implements cachemount.Store.
func (s *mountStore) Open(ctx context.Context, blob cachemount.Blob) (io.ReadCloser, error) {
	at, err := s.taken.ReaderAt(ctx, ocispec.Descriptor{Digest: blob.Digest, Size: blob.Size})
	if err != nil {
		return nil, err
	}
	// Each read asks the step.
	return &opened{bufio.NewReaderSize(content.NewReader(at), 1<<20), at}, nil
}

type opened struct {
	io.Reader
	io.Closer
}

// Write implements cachemount.Store.
func (s *mountStore) Write(ctx context.Context, blob cachemount.Blob, from io.Reader) error {
	return content.WriteBlob(ctx, s.kept, "mount-"+blob.Digest.Encoded(), from, ocispec.Descriptor{
		Digest: blob.Digest, Size: blob.Size,
	})
}

// save packs the mounts that RUNs of this process have seen, and returns the descriptor, in JSON, of an index of them
// and of those that earlier builds left. It is empty when no RUN has seen any.
func (k *mountKeeper) save(ctx context.Context, sessionID string) (string, error) {
	k.mu.Lock()
	used := map[string]*held{}
	for id, h := range k.held {
		if h.used {
			used[id] = h
		}
	}
	k.mu.Unlock()
	if len(used) == 0 {
		return "", nil
	}
	group := session.NewGroup(sessionID)
	store, err := k.store(ctx, group)
	if err != nil {
		return "", err
	}
	if k.find(ctx, store, cachemount.Key{}); k.lost { // it has read the index
		return "", errors.New("what earlier builds left is not known, and stays as it is")
	}
	index := k.merge(k.packAll(ctx, group, store, used))
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	blob := cachemount.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if blob.Digest != k.config.Index.Digest {
		if err := store.Write(ctx, blob, bytes.NewReader(raw)); err != nil {
			return "", err
		}
	}
	described, err := json.Marshal(ocispec.Descriptor{Digest: blob.Digest, Size: blob.Size})
	return string(described), err
}

// packAll packs mounts. Of one that cannot be packed, what an earlier build left stays.
func (k *mountKeeper) packAll(
	ctx context.Context, group session.Group, store *mountStore, used map[string]*held,
) (packed []cachemount.Mount) {
	for id, h := range used {
		started := time.Now()
		p, err := k.pack(ctx, group, store, id, h)
		switch {
		case err == nil:
			packed = append(packed, p.Mount)
			note := ""
			if p.Skipped > 0 {
				note = fmt.Sprintf("; left out %d pipes, sockets and devices", p.Skipped)
			}
			fmt.Fprintf(os.Stderr, "Packed cache mount %s: %d files, %.1f of %.1f MB new, in %.1fs%s\n", h.shown(),
				p.Files, float64(p.New)/1e6, float64(p.Size())/1e6, time.Since(started).Seconds(), note)
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, cachemount.ErrTooLarge):
			fmt.Fprintf(os.Stderr, "WARNING: cache mount %s is not kept: it has no place within cache-mount-limit\n",
				h.shown())
		default:
			fmt.Fprintf(os.Stderr, "WARNING: cache mount %s is not kept: %v\n", h.shown(), err)
		}
		if known, found := k.index.Find(h.key); found {
			packed = append(packed, known)
		}
	}
	return packed
}

// pack packs one mount.
func (k *mountKeeper) pack(
	ctx context.Context, group session.Group, store *mountStore, id string, h *held,
) (packed cachemount.Packed, err error) {
	ref, err := k.Manager.GetMutable(ctx, id)
	if err != nil {
		return packed, err
	}
	defer ref.Release(context.WithoutCancel(ctx))
	p := cachemount.Packing{
		Key: h.key, Before: h.unpacked, Own: k.own, Scratch: filepath.Clean(k.scratch), Limit: k.config.Limit,
	}
	if known, found := k.index.Find(h.key); found && p.Before == nil {
		p.Known = &known
	}
	use := func(dir string) error {
		p.Dir = dir
		packed, err = cachemount.Pack(ctx, p, store)
		return err
	}
	if h.key.Base == "" {
		return packed, mounted(ctx, ref, group, use)
	}
	if h.parent == nil {
		return packed, errors.New("an earlier builder's, and what it began with is not known")
	}
	base, err := h.parent.Mount(ctx, true, group)
	if err != nil {
		return packed, err
	}
	mounter := snapshot.LocalMounter(base)
	if p.Base, err = mounter.Mount(); err != nil {
		return packed, err
	}
	return packed, errors.Join(mounted(ctx, ref, group, use), mounter.Unmount())
}

// merge puts mounts that were packed before those that earlier builds left. The order of the former stays, so that a
// build that changes nothing leaves the same index.
func (k *mountKeeper) merge(packed []cachemount.Mount) cachemount.Index {
	place := func(key cachemount.Key) int {
		at := slices.IndexFunc(k.index.Mounts, func(m cachemount.Mount) bool { return m.Key == key })
		if at < 0 {
			return len(k.index.Mounts)
		}
		return at
	}
	slices.SortFunc(packed, func(a, b cachemount.Mount) int {
		return cmp.Or(cmp.Compare(place(a.Key), place(b.Key)), cmp.Compare(a.ID, b.ID),
			cmp.Compare(a.Base, b.Base), cmp.Compare(a.Ordinal, b.Ordinal))
	})
	index := cachemount.Index{Format: cachemount.Format, Mounts: packed}
	for _, known := range k.index.Mounts {
		if _, again := index.Find(known.Key); !again {
			index.Mounts = append(index.Mounts, known)
		}
	}
	index, out := index.Fit(k.config.Limit)
	for _, m := range out {
		fmt.Fprintf(os.Stderr, "NOTE: cache mount %q of %.1f MB is no longer kept: cache-mount-limit\n", m.Key.String(),
			float64(m.Size())/1e6)
	}
	return index
}

// export saves the mounts while an image is exported. The caller calls what it returns at the end, with the exporter's
// response if there is one.
func (k *mountKeeper) export(ctx context.Context, info exporter.ExportBuildInfo) (ended func(map[string]string)) {
	ctx, cancel := context.WithCancel(ctx)
	saved := make(chan string, 1)
	go func() {
		index, err := k.save(ctx, info.SessionID)
		if err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "WARNING: cache mounts are not kept: %v\n", err)
		}
		saved <- index
	}()
	return func(response map[string]string) {
		if response == nil { // the export has failed
			cancel()
		}
		if index := <-saved; index != "" && response != nil {
			response[MountsIndex] = index
		}
		cancel()
	}
}
