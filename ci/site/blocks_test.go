package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/schemas"
)

// block is a block of code in the guide.
type block struct {
	file     string // the page's, from the root of the checkout
	line     int    // of its first line
	language string
	text     string
	claim    string // the comment above it, without its marks
}

func (b block) String() string { return fmt.Sprintf("%s:%d", b.file, b.line) }

// blocksOfGuide are the blocks of code of all pages, in the order of the guide.
func blocksOfGuide(t *testing.T) (all []block) {
	t.Helper()
	s, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.pages {
		raw, err := os.ReadFile(filepath.Join(root, p.file))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, blocksOf(p.file, raw)...)
	}
	return all
}

func blocksOf(file string, raw []byte) (all []block) {
	doc := markdown.Parser().Parse(text.NewReader(raw))
	_ = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // which never fails
		if !entering || n.Kind() != ast.KindCodeBlock && n.Kind() != ast.KindFencedCodeBlock || n.Lines().Len() == 0 {
			return ast.WalkContinue, nil
		}
		b := block{
			file: file, line: 1 + bytes.Count(raw[:n.Lines().At(0).Start], []byte("\n")),
			text: string(n.Lines().Value(raw)),
		}
		if fenced, ok := n.(*ast.FencedCodeBlock); ok {
			b.language = string(fenced.Language(raw))
		}
		if above, ok := n.PreviousSibling().(*ast.HTMLBlock); ok {
			comment := string(above.Lines().Value(raw))
			if above.HasClosure() {
				comment += string(above.ClosureLine.Value(raw))
			}
			comment = strings.TrimPrefix(strings.TrimSpace(comment), "<!--")
			b.claim = strings.TrimSpace(strings.TrimSuffix(comment, "-->"))
		}
		all = append(all, b)
		return ast.WalkContinue, nil
	})
	return all
}

// programs are those whose lines are commands.
var programs = []string{
	"make", "git", "go", "kubectl", "helm", "stepwright", "bin/stepwright", "generate-workload-cr",
	"bin/checkout-source", "cosign", "docker", "occ", "export", "curl", "crane", "kyverno", "policy-tester", "openssl",
	"apt-get", "bao", "cat",
}

var (
	comments    = regexp.MustCompile(`(^|\s)#(\s.*|$)`)
	assignments = regexp.MustCompile(`^([A-Z][A-Z0-9_]*=\S*\s+)+`)
	nested      = regexp.MustCompile(`\$\([^)]*\)`)
	separators  = regexp.MustCompile(`\s*(?:&&|\|\||[;|&>])\s*`)
)

// commands are the lines of a block that a shell gets; none when it is no block of commands. Of a transcript they are
// those with a prompt.
func (b block) commands() (lines []string) {
	if b.language != "" && b.language != "console" && b.language != "sh" && b.language != "bash" {
		return nil
	}
	transcript := strings.HasPrefix(b.text, "$ ")
	known := false
	for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
		line = strings.TrimSpace(comments.ReplaceAllString(strings.TrimRight(line, "\n"), ""))
		line, prompt := strings.CutPrefix(line, "$ ")
		if line == "" || transcript && !prompt {
			continue
		}
		word, _, _ := strings.Cut(assignments.ReplaceAllString(line, ""), " ")
		known = known || slices.Contains(programs, word)
		lines = append(lines, line)
	}
	if !known {
		return nil
	}
	return lines
}

// claimHere is what is said of a block that TestBlocks runs.
const claimHere = "These lines are run by go test ./ci/site, TestBlocks."

var (
	runElsewhere = regexp.MustCompile(`^These lines are run by (?:make e2e|go test \./([\w/]+))(?:, (Test\w+))?\.$`)
	notRun       = regexp.MustCompile(`^Not run(?: here)?: \S.{10,}\.$`)
)

// TestEveryBlockIsClaimed: of each block of commands it is known what runs it, or why nothing does; and commands,
// targets, flags and folders in it are there.
func TestEveryBlockIsClaimed(t *testing.T) {
	count := map[string]int{}
	for _, b := range blocksOfGuide(t) {
		lines := b.commands()
		if len(lines) == 0 {
			if runHere.MatchString(b.claim) || runElsewhere.MatchString(b.claim) {
				t.Errorf("%s: it has no commands to run", b)
			}
			continue
		}
		switch m := runElsewhere.FindStringSubmatch(b.claim); {
		case runHere.MatchString(b.claim):
			count["here"]++
		case m != nil:
			count["elsewhere"]++
			if fault := claimed(b, m[1], m[2]); fault != "" {
				t.Errorf("%s: %s", b, fault)
			}
			read := guidetest.Blocks(t, filepath.Join(root, b.file), b.claim)
			if text := strings.TrimRight(b.text, "\n") + "\n"; !slices.Contains(read, text) {
				t.Errorf("%s: the test reads other lines: %q", b, read)
			}
		case notRun.MatchString(b.claim):
			count["not"]++
		default:
			t.Errorf(
				"%s: what runs it? Say in a comment above it %q, or %q: %q", b, claimHere, "Not run here: why.",
				lines[0],
			)
		}
		for _, line := range lines {
			for _, fault := range wrongWords(t, line) {
				t.Errorf("%s: %s: %s", b, line, fault)
			}
		}
	}
	t.Logf("blocks of commands: %v", count)
	if count["here"] < 3 || count["elsewhere"] < 4 {
		t.Errorf("few blocks are run: %v", count)
	}
}

// claimed looks whether a test reads the lines that it is said to run: it names the page, and the claim.
func claimed(b block, folder, test string) string {
	if folder == "" {
		folder = "ci/e2e"
	}
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		return fmt.Sprintf("there is no test in %s", folder)
	}
	var all strings.Builder
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		all.Write(raw)
	}
	if test != "" && !strings.Contains(all.String(), "func "+test+"(") {
		return fmt.Sprintf("%s has no %s", folder, test)
	}
	if !strings.Contains(all.String(), b.file+`"`) || !strings.Contains(all.String(), b.claim) {
		return fmt.Sprintf("no test in %s reads lines of %s by this comment", folder, b.file)
	}
	return ""
}

// wrongWords finds what a line names and nobody has.
func wrongWords(t *testing.T, line string) (faults []string) {
	t.Helper()
	for _, command := range separators.Split(nested.ReplaceAllString(line, "x"), -1) {
		words := strings.Fields(assignments.ReplaceAllString(strings.TrimSpace(command), ""))
		if len(words) == 0 {
			continue
		}
		if i := slices.Index(words, "--"); i > 0 { // one program starts another
			faults = append(faults, wrongWords(t, strings.Join(words[i+1:], " "))...)
			words = words[:i]
		}
		if i := slices.Index(words, "exec"); i > 0 && words[0] == "go" {
			faults = append(faults, wrongWords(t, strings.Join(words[i+1:], " "))...)
			words = words[:i]
		}
		switch words[0] {
		case "make":
			for _, word := range words[1:] {
				target := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(word) + `:`)
				if !strings.Contains(word, "=") && !target.MatchString(read(t, "Makefile")) {
					faults = append(faults, "there is no target "+word)
				}
			}
		case "stepwright", "bin/stepwright":
			faults = append(faults, wrongFlags(t, words[1:])...)
		case "generate-workload-cr", "bin/checkout-source":
			faults = append(faults, wrongParameters(filepath.Base(words[0]), words[1:])...)
		case "go", "kubectl":
			for _, word := range words[1:] {
				path := strings.TrimSuffix(strings.TrimPrefix(word, "./"), "/...")
				in := strings.HasPrefix(word, "./") && words[0] == "go" && words[1] != "build" ||
					strings.HasPrefix(word, "templates/") || strings.HasPrefix(word, "examples/")
				if _, err := os.Stat(filepath.Join(root, path)); err != nil && in &&
					path != "templates/overlays/my-overlay" && !strings.HasPrefix(path, "your/") { // the reader's own
					faults = append(faults, "there is no "+path)
				}
			}
		}
	}
	return faults
}

// wrongFlags compares a call of stepwright with the page of its commands.
func wrongFlags(t *testing.T, words []string) (faults []string) {
	t.Helper()
	_, section, found := strings.Cut(read(t, "docs/reference/cli.md"), "\n## stepwright "+words[0]+"\n")
	if !found {
		if words[0] == "completion" {
			return nil
		}
		return []string{"there is no command " + words[0]}
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for _, word := range words[1:] {
		flag, _, _ := strings.Cut(strings.Trim(word, "[]"), "=")
		line := regexp.MustCompile(`(?m)^ .*` + regexp.QuoteMeta(flag) + `[ ,]`)
		if strings.HasPrefix(flag, "-") && !line.MatchString(section) {
			faults = append(faults, fmt.Sprintf("%s has no flag %s", words[0], flag))
		}
	}
	return faults
}

// wrongParameters compares a call of a step with its schema.
func wrongParameters(step string, words []string) (faults []string) {
	known := map[string]bool{}
	for _, p := range schemas.MustLoad(step).Properties {
		known["--"+p.Name] = true
	}
	for _, word := range words {
		flag, _, _ := strings.Cut(word, "=")
		if strings.HasPrefix(flag, "--") && !known[flag] {
			faults = append(faults, fmt.Sprintf("%s has no parameter %s", step, flag))
		}
	}
	return faults
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestWrongWords(t *testing.T) {
	for line, want := range map[string]string{
		"make run EXAMPLE=x && make nothing":                         "there is no target nothing",
		"bin/stepwright list --cluster -n acme | grep x":             "",
		"bin/stepwright list --clusters":                             "list has no flag --clusters",
		"stepwright lists":                                           "there is no command lists",
		"generate-workload-cr --image=x --workdir=y":                 "generate-workload-cr has no parameter --workdir",
		"kubectl apply -k templates/overlays/nothing":                "there is no templates/overlays/nothing",
		"kubectl apply -k templates/overlays/my-overlay":             "",
		"go run ./ci/clusters up":                                    "there is no ci/clusters",
		"CLUSTER=kind go run ./ci/cluster exec bin/stepwright lists": "there is no command lists",
		"go run ./ci/cluster with-git x -- bin/stepwright nothing":   "there is no command nothing",
	} {
		if got := strings.Join(wrongWords(t, line), "; "); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestBlocksOf(t *testing.T) {
	all := blocksOf("a.md", []byte("# A\n\n<!-- "+claimHere+" -->\n\n"+
		"    make x   # why\n    ENV=1 go run \\\n      y\n\n```console\n$ make z\nmake is output\n```\n\n"+
		"    text: no command\n\n"+
		"1. x\n\n   <!-- Not run: some reason or other. -->\n\n       kubectl get x\n\n"+
		"```yaml\nmake: x\n```\n"))
	if len(all) != 5 {
		t.Fatalf("%d blocks", len(all))
	}
	for i, want := range [][]string{
		{"make x", "ENV=1 go run    y"}, {"make z"}, nil, {"kubectl get x"}, nil,
	} {
		if got := all[i].commands(); !slices.Equal(got, want) {
			t.Errorf("block %d: %q, want %q", i, got, want)
		}
	}
	if all[0].claim != claimHere || all[0].line != 5 || !notRun.MatchString(all[3].claim) || all[1].claim != "" {
		t.Errorf("%+v", all)
	}
}

// environment returns the variables of somebody who has just come, with all that is here as the project's repository.
// What Go and mmdebstrap have made before is there.
func environment(t *testing.T, dir string) []string {
	t.Helper()
	origin := filepath.Join(dir, "origin")
	script := `git clone --quiet --no-checkout "$1" "$2" && cd "$1" &&
git ls-files -z --cached --others --exclude-standard |
xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
tar --create --null --files-from=- | tar --extract --directory="$2" && cd "$2" && git add --all &&
git -c user.name=x -c user.email=x@example.com commit --quiet --allow-empty --message x`
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	copying := exec.CommandContext(t.Context(), "sh", "-ec", script, "sh", absolute, origin)
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(dir, "cache", "stepwright")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(made, "stepwright", "base-images")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, filepath.Join(cache, "base-images")); err != nil {
		t.Fatal(err)
	}
	environ := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CACHE_HOME=" + filepath.Dir(cache), "LC_ALL=C.UTF-8",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=url." + origin + ".insteadOf",
		"GIT_CONFIG_VALUE_0=https://github.com/stepwright/stepwright",
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPROXY", "GOFLAGS", "GOSUMDB"} {
		out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		if value := strings.TrimSpace(string(out)); value != "" {
			environ = append(environ, name+"="+value)
		}
	}
	return environ
}

// TestObjectsOfTheGuide: OpenChoreo takes the objects that the guide shows.
func TestObjectsOfTheGuide(t *testing.T) {
	dir := t.TempDir()
	names := map[string]string{}
	for i, b := range blocksOfGuide(t) {
		if b.language != "yaml" || !strings.Contains(b.text, "apiVersion: openchoreo.dev/") {
			continue
		}
		folder := filepath.Join(dir, fmt.Sprint("block", i))
		file := filepath.Join(folder, "object.yaml")
		if !strings.Contains(b.text, "\nkind: ") { // a descriptor, whose files have to be there
			file = filepath.Join(folder, "workload.yaml")
			for _, m := range regexp.MustCompile(`(?:schemaFile|path): (\S+)`).FindAllStringSubmatch(b.text, -1) {
				if err := writeFile(filepath.Join(folder, m[1]), []byte("openapi: 3.1.0\n")); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := writeFile(file, []byte(b.text)); err != nil {
			t.Fatal(err)
		}
		names[file] = b.String()
	}
	if len(names) < 4 {
		t.Fatalf("only %d objects", len(names))
	}
	set, err := objects.LoadAll(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Objects) < 3 || len(set.Descriptors) < 1 {
		t.Errorf("%d objects and %d descriptors were read", len(set.Objects), len(set.Descriptors))
	}
	for _, fault := range workflowrun.Check(set, true) {
		t.Errorf("%s: %+v", names[fault.File], fault)
	}
}
