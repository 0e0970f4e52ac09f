package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

const root = "../.."

// written is the site of this checkout, in a folder.
func written(t *testing.T) (*site, string) {
	t.Helper()
	s, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	if err := s.write(out); err != nil {
		t.Fatal(err)
	}
	return s, out
}

// TestSite: each page is well-formed, its links lead somewhere, and the navigation reaches it.
func TestSite(t *testing.T) {
	s, out := written(t)
	documents := map[string]*document{}
	for _, p := range s.pages {
		raw, err := os.ReadFile(filepath.Join(out, p.URL))
		if err != nil {
			t.Fatal(err)
		}
		d, faults := parse(string(raw))
		for _, fault := range faults {
			t.Errorf("%s: %s", p.URL, fault)
		}
		documents[p.URL] = d
	}
	reached := map[string]bool{"index.html": true}
	for page, d := range documents {
		for _, link := range d.links {
			u, err := url.Parse(link)
			if err != nil || u.IsAbs() {
				continue
			}
			target := page
			if u.Path != "" {
				target = path.Join(path.Dir(page), u.Path)
			}
			if other := documents[target]; other != nil {
				if u.Fragment != "" && !other.ids[u.Fragment] {
					t.Errorf("%s: %s has no #%s", page, target, u.Fragment)
				}
				continue
			}
			if info, err := os.Stat(filepath.Join(out, target)); err != nil || info.IsDir() {
				t.Errorf("%s: the link to %s leads nowhere", page, link)
			}
		}
		for _, link := range d.navigation {
			reached[path.Join(path.Dir(page), link)] = true
		}
	}
	for page := range documents {
		if !reached[page] {
			t.Errorf("no navigation leads to %s", page)
		}
	}
}

// TestEveryPageIsInTheGuide: no page of ours is left out.
func TestEveryPageIsInTheGuide(t *testing.T) {
	s, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := []string{".github/pull_request_template.md"}
	pages := strings.Fields(string(out))
	if len(pages) < 30 {
		t.Fatalf("only %d pages", len(pages))
	}
	for _, file := range pages {
		if strings.Contains(file, "/testdata/") || slices.Contains(elsewhere, file) {
			continue
		}
		if s.find(file) == nil {
			t.Errorf("%s is not in %s", file, guide)
		}
	}
}

// TestSearchIndex: the search knows each page, and each heading by its anchor.
func TestSearchIndex(t *testing.T) {
	s, out := written(t)
	raw, err := os.ReadFile(filepath.Join(out, "search.js"))
	if err != nil {
		t.Fatal(err)
	}
	text, found := strings.CutPrefix(string(raw), "window.searchIndex=")
	var entries []struct{ U, P, T, X string }
	if err := json.Unmarshal([]byte(strings.TrimSuffix(text, ";\n")), &entries); err != nil || !found {
		t.Fatal(err)
	}
	known := map[string]string{}
	for _, e := range entries {
		known[e.U] = e.X
	}
	for _, p := range s.pages {
		if _, found := known[p.URL]; !found {
			t.Errorf("the search does not find %s", p.URL)
		}
		for _, h := range p.Headings {
			if _, found := known[p.URL+"#"+h.Anchor]; !found {
				t.Errorf("the search does not find %s#%s", p.URL, h.Anchor)
			}
		}
	}
	if text := known["developers/builds.html#of-a-component"]; !strings.Contains(text, "WorkflowNotAllowed") {
		t.Errorf("WorkflowNotAllowed is not found where it is explained, but: %.200s", text)
	}
}

// TestDiagramsAreDrawn: each diagram has its picture, and each picture is of one.
func TestDiagramsAreDrawn(t *testing.T) {
	s, err := load(root)
	if err != nil {
		t.Fatal(err)
	}
	const hint = "npm install mermaid@11 in a folder elsewhere, and " +
		"go run ./ci/site --draw <folder>/node_modules/mermaid/dist/mermaid.min.js"
	of := map[string]bool{}
	for text := range s.diagrams {
		name := diagramName(text)
		of[name] = true
		if _, err := assets.ReadFile("assets/" + name); err != nil {
			t.Errorf("a diagram has no picture of today: %s\n%s", hint, text)
		}
	}
	pictures, err := filepath.Glob("assets/diagram-*.svg")
	if err != nil || len(pictures) == 0 {
		t.Fatalf("%v, %q", err, pictures)
	}
	for _, picture := range pictures {
		if !of[filepath.Base(picture)] {
			t.Errorf("%s is of no diagram", picture)
		}
	}
}

func TestLoadTells(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a link that leads nowhere": {
			map[string]string{guide: "# G\n\n## A\n\n- [B](b.md): x\n", "docs/b.md": "# B\n\n[x](absent.md)\n"},
			"docs/b.md: the link to absent.md leads nowhere",
		},
		"a link out of the project": {
			map[string]string{guide: "# G\n\n[x](../../etc)\n"}, "the link to ../../etc leads nowhere",
		},
		"an item without a page": {map[string]string{guide: "# G\n\n## A\n\n- text\n"}, `"text" links to no page`},
		"a page that is not there": {
			map[string]string{guide: "# G\n\n## A\n\n- [B](b.md): x\n"}, "no such file",
		},
		"a page twice": {
			map[string]string{guide: "# G\n\n## A\n\n- [B](b.md): x\n- [B](b.md): x\n", "docs/b.md": "# B\n"},
			"docs/b.md is there twice",
		},
		"a page without a title": {map[string]string{guide: "text\n"}, "no heading of level 1"},
		"a picture that is not there": {
			map[string]string{guide: "# G\n\n![x](x.png)\n"}, "there is no picture x.png",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range test.files {
				if err := writeFile(filepath.Join(dir, file), []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := load(dir); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

func TestRenderedMarkdown(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		guide: "# G\n\n## A & B\n\n- [P](part/p.md): about it\n\n## A & B\n",
		"docs/part/p.md": "<!-- a comment -->\n\n# P\n\n[g](../README.md#a--b-1) [code](../../main.go) " +
			"[folder](../../lib) [other](https://example.com)\n\n    run <x> # why\n\n" +
			"| a | b |\n|---|---|\n| `x\\|y` | z |\n\n<script>x</script>\n\n" +
			"<picture>\n<source srcset=\"../../lib/README\">\n<img alt=\"a\" src=\"../../main.go\">\n</picture>\n",
		"main.go": "", "lib/README": "",
	} {
		if err := writeFile(filepath.Join(dir, file), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := string(s.find("docs/part/p.md").HTML)
	for _, want := range []string{
		`<h1 id="p">P</h1>`, `href="../index.html#a--b-1"`, `href="` + project + `blob/main/main.go"`,
		`href="` + project + `tree/main/lib"`, `href="https://example.com"`,
		`run &lt;x&gt; <span class="comment"># why</span>`, `<code>x|y</code>`,
		`<source srcset="../files/lib/README">`, `<img alt="a" src="../files/main.go">`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for _, no := range []string{"comment -->", "<script"} {
		if strings.Contains(got, no) {
			t.Errorf("%s in\n%s", no, got)
		}
	}
}

func TestParseFindsFaults(t *testing.T) {
	for text, want := range map[string]string{
		"<html lang=en><title>x</title><p>a</b></p></html>":                "</b> ends <p>",
		"<html lang=en><title>x</title><h1>a</h1><div>":                    "<div> does not end",
		"<html lang=en><title>x</title><h1 id=a>a</h1><p id=a></p></html>": `the id "a" is there twice`,
		"<html><title>x</title><h1>a</h1></html>":                          "no language",
		"<html lang=en><title>x</title><p>a</p></html>":                    "0 headings of level 1",
		"<html lang=en><title>x</title><h1>a</h1><img src=x></html>":       "a picture without a text",
		"<html lang=en><title>x</title><h1>a</h1><a href=''></a></html>":   "a link without a target",
		"<html lang=en><title>x</title><h1>a</h1><h3>a</h3></html>":        "h3 after h1",
	} {
		if _, faults := parse(text); !strings.Contains(strings.Join(faults, "\n"), want) {
			t.Errorf("%s: %q, want %q", text, faults, want)
		}
	}
}

// document is what the tests look at of a page.
type document struct {
	links, navigation []string
	ids               map[string]bool
}

var void = []string{"meta", "link", "br", "img", "input", "hr", "wbr", "source"}

// parse reads a page and finds what a browser would put up with.
func parse(text string) (*document, []string) {
	d := &document{ids: map[string]bool{}}
	var faults, open []string
	headings, level := 0, 0
	complain := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for z := html.NewTokenizer(strings.NewReader(text)); ; {
		kind := z.Next()
		if kind == html.ErrorToken {
			break
		}
		token := z.Token()
		switch kind {
		case html.StartTagToken:
			attributes := map[string]string{}
			for _, a := range token.Attr {
				attributes[a.Key] = a.Val
			}
			if id, has := attributes["id"]; has {
				if d.ids[id] {
					complain("the id %q is there twice", id)
				}
				d.ids[id] = true
			}
			switch token.Data {
			case "html":
				if attributes["lang"] == "" {
					complain("no language")
				}
			case "h1", "h2", "h3", "h4", "h5", "h6":
				now := int(token.Data[1] - '0')
				if now == 1 {
					headings++
				}
				if now > level+1 {
					complain("h%d after h%d", now, level)
				}
				level = now
			case "img":
				if attributes["alt"] == "" {
					complain("a picture without a text")
				}
			case "a":
				if attributes["href"] == "" {
					complain("a link without a target")
				}
			}
			for _, key := range []string{"href", "src", "srcset"} {
				if link := attributes[key]; link != "" {
					d.links = append(d.links, link)
					if slices.Contains(open, "nav") {
						d.navigation = append(d.navigation, link)
					}
				}
			}
			if !slices.Contains(void, token.Data) {
				open = append(open, token.Data)
			}
		case html.EndTagToken:
			if len(open) == 0 || open[len(open)-1] != token.Data {
				last := "nothing"
				if len(open) > 0 {
					last = "<" + open[len(open)-1] + ">"
				}
				complain("</%s> ends %s", token.Data, last)
				continue
			}
			open = open[:len(open)-1]
		}
	}
	for _, tag := range open {
		complain("<%s> does not end", tag)
	}
	if headings != 1 {
		complain("%d headings of level 1", headings)
	}
	return d, faults
}
