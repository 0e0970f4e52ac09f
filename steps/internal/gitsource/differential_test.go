package gitsource

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/steps/internal/gittest"
)

// The step and git make the same of every repository: files, modes, links, index, and a status that finds no change.
func TestSameAsGit(t *testing.T) {
	if testing.Short() {
		t.Skip("runs git hundreds of times")
	}
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	library := newGreeting(t, server.Repo(t, "library.git"))
	for seed := range uint64(24) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			g := &generator{Rand: rand.New(rand.NewPCG(seed, 1)), submodule: library.first}
			repo := server.Repo(t, fmt.Sprintf("random-%d.git", seed))
			repo.Commit("main", "before", g.tree(0, "")...)
			g.modules.Reset()
			items := g.tree(0, "")
			if g.modules.Len() > 0 {
				items = append(items, gittest.File(".gitmodules", g.modules.String()))
			}
			commit := repo.Commit("main", "after", items...)
			g.repack(repo)
			sameAsGit(t, server, repo, commit)
		})
	}
}

// What attributes do to line ends, encodings and $Id$, one combination after another.
func TestAttributesSameAsGit(t *testing.T) {
	if testing.Short() {
		t.Skip("runs git hundreds of times")
	}
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	var text, ident []string
	for _, a := range []string{
		"", "text", "-text", "text=auto", "text=input", "crlf", "-crlf", "crlf=input", "binary",
	} {
		for _, eol := range []string{"", "eol=lf", "eol=crlf", "!eol", "eol=odd"} {
			text = append(text, strings.TrimSpace(a+" "+eol))
		}
	}
	for _, encoding := range []string{
		"UTF-16", "UTF-16LE", "UTF-16BE", "UTF-16LE-BOM", "UTF-16BE-BOM", "UTF-32", "UTF-32LE", "UTF-8", "ISO-8859-1",
		"latin1", "CP1252", "windows-1252", "SHIFT-JIS", "EUC-JP", "KOI8-R", "GBK", "utf-16le",
	} {
		ident = append(ident, "text working-tree-encoding="+encoding,
			"text eol=crlf working-tree-encoding="+encoding)
	}
	ident = append(ident, "ident", "-ident", "ident text eol=crlf", "ident working-tree-encoding=UTF-16", "ident=x")
	contents := map[string]string{
		"lf": "a\nb\n", "crlf": "a\r\nb\r\n", "mixed": "a\nb\r\nc\n", "lone-cr": "a\rb\n", "no-end": "a\nb",
		"nul":     "a\n\x00b\n",
		"control": "\x01\x02\x03\n", "few-control": strings.Repeat("text\n", 100) + "\x01", "eof": "a\n\x1a",
		"empty": "",
		"tab":   "\ta\n\fb\x1b\b\n", "del": "\x7f\n", "latin": "caf\u00e9\n", "high": "a\xff\n",
	}
	idents := map[string]string{
		"id": "$Id$\n", "old": "$Id: 0123 $ x $Id$\n", "foreign": "$Id: file.c,v 1.2 someone $\n",
		"open": "$Id: x\n$Id$",
		"odd":  "$Id:$ $Idx$ $$Id$$ $id$ $Id", "latin": "caf\u00e9\n", "ascii": "a\nb\n", "crlf": "$Id$\r\n",
	}
	for name, c := range map[string]struct {
		attributes []string
		contents   map[string]string
	}{"line ends": {text, contents}, "encodings": {ident, idents}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var items []gittest.Item
			for i, a := range c.attributes {
				inner := []gittest.Item{gittest.File(".gitattributes", "* "+a+"\n")}
				for name, content := range c.contents {
					inner = append(inner, gittest.File(name, content))
				}
				items = append(items, gittest.Dir(fmt.Sprintf("%02d", i), inner...))
			}
			repo := server.Repo(t, strings.ReplaceAll(name, " ", "-")+".git")
			sameAsGit(t, server, repo, repo.Commit("main", "x", items...))
		})
	}
}

// Which files an attribute is for.
func TestAttributePatternsSameAsGit(t *testing.T) {
	if testing.Short() {
		t.Skip("runs git hundreds of times")
	}
	t.Parallel()
	server := gittest.NewServer(t, "", "")
	paths := []string{
		"a", "a.bat", "b.BAT", "a b", "dir/a", "dir/a.bat", "dir/sub/a.bat", "dir/sub/deep/x", "x/dir/a", "é.txt",
		"[x].c",
		"dir.bat/file", "dir.bat/a.bat", "!neg", "#hash", "q\"uote", "back\\slash", "-x", "0", "_", "dir/sub/b",
		"tab\tname",
	}
	patterns := []string{
		"*.bat", "/a", "a", "dir/*", "dir/**", "**/a", "dir/**/x", "/dir/a*", "dir/", "dir", "**", "*", "?", "[a-c]",
		"[!a]", "[^a]*", "[[:digit:]]", "[[:alpha:]_]", "\\a", "a\\ b", "\"a b\"", "a?b", "*/a", "**/sub/*", "sub/*",
		"dir/sub", "[[]x].c", "\\[x\\].c", "*.[bB][aA][tT]", "\"\\303\\251.txt\"", "é.txt", "!neg", "\\!neg",
		"\\#hash",
		"#hash", "\"q\\\"uote\"", "back\\\\slash", "-x", "dir/sub/deep/**", "a/**", "**.bat", "dir**", "dir/**a",
		"[a-", "[]x]*",
		"\"tab\\tname\"", "/**/a.bat", "x/**/a", "./a", "*dir*/a", "dir/*/a.bat",
	}
	t.Run("patterns", func(t *testing.T) {
		t.Parallel()
		var items []gittest.Item
		for i, p := range patterns {
			items = append(items, gittest.Dir(fmt.Sprintf("%02d", i), append(nested(paths),
				gittest.File(".gitattributes", p+" text eol=crlf\n"))...))
		}
		repo := server.Repo(t, "patterns.git")
		sameAsGit(t, server, repo, repo.Commit("main", "x", items...))
	})
	for name, files := range map[string]map[string]string{
		"later wins":          {"": "* eol=crlf\n*.bat eol=lf\n"},
		"nearer wins":         {"": "*.bat eol=crlf\n", "dir/": "* eol=lf\n", "dir/sub/": "a.bat eol=crlf\n"},
		"relative":            {"dir/": "/a eol=crlf\nsub/* eol=crlf\ndir/a eol=crlf\n"},
		"unspecified again":   {"": "* eol=crlf\na !eol\ndir/* -text\n"},
		"macro":               {"": "[attr]dos text eol=crlf\n*.bat dos\na -dos\n"},
		"macro, later line":   {"": "*.bat dos\n[attr]dos text eol=crlf\n"},
		"macro below":         {"dir/": "[attr]dos text eol=crlf\n* dos\n"},
		"macro of a macro":    {"": "[attr]one eol=crlf\n[attr]two one text\n* two\n"},
		"macro is overridden": {"": "[attr]dos eol=crlf\n* dos eol=lf\na eol=lf dos\n"},
		"binary":              {"": "* text eol=crlf\n*.bat binary\n"},
		"binary again":        {"": "[attr]binary text eol=crlf\n* binary\n"},
		"bad attribute":       {"": "* eol=crlf -\n*.bat a/b eol=crlf\n"},
		"blanks":              {"": "  \t*.bat \t eol=crlf  \r\n\n# comment\n\t# too\n"},
		"byte order mark":     {"": "\ufeff*.bat eol=crlf\n"},
		"long line":           {"": "*.bat eol=crlf " + strings.Repeat("x", 3000) + "\n"},
		"of itself":           {"": "* eol=crlf\n"},
		"no last line end":    {"": "*.bat eol=crlf"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repo := server.Repo(t, strings.NewReplacer(" ", "-", ",", "").Replace(name)+".git")
			items := nested(paths)
			for base, text := range files {
				items = within(items, base, gittest.File(".gitattributes", text))
			}
			sameAsGit(t, server, repo, repo.Commit("main", "x", items...))
		})
	}
}

// nested makes files of those paths.
func nested(paths []string) (items []gittest.Item) {
	for _, p := range paths {
		dir, name := filepath.Split(p)
		items = within(items, dir, gittest.File(name, "a\nb\n"))
	}
	return items
}

// within puts an item into the directory that a path with a final slash names.
func within(items []gittest.Item, dir string, item gittest.Item) []gittest.Item {
	first, rest, ok := strings.Cut(dir, "/")
	if !ok {
		return append(items, item)
	}
	for i := range items {
		if items[i].Name == first {
			items[i].Items = within(items[i].Items, rest, item)
			return items
		}
	}
	return append(items, gittest.Dir(first, within(nil, rest, item)...))
}

// sameAsGit checks out by the step and by git, and compares.
func sameAsGit(t *testing.T, server *gittest.Server, repo *gittest.Repo, commit string) {
	t.Helper()
	run := newCheckout(t, repo.URL)
	run.CABundle = server.CABundle
	run.run(t).ok(t, commit)
	source, clone := run.Workspace.Source(), filepath.Join(t.TempDir(), "clone")
	if _, err := devgit.Git(
		t.Context(), "", []string{"GIT_SSL_CAINFO=" + server.CABundle}, nil, "clone", "--quiet", "--depth=1",
		"--branch=main", "--recurse-submodules", "--shallow-submodules", repo.URL, clone,
	); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listing(t, clone), listing(t, source)); diff != "" {
		t.Errorf("files differ (-git +step):\n%s", diff)
	}
	same := func(env []string, args ...string) (want string) {
		t.Helper()
		want, werr := devgit.Git(t.Context(), clone, env, nil, args...)
		got, err := devgit.Git(t.Context(), source, env, nil, args...)
		if (err == nil) != (werr == nil) {
			t.Errorf("git %s: %v, in git's clone %v", strings.Join(args, " "), err, werr)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("git %s differs (-git +step):\n%s", strings.Join(args, " "), diff)
		}
		return want
	}
	same(nil, "ls-files", "--stage", "-z")
	same(nil, "fsck", "--full", "--no-dangling")
	same(nil, "for-each-ref")
	same(nil, "submodule", "--quiet", "foreach", "--recursive", "git rev-parse HEAD")
	// With an index that knows no sizes and times, git reads and converts every file.
	fresh := []string{"GIT_INDEX_FILE=" + filepath.Join(".git", "fresh")}
	same(fresh, "read-tree", "HEAD")
	if same(fresh, "status", "--porcelain") == "" { // else the clock decides what git looks at
		for _, args := range [][]string{
			{"status", "--porcelain=v2", "--branch"}, {"diff-files"}, {"diff-index", "HEAD"},
			{"describe", "--always", "--dirty"},
			{"submodule", "--quiet", "foreach", "--recursive", "git status --porcelain"},
		} {
			same(nil, args...)
		}
	}
}

// listing is all below a directory but Git's own: modes and contents.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		if d.Name() == ".git" && d.IsDir() {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[name] = info.Mode().String()
		var content string
		switch {
		case d.Type() == fs.ModeSymlink:
			content, err = os.Readlink(path)
		case !d.IsDir():
			var raw []byte
			raw, err = os.ReadFile(path)
			content = fmt.Sprintf("%q", raw)
		}
		all[name] += " " + content
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// generator makes odd repositories.
type generator struct {
	*rand.Rand
	submodule string
	modules   strings.Builder
	names     int
}

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

func (g *generator) name() string {
	g.names++
	return fmt.Sprintf(pick(g, []string{
		"f%d", "%d.bat", "%d.txt", "a b%d", "-%d", "é%d", "\xff%d", "%d\n", "\t%d", "q\"%d'", "b\\%d", "%d.", "~%d",
		"git~%d0",
		"%d.rc", "%d.id", ".hidden%d", "%d*?[x]", "#%d", "!%d", "$(%d)", "%d;", "日本%d", ".git%d", ".gitmodules%d",
		"e\u0301%d",
		strings.Repeat("long", 50) + "%d",
	}), g.names)
}

func (g *generator) content() string {
	line := pick(g, []string{
		"text\n", "text\r\n", "$Id$\n", "$Id: x $\n", "caf\u00e9\n", "\x00\x01\n", "\r", "\xfe\xff\n", "",
	})
	end := pick(g, []string{"", "end", fmt.Sprint(g.Uint64())})
	return strings.Repeat(line, pick(g, []int{0, 1, 2, 50, 10_000})) + end
}

func (g *generator) attributes() string {
	var out strings.Builder
	for range 1 + g.IntN(5) {
		fmt.Fprintf(&out, "%s %s\n", pick(g, []string{
			"*", "*.bat", "*.txt", "*.rc", "*.id", "/*", "d*/**", "**/*.bat", "f*", "[0-9]*", "\"a b*\"",
		}), pick(g, []string{
			"text", "text=auto", "-text", "eol=crlf", "text eol=crlf", "text=auto eol=crlf", "eol=lf", "binary", "!eol",
			"ident",
			"-ident", "diff=x merge=union",
			"export-ignore", "filter=none",
		}))
	}
	return out.String() + pick(g, []string{
		"", "*.rc text working-tree-encoding=UTF-16LE-BOM\n", "*.rc working-tree-encoding=ISO-8859-1\n",
	})
}

// tree is a directory's items; modules become entries of .gitmodules.
func (g *generator) tree(depth int, dir string) (items []gittest.Item) {
	for range 1 + g.IntN(8) {
		name := g.name()
		switch kind := g.IntN(10); {
		case kind < 5:
			mode := pick(g, []string{"100644", "100644", "100755", "100664", "100600", "100775", "100640"})
			items = append(items, gittest.Item{Mode: mode, Name: name, Content: g.content()})
		case kind < 6:
			mode := pick(g, []string{"120000", "120000", "120777"})
			target := pick(g, []string{"f1", "../x", ".", "/etc/passwd", "nowhere\n", "é", strings.Repeat("x/", 500)})
			items = append(items, gittest.Item{Mode: mode, Name: name, Content: target})
		case kind < 7 && depth == 0:
			name = fmt.Sprintf("module %d", g.names)
			if g.IntN(3) > 0 {
				fmt.Fprintf(
					&g.modules, "[submodule %q]\n\tpath = %s\n\turl = ../library.git\n%s",
					pick(g, []string{"m/", "x", "deep/m/"})+name, name,
					pick(g, []string{"", "", "\tupdate = none\n", "\tupdate = merge\n"}),
				)
			}
			items = append(items, gittest.Submodule(name, g.submodule))
		case depth < 4:
			items = append(items, gittest.Dir(name, g.tree(depth+1, dir+name+"/")...))
		}
	}
	if g.IntN(3) == 0 {
		items = append(items, gittest.File(".gitattributes", g.attributes()))
	}
	if len(items) == 0 {
		items = append(items, gittest.File("only", ""))
	}
	return items
}

// repack gives the repository packs of many shapes, from which the server makes the one that it sends.
func (g *generator) repack(repo *gittest.Repo) {
	repo.Configure("repack.useDeltaBaseOffset", pick(g, []string{"true", "false"}))
	repo.Configure("pack.compression", pick(g, []string{"0", "1", "9"}))
	if g.IntN(3) > 0 {
		repo.Git(nil, "repack", "-a", "-d", "-f", "--quiet", pick(g, []string{"--depth=0", "--depth=1", "--depth=50"}),
			pick(g, []string{"--window=2", "--window=50"}))
	}
}
