// Package cachemount packs what cache mounts of a build hold (RUN --mount=type=cache), and unpacks it for the next
// build.
//
// A mount is a list of its files, and chunks with their contents. A chunk is the contents of many files, one after
// another, and compressed; the list tells which file is where. Both are blobs that are known by their digests. What a
// build has not changed stays in the chunk in which it is, so that only what changed is read, compressed and sent.
//
// What is unpacked was made by the builds of strangers: nothing leads out of the mount, sizes have bounds, and what is
// not as it was packed is unpacked not at all.
package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Format changes with what a reader must know. An Index of another format is not read.
const Format = "1"

// MostIndex is how large an Index may be, in bytes of JSON.
const MostIndex = 4 << 20

// Bounds of what is packed and unpacked.
const (
	mostMounts  = 256
	mostChunks  = 4_000     // of all mounts: a registry takes a manifest of at most 4 MiB
	mostEntries = 500_000   // of one mount
	mostList    = 256 << 20 // bytes of one list, as it is read
	mostID      = 4 << 10   // bytes
	// expansion is how many times as large as the limit what is unpacked may be.
	expansion = 8
)

// Index lists the mounts of a component, the one that was used last first.
type Index struct {
	Format string  `json:"format"`
	Mounts []Mount `json:"mounts"`
}

// Key tells mounts apart.
type Key struct {
	ID string `json:"id"`
	// Base is the digest of the files that the mount begins with, as from= and mode= say. Empty: there are none.
	Base digest.Digest `json:"base,omitempty"`
	// Ordinal tells apart mounts of one id that were in use at the same time: sharing=private.
	Ordinal int `json:"ordinal,omitempty"`
}

// String is the key as logs show it.
func (k Key) String() string {
	text := k.ID
	if k.Ordinal > 0 {
		text += fmt.Sprintf(" (%d)", k.Ordinal+1)
	}
	return text
}

// Mount is what a mount held.
type Mount struct {
	Key
	List   Blob   `json:"list"`
	Chunks []Blob `json:"chunks,omitempty"`
	Files  int    `json:"files"` // also folders and links
}

// Blob is a compressed blob.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`  // bytes
	Plain  int64         `json:"plain"` // bytes of what it is compressed from
}

// Blobs are the blobs of a mount.
func (m Mount) Blobs() []Blob { return append([]Blob{m.List}, m.Chunks...) }

// Size is how many bytes the blobs of a mount have.
func (m Mount) Size() (bytes int64) {
	for _, b := range m.Blobs() {
		bytes += b.Size
	}
	return bytes
}

// plain is how many bytes the contents of a mount have, those that no file has any more included.
func (m Mount) plain() (bytes int64) {
	for _, b := range m.Chunks {
		bytes += b.Plain
	}
	return bytes
}

// Store has the blobs of mounts.
type Store interface {
	// Open opens a blob that was packed before. Its content is not checked.
	Open(ctx context.Context, blob Blob) (io.ReadCloser, error)
	// Write takes a new blob.
	Write(ctx context.Context, blob Blob, content io.Reader) error
}

// Find finds a mount.
func (i Index) Find(key Key) (Mount, bool) {
	at := slices.IndexFunc(i.Mounts, func(m Mount) bool { return m.Key == key })
	if at < 0 {
		return Mount{}, false
	}
	return i.Mounts[at], true
}

// Check wants an index to be one that builds leave.
func (i Index) Check() error {
	if i.Format != Format {
		return fmt.Errorf("it is of another version: its format is %.20q, and not %q", i.Format, Format)
	}
	if len(i.Mounts) > mostMounts {
		return fmt.Errorf("it lists more than %d mounts", mostMounts)
	}
	known, blobs := map[Key]bool{}, 0
	for _, m := range i.Mounts {
		if known[m.Key] || len(m.ID) > mostID || m.Ordinal < 0 || m.Ordinal > mostMounts {
			return errors.New("it lists a mount twice, or one that no build has")
		}
		known[m.Key] = true
		if m.Base != "" && m.Base.Validate() != nil {
			return errors.New("it lists a mount whose base has no digest")
		}
		if blobs += len(m.Chunks); blobs > mostChunks {
			return fmt.Errorf("it lists more than %d chunks", mostChunks)
		}
		for _, b := range m.Blobs() {
			if b.Digest.Validate() != nil || b.Digest.Algorithm() != digest.SHA256 || b.Size <= 0 || b.Plain < 0 ||
				b.Size > 1<<50 || b.Plain > 1<<50 {
				return errors.New("it lists a blob that is none")
			}
		}
	}
	return nil
}

// Fit returns the index without the mounts that have no place within a limit, in bytes of blobs. Those that were used
// last stay. A mount is kept whole or not at all: programs take what they find of their caches for complete.
func (i Index) Fit(limit int64) (kept Index, out []Mount) {
	kept.Format = i.Format
	chunks := 0
	for _, m := range i.Mounts {
		if size := m.Size(); size > limit || m.plain() > expansion*limit || len(kept.Mounts) == mostMounts ||
			chunks+len(m.Chunks) > mostChunks {
			out = append(out, m)
			continue
		}
		limit -= m.Size()
		chunks += len(m.Chunks)
		kept.Mounts = append(kept.Mounts, m)
	}
	return kept, out
}
