package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/overlay"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	imagespec "github.com/opencontainers/image-spec/identity"

	"github.com/stepwright/stepwright/steps/internal/outline"
)

// BuildKit pulls and unpacks all layers below a COPY. The layer that the COPY leaves needs no more of them than the
// folders on its way. Here, a COPY upon which nothing runs is done upon a skeleton with these folders, in place of
// layers that are not here, and its layer is put upon them afterwards: it is the same layer. What the skeleton must
// have is known from the build that did the COPY before. At any doubt, the COPY is done as BuildKit does it.
//
// The instructions do not change: what they are remembered by, and what provenance tells of them, stays the same.

// Outline is what a build knows of the files in a chain of layers.
type Outline struct {
	Chain digest.Digest  `json:"chain"` // as image-spec's ChainID
	Root  *outline.Entry `json:"root"`
}

// Outlines is the key in a build's response under which all that is known is, for the next build: a list of Outline in
// JSON, no longer than mostOutlines.
const Outlines = "stepwright.outlines"

// Bounds of what is told to the next build: bytes of JSON.
const mostOutlines = 256 << 10

// copies does COPYs upon skeletons.
type copies struct {
	worker *base.Worker

	mu     sync.Mutex
	known  []Outline            // what was used or found last is first
	trails map[string]*skeleton // of results of COPYs that were done upon skeletons, by their ids
	done   []done
}

// holding is a manager of results that has those of COPYs upon skeletons at hand. BuildKit by itself would not know
// where layers below them can be fetched.
type holding struct {
	cache.Manager
	*copies
}

// Get implements cache.Accessor.
func (h holding) Get(
	ctx context.Context, id string, group progress.Controller, options ...cache.RefOption,
) (cache.ImmutableRef, error) {
	ref, err := h.Manager.Get(ctx, id, group, options...)
	if _, ok := errors.AsType[cache.NeedsRemoteProviderError](err); !ok {
		return ref, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if trail := h.trails[id]; trail != nil {
		return trail.made.Clone(), nil
	}
	return ref, err
}

// skeleton is what stands for the files of a result.
type skeleton struct {
	made   cache.ImmutableRef // the result; nil: it is not made by a COPY upon a skeleton
	ref    cache.ImmutableRef // the skeleton, with the layers of COPYs upon it
	folder string             // of the skeleton alone
	below  outline.Below
}

// done is a COPY upon which nothing runs, and that has been done.
type done struct {
	parent cache.ImmutableRef // upon which it was to be done
	lower  cache.ImmutableRef // upon which it was done
	result cache.ImmutableRef // of that
	made   string             // id of what was made of it
	users  bool               // whether it asks for names of users
	below  *outline.Below     // nil: it was done upon its parent
}

func newCopies(w *base.Worker, known []Outline) *copies {
	c := &copies{worker: w, trails: map[string]*skeleton{}}
	for _, one := range known {
		if one.Root.Check() == nil {
			c.known = append(c.known, one)
		}
	}
	return c
}

// lastMark marks, in the description of an instruction, a COPY upon which nothing runs.
const lastMark = "stepwright.last"

// build is a frontend's build whose last COPYs are marked.
func (c *copies) build(next gateway.BuildFunc) gateway.BuildFunc {
	return func(ctx context.Context, client gateway.Client) (*gateway.Result, error) {
		return next(ctx, marking{client})
	}
}

type marking struct{ gateway.Client }

// Solve implements gateway.Client.
func (m marking) Solve(ctx context.Context, request gateway.SolveRequest) (*gateway.Result, error) {
	if request.Definition != nil {
		mark(request.Definition)
	}
	return m.Client.Solve(ctx, request)
}

// mark marks those COPYs of a definition that only the image is made of: nothing else looks at what they leave.
func mark(definition *pb.Definition) {
	ops, looked := map[string]*pb.Op{}, map[string]bool{}
	for _, raw := range definition.Def {
		op := &pb.Op{}
		if op.Unmarshal(raw) != nil {
			return
		}
		ops[digest.FromBytes(raw).String()] = op
	}
	var look func(string)
	look = func(at string) {
		if looked[at] || ops[at] == nil {
			return
		}
		looked[at] = true
		for _, input := range ops[at].Inputs {
			look(input.Digest)
		}
	}
	for _, op := range ops {
		base := -1
		if op.Op == nil { // the definition's result
			base = 0
		} else if at, ok := primary(op.GetFile(), len(op.Inputs)); ok {
			base = at
		}
		for i, input := range op.Inputs {
			if i != base {
				look(input.Digest)
			}
		}
	}
	for at, op := range ops {
		if _, ok := primary(op.GetFile(), len(op.Inputs)); !ok || looked[at] {
			continue
		}
		if definition.Metadata == nil {
			definition.Metadata = map[string]*pb.OpMetadata{}
		}
		told := &pb.OpMetadata{}
		if before := definition.Metadata[at]; before != nil {
			told = before.CloneVT()
		}
		told.Description = maps.Clone(told.Description)
		if told.Description == nil {
			told.Description = map[string]string{}
		}
		told.Description[lastMark] = "true"
		definition.Metadata[at] = told
	}
}

// primary returns the input of an instruction that it adds files to, if it does nothing else and has one result: those
// are COPY and WORKDIR.
func primary(file *pb.FileOp, inputs int) (index int, ok bool) {
	if len(file.GetActions()) == 0 {
		return 0, false
	}
	index = int(file.Actions[0].Input)
	if index < 0 || index >= inputs {
		return 0, false
	}
	for i, action := range file.Actions {
		last := i == len(file.Actions)-1
		if i > 0 && int(action.Input) != inputs+i-1 || last != (action.Output == 0) || !last && action.Output != -1 ||
			int(action.SecondaryInput) == index || int(action.SecondaryInput) >= inputs {
			return 0, false
		}
		switch does := action.Action.(type) {
		case *pb.FileAction_Mkdir, *pb.FileAction_Mkfile:
		case *pb.FileAction_Copy:
			if does.Copy.AttemptUnpackDockerCompatibility || does.Copy.AlwaysReplaceExistingDestPaths {
				return 0, false
			}
		default:
			return 0, false
		}
	}
	return index, true
}

// asksForUsers tells whether an instruction gives files to a user or group by a name.
func asksForUsers(file *pb.FileOp) bool {
	return slices.ContainsFunc(file.Actions, func(action *pb.FileAction) bool {
		var owner *pb.ChownOpt
		switch does := action.Action.(type) {
		case *pb.FileAction_Mkdir:
			owner = does.Mkdir.Owner
		case *pb.FileAction_Mkfile:
			owner = does.Mkfile.Owner
		case *pb.FileAction_Copy:
			owner = does.Copy.Owner
		}
		return owner.GetUser().GetByName() != nil || owner.GetGroup().GetByName() != nil
	})
}

// op is an instruction, done upon a skeleton if it can be.
func (c *copies) op(v solver.Vertex, op solver.Op) solver.Op {
	if v.Options().Description[lastMark] == "" {
		return op
	}
	file, ok := v.Sys().(*pb.Op)
	if !ok || file.GetFile() == nil {
		return op
	}
	at, ok := primary(file.GetFile(), len(v.Inputs()))
	if !ok {
		return op
	}
	return &copyOp{Op: op, copies: c, primary: at, users: asksForUsers(file.GetFile())}
}

type copyOp struct {
	solver.Op
	copies  *copies
	primary int
	users   bool
}

// CacheMap implements solver.Op. Layers that a skeleton stands for are not unpacked.
func (o *copyOp) CacheMap(ctx context.Context, job solver.JobContext, index int) (*solver.CacheMap, bool, error) {
	m, done, err := o.Op.CacheMap(ctx, job, index)
	if err != nil || o.primary >= len(m.Deps) {
		return m, done, err
	}
	unpack := m.Deps[o.primary].PreprocessFunc
	if unpack == nil || m.Deps[o.primary].ComputeDigestFunc != nil {
		return m, done, err
	}
	m.Deps[o.primary].PreprocessFunc = func(ctx context.Context, result solver.Result, group session.Group) error {
		if ref := refOf(result); ref != nil && o.copies.can(ctx, ref, o.users, group) {
			return nil
		}
		return unpack(ctx, result, group)
	}
	return m, done, err
}

// Exec implements solver.Op.
func (o *copyOp) Exec(ctx context.Context, job solver.JobContext, inputs []solver.Result) ([]solver.Result, error) {
	parent := refOf(inputs[o.primary])
	if parent == nil {
		return o.Op.Exec(ctx, job, inputs)
	}
	made, err := o.upon(ctx, job, inputs, parent)
	if err == nil && made != nil {
		return []solver.Result{worker.NewWorkerRefResult(made, o.copies.worker)}, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	results, err := o.Op.Exec(ctx, job, inputs)
	if err == nil && len(results) == 1 {
		if result := refOf(results[0]); result != nil {
			o.copies.note(done{
				parent: parent.Clone(), lower: parent.Clone(), result: result.Clone(), made: result.ID(),
				users: o.users,
			})
		}
	}
	return results, err
}

// upon does the instruction upon a skeleton of what it is to be done upon. It returns nil where there is none.
func (o *copyOp) upon(
	ctx context.Context, job solver.JobContext, inputs []solver.Result, parent cache.ImmutableRef,
) (made cache.ImmutableRef, err error) {
	c := o.copies
	bones, err := c.skeleton(ctx, parent, o.users, job.Session())
	if err != nil || bones == nil {
		return nil, err
	}
	defer bones.ref.Release(context.WithoutCancel(ctx))
	instead := slices.Clone(inputs)
	instead[o.primary] = worker.NewWorkerRefResult(bones.ref, c.worker)
	results, err := o.Op.Exec(ctx, job, instead)
	if err != nil {
		return nil, err
	}
	result := refOf(results[0])
	defer result.Release(context.WithoutCancel(ctx))
	changes, err := changesOf(ctx, bones.ref, result, job.Session())
	if err != nil {
		return nil, err
	}
	if err := bones.below.Settle(bones.folder, changes); err != nil {
		return nil, err
	}
	layer, err := c.worker.CacheMgr.Diff(ctx, bones.ref, result, nil)
	if err != nil {
		return nil, err
	}
	defer layer.Release(context.WithoutCancel(ctx))
	if made, err = c.worker.CacheMgr.Merge(ctx, []cache.ImmutableRef{parent, layer}, nil); err != nil {
		return nil, err
	}
	below := bones.below
	c.note(done{
		parent: parent.Clone(), lower: bones.ref.Clone(), result: result.Clone(), made: made.ID(), users: o.users,
		below: &below,
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trails[made.ID()] = &skeleton{
		made: made.Clone(), ref: result.Clone(), folder: bones.folder,
		below: outline.Below{Root: below.Root, Layers: append(slices.Clone(below.Layers), changes)},
	}
	return made, nil
}

func (c *copies) note(one done) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, one)
}

// can tells whether there may be a skeleton for a result.
func (c *copies) can(ctx context.Context, parent cache.ImmutableRef, users bool, group session.Group) bool {
	c.mu.Lock()
	trail := c.trails[parent.ID()]
	c.mu.Unlock()
	if trail != nil {
		return !users || trail.below.Root.HasUsers()
	}
	root := c.outlineOf(ctx, parent, group)
	return root != nil && (!users || root.HasUsers())
}

// skeleton returns what may stand for a result; nil: nothing. The caller releases it.
func (c *copies) skeleton(
	ctx context.Context, parent cache.ImmutableRef, users bool, group session.Group,
) (*skeleton, error) {
	if !c.can(ctx, parent, users, group) {
		return nil, nil
	}
	c.mu.Lock()
	trail := c.trails[parent.ID()]
	c.mu.Unlock()
	if trail != nil {
		return &skeleton{ref: trail.ref.Clone(), folder: trail.folder, below: trail.below}, nil
	}
	root := c.outlineOf(ctx, parent, group)
	empty, err := c.worker.CacheMgr.New(ctx, nil, group, cache.WithDescription("folders that a COPY meets"))
	if err != nil {
		return nil, err
	}
	release := func(ref cache.Ref, err error) error {
		return errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
	}
	if err := inFolder(ctx, empty, false, group, root.Build); err != nil {
		return nil, release(empty, err)
	}
	ref, err := empty.Commit(ctx)
	if err != nil {
		return nil, release(empty, err)
	}
	mounts, end, err := mountsOf(ctx, ref, group)
	if err != nil {
		return nil, release(ref, err)
	}
	defer end()
	folder, err := overlay.GetUpperdir(nil, mounts)
	if err != nil {
		return nil, release(ref, err)
	}
	return &skeleton{ref: ref, folder: folder, below: outline.Below{Root: root}}, nil
}

// outlineOf returns what is known of a result's files, if not all of its layers are here.
func (c *copies) outlineOf(ctx context.Context, ref cache.ImmutableRef, group session.Group) *outline.Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) == 0 {
		return nil
	}
	chain, here := c.chain(ctx, ref, group)
	if here || chain == "" {
		return nil
	}
	i := slices.IndexFunc(c.known, func(o Outline) bool { return o.Chain == chain })
	if i < 0 {
		return nil
	}
	one := c.known[i]
	c.known = slices.Insert(slices.Delete(c.known, i, i+1), 0, one)
	return one.Root
}

// chain returns what identifies the layers of a result, and whether they are all here. It is empty where some of them
// are no layers yet.
func (c *copies) chain(
	ctx context.Context, ref cache.ImmutableRef, group session.Group,
) (chain digest.Digest, here bool) {
	remotes, err := ref.GetRemotes(ctx, false, config.RefConfig{}, false, group)
	if err != nil || len(remotes) == 0 || len(remotes[0].Descriptors) == 0 {
		return "", false
	}
	here = true
	var layers []digest.Digest
	for _, layer := range remotes[0].Descriptors {
		plain := digest.Digest(layer.Annotations["containerd.io/uncompressed"])
		if plain.Validate() != nil {
			return "", false
		}
		layers = append(layers, plain)
		if _, err := c.worker.ContentStore().Info(ctx, layer.Digest); err != nil {
			here = false
		}
	}
	return imagespec.ChainID(layers), here
}

// ended returns all that is known for the next build, in JSON. The image was exported: its layers are known.
func (c *copies) ended(ctx context.Context, group session.Group) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, one := range c.done {
		chain, here := c.chain(ctx, one.parent, group)
		if chain == "" {
			continue
		}
		root, err := one.learn(ctx, here, c.done[i+1:], group)
		if err == nil {
			c.known = slices.DeleteFunc(c.known, func(o Outline) bool { return o.Chain == chain })
			c.known = slices.Insert(c.known, 0, Outline{chain, root})
		}
	}
	for _, one := range c.done {
		for _, ref := range []cache.ImmutableRef{one.parent, one.lower, one.result} {
			ref.Release(context.WithoutCancel(ctx))
		}
	}
	c.done = nil
	var list []string
	size := 0
	for _, one := range c.known {
		raw, err := json.Marshal(one)
		if size += len(raw); err != nil || size > mostOutlines {
			break
		}
		list = append(list, string(raw))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// learn finds out what the next build must know to do the COPY, and later ones upon it, upon a skeleton. here tells
// whether all layers of its parent are here.
func (d done) learn(
	ctx context.Context, here bool, later []done, group session.Group,
) (root *outline.Entry, err error) {
	users := d.users
	changes, err := changesOf(ctx, d.lower, d.result, group)
	if err != nil {
		return nil, err
	}
	all, made := []string{changes}, d.made
	for _, next := range later {
		if next.parent.ID() != made {
			continue
		}
		if changes, err = changesOf(ctx, next.lower, next.result, group); err != nil {
			return nil, err
		}
		all, made, users = append(all, changes), next.made, users || next.users
	}
	lower, below := d.lower, d.below
	if here {
		lower, below = d.parent, nil
	}
	err = inFolder(ctx, lower, true, group, func(dir string) error {
		root, err = outline.Learn(dir, all, users, below)
		return err
	})
	return root, err
}

// refOf returns what is in a result; nil: nothing.
func refOf(result solver.Result) cache.ImmutableRef {
	if ref, ok := result.Sys().(*worker.WorkerRef); ok {
		return ref.ImmutableRef
	}
	return nil
}

// changesOf returns the folder with the changes of a layer that was put upon another.
func changesOf(ctx context.Context, lower, upper cache.ImmutableRef, group session.Group) (string, error) {
	below, end, err := mountsOf(ctx, lower, group)
	if err != nil {
		return "", err
	}
	defer end()
	all, end, err := mountsOf(ctx, upper, group)
	if err != nil {
		return "", err
	}
	defer end()
	return overlay.GetUpperdir(below, all)
}

// mountsOf returns how a result is mounted, for reading.
func mountsOf(ctx context.Context, ref cache.ImmutableRef, group session.Group) ([]mount.Mount, func() error, error) {
	if err := ref.Finalize(ctx); err != nil {
		return nil, nil, err
	}
	mountable, err := ref.Mount(ctx, true, group)
	if err != nil {
		return nil, nil, err
	}
	return mountable.Mount()
}

// inFolder calls a function with a folder where a result is mounted.
func inFolder(
	ctx context.Context, ref cache.Mountable, readonly bool, group session.Group, do func(string) error,
) error {
	mountable, err := ref.Mount(ctx, readonly, group)
	if err != nil {
		return err
	}
	mounts, end, err := mountable.Mount()
	if err != nil {
		return err
	}
	return errors.Join(mount.WithTempMount(ctx, mounts, do), end())
}
