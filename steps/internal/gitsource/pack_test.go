package gitsource

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zlib"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func testKey(t *testing.T) []byte { return gittest.NewKey(t, "") }

// receive reads raw as a pack.
func receive(t testing.TB, raw []byte) (*pack, error) {
	t.Helper()
	return receiveListed(t, raw, nil)
}

func receiveListed(t testing.TB, raw []byte, list lister) (*pack, error) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return receivePack(t.Context(), bytes.NewReader(raw), file, func() (*os.File, error) {
		spilled, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			return nil, err
		}
		return spilled, os.Remove(spilled.Name())
	}, list, &meter{})
}

// packed is a pack of these objects: type, what stands before the content, content.
func packed(objects ...[]byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(objects)))
	for _, o := range objects {
		out = append(out, o...)
	}
	sum := sha1.Sum(out)
	return append(out, sum[:]...)
}

func object(kind plumbing.ObjectType, size int, before, content []byte) []byte {
	b := byte(kind)<<4 | byte(size&15)
	var out bytes.Buffer
	for size >>= 4; size > 0; size >>= 7 {
		out.WriteByte(b | 0x80)
		b = byte(size & 0x7f)
	}
	out.WriteByte(b)
	out.Write(before)
	z := zlib.NewWriter(&out)
	z.Write(content)
	z.Close()
	return out.Bytes()
}

func nameOf(t testing.TB, kind plumbing.ObjectType, content []byte) plumbing.Hash {
	t.Helper()
	name, err := (&body{memory: content, size: int64(len(content))}).name(kind)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// contents resolves all blobs of a pack.
func contents(t testing.TB, p *pack) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := p.resolve(t.Context(), plumbing.BlobObject, 1, func(name plumbing.Hash) func(content) error {
		return func(c content) error {
			r, err := c.open()
			if err != nil {
				return err
			}
			raw, err := io.ReadAll(r)
			got[name.String()] = string(raw)
			return err
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// git's own deltas, by offset and by name, and all of its kinds of objects.
func TestPackOfGit(t *testing.T) {
	t.Parallel()
	repo := gittest.NewRepo(t, filepath.Join(t.TempDir(), "x.git"))
	var text strings.Builder
	for i := range 60 {
		text.WriteString(strings.Repeat(string(rune('a'+i%26)), 60) + "\n")
		repo.Commit(
			"main", "x", gittest.File("growing", text.String()), gittest.File("other", text.String()[:text.Len()/2]),
		)
	}
	repo.Git(nil, "tag", "-a", "-m", "x", "v1")
	objects := strings.Fields(repo.Git(nil, "rev-list", "--objects", "--all", "--no-object-names"))
	for name, flag := range map[string]string{"by offset": "--delta-base-offset", "by name": "--no-reuse-delta"} {
		t.Run(name, func(t *testing.T) {
			raw := repo.Git(
				[]byte(strings.Join(objects, "\n")), "pack-objects", "--stdout", "--quiet", "--depth=50", flag,
			)
			p, err := receive(t, []byte(raw+"\n")) // Git cuts a final line end; the checksum is not looked at
			if err != nil {
				t.Fatal(err)
			}
			deltas := 0
			for _, e := range p.entries {
				if e.kind.IsDelta() {
					deltas++
				}
			}
			if deltas < 60 {
				t.Fatalf("only %d deltas", deltas)
			}
			found := map[string]bool{}
			for name, raw := range contents(t, p) {
				found[name] = true
				if want := repo.Git(nil, "cat-file", "blob", name); want != strings.TrimSuffix(raw, "\n") {
					t.Fatalf("%s differs", name)
				}
			}
			for _, kind := range []plumbing.ObjectType{plumbing.CommitObject, plumbing.TreeObject, plumbing.TagObject} {
				if err := p.resolve(t.Context(), kind, 2, nil); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range objects {
				if found[name] {
					continue
				}
				kind, content, err := p.object(plumbing.NewHash(name))
				if err != nil {
					t.Fatal(err)
				}
				if got := nameOf(t, kind, content); got.String() != name {
					t.Fatalf("%s is named %s", name, got)
				}
			}
		})
	}
}

func TestDamagedPacks(t *testing.T) {
	t.Parallel()
	base := []byte("base content")
	blob := object(plumbing.BlobObject, len(base), nil, base)
	name := nameOf(t, plumbing.BlobObject, base)
	huge := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(base))), largestDelta+1)
	flipped := packed(blob)
	flipped[18] ^= 0xff
	for test, c := range map[string]struct {
		raw  []byte
		part string
	}{
		"no pack":                {[]byte("this is not a packfile"), "begins with"},
		"unknown version":        {[]byte("PACK\x00\x00\x00\x09\x00\x00\x00\x00"), "begins with"},
		"unknown type":           {packed(object(5, 1, nil, []byte("x"))), "type 5"},
		"larger than it claims":  {packed(object(plumbing.BlobObject, 3, nil, base)), "larger"},
		"smaller than it claims": {packed(object(plumbing.BlobObject, 300, nil, base)), "smaller"},
		"endless size":           {packed(bytes.Repeat([]byte{0xff}, 30)), "size"},
		"a flipped byte":         {flipped, "damaged"},
		"delta before its base":  {packed(object(plumbing.OFSDeltaObject, 1, []byte{1}, []byte("x"))), "no base"},
		"delta into the middle": {
			packed(blob, object(plumbing.OFSDeltaObject, 1, []byte{3}, []byte("x"))), "no base",
		},
		"delta of itself": {
			packed(blob, object(plumbing.OFSDeltaObject, 1, []byte{0}, []byte("x"))), "no base",
		},
		"delta that does not fit": {
			packed(blob, object(plumbing.REFDeltaObject, 3, name[:], []byte{99, 1, 0})), "does not fit",
		},
		"delta of an immense blob": {
			packed(blob, object(plumbing.REFDeltaObject, len(huge), name[:], huge)), "does not fit",
		},
		"delta that reads too much": {
			packed(blob, object(plumbing.REFDeltaObject, 5, name[:], []byte{12, 50, 0x91, 5, 50})), "does not fit",
		},
	} {
		t.Run(test, func(t *testing.T) {
			p, err := receive(t, c.raw)
			if err == nil {
				err = p.resolve(t.Context(), plumbing.BlobObject, 1, nil)
			}
			if err == nil || outcome.Of(err).Reason != outcome.RepositoryInvalid ||
				!strings.Contains(err.Error(), c.part) {
				t.Errorf("%v, want %q", err, c.part)
			}
		})
	}
	t.Run("cut anywhere", func(t *testing.T) {
		whole := packed(blob, object(plumbing.REFDeltaObject, 5, name[:], []byte{12, 3, 0x91, 1, 3}))
		for n := range whole {
			if _, err := receive(t, whole[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("after %d of %d bytes: %v", n, len(whole), err)
			}
		}
		p, err := receive(t, whole)
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(t, p)[nameOf(t, plumbing.BlobObject, []byte("ase")).String()]; got != "ase" {
			t.Errorf("the delta makes %q", got)
		}
	})
}

// deltaOf is a delta that copies its base of that size as often as it says, and adds a text.
func deltaOf(base, times int, text string) []byte {
	delta := binary.AppendUvarint(nil, uint64(base))
	delta = binary.AppendUvarint(delta, uint64(base*times+len(text)))
	for range times {
		for offset := 0; offset < base; offset += 1 << 23 {
			size := min(1<<23, base-offset)
			delta = append(delta, 0xff, byte(offset), byte(offset>>8), byte(offset>>16), byte(offset>>24))
			delta = append(delta, byte(size), byte(size>>8), byte(size>>16))
		}
	}
	if text != "" {
		delta = append(append(delta, byte(len(text))), text...)
	}
	return delta
}

// What memory has no room for goes to files, and comes out of them as it was.
func TestLargeDeltas(t *testing.T) {
	t.Parallel()
	base := bytes.Repeat([]byte("sixteen bytes..\n"), 3<<20) // 48 MiB
	blob := object(plumbing.BlobObject, len(base), nil, base)
	previous := nameOf(t, plumbing.BlobObject, base)
	objects, want := [][]byte{blob}, map[plumbing.Hash]int{previous: len(base)}
	now := base
	for _, text := range []string{"one", "two", "three"} { // each has a second delta, so that all are held
		delta := deltaOf(len(now), 1, text)
		side := deltaOf(len(now), 1, "side "+text)
		objects = append(objects, object(plumbing.REFDeltaObject, len(delta), previous[:], delta),
			object(plumbing.REFDeltaObject, len(side), previous[:], side))
		aside := append(bytes.Clone(now), "side "+text...)
		want[nameOf(t, plumbing.BlobObject, aside)] = len(aside)
		now = append(bytes.Clone(now), text...)
		previous = nameOf(t, plumbing.BlobObject, now)
		want[previous] = len(now)
	}
	p, err := receive(t, packed(objects...))
	if err != nil {
		t.Fatal(err)
	}
	got := map[plumbing.Hash]int{}
	err = p.resolve(t.Context(), plumbing.BlobObject, 1, func(name plumbing.Hash) func(content) error {
		return func(c content) error {
			for range 2 {
				r, err := c.open()
				if err != nil {
					return err
				}
				raw, err := io.ReadAll(r)
				if err != nil || nameOf(t, plumbing.BlobObject, raw) != name {
					t.Errorf("%s has another content, %v", name, err)
				}
				got[name] = len(raw)
			}
			return nil
		}
	})
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if held := p.inMemory.Load(); held != 0 {
		t.Errorf("%d bytes are held in the end", held)
	}
}

// A few bytes must not unpack to any amount, by their size or by the length of a chain.
func TestPackBombs(t *testing.T) {
	t.Parallel()
	zeros := object(plumbing.BlobObject, 64<<20, nil, make([]byte, 64<<20))
	name := nameOf(t, plumbing.BlobObject, make([]byte, 64<<20))
	copies := deltaOf(64<<20, 8, "")
	siblings := [][]byte{zeros}
	for range 20 {
		siblings = append(siblings, object(plumbing.REFDeltaObject, len(copies), name[:], copies))
	}
	chain := [][]byte{object(plumbing.BlobObject, 1, nil, []byte("x"))}
	for i := range mostDeltas + 1 {
		delta := deltaOf(i+1, 1, "x")
		chain = append(chain, object(plumbing.OFSDeltaObject, len(delta), []byte{byte(len(chain[i]))}, delta))
	}
	tree := object(plumbing.TreeObject, largestTree+1, nil, make([]byte, largestTree+1))
	for test, c := range map[string]struct {
		raw  []byte
		part string
	}{
		"deltas of half a gigabyte each": {packed(siblings...), "unpack to more than"},
		"a chain without end":            {packed(chain...), "a chain of more than 4095"},
		"an immense tree":                {packed(tree), "the tree at 12 has"},
		"more objects than can be": {
			[]byte("PACK\x00\x00\x00\x02\x7f\xff\xff\xff"), "claims to hold 2147483647 objects",
		},
	} {
		p, err := receive(t, c.raw)
		if err == nil {
			err = p.resolve(t.Context(), plumbing.BlobObject, 2, nil)
		}
		if err == nil || outcome.Of(err).Reason != outcome.RepositoryInvalid || !strings.Contains(err.Error(), c.part) {
			t.Errorf("%s: %v", test, err)
		}
		if p != nil && p.inMemory.Load() > mostInMemory {
			t.Errorf("%s: %d bytes are held", test, p.inMemory.Load())
		}
	}
}

// A delta's sizes may be written with more bytes than they take: git says how many.
func TestLongSizes(t *testing.T) {
	t.Parallel()
	base := []byte("base content")
	name := nameOf(t, plumbing.BlobObject, base)
	repo := gittest.NewRepo(t, filepath.Join(t.TempDir(), "packs.git"))
	accepted := 0
	for length := 2; length <= 10; length++ { // of more, not all versions of git say the same
		for last := range byte(3) {
			size := append(bytes.Repeat([]byte{0x80}, length-1), last)
			size[0] |= byte(len(base))
			delta := append(size, 1, 1, 'x')
			raw := packed(
				object(plumbing.BlobObject, len(base), nil, base),
				object(plumbing.REFDeltaObject, len(delta), name[:], delta),
			)
			_, want := devgit.Git(
				t.Context(), repo.Dir, devgit.Identity(gittest.When), bytes.NewReader(raw), "index-pack", "--stdin",
			)
			p, err := receive(t, raw)
			if err == nil {
				err = p.resolve(t.Context(), plumbing.BlobObject, 1, nil)
			}
			if (err == nil) != (want == nil) {
				t.Errorf("%d bytes, the last is %d: %v; git: %v", length, last, err, want)
			}
			if want == nil {
				accepted++
			}
		}
	}
	if accepted != 9 {
		t.Errorf("git took %d", accepted)
	}
}

// A delta that is taken does what go-git's does. go-git takes a few that git does not, such as one that ends within a
// size.
func FuzzPatch(f *testing.F) {
	f.Add([]byte("base content"), []byte{12, 3, 0x91, 1, 3})
	f.Add([]byte("base content"), []byte{12, 15, 0x90, 12, 3, 'a', 'b', 'c'})
	f.Add([]byte("x"), []byte{1, 0})
	f.Add([]byte("000000000000"), []byte("\f\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"))
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		from, to, rest, ok := deltaHead(delta)
		if !ok || from != uint64(len(base)) || to > 1<<20 {
			return
		}
		var got []byte
		// It makes what the delta says the size of, and nothing beyond that.
		fuzztest.Small.Bound(t, len(base)+len(delta), func() { got, ok = patch(base, rest, make([]byte, 0, to)) })
		large := &body{size: int64(to)}
		err := large.fill(func(w io.Writer) error {
			from := &body{memory: base, size: int64(len(base))}
			return (&pack{}).patchLarge(from, bufio.NewReader(bytes.NewReader(rest)), w)
		})
		if (err == nil) != ok || ok && !bytes.Equal(got, large.memory) {
			t.Errorf("%q, %v; as a large one: %q, %v", got, ok, large.memory, err)
		}
		if !ok || len(base) == 0 { // go-git knows no delta of nothing
			return
		}
		if _, n := binary.Uvarint(delta); max(n, len(delta)-len(rest)-n) > 9 {
			return // TestLongSizes: go-git takes fewer than git
		}
		want, err := packfile.PatchDelta(base, delta)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q, %v; go-git: %q, %v", got, ok, want, err)
		}
	})
}

// Whatever a server sends ends in an error or a pack, in bounded time and memory.
func FuzzReceivePack(f *testing.F) {
	base := []byte("base content")
	name := nameOf(f, plumbing.BlobObject, base)
	f.Add(packed(object(plumbing.BlobObject, len(base), nil, base), object(plumbing.REFDeltaObject, 5, name[:], []byte{
		12, 3, 0x91, 1, 3,
	})))
	f.Add(packed(object(plumbing.TreeObject, 0, nil, nil), object(plumbing.OFSDeltaObject, 2, []byte{9}, []byte{0, 0})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Of(64, 64).Bound(t, len(raw), func() {
			p, err := receive(t, raw)
			for kind := plumbing.CommitObject; kind <= plumbing.TagObject && err == nil; kind++ {
				err = p.resolve(t.Context(), kind, 1, nil)
			}
			if err != nil {
				return
			}
			// An index that is written of it is one for go-git, too.
			if list, err := p.index(); err == nil {
				read := idxfile.NewMemoryIndex()
				if err := idxfile.NewDecoder(bytes.NewReader(list)).Decode(read); err != nil {
					t.Errorf("the index: %v", err)
				} else if n, _ := read.Count(); n != int64(len(p.entries)) {
					t.Errorf("the index has %d objects, the pack %d", n, len(p.entries))
				}
			}
		})
	})
}

// FuzzParseTree: Trees of Git: no name that is taken leads out of its folder.
func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa40000 .git\x00bbbbbbbbbbbbbbbbbbbb"))
	f.Add(fuzztest.Long([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			parseTree(plumbing.ZeroHash, raw, func(e treeEntry) error {
				if checkName(e.name) == nil && (!filepath.IsLocal(e.name) || strings.Contains(e.name, "/") ||
					strings.EqualFold(e.name, ".git")) {
					t.Errorf("%q is taken", e.name)
				}
				return nil
			})
		})
	})
}

// FuzzAdvertisement: What a Git server says of its refs, and sends by the side band.
func FuzzAdvertisement(f *testing.F) {
	f.Add([]byte("00440123456789012345678901234567890123456789 refs/heads/main\x00shallow\n0000"))
	f.Add(fuzztest.Long([]byte("003d0123456789012345678901234567890123456789 refs/heads/main\n")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Of(8, 4).Bound(t, len(raw), func() {
			adv, err := readAdvertisement(listen(raw))
			if err == nil {
				revision{branch: "main"}.choose(adv)
				revision{commit: "0123456"}.choose(adv)
			}
			req := request{depth: 1}
			if r, err := req.readPack(listen(raw), &advertisement{
				capabilities: map[string]string{"side-band-64k": ""},
			}, nil); err == nil {
				io.Copy(io.Discard, r)
			}
		})
	})
}

func listen(raw []byte) packets { return packets{bufio.NewReader(bytes.NewReader(raw))} }
