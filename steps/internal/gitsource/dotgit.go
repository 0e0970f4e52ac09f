package gitsource

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// repository is a Git directory in the making, as `git clone --depth 1 --branch` leaves it, for submodules with
// --recurse-submodules and --shallow-submodules. Builds ask Git for versions and change logs, without credentials and
// often without the server, so all objects of the commit's tree are there: the pack is kept as it came. It may differ
// from one fetch to the next, which is why .git is left out of what is built.
type repository struct {
	root    *os.Root // the Git directory
	place   string   // where that is in the source
	work    string   // where the files are in the source; empty for the source itself
	modules []module // submodules that are checked out
}

// newRepository makes an empty Git directory for the files in root. That of a submodule is in its parent's.
func newRepository(root *os.Root, parent *repository, name, work string) (*repository, error) {
	r := &repository{place: ".git"}
	in, dir := root, ".git"
	if parent != nil {
		in, dir = parent.root, parent.room(name)
		r.place, r.work = path.Join(parent.place, dir), work
		link := "gitdir: " + relative(r.work, r.place) + "\n"
		if err := root.WriteFile(".git", []byte(link), 0o644); err != nil {
			return nil, err
		}
	}
	if err := in.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if r.root, err = in.OpenRoot(dir); err != nil {
		return nil, err
	}
	for _, dir := range []string{"objects/pack", "objects/info", "refs/heads", "refs/tags", "info"} {
		if err := r.root.MkdirAll(dir, 0o755); err != nil {
			return nil, errors.Join(err, r.root.Close())
		}
	}
	return r, nil
}

// room is the place of a submodule's Git directory: its name, as in git, unless that is within another's or around one.
func (r *repository) room(name string) string {
	dir := "modules/" + name
	taken := path.Clean(dir) != dir
	for at := dir; at != "modules" && !taken; at = path.Dir(at) {
		_, err := r.root.Lstat(at + "/objects")
		taken = !errors.Is(err, fs.ErrNotExist)
	}
	if _, err := r.root.Lstat(dir); taken || !errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("modules/%x", sha1.Sum([]byte(name)))
	}
	return dir
}

// relative is the way from one directory in the source to another.
func relative(from, to string) string {
	a, b := strings.Split(path.Clean(from), "/"), strings.Split(path.Clean(to), "/")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	return path.Join(strings.Repeat("../", len(a)), strings.Join(b, "/"))
}

// newPack makes the file that a pack is received into. An earlier one is dropped.
func (r *repository) newPack() (*os.File, error) {
	if err := r.root.Remove(incomingPack); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return r.root.OpenFile(incomingPack, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
}

// newSpill makes a file without a name.
func (r *repository) newSpill() (*os.File, error) {
	name := "objects/pack/tmp_body_" + rand.Text() // several are made at once
	file, err := r.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := r.root.Remove(name); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

const incomingPack = "objects/pack/tmp_pack"

// keep makes the received pack one of the repository. All its objects must be resolved.
func (r *repository) keep(p *pack) error {
	list, err := p.index()
	if err != nil {
		return err
	}
	base := fmt.Sprintf("objects/pack/pack-%x", p.checksum)
	return errors.Join(r.root.WriteFile(base+".idx", list, 0o444), r.root.Rename(incomingPack, base+".pack"))
}

// index is the pack's index, gitformat-pack(5) version 2.
func (p *pack) index() ([]byte, error) {
	order := make([]int32, len(p.entries))
	for i := range p.entries {
		if p.entries[i].kind.IsDelta() {
			return nil, invalid("the delta at %d has no base", p.entries[i].start)
		}
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return bytes.Compare(p.entries[a].hash[:], p.entries[b].hash[:])
	})
	sums, err := p.crc32s()
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, 8+256*4+len(order)*(20+4+4)+40)
	out = append(out, "\xfftOc\x00\x00\x00\x02"...)
	n := 0
	for first := range 256 {
		for n < len(order) && int(p.entries[order[n]].hash[0]) <= first {
			n++
		}
		out = binary.BigEndian.AppendUint32(out, uint32(n))
	}
	for _, i := range order {
		out = append(out, p.entries[i].hash[:]...)
	}
	for _, i := range order {
		out = binary.BigEndian.AppendUint32(out, sums[i])
	}
	var far []byte
	for _, i := range order {
		at := p.entries[i].start
		if at >= 1<<31 {
			far = binary.BigEndian.AppendUint64(far, uint64(at))
			at = 1<<31 | int64(len(far)/8-1)
		}
		out = binary.BigEndian.AppendUint32(out, uint32(at))
	}
	out = append(append(out, far...), p.checksum[:]...)
	sum := sha1.Sum(out)
	return append(out, sum[:]...), nil
}

// crc32s are the checksums of the entries as they are in the pack.
func (p *pack) crc32s() ([]uint32, error) {
	sums := make([]uint32, len(p.entries))
	in := bufio.NewReaderSize(io.NewSectionReader(p.file, 12, 1<<62), 256<<10)
	for i := range p.entries {
		left := p.end - p.entries[i].start
		if i+1 < len(p.entries) {
			left = p.entries[i+1].start - p.entries[i].start
		}
		for left > 0 {
			part, err := in.Peek(int(min(left, int64(in.Size()))))
			if err != nil {
				return nil, err
			}
			sums[i] = crc32.Update(sums[i], crc32.IEEETable, part)
			in.Discard(len(part))
			left -= int64(len(part))
		}
	}
	return sums, nil
}

// write writes all but the objects: HEAD, references, settings and the index.
func (r *repository) write(t *tree, p *pack, remote Remote, at commit, c choice) error {
	refs := map[string]plumbing.Hash{} // packed
	text := map[string]string{"HEAD": at.hash.String() + "\n"}
	branch, onBranch := strings.CutPrefix(c.name, "refs/heads/")
	onBranch = onBranch && plumbing.ReferenceName(c.name).Validate() == nil
	fetch := "+refs/heads/*:refs/remotes/origin/*"
	switch {
	case onBranch:
		text["HEAD"] = "ref: " + c.name + "\n"
		text[c.name] = at.hash.String() + "\n"
		refs["refs/remotes/origin/"+branch] = at.hash
		fetch = "+" + c.name + ":refs/remotes/origin/" + branch
		if c.defaultBranch == c.name {
			text["refs/remotes/origin/HEAD"] = "ref: refs/remotes/origin/" + branch + "\n"
		}
	case strings.HasPrefix(c.name, "refs/tags/") && plumbing.ReferenceName(c.name).Validate() == nil:
		fetch = "+" + c.name + ":" + c.name
	}
	for _, tag := range c.tags(at.hash) {
		if _, ok := p.byHash[tag.hash]; ok {
			refs[tag.name] = tag.hash
		}
	}
	if at.parents > 0 {
		text["shallow"] = at.hash.String() + "\n"
	}
	var packed strings.Builder
	packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for _, name := range slices.Sorted(keysOf(refs)) {
		packed.WriteString(refs[name].String() + " " + name + "\n")
		if refs[name] != at.hash {
			packed.WriteString("^" + at.hash.String() + "\n")
		}
	}
	text["packed-refs"] = packed.String()
	text["config"] = r.config(remote, fetch, branch, onBranch)
	for name, content := range text {
		if err := r.root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := r.root.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return r.writeIndex(t)
}

// config are the repository's settings. A volume that goes from pod to pod may give its files another owner. That is
// not a change of them, so only their size and time count.
func (r *repository) config(remote Remote, fetch, branch string, onBranch bool) string {
	out := "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n" +
		"\ttrustctime = false\n\tcheckStat = minimal\n"
	if r.work != "" {
		out += "\tworktree = " + configQuote(relative(r.place, r.work)) + "\n"
	}
	out += fmt.Sprintf(
		"[remote \"origin\"]\n\turl = %s\n\tfetch = %s\n", configQuote(remote.String()), configQuote(fetch),
	)
	if onBranch {
		out += fmt.Sprintf("[branch %s]\n\tremote = origin\n\tmerge = %s\n", sectionQuote(branch),
			configQuote("refs/heads/"+branch))
	}
	for _, m := range r.modules {
		out += fmt.Sprintf("[submodule %s]\n\tactive = true\n\turl = %s\n", sectionQuote(m.name), configQuote(m.url))
	}
	return out
}

// configQuote writes a value for a file of settings.
func configQuote(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(value) + `"`
}

// sectionQuote writes a section's name of its own for a file of settings.
func sectionQuote(name string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `"`
}

func keysOf[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
