package gitsource

import (
	"bytes"
	"context"
	"crypto"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/hash"
	"golang.org/x/sync/errgroup"
)

// content is an object's content: in memory, which is valid during the call that it is given to, or to be streamed.
type content struct {
	memory []byte
	stream func() (io.Reader, error) // nil: in memory. What it returns is valid until the next call
}

func (c content) open() (io.Reader, error) {
	if c.stream != nil {
		return c.stream()
	}
	return bytes.NewReader(c.memory), nil
}

// claims returns how to write the object of that name, or nil if nobody wants it.
type claims func(plumbing.Hash) func(content) error

// lister hears what trees hold, and tells which blobs are wanted.
type lister interface {
	// list hears of each tree, in the order in which they arrive. The content is valid during the call. It fails
	// only when the context has ended.
	list(ctx context.Context, p *pack, name plumbing.Hash, content []byte) error
	// claim is called from several goroutines.
	claim(name plumbing.Hash) func(content) error
}

// arrivals names blobs and writes those that are claimed, by goroutines of its own while the pack is still read: so a
// blob is unpacked once. Blobs travel in batches, whose number bounds the memory.
type arrivals struct {
	pack    *pack
	list    lister // nil: none is wanted
	ctx     context.Context
	group   *errgroup.Group
	free    chan *batch
	full    chan *batch
	current *batch
}

// batch is a few blobs, unpacked.
type batch struct {
	memory []byte
	blobs  []batched
}

type batched struct{ entry, from, to int32 }

const (
	batchBytes   = 1 << 20 // bytes; a larger blob is written from the pack
	blobsInBatch = 256
)

// newArrivals starts the goroutines. They end with close, or with ctx.
func newArrivals(ctx context.Context, p *pack, list lister) *arrivals {
	a := &arrivals{pack: p, list: list}
	a.group, a.ctx = errgroup.WithContext(ctx)
	count := writers()
	a.free, a.full = make(chan *batch, count+2), make(chan *batch, count+2)
	for range count + 2 {
		a.free <- &batch{}
	}
	for range count {
		a.group.Go(a.work)
	}
	return a
}

func (a *arrivals) work() error {
	h := hash.New(crypto.SHA1)
	for b := range a.full {
		for _, blob := range b.blobs {
			if a.ctx.Err() != nil {
				return context.Cause(a.ctx)
			}
			memory := b.memory[blob.from:blob.to]
			h.Reset()
			h.Write(header(plumbing.BlobObject, int64(len(memory))))
			h.Write(memory)
			var name plumbing.Hash
			h.Sum(name[:0])
			a.pack.found(blob.entry, name)
			if a.list == nil {
				continue
			}
			if write := a.list.claim(name); write != nil {
				if err := write(content{memory: memory}); err != nil {
					return err
				}
			}
		}
		a.free <- b
	}
	return nil
}

// room returns memory for the blob of the next entry, which must be filled before the next call.
func (a *arrivals) room(entry int32, size int64) ([]byte, error) {
	if b := a.current; b != nil && (len(b.memory)+int(size) > batchBytes || len(b.blobs) == blobsInBatch) {
		if err := a.send(); err != nil {
			return nil, err
		}
	}
	if a.current == nil {
		select {
		case a.current = <-a.free:
		case <-a.ctx.Done():
			return nil, context.Cause(a.ctx)
		}
		if a.current.memory == nil {
			a.current.memory = make([]byte, 0, batchBytes)
		}
		a.current.memory, a.current.blobs = a.current.memory[:0], a.current.blobs[:0]
	}
	b := a.current
	from := len(b.memory)
	b.memory = b.memory[:from+int(size)]
	b.blobs = append(b.blobs, batched{entry, int32(from), int32(len(b.memory))})
	return b.memory[from:], nil
}

func (a *arrivals) send() error {
	select {
	case a.full <- a.current:
	case <-a.ctx.Done():
		return context.Cause(a.ctx)
	}
	a.current = nil
	return nil
}

// close ends the goroutines, after the last blobs unless reading them failed, and returns the first failure.
func (a *arrivals) close(failure error) error {
	if failure == nil && a.current != nil {
		failure = a.send()
	}
	if failure != nil {
		a.group.Go(func() error { return failure }) // ends the others
	}
	close(a.full)
	return a.group.Wait()
}
