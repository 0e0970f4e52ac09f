package gitsource

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/klauspost/compress/zlib"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

func testKey(t *testing.T) []byte { return gittest.NewKey(t, "") }

// receive reads raw as a pack.
func receive(t testing.TB, raw []byte) (*pack, error) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return receivePack(t.Context(), bytes.NewReader(raw), file)
}

// packed is a pack of these objects: type, what stands before the content, content.
func packed(objects ...[]byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(objects)))
	for _, o := range objects {
		out = append(out, o...)
	}
	return append(out, make([]byte, 20)...)
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

// contents resolves all blobs of a pack.
func contents(t testing.TB, p *pack) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := p.resolve(t.Context(), plumbing.BlobObject, 1, func(name plumbing.Hash) func(content) error {
		return func(open content) error {
			r, err := open()
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
				if got := nameOf(kind, content); got.String() != name {
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
	name := nameOf(plumbing.BlobObject, base)
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
		if got := contents(t, p)[nameOf(plumbing.BlobObject, []byte("ase")).String()]; got != "ase" {
			t.Errorf("the delta makes %q", got)
		}
	})
}

// A delta that is taken does what go-git's does. go-git takes a few that git does not, such as one that ends within a
// size.
func FuzzPatch(f *testing.F) {
	f.Add([]byte("base content"), []byte{12, 3, 0x91, 1, 3})
	f.Add([]byte("base content"), []byte{12, 15, 0x90, 12, 3, 'a', 'b', 'c'})
	f.Add([]byte("x"), []byte{1, 0})
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		got, ok := patch(base, delta)
		if !ok || len(base) == 0 { // go-git knows no delta of nothing
			return
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
	name := nameOf(plumbing.BlobObject, base)
	f.Add(packed(object(plumbing.BlobObject, len(base), nil, base), object(plumbing.REFDeltaObject, 5, name[:], []byte{
		12, 3, 0x91, 1, 3,
	})))
	f.Add(packed(object(plumbing.TreeObject, 0, nil, nil), object(plumbing.OFSDeltaObject, 2, []byte{9}, []byte{0, 0})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := receive(t, raw)
		for kind := plumbing.CommitObject; kind <= plumbing.TagObject && err == nil; kind++ {
			err = p.resolve(t.Context(), kind, 1, nil)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00aaaaaaaaaaaaaaaaaaaa40000 .git\x00bbbbbbbbbbbbbbbbbbbb"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		entries, err := parseTree(plumbing.ZeroHash, raw)
		if err != nil {
			return
		}
		for _, e := range entries {
			if checkName(e.name) == nil && (!filepath.IsLocal(e.name) || strings.Contains(e.name, "/") ||
				strings.EqualFold(e.name, ".git")) {
				t.Errorf("%q is taken", e.name)
			}
		}
	})
}

func FuzzAdvertisement(f *testing.F) {
	f.Add([]byte("00440123456789012345678901234567890123456789 refs/heads/main\x00shallow\n0000"))
	f.Fuzz(func(t *testing.T, raw []byte) {
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
}

func listen(raw []byte) packets { return packets{bufio.NewReader(bytes.NewReader(raw))} }
