package gitsource

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	goobject "github.com/go-git/go-git/v5/plumbing/object"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// The pattern language of .gitattributes and .lfsconfig: no pattern takes a text for ever.
func FuzzWildmatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"*.txt", "a.txt"}, {"**/a/**/b", "x/a/y/b"}, {"[[:alpha:]-]*", "a-b"}, {`[\]a]`, "]"},
		{strings.Repeat("**/a/", 20) + "b", strings.Repeat("a/", 60) + "c"},
		{strings.Repeat("*a", 30) + "b", strings.Repeat("a", 200)},
		{strings.Repeat("**", 20) + "b", strings.Repeat("a/", 90)},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if len(pattern) > longestAttributes || len(text) > longestPath {
			return
		}
		fuzztest.Small.Bound(t, len(pattern)+len(text), func() {
			wildmatch(pattern, text, true)
			wildmatch(pattern, text, false)
		})
		if pattern == text && !strings.ContainsAny(pattern, `*?[\`) && !wildmatch(pattern, text, true) {
			t.Errorf("%q does not match itself", pattern)
		}
	})
}

// FuzzAttributes: .gitattributes: its lines, macros and patterns.
func FuzzAttributes(f *testing.F) {
	for _, seed := range []string{
		"*.bat text eol=crlf\n*.png -text\n/docs/** ident\n", "[attr]a b\n[attr]b a\n* a\n",
		"\"a\\tb\" working-tree-encoding=UTF-16\n", "* filter=lfs diff=lfs -text\n",
	} {
		f.Add(seed, "docs/a.bat")
		f.Add(fuzztest.Long(seed), "docs/a.bat")
	}
	f.Add(fuzztest.Laughs(func(name, twice int) string {
		return fmt.Sprintf("[attr]a%d a%d -b a%d\n", name, twice, twice)
	})+"* a25\n", "docs/a.bat")
	f.Fuzz(func(t *testing.T, text, file string) {
		fuzztest.Small.Bound(t, len(text)+len(file), func() {
			a := &attributes{rules: map[string][]rule{}, macros: map[string][]assignment{}}
			for line := range strings.Lines(text) {
				if r, ok := a.parse("", line); ok {
					a.rules[""] = append(a.rules[""], r)
				}
			}
			if file != "" && len(file) <= longestPath {
				conversionOf(a.of(file))
			}
		})
	})
}

// A commit that go-git can read has the same tree and the same time for us.
func FuzzCommit(f *testing.F) {
	f.Add([]byte("tree 0123456789012345678901234567890123456789\nparent 9876543210987654321098765432109876543210\n" +
		"author A <a@example.com> 1136239445 +0700\ncommitter B <b@example.com> 1136239445 +0700\n\nmessage\n"))
	f.Add([]byte("tree 0123456789012345678901234567890123456789\nauthor \xe4 <x> -1 +0\nencoding latin1\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got commit
		var err error
		fuzztest.Small.Bound(t, len(raw), func() { got, err = parseCommit(plumbing.ZeroHash, raw) })
		for _, text := range []string{got.authorName, got.authorEmail} {
			if !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("%q goes into logs", text)
			}
		}
		memory := &plumbing.MemoryObject{}
		memory.SetType(plumbing.CommitObject)
		memory.Write(raw)
		want := &goobject.Commit{}
		if want.Decode(memory) == nil && err == nil && bytes.HasPrefix(raw, []byte("tree ")) &&
			bytes.Count(raw, []byte("tree ")) == 1 && got.tree != want.TreeHash {
			t.Errorf("tree %s, go-git: %s", got.tree, want.TreeHash)
		}
	})
}

// FuzzTag: Annotated tags of Git.
func FuzzTag(f *testing.F) {
	f.Add([]byte("object 0123456789012345678901234567890123456789\ntype commit\ntag v1\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() { parseTag(plumbing.ZeroHash, raw) })
	})
}

// FuzzKnownHosts: known_hosts: its lines, hashed and with patterns, and what they say of a host.
func FuzzKnownHosts(f *testing.F) {
	f.Add(wellKnown, "github.com:22")
	f.Add(fuzztest.Long(wellKnown), "github.com:22")
	f.Add([]byte("@cert-authority *.example.com,!x.example.com ssh-ed25519 AAAA\n"+
		"|1|c2FsdA==|aGFzaA== ssh-rsa AAAA\n[h]:2222 ssh-rsa x\n@revoked * ssh-rsa AAAA"), "[a.example.com]:2222")
	f.Fuzz(func(t *testing.T, raw []byte, address string) {
		if len(address) > longestPath {
			return
		}
		fuzztest.Of(4, 4).Bound(t, len(raw)+len(address), func() {
			k := parseKnownHosts(raw)
			for _, host := range hostNames(address) {
				for _, marker := range []string{"", authority, revoked} {
					k.of(host, marker)
				}
			}
		})
	})
}

// A submodule's name and path come from .gitmodules. The name becomes a folder beside the repository's own.
func FuzzModules(f *testing.F) {
	module := []byte("[submodule \"a\"]\n\tpath = lib/a\n\turl = ../a.git\n\tupdate = none\n")
	f.Add(module)
	f.Add(fuzztest.Long(module))
	f.Add([]byte("[submodule \"../../x\"]\n\tpath = ../x\n\turl = ext::sh -c x\n[submodule \"a\\\\..\\\\b\"]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		root := written(t, ".gitmodules", raw)
		fuzztest.Of(4, 4).Bound(t, len(raw), func() {
			modules, err := readModules(root)
			if err != nil {
				return
			}
			for _, m := range modules {
				if m.safe() && !filepath.IsLocal(m.name) && !filepath.IsLocal("x/"+m.name) {
					t.Errorf("%q is taken for a name", m.name)
				}
			}
		})
	})
}

// FuzzLFSConfig: .lfsconfig: its patterns end, whatever the path is.
func FuzzLFSConfig(f *testing.F) {
	f.Add([]byte("[lfs]\n\turl = https://lfs.example.com\n\tfetchexclude = media/**, *.psd\n"), "media/a.psd")
	f.Fuzz(func(t *testing.T, raw []byte, file string) {
		root := written(t, ".lfsconfig", raw)
		if file = filepath.Clean(file); !filepath.IsLocal(file) || len(file) > 200 || len(raw) > 4<<10 {
			return // each pattern is tried with each folder of a path: their product is what the cost is of
		}
		fuzztest.Of(64, 4).Bound(t, len(raw), func() {
			if c, err := readLFSConfig(root); err == nil {
				c.wants(file)
			}
		})
	})
}

// FuzzPointer: Pointers of Git LFS: what is taken for one has a sum and a size.
func FuzzPointer(f *testing.F) {
	sum := strings.Repeat("a1", 32)
	f.Add([]byte("version https://git-lfs.github.com/spec/v1\noid sha256:" + sum + "\nsize 12345\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			p, ok := parsePointer(raw)
			sum := strings.ToLower(p.oid)
			if ok && (p.size < 0 || len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "") {
				t.Errorf("%+v is taken for a pointer", p)
			}
		})
	})
}

// What a server of version 2 of the protocol answers.
func FuzzProtocol2(f *testing.F) {
	f.Add([]byte("000eversion 2\n000cls-refs\n0012fetch=shallow\n0000" +
		"003d0123456789012345678901234567890123456789 refs/heads/main\n0000" + "000dpackfile\n0005\x010000"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Of(8, 4).Bound(t, len(raw), func() {
			adv := &advertisement{capabilities: map[string]string{}}
			p := listen(raw)
			if adv.readCapabilities(p) != nil || adv.readRefs(p) != nil {
				p = listen(raw)
			}
			if r, err := readPack2(p, func(string) {}); err == nil {
				io.Copy(io.Discard, r)
			}
		})
	})
}

// Texts of strangers stay one line, whatever they hold.
func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b[0m\r\nnext\xff"))
	f.Add(fuzztest.Long([]byte("\x1b[31mred\xff")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			if got := clean(raw); !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
				t.Errorf("%q", got)
			}
		})
	})
}

// What changes files on their way to the disk.
func FuzzConversion(f *testing.F) {
	f.Add([]byte("a $Id$ b $Id: x $ c $Id: y\n$Id$"))
	f.Add(fuzztest.Long([]byte("$Id: ")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzztest.Small.Bound(t, len(raw), func() {
			expandIdent(raw, "0123456789012345678901234567890123456789")
			toCRLF(raw)
			plainText(raw)
		})
	})
}

func written(t *testing.T, name string, content []byte) *os.Root {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// FuzzHosts: the hosts that a secret is for are read whole or refused, and a host that is listed is in the list.
func FuzzHosts(f *testing.F) {
	f.Add("git.example.com, *.example.com:8443\n[::1]:22 git.example.com:* *")
	f.Add("::1,a:b,*.*.a,:1,[")
	f.Add(fuzztest.Long("*.example.com:8443 "))
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.Small.Bound(t, len(text), func() {
			if list, err := parseHosts(text); err == nil {
				for _, entry := range list {
					if entry.host == "" && entry != everyHost {
						t.Errorf("%q has an entry without a host", text)
					}
				}
			}
		})
	})
}

// FuzzDemand: which ways to prove who one is a server asks for.
func FuzzDemand(f *testing.F) {
	for _, seed := range []string{
		`Basic realm="x"`, `Negotiate, BASIC`, `Bearer realm="basic "`, "NTLM\x1b[2J", fuzztest.Long("a,"),
	} {
		f.Add(seed)
	}
	c := &httpConnection{}
	f.Fuzz(func(t *testing.T, challenge string) {
		fuzztest.Small.Bound(t, len(challenge), func() {
			if err := c.takesPassword(http.Header{"Www-Authenticate": {challenge}}); err != nil &&
				strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("%q", err)
			}
		})
	})
}
