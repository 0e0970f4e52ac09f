package gitsource

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/hash"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"
	"golang.org/x/sync/errgroup"

	"github.com/stepwright/stepwright/internal/outcome"
)

// pack is a received packfile, gitformat-pack(5), and where each of its objects is.
//
// It is read twice. As it arrives, it is written to a file, and every object that stands whole in it is named by its
// hash: the pack's format makes that pass necessary to find where objects begin. Then the deltas are resolved, each
// exactly once and from its base outwards: first those of commits and tags, then trees, then blobs, whose contents go
// straight to the files that have them. Nothing is held in memory but what a chain of deltas needs. The checksum at the
// pack's end is not checked: every object is known by its own hash.
type pack struct {
	file     *os.File
	entries  []entry
	end      int64    // of the last entry
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

// largestDelta is how large an object may be that is made from a delta, or that deltas are made from, in bytes: it is
// held in memory. git makes no deltas of files larger than this (core.bigFileThreshold).
const largestDelta = 512 << 20

// invalid is the error for a pack that is damaged, or meant to do damage.
func invalid(format string, args ...any) error {
	return outcome.Errorf(outcome.RepositoryInvalid, "the server sent a damaged packfile: "+format, args...)
}

// receivePack reads a pack from r, and keeps it in file.
func receivePack(ctx context.Context, r io.Reader, file *os.File) (*pack, error) {
	p := &pack{file: file, byHash: map[plumbing.Hash]int32{}, pending: map[plumbing.Hash]int32{}}
	s := &scanner{pack: p, tee: tee{from: r, to: file}, hash: hash.New(crypto.SHA1), buf: make([]byte, 32<<10)}
	s.in = bufio.NewReaderSize(&s.tee, 256<<10)
	var head [12]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, cut(err)
	}
	version, count := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if string(head[:4]) != "PACK" || version != 2 && version != 3 {
		return nil, invalid("it begins with %q", head[:8])
	}
	if count > 1<<31-1 {
		return nil, invalid("it claims to hold %d objects", count)
	}
	p.entries = make([]entry, 0, min(count, 1<<14)) // grows with the data, not with the claimed count
	for range count {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err := s.entry(); err != nil {
			return nil, err
		}
	}
	p.end = s.position()
	if _, err := io.ReadFull(s.in, p.checksum[:]); err != nil {
		return nil, cut(err)
	}
	return p, file.Truncate(p.end + int64(len(p.checksum)))
}

// scanner reads the pack as it arrives.
type scanner struct {
	*pack
	tee  tee
	in   *bufio.Reader // of tee
	zlib io.ReadCloser
	hash hash.Hash
	buf  []byte
}

// tee keeps what it reads.
type tee struct {
	from io.Reader
	to   *os.File
	n    int64
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.from.Read(p)
	if n > 0 {
		t.n += int64(n)
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
		base, found := slices.BinarySearchFunc(s.entries, e.start-distance, func(e entry, start int64) int {
			return cmp.Compare(e.start, start)
		})
		if !found {
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
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	default:
		return invalid("the object at %d is of type %d", e.start, e.kind)
	}
	e.head = int8(s.position() - e.start)
	if err := s.content(&e); err != nil {
		return err
	}
	s.entries = append(s.entries, e)
	if !e.kind.IsDelta() {
		s.byHash[e.hash] = index
	}
	return nil
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

// content reads compressed data, and names it if it is a whole object.
func (s *scanner) content(e *entry) error {
	if err := resetZlib(&s.zlib, s.in); err != nil {
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
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt || errors.Is(err, zlib.ErrHeader) ||
		errors.Is(err, zlib.ErrChecksum) || errors.Is(err, zlib.ErrDictionary) {
		return invalid("the object at %d: %w", e.start, err)
	}
	return cut(err)
}

func resetZlib(z *io.ReadCloser, r io.Reader) (err error) {
	if *z == nil {
		*z, err = zlib.NewReader(r)
		return err
	}
	return (*z).(zlib.Resetter).Reset(r, nil)
}

// header is what an object's hash covers before its content.
func header(kind plumbing.ObjectType, size int64) []byte {
	b := append(make([]byte, 0, 32), kind.String()...)
	return append(strconv.AppendInt(append(b, ' '), size, 10), 0)
}

// nameOf is the hash of an object.
func nameOf(kind plumbing.ObjectType, content []byte) (name plumbing.Hash) {
	h := hash.New(crypto.SHA1)
	h.Write(header(kind, int64(len(content))))
	h.Write(content)
	h.Sum(name[:0])
	return name
}

// stream decompresses one entry.
type stream struct {
	in   *bufio.Reader
	zlib io.ReadCloser
}

var streams = sync.Pool{New: func() any { return &stream{in: bufio.NewReaderSize(nil, 16<<10)} }}

func (s *stream) Read(p []byte) (int, error) { return s.zlib.Read(p) }

// open returns the decompressed content of an entry. It goes back to streams after use.
func (p *pack) open(e *entry) (*stream, error) {
	s := streams.Get().(*stream)
	s.in.Reset(io.NewSectionReader(p.file, e.start+int64(e.head), 1<<62))
	return s, resetZlib(&s.zlib, s.in)
}

// inflate returns the decompressed content of an entry, whose size receivePack found to be true.
func (p *pack) inflate(e *entry) ([]byte, error) {
	if e.size > largestDelta {
		return nil, invalid("the object at %d, of %d bytes, is part of a delta", e.start, e.size)
	}
	s, err := p.open(e)
	if err != nil {
		return nil, err
	}
	defer streams.Put(s)
	content := make([]byte, e.size)
	_, err = io.ReadFull(s, content)
	return content, err
}

// object returns a resolved object.
func (p *pack) object(name plumbing.Hash) (plumbing.ObjectType, []byte, error) {
	i, ok := p.byHash[name]
	if !ok {
		return 0, nil, invalid("object %s is missing", name)
	}
	kind := p.entries[i].kind
	var deltas []int32
	for ; p.entries[i].base != none; i = p.entries[i].base {
		deltas = append(deltas, i)
	}
	content, err := p.inflate(&p.entries[i])
	for _, d := range slices.Backward(deltas) {
		if err != nil {
			break
		}
		content, err = p.apply(content, d)
	}
	return kind, content, err
}

// apply makes the object of a delta.
func (p *pack) apply(base []byte, i int32) ([]byte, error) {
	delta, err := p.inflate(&p.entries[i])
	if err != nil {
		return nil, err
	}
	content, ok := patch(base, delta)
	if !ok {
		return nil, invalid("the delta at %d does not fit its base", p.entries[i].start)
	}
	return content, nil
}

// patch applies a delta, gitformat-pack(5) "Deltified representation".
func patch(base, delta []byte) ([]byte, bool) {
	from, n := binary.Uvarint(delta)
	if n <= 0 || from != uint64(len(base)) {
		return nil, false
	}
	delta = delta[n:]
	to, n := binary.Uvarint(delta)
	if n <= 0 || to > largestDelta {
		return nil, false
	}
	delta = delta[n:]
	out := make([]byte, 0, to)
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		if op&0x80 == 0 {
			if op == 0 || int(op) > len(delta) || len(out)+int(op) > int(to) {
				return nil, false
			}
			out = append(out, delta[:op]...)
			delta = delta[op:]
			continue
		}
		var offset, size uint64
		for bit := range 7 {
			if op&(1<<bit) == 0 {
				continue
			}
			if len(delta) == 0 {
				return nil, false
			}
			if bit < 4 {
				offset |= uint64(delta[0]) << (8 * bit)
			} else {
				size |= uint64(delta[0]) << (8 * (bit - 4))
			}
			delta = delta[1:]
		}
		if size == 0 {
			size = 1 << 16
		}
		if offset+size > uint64(len(base)) || uint64(len(out))+size > to {
			return nil, false
		}
		out = append(out, base[offset:offset+size]...)
	}
	return out, uint64(len(out)) == to
}

// content opens an object's content, which is valid until the next call.
type content func() (io.Reader, error)

// resolve finds the name of every object of that kind, and gives those that claim wants to what claim returns for them.
// A nil claim wants none. With several workers, claim and its results are called from several goroutines.
func (p *pack) resolve(
	ctx context.Context, kind plumbing.ObjectType, workers int, claim func(plumbing.Hash) func(content) error,
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
func (p *pack) family(ctx context.Context, root int32, claim func(plumbing.Hash) func(content) error) error {
	e := &p.entries[root]
	write := claim(e.hash)
	if p.adopt(root) == none {
		if write == nil {
			return nil
		}
		return p.copy(e, write)
	}
	base, err := p.inflate(e)
	if err != nil {
		return err
	}
	if write != nil {
		if err := write(held(base)); err != nil {
			return err
		}
	}
	type frame struct {
		base []byte
		next int32
	}
	stack := []frame{{base, e.child}}
	for len(stack) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		top := &stack[len(stack)-1]
		i := top.next
		object, err := p.apply(top.base, i)
		if err != nil {
			return err
		}
		d := &p.entries[i]
		if top.next = d.next; top.next == none {
			*top = frame{}
			stack = stack[:len(stack)-1]
		}
		p.name(i, e.kind, object)
		if write := claim(d.hash); write != nil {
			if err := write(held(object)); err != nil {
				return err
			}
		}
		if child := p.adopt(i); child != none {
			stack = append(stack, frame{object, child})
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
	return write(func() (_ io.Reader, err error) {
		if s != nil {
			streams.Put(s)
		}
		s, err = p.open(e)
		return s, err
	})
}

func held(object []byte) content {
	return func() (io.Reader, error) { return bytes.NewReader(object), nil }
}

// name records what a delta turned out to be.
func (p *pack) name(i int32, kind plumbing.ObjectType, object []byte) {
	e := &p.entries[i]
	e.kind, e.hash = kind, nameOf(kind, object)
	if kind != plumbing.BlobObject {
		p.mu.Lock()
		p.byHash[e.hash] = i
		p.mu.Unlock()
	}
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
