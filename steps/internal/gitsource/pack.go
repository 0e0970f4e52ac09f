package gitsource

import (
	"bufio"
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/hash"
	"github.com/klauspost/compress/flate"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
)

// pack is a received packfile, gitformat-pack(5), and where each of its objects is.
//
// As it arrives, it is written to a file, and every object that stands whole in it is named by its hash: the pack's
// format makes that pass necessary to find where objects begin. git sends a tree before what is in it, so trees are
// listed as they arrive, and the blobs that stand whole go straight to the files that have them (arrivals.go). Then the
// deltas are resolved, each exactly once and from its base outwards: first those of commits and tags, then of trees
// unless all are known by then, then of blobs, and the files that are still missing are written. Nothing is held but
// what a chain of deltas needs, and of that only so much in memory (body.go). The checksums of the pack and of its
// compressed data are not checked: every object is known by its own hash.
type pack struct {
	file     *os.File
	meter    *meter
	spill    func() (*os.File, error) // makes a file without a name for what memory has no room for
	spent    atomic.Int64             // bytes that were unpacked so far
	inMemory atomic.Int64             // bytes of bodies
	entries  []entry
	end      int64    // of the last entry
	late     bool     // some trees, or what may be deltas of them, are not resolved yet
	checksum [20]byte // that stands at the pack's end

	mu      sync.Mutex
	byHash  map[plumbing.Hash]int32 // what stands whole, and the deltas that are resolved and no blobs
	pending map[plumbing.Hash]int32 // the first delta whose base is that object, not yet found
}

// entry is one object of the pack.
type entry struct {
	start int64 // where it begins in the pack
	size  int64 // of the uncompressed object or delta
	hash  plumbing.Hash
	kind  plumbing.ObjectType // of a delta: that of its base, once resolved
	head  int8                // how long the head is, after which the compressed content comes
	base  int32               // of a delta
	child int32               // the first delta with this base
	next  int32               // the next delta with the same base
}

const none = int32(-1)

// What a pack may hold.
const (
	// bytes of an object that is made from a delta, or that deltas are made from. git makes no deltas of larger files
	// (core.bigFileThreshold)
	largestDelta = 512 << 20
	largestTree  = 64 << 20  // bytes of a tree, commit or tag, which is held in memory
	mostObjects  = 4_000_000 // each takes about 100 bytes of memory
	mostDeltas   = 4095      // from an object to the one that stands whole; git makes no longer chains
)

// A pack of a few bytes can stand for any amount. So it may unpack to that much in all, deltas and what is made of them
// included, and no more: the histories of large repositories have a tenth of it.
const (
	unpackedAtLeast = 2 << 30 // bytes
	unpackedPerByte = 200
)

// spend counts bytes that were unpacked from the first packed ones.
func (p *pack) spend(bytes, packed int64) error {
	if p.spent.Add(bytes) > unpackedAtLeast+unpackedPerByte*packed {
		return invalid("its first %d bytes unpack to more than %d", packed, unpackedAtLeast+unpackedPerByte*packed)
	}
	return nil
}

// invalid is the error for a pack that is damaged, or meant to do damage.
func invalid(format string, args ...any) error {
	return outcome.Errorf(outcome.RepositoryInvalid, "the server sent a damaged packfile: "+format, args...)
}

// receivePack reads a pack from r, and keeps it in file. What is unpacked goes to files of spill where memory has no
// room for it. list, unless it is nil, hears of every tree.
func receivePack(
	ctx context.Context, r io.Reader, file *os.File, spill func() (*os.File, error), list lister, m *meter,
) (*pack, error) {
	p := &pack{
		meter: m, file: file, spill: spill,
		byHash: map[plumbing.Hash]int32{}, pending: map[plumbing.Hash]int32{},
	}
	s := &scanner{
		pack: p, tee: tee{from: r, to: file, sum: &m.received}, hash: hash.New(crypto.SHA1), buf: make([]byte, 32<<10),
		arrivals: newArrivals(ctx, p, list), list: list,
	}
	s.in = bufio.NewReaderSize(&s.tee, 256<<10)
	if err := s.arrivals.close(s.read()); err != nil {
		return nil, err
	}
	return p, file.Truncate(p.end + int64(len(p.checksum)))
}

// read reads the whole pack.
func (s *scanner) read() error {
	ctx := s.arrivals.ctx
	var head [12]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return cut(err)
	}
	version, count := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if string(head[:4]) != "PACK" || version != 2 && version != 3 {
		return invalid("it begins with %q", head[:8])
	}
	if count > mostObjects {
		return invalid("it claims to hold %d objects, and %d are the most that are taken", count, mostObjects)
	}
	s.meter.ofObjects.Store(int64(count))
	s.entries = make([]entry, 0, min(count, 1<<14)) // grows with the data, not with the claimed count
	for range count {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.entry(); err != nil {
			return err
		}
	}
	s.end = s.position()
	if _, err := io.ReadFull(s.in, s.checksum[:]); err != nil {
		return cut(err)
	}
	return nil
}

// forget gives the memory back of a pack that is no longer needed.
func (p *pack) forget() { p.entries, p.byHash, p.pending = nil, nil, nil }

// scanner reads the pack as it arrives.
type scanner struct {
	*pack
	tee  tee
	in   *bufio.Reader // of tee
	zlib inflater
	hash hash.Hash
	buf  []byte

	arrivals *arrivals
	list     lister // nil: nobody wants trees now
	tree     []byte // the last one that stands whole
	trees    recent
}

// tee keeps what it reads.
type tee struct {
	from io.Reader
	to   *os.File
	n    int64
	sum  *atomic.Int64 // n, for others
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	if n > 0 {
		t.n += int64(n)
		t.sum.Add(int64(n))
		if _, werr := t.to.Write(p[:n]); werr != nil {
			return n, werr
		}
	}
	return n, err
}

func (s *scanner) position() int64 { return s.tee.n - int64(s.in.Buffered()) }

// entry reads one object.
func (s *scanner) entry() error {
	e := entry{start: s.position(), base: none, child: none, next: none}
	b, err := s.in.ReadByte()
	if err != nil {
		return cut(err)
	}
	e.kind, e.size = plumbing.ObjectType(b>>4&7), int64(b&15)
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = s.in.ReadByte(); err != nil {
			return cut(err)
		}
		if shift > 53 {
			return invalid("the object at %d has no valid size", e.start)
		}
		e.size |= int64(b&0x7f) << shift
	}
	index := int32(len(s.entries))
	switch e.kind {
	case plumbing.OFSDeltaObject:
		distance, err := s.distance()
		if err != nil {
			return err
		}
		at := e.start - distance
		base := sort.Search(len(s.entries), func(i int) bool { return s.entries[i].start >= at })
		if base == len(s.entries) || s.entries[base].start != at {
			return invalid("the delta at %d has no base", e.start)
		}
		e.base = int32(base)
		e.next, s.entries[base].child = s.entries[base].child, index
	case plumbing.REFDeltaObject:
		var base plumbing.Hash
		if _, err := io.ReadFull(s.in, base[:]); err != nil {
			return cut(err)
		}
		if first, ok := s.pending[base]; ok {
			e.next = first
		}
		s.pending[base] = index
		s.late = true
	case plumbing.BlobObject:
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.TagObject:
	default:
		return invalid("the object at %d is of type %d", e.start, e.kind)
	}
	if e.kind != plumbing.BlobObject && !e.kind.IsDelta() && e.size > largestTree {
		return invalid("the %s at %d has %d bytes", e.kind, e.start, e.size)
	}
	e.head = int8(s.position() - e.start)
	switch {
	case e.kind == plumbing.BlobObject && e.size <= batchBytes:
		memory, err := s.arrivals.room(index, e.size)
		if err == nil {
			err = s.inflate(&e, memory)
		}
		if err != nil {
			return err
		}
		s.add(e)
		return nil
	case e.kind == plumbing.TreeObject && s.list != nil:
		s.tree = slices.Grow(s.tree[:0], int(e.size))[:e.size]
		if err := s.inflate(&e, s.tree); err != nil {
			return err
		}
		s.hash.Reset()
		s.hash.Write(header(e.kind, e.size))
		s.hash.Write(s.tree)
		s.hash.Sum(e.hash[:0])
	default:
		if err := s.content(&e); err != nil {
			return err
		}
	}
	s.add(e)
	if !e.kind.IsDelta() {
		s.found(index, e.hash)
	}
	return s.arrived(index)
}

// arrived lets a tree be listed that has arrived, whole or as a delta of an earlier one. Of what may be a delta of an
// unknown one, s.late is set already.
func (s *scanner) arrived(i int32) error {
	e := &s.entries[i]
	if e.kind != plumbing.TreeObject && (e.base == none || s.entries[e.base].kind != plumbing.TreeObject) {
		return nil
	}
	if s.list == nil {
		s.late = true
		return nil
	}
	s.end = s.position()
	content := s.tree
	if e.base == none {
		s.trees.put(i, content)
	} else {
		var err error
		if content, err = s.made(i, 0); err != nil {
			return err
		}
	}
	return s.list.list(s.arrivals.ctx, s.pack, e.hash, content)
}

// made returns the content of a tree, and names it if it is a delta.
func (s *scanner) made(i int32, depth int) ([]byte, error) {
	if content := s.trees.get(i); content != nil {
		return content, nil
	}
	e := &s.entries[i]
	if depth > mostDeltas {
		return nil, invalid("the delta at %d is the end of a chain of more than %d", e.start, mostDeltas)
	}
	var b *body
	var err error
	if e.base == none {
		b, err = s.pack.inflate(e, plumbing.TreeObject)
	} else {
		var base []byte
		if base, err = s.made(e.base, depth+1); err == nil {
			b, err = s.apply(&body{memory: base, size: int64(len(base))}, i, plumbing.TreeObject)
		}
	}
	if err != nil {
		return nil, err
	}
	s.release(b)
	if e.kind.IsDelta() {
		if err := s.name(i, plumbing.TreeObject, b); err != nil {
			return nil, err
		}
	}
	s.trees.put(i, b.memory)
	return b.memory, nil
}

// recent are trees that arrived last, which deltas are likely to be made from. The zero value has none.
type recent struct {
	contents map[int32][]byte
	order    []int32
	bytes    int
}

const mostRecent = 4 << 20 // bytes of all of them

func (r *recent) get(i int32) []byte { return r.contents[i] }

// put keeps a copy, unless it is large.
func (r *recent) put(i int32, content []byte) {
	if len(content) > mostRecent/4 {
		return
	}
	if r.contents == nil {
		r.contents = map[int32][]byte{}
	}
	r.contents[i] = slices.Clone(content)
	r.order = append(r.order, i)
	for r.bytes += len(content); r.bytes > mostRecent; r.order = r.order[1:] {
		r.bytes -= len(r.contents[r.order[0]])
		delete(r.contents, r.order[0])
	}
}

// add lists an entry. Others may be naming earlier ones.
func (p *pack) add(e entry) {
	p.meter.objects.Add(1)
	if e.kind.IsDelta() {
		p.meter.ofDeltas.Add(1)
	}
	p.mu.Lock()
	p.entries = append(p.entries, e)
	p.mu.Unlock()
}

// found names an object that stands whole.
func (p *pack) found(i int32, name plumbing.Hash) {
	p.mu.Lock()
	p.entries[i].hash = name
	p.byHash[name] = i
	p.mu.Unlock()
}

// distance reads how far before a delta its base begins.
func (s *scanner) distance() (int64, error) {
	b, err := s.in.ReadByte()
	if err != nil {
		return 0, cut(err)
	}
	n := int64(b & 0x7f)
	for b&0x80 != 0 {
		if b, err = s.in.ReadByte(); err != nil {
			return 0, cut(err)
		}
		if n >= 1<<55 {
			return 0, invalid("a delta's base is too far away")
		}
		n = (n+1)<<7 | int64(b&0x7f)
	}
	return n, nil
}

// inflate reads compressed data into memory of its size.
func (s *scanner) inflate(e *entry, memory []byte) error {
	if err := s.zlib.reset(s.in); err != nil {
		return s.broken(e, err)
	}
	if err := s.spend(e.size, s.position()); err != nil {
		return err
	}
	for n := 0; ; {
		to := memory[n:]
		if len(to) == 0 {
			to = s.buf[:1] // is there more?
		}
		got, err := s.zlib.Read(to)
		if n += got; n > len(memory) {
			return invalid("the object at %d is larger than it claims", e.start)
		}
		if err == io.EOF && n < len(memory) {
			return invalid("the object at %d is smaller than it claims", e.start)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return s.broken(e, err)
		}
	}
}

// content reads compressed data, and names it if it is a whole object.
func (s *scanner) content(e *entry) error {
	if err := s.zlib.reset(s.in); err != nil {
		return s.broken(e, err)
	}
	whole := !e.kind.IsDelta()
	if whole {
		s.hash.Reset()
		s.hash.Write(header(e.kind, e.size))
	}
	var n int64
	for {
		got, err := s.zlib.Read(s.buf)
		n += int64(got)
		if n > e.size {
			return invalid("the object at %d is larger than it claims", e.start)
		}
		if err := s.spend(int64(got), s.position()); err != nil {
			return err
		}
		if whole {
			s.hash.Write(s.buf[:got])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return s.broken(e, err)
		}
	}
	if n != e.size {
		return invalid("the object at %d is smaller than it claims", e.start)
	}
	if whole {
		s.hash.Sum(e.hash[:0])
	}
	return nil
}

// broken tells content that cannot be decompressed from a stream that was cut.
func (s *scanner) broken(e *entry, err error) error {
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt || errors.Is(err, errNoZlib) {
		return invalid("the object at %d: %w", e.start, err)
	}
	return cut(err)
}

// inflater decompresses the zlib format, RFC 1950, and passes over the checksum at its end. It reads no further.
type inflater struct {
	in    *bufio.Reader
	flate io.ReadCloser
}

var errNoZlib = errors.New("it is not in the zlib format")

// reset begins with what in has next.
func (z *inflater) reset(in *bufio.Reader) error {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return cut(err)
	}
	const deflate, dictionary = 8, 0x20
	if head[0]&0x0f != deflate || head[0]>>4 > 7 || head[1]&dictionary != 0 ||
		binary.BigEndian.Uint16(head[:])%31 != 0 {
		return errNoZlib
	}
	z.in = in
	if z.flate == nil {
		z.flate = flate.NewReader(in)
		return nil
	}
	return z.flate.(flate.Resetter).Reset(in, nil)
}

// Read implements io.Reader. It may not be called again after the end.
func (z *inflater) Read(p []byte) (int, error) {
	n, err := z.flate.Read(p)
	if err != io.EOF {
		return n, err
	}
	const checksum = 4 // bytes
	if _, err := z.in.Discard(checksum); err != nil {
		return n, cut(err)
	}
	return n, io.EOF
}

// header is what an object's hash covers before its content.
func header(kind plumbing.ObjectType, size int64) []byte {
	b := append(make([]byte, 0, 32), kind.String()...)
	return append(strconv.AppendInt(append(b, ' '), size, 10), 0)
}

// stream decompresses one entry.
type stream struct {
	in   *bufio.Reader
	zlib inflater
}

var streams = sync.Pool{New: func() any { return &stream{in: bufio.NewReaderSize(nil, 16<<10)} }}

func (s *stream) Read(p []byte) (int, error) { return s.zlib.Read(p) }

// open returns the decompressed content of an entry. It goes back to streams after use.
func (p *pack) open(e *entry) (*stream, error) {
	s := streams.Get().(*stream)
	s.in.Reset(io.NewSectionReader(p.file, e.start+int64(e.head), 1<<62))
	return s, s.zlib.reset(s.in)
}

// lookUp finds an entry by its name, if that is known.
func (p *pack) lookUp(name plumbing.Hash) (int32, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, ok := p.byHash[name]
	return i, ok
}

// object returns a resolved commit, tree or tag. Of a blob it returns the kind only.
func (p *pack) object(name plumbing.Hash) (plumbing.ObjectType, []byte, error) {
	i, ok := p.lookUp(name)
	if !ok {
		return 0, nil, invalid("object %s is missing", name)
	}
	kind := p.entries[i].kind
	if kind == plumbing.BlobObject {
		return kind, nil, nil
	}
	var deltas []int32
	for ; p.entries[i].base != none; i = p.entries[i].base {
		deltas = append(deltas, i)
	}
	content, err := p.inflate(&p.entries[i], kind)
	for _, d := range slices.Backward(deltas) {
		if err != nil {
			return 0, nil, err
		}
		base := content
		content, err = p.apply(base, d, kind)
		p.release(base)
	}
	if err != nil {
		return 0, nil, err
	}
	p.release(content)
	return kind, content.memory, nil
}

// resolveAll finds the names of all objects of some kinds, but not of blobs.
func (p *pack) resolveAll(ctx context.Context, kinds ...plumbing.ObjectType) error {
	for _, kind := range kinds {
		if err := p.resolve(ctx, kind, 1, nil); err != nil {
			return err
		}
	}
	return nil
}

// resolve finds the name of every object of that kind, and gives those that claim wants to what claim returns for them.
// A nil claim wants none. With several workers, claim and its results are called from several goroutines.
func (p *pack) resolve(
	ctx context.Context, kind plumbing.ObjectType, workers int, claim claims,
) error {
	if claim == nil {
		claim = func(plumbing.Hash) func(content) error { return nil }
	}
	var roots []int32 // found before the workers start: they change the deltas' entries
	for i := range p.entries {
		if e := &p.entries[i]; e.kind == kind && e.base == none {
			roots = append(roots, int32(i))
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	var taken atomic.Int32
	for range workers {
		group.Go(func() error {
			for {
				i := int(taken.Add(1)) - 1
				if i >= len(roots) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := p.family(ctx, roots[i], claim); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// family resolves a whole object and all that are made from it. A base is let go before its last delta is followed, so
// that of the usual chain, one object after another, no more than two are held.
func (p *pack) family(ctx context.Context, root int32, claim claims) error {
	e := &p.entries[root]
	write := claim(e.hash)
	if p.adopt(root) == none {
		if write == nil {
			return nil
		}
		return p.copy(e, write)
	}
	base, err := p.inflate(e, e.kind)
	if err != nil {
		return err
	}
	type frame struct {
		base  *body
		next  int32
		depth int // deltas from base to the whole object
	}
	stack := []frame{{base, e.child, 0}}
	defer func() {
		for _, f := range stack {
			p.release(f.base)
		}
	}()
	if write != nil {
		if err := write(base.content()); err != nil {
			return err
		}
	}
	for len(stack) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		top := &stack[len(stack)-1]
		i, depth := top.next, top.depth+1
		if depth > mostDeltas {
			return invalid("the delta at %d is the end of a chain of more than %d", p.entries[i].start, mostDeltas)
		}
		object, err := p.apply(top.base, i, e.kind)
		if err != nil {
			return err
		}
		d := &p.entries[i]
		if top.next = d.next; top.next == none {
			p.release(top.base)
			stack = stack[:len(stack)-1]
		}
		if err := p.name(i, e.kind, object); err != nil {
			p.release(object)
			return err
		}
		write := claim(d.hash)
		child := p.adopt(i)
		if child != none {
			stack = append(stack, frame{object, child, depth})
		}
		if write != nil {
			err = write(object.content())
		}
		if child == none {
			p.release(object)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// copy writes an object that no delta is made from: it is not held in memory.
func (p *pack) copy(e *entry, write func(content) error) error {
	var s *stream
	defer func() {
		if s != nil {
			streams.Put(s)
		}
	}()
	return write(content{stream: func() (_ io.Reader, err error) {
		if s != nil {
			streams.Put(s)
		}
		s, err = p.open(e)
		return s, err
	}})
}

// name records what a delta turned out to be.
func (p *pack) name(i int32, kind plumbing.ObjectType, object *body) error {
	e := &p.entries[i]
	name, err := object.name(kind)
	if err != nil {
		return err
	}
	if e.kind.IsDelta() {
		p.meter.deltas.Add(1)
	}
	e.kind, e.hash = kind, name
	if kind != plumbing.BlobObject {
		p.mu.Lock()
		p.byHash[e.hash] = i
		p.mu.Unlock()
	}
	return nil
}

// adopt returns the first delta of an object whose name is known, after those that were waiting for that name became
// its own.
func (p *pack) adopt(i int32) int32 {
	e := &p.entries[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	first, ok := p.pending[e.hash]
	if !ok {
		return e.child
	}
	delete(p.pending, e.hash)
	for d := first; ; d = p.entries[d].next {
		p.entries[d].base = i
		if p.entries[d].next == none {
			p.entries[d].next = e.child
			break
		}
	}
	e.child = first
	return first
}
