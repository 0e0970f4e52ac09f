package gitsource

import (
	"bufio"
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/hash"
)

// body is an object's content that deltas are made from, or that is made from one: in memory, or where memory has no
// room for it, in a file without a name. A pack can ask for any number of them at once: each object of a chain may have
// a second delta.
type body struct {
	memory []byte
	file   *os.File // nil: in memory
	size   int64
}

const (
	mostInMemory    = 64 << 20 // bytes of all bodies of a pack
	largestInMemory = 32 << 20 // bytes of a blob
	smallDelta      = 4 << 20  // bytes; larger ones are applied as they are unpacked
	copyCost        = 512      // bytes that an instruction of a large delta counts as, since it may read a file
)

// newBody makes an empty body for an object of that size, which is unpacked from so many bytes besides. What is no blob
// is always in memory.
func (p *pack) newBody(kind plumbing.ObjectType, size, from int64) (*body, error) {
	limit := int64(largestDelta)
	if kind != plumbing.BlobObject {
		limit = largestTree
	}
	if size > limit {
		return nil, invalid("a %s of %d bytes is part of a delta", kind, size)
	}
	if err := p.spend(size+from, p.end); err != nil {
		return nil, err
	}
	b := &body{size: size}
	held := p.inMemory.Add(size)
	if kind != plumbing.BlobObject || size <= largestInMemory && held <= mostInMemory {
		b.memory = make([]byte, 0, size)
		return b, nil
	}
	p.inMemory.Add(-size)
	var err error
	if b.file, err = p.spill(); err != nil {
		return nil, err
	}
	return b, nil
}

// release gives a body's room back.
func (p *pack) release(b *body) {
	if b.file != nil {
		b.file.Close()
		return
	}
	p.inMemory.Add(-b.size)
}

// content is the whole body.
func (b *body) content() content {
	if b.file == nil {
		return content{memory: b.memory}
	}
	return content{stream: func() (io.Reader, error) { return b.section(0, b.size), nil }}
}

func (b *body) section(from, size int64) io.Reader {
	if b.file != nil {
		return io.NewSectionReader(b.file, from, size)
	}
	return bytes.NewReader(b.memory[from : from+size])
}

// fill lets write write the body, which must become as large as it is to be.
func (b *body) fill(write func(io.Writer) error) error {
	if b.file == nil {
		err := write(b)
		if err == nil && int64(len(b.memory)) != b.size {
			err = errMisfit
		}
		return err
	}
	to := &counter{w: b.file, limit: b.size}
	out := bufio.NewWriterSize(to, 256<<10)
	if err := write(out); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	if to.n != b.size {
		return errMisfit
	}
	return nil
}

// Write appends to a body in memory.
func (b *body) Write(part []byte) (int, error) {
	if int64(len(b.memory)+len(part)) > b.size {
		return 0, errMisfit
	}
	b.memory = append(b.memory, part...)
	return len(part), nil
}

// counter counts what is written, up to a limit.
type counter struct {
	w        io.Writer
	n, limit int64
}

func (c *counter) Write(p []byte) (int, error) {
	if c.n+int64(len(p)) > c.limit {
		return 0, errMisfit
	}
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// name is the hash of an object with this content.
func (b *body) name(kind plumbing.ObjectType) (name plumbing.Hash, err error) {
	h := hash.New(crypto.SHA1)
	h.Write(header(kind, b.size))
	if b.file == nil {
		h.Write(b.memory)
	} else if _, err = io.Copy(h, b.section(0, b.size)); err != nil {
		return name, err
	}
	h.Sum(name[:0])
	return name, nil
}

// inflate returns the content of an entry that stands whole, whose size receivePack found to be true.
func (p *pack) inflate(e *entry, kind plumbing.ObjectType) (*body, error) {
	b, err := p.newBody(kind, e.size, 0)
	if err != nil {
		return nil, err
	}
	s, err := p.open(e)
	if err != nil {
		p.release(b)
		return nil, err
	}
	defer streams.Put(s)
	if b.file == nil {
		b.memory = b.memory[:e.size]
		_, err = io.ReadFull(s, b.memory)
	} else {
		err = b.fill(func(w io.Writer) error {
			_, err := io.CopyN(w, s, e.size)
			return err
		})
	}
	if err != nil {
		p.release(b)
		return nil, cut(err)
	}
	return b, nil
}

// errMisfit is a delta that does not fit its base.
var errMisfit = errors.New("does not fit its base")

// apply makes the object of a delta.
func (p *pack) apply(base *body, i int32, kind plumbing.ObjectType) (*body, error) {
	e := &p.entries[i]
	s, err := p.open(e)
	if err != nil {
		return nil, err
	}
	defer streams.Put(s)
	var b *body
	if e.size <= smallDelta {
		b, err = p.applySmall(base, s, e, kind)
	} else {
		delta := bufio.NewReaderSize(s, 64<<10)
		from, err1 := binary.ReadUvarint(delta)
		to, err2 := binary.ReadUvarint(delta)
		if err1 != nil || err2 != nil || from != uint64(base.size) || to > largestDelta {
			err = errMisfit
		} else if b, err = p.newBody(kind, int64(to), e.size); err == nil {
			err = b.fill(func(w io.Writer) error { return p.patchLarge(base, delta, w) })
		}
	}
	if err != nil && b != nil {
		p.release(b)
	}
	if errors.Is(err, errMisfit) {
		err = invalid("the delta at %d does not fit its base", e.start)
	}
	return b, err
}

// applySmall applies a delta that fits into memory. It may return a body beside an error.
func (p *pack) applySmall(base *body, s io.Reader, e *entry, kind plumbing.ObjectType) (*body, error) {
	delta := make([]byte, e.size)
	if _, err := io.ReadFull(s, delta); err != nil {
		return nil, err
	}
	from, to, delta, ok := deltaHead(delta)
	if !ok || from != uint64(base.size) {
		return nil, errMisfit
	}
	b, err := p.newBody(kind, int64(to), e.size)
	if err != nil {
		return nil, err
	}
	if base.file != nil || b.file != nil {
		return b, b.fill(func(w io.Writer) error {
			return p.patchLarge(base, bufio.NewReader(bytes.NewReader(delta)), w)
		})
	}
	if b.memory, ok = patch(base.memory, delta, b.memory); !ok {
		return b, errMisfit
	}
	return b, nil
}

// deltaHead reads the sizes of a delta's base and of its object, and returns its instructions.
func deltaHead(delta []byte) (from, to uint64, rest []byte, ok bool) {
	from, n := binary.Uvarint(delta)
	if n <= 0 {
		return 0, 0, nil, false
	}
	delta = delta[n:]
	to, n = binary.Uvarint(delta)
	if n <= 0 || to > largestDelta {
		return 0, 0, nil, false
	}
	return from, to, delta[n:], true
}

// patch follows a delta's instructions, gitformat-pack(5) "Deltified representation". out is empty and has room for the
// object.
func patch(base, delta, out []byte) ([]byte, bool) {
	to := uint64(cap(out))
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		if op&0x80 == 0 {
			if op == 0 || int(op) > len(delta) || uint64(len(out))+uint64(op) > to {
				return out, false
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
				return out, false
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
			return out, false
		}
		out = append(out, base[offset:offset+size]...)
	}
	return out, uint64(len(out)) == to
}

// patchLarge is patch for what is not held in memory.
func (p *pack) patchLarge(base *body, delta *bufio.Reader, out io.Writer) error {
	for {
		op, err := delta.ReadByte()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = p.spend(copyCost, p.end)
		}
		if err != nil {
			return err
		}
		if op == 0 {
			return errMisfit
		}
		if op&0x80 == 0 {
			if _, err := io.CopyN(out, delta, int64(op)); err != nil {
				return misfit(err)
			}
			continue
		}
		var offset, size int64
		for bit := range 7 {
			if op&(1<<bit) == 0 {
				continue
			}
			b, err := delta.ReadByte()
			if err != nil {
				return misfit(err)
			}
			if bit < 4 {
				offset |= int64(b) << (8 * bit)
			} else {
				size |= int64(b) << (8 * (bit - 4))
			}
		}
		if size == 0 {
			size = 1 << 16
		}
		if offset+size > base.size {
			return errMisfit
		}
		if _, err := io.Copy(out, base.section(offset, size)); err != nil {
			return err
		}
	}
}

// misfit makes the end of a delta in the middle of an instruction its fault.
func misfit(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errMisfit
	}
	return err
}
