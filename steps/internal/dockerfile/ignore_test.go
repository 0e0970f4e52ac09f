package dockerfile

import (
	"archive/tar"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/sampletest"
)

// Which ignore file counts.
func TestIgnoreFileNames(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	const nextTo, podmansNextTo = "docker/app.Dockerfile.dockerignore", "docker/app.Dockerfile.containerignore"
	for name, test := range map[string]struct {
		ignore map[string]string
		out    string // the file that stays out; empty: none
	}{
		"none":     {nil, ""},
		"Docker's": {map[string]string{"app/.dockerignore": "a"}, "a"},
		"podman's": {map[string]string{"app/.containerignore": "a"}, "a"},
		"podman's wins in the context": {
			map[string]string{"app/.containerignore": "a", "app/.dockerignore": "b"}, "a",
		},
		"podman's, empty": {
			map[string]string{"app/.containerignore": "", "app/.dockerignore": "b"}, "",
		},
		"podman's, next to it":       {map[string]string{podmansNextTo: "a"}, "a"},
		"Docker's, next to it":       {map[string]string{nextTo: "a", "app/.containerignore": "b"}, "a"},
		"Docker's wins next to it":   {map[string]string{nextTo: "a", podmansNextTo: "b"}, "a"},
		"next to it, empty":          {map[string]string{nextTo: "", "app/.dockerignore": "b"}, ""},
		"next to another Dockerfile": {map[string]string{"docker/Dockerfile.containerignore": "a"}, ""},
		"outside of the context":     {map[string]string{".containerignore": "a", ".dockerignore": "b"}, ""},
		"a link": {
			map[string]string{"app/.containerignore": "-> ../rules", "rules": "a"}, "a",
		},
		"a link that leads nowhere": {map[string]string{"app/.containerignore": "-> nowhere"}, ""},
		"a link nowhere, and another's": {
			map[string]string{"app/.containerignore": "-> no", "app/.dockerignore": "b"}, "b",
		},
	} {
		for _, verified := range []bool{false, true} {
			if verified && !strings.HasPrefix(name, "podman's") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				files := map[string]string{
					"docker/app.Dockerfile": "FROM scratch\nCOPY a* b* /\n", "app/a": "", "app/b": "",
				}
				maps.Copy(files, test.ignore)
				in := parameters(project(t, files), r)
				in.DockerfilePath, in.DockerContext = "docker/app.Dockerfile", "app"
				if verified {
					in = chained(t, in)
				}
				want := map[string]string{"a": "", "b": ""}
				delete(want, test.out)
				if got := succeed(t, in).files; !maps.Equal(got, want) {
					t.Errorf("the image has %v, want %v", got, want)
				}
			})
		}
	}
}

// A pattern may be no UTF-8, as a name may. Docker loses such patterns on their way to BuildKit.
func TestOddPatterns(t *testing.T) {
	t.Parallel()
	newRegistry(t)
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY . /\n", ".dockerignore": "Dockerfile\ncaf\xe9\n.dockerignore\n", "a": "",
		"caf\xe9": "", "caf\xe8": "",
	}), nil)
	if got := succeed(t, in).files; !maps.Equal(got, map[string]string{"a": "", "caf\xe8": ""}) {
		t.Errorf("the image has %q", got)
	}
}

// A fault of an ignore file is told before a builder is started.
func TestIgnoreFileFaults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files  map[string]string
		reason outcome.Reason
		words  string
	}{
		"pattern": {map[string]string{".containerignore": "# odd\nok\na[\n"}, outcome.DockerfileInvalid,
			".containerignore line 3: syntax error in pattern: a["},
		"exclamation mark alone": {map[string]string{".dockerignore": "a\n ! \n"}, outcome.DockerfileInvalid,
			".dockerignore line 2: illegal exclusion pattern"},
		"folder": {map[string]string{".dockerignore/a": ""}, outcome.DockerfileInvalid, "not a regular file"},
		"link that leaves": {map[string]string{".dockerignore": "-> /etc/passwd"}, outcome.PathEscapesRepository,
			".dockerignore"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}
			maps.Copy(files, test.files)
			in := parameters(project(t, files), nil)
			in.BuildKitAddress = "unix:///nowhere"
			fail(t, in, test.reason, test.words)
		})
	}
}

// ignorable are files of all kinds that ignore files speak of.
var ignorable = []string{
	"a", "A", "b", "a b", "#x", "!y", " s", "b.txt", "c.txt", "x.go", ".hidden", "a[1]", `a\b`, "a*", "a?", "caf\u00e9",
	"d/a", "d/b", "d/b.txt", "d/x.go", "d/.hidden", "d/e/a", "d/e/b.txt", "d/e/f/a", "g/a", "g/e/b.txt", "da/a",
	"node_modules/m/a.js", "d/node_modules/m/a.js", "d.txt/a",
}

// TestIgnoreFiles builds contexts with ignore files of all kinds by this step, by the rules of Docker's own package,
// and by podman: the same files come into the image. Where podman differs, the case says how, and Docker is followed.
func TestIgnoreFiles(t *testing.T) {
	t.Parallel()
	newRegistry(t)
	type test struct {
		text   string
		podman string // how podman's image differs: +file, -file, "fails"
	}
	tests := map[string]test{
		"nothing":                        {"", ""},
		"comments and blank lines":       {"# a\n\n   \n#b\n", ""},
		"name":                           {"a", ""},
		"name, any depth":                {"**/a", ""},
		"case":                           {"B.TXT\n", ""},
		"leading slash":                  {"/a\n/d/b\n", ""},
		"trailing slash":                 {"d/\n", ""},
		"trailing slash, a file":         {"a/\n", ""},
		"leading ./":                     {"./a\n./d/./b\n", ""},
		"inner ..":                       {"g/../d\n", ""},
		"leading ..":                     {"../a\n", ""},
		"dot":                            {".\n", ""},
		"dot, with exceptions":           {".\n!a\n", ""},
		"star":                           {"*\n", ""},
		"star, with exceptions":          {"*\n!d\n!b.txt\n", ""},
		"star, an exception deep inside": {"*\n!d/e/a\n", ""},
		"star, exception by any depth": {"*\n!**/b.txt\n", // podman does not look into folders that stay out
			"-d/b.txt -d/e/b.txt -g/e/b.txt"},
		"two stars":                  {"**\n", ""},
		"two stars, with exceptions": {"**\n!d/e\n", ""},
		"one level":                  {"*/a\n", ""},
		"two levels":                 {"*/*/a\n", ""},
		"extension":                  {"*.txt\n", ""},
		"extension, any depth":       {"**/*.txt\n", ""},
		"all below":                  {"d/**\n", ""},
		"all below, with exceptions": {"d/**\n!d/e\n", ""},
		"two stars within":           {"d/**/a\n", ""},
		"two stars in a name":        {"d/e**\n", ""},
		"folders anywhere":           {"**/node_modules\n", ""},
		"hidden":                     {"**/.*\n!.dockerignore\n", ""},
		"question mark":              {"?\n", ""},
		"class":                      {"[ab]\n", ""},
		"negated class":              {"[^a]\n", ""},
		"range":                      {"[a-c].txt\n", ""},
		"escaped star":               {"a\\*\n", ""},
		"escaped class":              {"a\\[1\\]\n", ""},
		"escaped backslash":          {"a\\\\b\n", ""},
		"escaped hash":               {"\\#x\n", ""},
		"escaped exclamation mark":   {"\\!y\n", ""},
		"hash after a space":         {" #x\n", ""},
		"hash after a name":          {"a #x\n", ""},
		"spaces around":              {"  a  \n\tb\t\n", ""},
		"space within":               {"a b\n", ""},
		"exception, then rule":       {"!a\na\n", ""},
		"rule, exception, rule":      {"d\n!d/a\nd/a\n", ""},
		"last line wins":             {"d\n!d\n", ""},
		"exception with spaces":      {"d\n! d/a \n", "-d/a"},
		"exception with a slash":     {"d\n!/d/a\n", ""},
		"two exclamation marks":      {"d\n!!d\n", ""},
		"exception of a file in a folder that stays out": {"d\n!d/e/b.txt\n", ""},
		"exception by pattern":                           {"d\n!d/*.txt\n", ""},
		"CRLF":                                           {"a\r\nd/b\r\n", ""},
		"BOM":                                            {"\ufeffa\nb\n", ""},
		"BOM, comment":                                   {"\ufeff# x\nb\n", ""},
		"no end of line":                                 {"a\nb", ""},
		"Dockerfile and itself":                          {"Dockerfile\n.dockerignore\n", ""},
		"all but Dockerfile":                             {"*\n!Dockerfile\n", ""},
		"beyond ASCII":                                   {"caf\u00e9\n", ""},
		"beyond ASCII, any character":                    {"caf?\n", ""},
		"special to regular expressions": {"b.txt|a\n(a)\na+\n^a\na$\n",
			// podman escapes fewer characters of its regular expressions
			"-a -b.txt -d.txt/a -d/a -d/e/a -d/e/f/a -da/a -g/a"},
		"broken":                 {"a[\n", ""},
		"exclamation mark alone": {"!\n", ""},
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	parts := []string{"a", "b.txt", "d", "e", "*", "**", "*.txt", "?", "[ab]", "f", "node_modules", "m", ".", "x.go"}
	for i := range 10 {
		var text strings.Builder
		for range 1 + random.IntN(5) {
			if random.IntN(3) == 0 {
				text.WriteString("!")
			}
			var names []string
			for range 1 + random.IntN(3) {
				names = append(names, parts[random.IntN(len(parts))])
			}
			text.WriteString(strings.Join(names, "/") + "\n")
		}
		tests["random "+string(rune('a'+i))] = test{text.String(), ""}
	}
	podman := newPodman(t)
	for _, name := range sampletest.Of(t, 32, slices.Sorted(maps.Keys(tests))) {
		test := tests[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"Dockerfile": "FROM scratch\nCOPY . /x/\n", ".dockerignore": test.text}
			for _, file := range ignorable {
				files[file] = ""
			}
			in := parameters(project(t, files), nil)
			want, err := byDocker(test.text, slices.Collect(maps.Keys(files)))
			podmans, podmanErr := podman(t, in.Workspace.Source())
			if err != nil {
				fail(t, in, outcome.DockerfileInvalid, ".dockerignore line 1")
			} else {
				var got []string
				for file := range succeed(t, in).files {
					got = append(got, strings.TrimPrefix(file, "x/"))
				}
				if diff := difference(want, got); diff != "" {
					t.Errorf("%q: Docker's image and this step's differ: %s", test.text, diff)
				}
			}
			diff := difference(want, podmans)
			if podmanErr != nil {
				diff = "fails"
			}
			if err != nil && podmanErr != nil {
				diff = ""
			}
			if diff != test.podman {
				t.Errorf("%q: Docker's image and podman's differ: %q, want %q: %v", test.text, diff, test.podman,
					podmanErr)
			}
		})
	}
}

// byDocker returns those of the files that an ignore file does not leave out, by the package that Docker uses.
func byDocker(text string, files []string) (in []string, err error) {
	patterns, err := ignorefile.ReadAll(strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if out, err := matcher.MatchesOrParentMatches(file); err != nil {
			return nil, err
		} else if !out {
			in = append(in, file)
		}
	}
	return in, nil
}

// newPodman returns a function that builds a context's Dockerfile by podman, and lists the files in /x of the image.
func newPodman(t *testing.T) func(t *testing.T, context string) ([]string, error) {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatalf("the comparison needs the Debian package podman: %v", err)
	}
	state, err := os.MkdirTemp("", "podman-") // it takes no long name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	return func(t *testing.T, context string) ([]string, error) {
		t.Helper()
		out := filepath.Join(state, rand.Text()+".tar") // it takes no name with a comma either
		told, err := exec.Command("podman", "--root", filepath.Join(state, "root"), "--runroot",
			filepath.Join(state, "run"), "--storage-driver", "vfs", "--runtime", "runc", "build", "--quiet",
			"--output", "type=tar,dest="+out, context).CombinedOutput()
		if err != nil {
			return nil, errors.New(string(told))
		}
		image, err := os.Open(out)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		var files []string
		for r := tar.NewReader(image); ; {
			h, err := r.Next()
			if err == io.EOF {
				return files, nil
			}
			if err != nil {
				t.Fatal(err)
			}
			if name, ok := strings.CutPrefix(h.Name, "x/"); ok && h.Typeflag == tar.TypeReg {
				files = append(files, name)
			}
		}
	}
}

// difference lists what a list has besides another, as +name, and what it lacks, as -name.
func difference(want, got []string) string {
	var all []string
	for _, name := range got {
		if !slices.Contains(want, name) {
			all = append(all, "+"+name)
		}
	}
	for _, name := range want {
		if !slices.Contains(got, name) {
			all = append(all, "-"+name)
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
