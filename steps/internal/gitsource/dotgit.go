package gitsource

import (
	"bytes"
	"compress/zlib"
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/go-git/go-git/v5/plumbing/hash"
)

// writeDotGit makes .git what `git clone --depth 1 --filter=blob:none` leaves, at a detached HEAD: the commit, its
// trees and symbolic links are there, the contents of files are not. So a build that asks git log, describe or status
// gets its answer, while the workspace does not hold every file a second time; and .git depends on nothing but the
// commit, its URL and the tag asked for, where the server's own pack differs from one fetch to the next, and with it
// the digest of every image that has .git copied into it.
func writeDotGit(t *tree, p *pack, remote Remote, at commit, c choice) error {
	for _, dir := range []string{
		".git", ".git/objects", ".git/objects/pack", ".git/refs", ".git/refs/heads", ".git/refs/tags",
	} {
		if err := t.root.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	text := map[string]string{
		"HEAD": at.hash.String() + "\n",
		"config": fmt.Sprintf("[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"+
			"[remote \"origin\"]\n\turl = %s\n"+
			"\tfetch = +refs/heads/*:refs/remotes/origin/*\n\tpromisor = true\n\tpartialclonefilter = blob:none\n",
			configQuote(remote.String())),
	}
	keep := append(slices.Clone(t.trees), at.hash)
	if at.parents > 0 {
		text["shallow"] = at.hash.String() + "\n"
	}
	if c.tag != "" && plumbing.ReferenceName(c.tag).Validate() == nil {
		text["packed-refs"] = c.object.String() + " " + c.tag + "\n"
		for name := c.object; name != at.hash; { // the tag itself, and those it points at
			keep = append(keep, name)
			_, raw, err := p.object(name)
			if err != nil {
				return err
			}
			if name, err = parseTag(name, raw); err != nil {
				return err
			}
		}
	}
	for name, content := range text {
		if err := t.root.WriteFile(".git/"+name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	// git compares a symbolic link with the object itself, where it compares a file with its hash.
	links := map[plumbing.Hash]string{}
	for _, l := range t.links {
		links[l.hash] = l.target
		keep = append(keep, l.hash)
	}
	object := func(name plumbing.Hash) (plumbing.ObjectType, []byte, error) {
		if target, ok := links[name]; ok {
			return plumbing.BlobObject, []byte(target), nil
		}
		return p.object(name)
	}
	if err := writePack(t.root, keep, object); err != nil {
		return err
	}
	return t.writeIndex()
}

// configQuote writes a value for .git/config.
func configQuote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(value) + `"`
}

// writePack writes a pack of these objects that depends on nothing else.
func writePack(
	root *os.Root, objects []plumbing.Hash, object func(plumbing.Hash) (plumbing.ObjectType, []byte, error),
) error {
	plumbing.HashesSort(objects)
	objects = slices.Compact(objects)
	sum := hash.New(crypto.SHA1)
	file, err := root.Create(".git/objects/pack/new")
	if err != nil {
		return err
	}
	defer file.Close()
	out := &counter{w: io.MultiWriter(file, sum)}
	var names idxfile.Writer
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(objects)))
	if _, err := out.Write(head); err != nil {
		return err
	}
	if err := names.OnHeader(uint32(len(objects))); err != nil {
		return err
	}
	var buf bytes.Buffer
	z, err := zlib.NewWriterLevel(&buf, zlib.BestSpeed)
	if err != nil {
		return err
	}
	for _, name := range objects {
		kind, raw, err := object(name)
		if err != nil {
			return err
		}
		buf.Reset()
		size := len(raw)
		b := byte(kind)<<4 | byte(size&15)
		for size >>= 4; size > 0; size >>= 7 {
			buf.WriteByte(b | 0x80)
			b = byte(size & 0x7f)
		}
		buf.WriteByte(b)
		z.Reset(&buf)
		z.Write(raw)
		if err := z.Close(); err != nil {
			return err
		}
		names.Add(name, uint64(out.n), crc32.ChecksumIEEE(buf.Bytes()))
		if _, err := out.Write(buf.Bytes()); err != nil {
			return err
		}
	}
	var trailer plumbing.Hash
	sum.Sum(trailer[:0])
	if _, err := file.Write(trailer[:]); err != nil {
		return err
	}
	if err := names.OnFooter(trailer); err != nil {
		return err
	}
	base := ".git/objects/pack/pack-" + trailer.String()
	list, err := names.Index()
	if err != nil {
		return err
	}
	buf.Reset()
	if _, err := idxfile.NewEncoder(&buf).Encode(list); err != nil {
		return err
	}
	return errors.Join(
		file.Close(),
		root.Rename(".git/objects/pack/new", base+".pack"),
		root.WriteFile(base+".idx", buf.Bytes(), 0o644),
		root.WriteFile(base+".promisor", nil, 0o644), // missing contents are no damage, and origin has them
	)
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// writeIndex writes the index as git read-tree does: without the files' times, so that it is the same each time.
func (t *tree) writeIndex() error {
	list := &index.Index{Version: 2, Entries: make([]*index.Entry, 0, len(t.files)+len(t.submodules))}
	for _, files := range [][]file{t.files, t.submodules} {
		for _, f := range files {
			list.Entries = append(list.Entries, &index.Entry{Name: f.path, Hash: f.hash, Mode: f.mode})
		}
	}
	file, err := t.root.Create(".git/index")
	if err != nil {
		return err
	}
	return errors.Join(index.NewEncoder(file).Encode(list), file.Close())
}
