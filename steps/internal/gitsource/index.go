package gitsource

import (
	"bufio"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"strings"
)

// writeIndex writes the index, gitformat-index(5) version 2, with the files' sizes and times, so that git need not read
// them to see that none is changed: some of its commands report a change instead of reading. The rest of what stat says
// is left out, since checkStat is minimal.
func (r *repository) writeIndex(t *tree) error {
	entries := slices.Concat(t.files, t.submodules)
	slices.SortFunc(entries, func(a, b *file) int { return strings.Compare(a.path, b.path) })
	to, err := r.root.OpenFile("index", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	sum := sha1.New()
	out := bufio.NewWriterSize(io.MultiWriter(to, sum), 256<<10)
	b := binary.BigEndian.AppendUint32(append(make([]byte, 0, 4<<10), "DIRC\x00\x00\x00\x02"...), uint32(len(entries)))
	for _, f := range entries {
		at := uint64(uint32(f.modified.Sec))<<32 | uint64(uint32(f.modified.Nsec))
		b = binary.BigEndian.AppendUint64(b, at) // ctime
		b = binary.BigEndian.AppendUint64(b, at)
		b = append(b, make([]byte, 8)...) // device, inode
		b = binary.BigEndian.AppendUint32(b, uint32(f.mode))
		b = append(b, make([]byte, 8)...) // user, group
		b = binary.BigEndian.AppendUint32(b, uint32(f.size))
		b = append(b, f.hash[:]...)
		b = binary.BigEndian.AppendUint16(b, uint16(min(len(f.path), 0xfff)))
		b = append(b, f.path...)
		const fixed = 62
		b = append(b, make([]byte, 8-(fixed+len(f.path))%8)...) // ends in one to eight NULs
		if _, err := out.Write(b); err != nil {
			break // Flush returns it, too
		}
		b = b[:0]
	}
	if len(entries) == 0 {
		out.Write(b)
	}
	err = out.Flush()
	if err == nil {
		_, err = to.Write(sum.Sum(nil))
	}
	return cmp.Or(err, to.Close())
}
