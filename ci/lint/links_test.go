package lint

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	// link is [text](target), ![text](target) or a reference's [name]: target.
	link    = regexp.MustCompile(`\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)|(?m:^\s{0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$)`)
	attr    = regexp.MustCompile(`<(?:a|img)\s[^>]*\b(?:href|src)="([^"]+)"`)
	heading = regexp.MustCompile(`^#{1,6}\s+(.+?)\s*#*$`)
	code    = regexp.MustCompile("`[^`]*`")
	scheme  = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*:`)
)

// TestLinks: what a page of ours links to is here, and has the heading.
func TestLinks(t *testing.T) {
	links := 0
	for _, page := range tracked(t, "*.md") {
		faults, n := brokenLinks("../..", page)
		for _, fault := range faults {
			t.Error(fault)
		}
		links += n
	}
	if links == 0 {
		t.Error("no page links to anything")
	}
}

func TestBrokenLinks(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("docs/other.md", "# One `run`, two (2)\n\n## Twice\n\n## Twice\n\n    # no heading\n")
	for name, test := range map[string]struct {
		text   string
		faults int
	}{
		"a page":                  {"[x](docs/other.md)", 0},
		"a folder":                {"[x](docs)", 0},
		"no such page":            {"[x](docs/absent.md)", 1},
		"out of the project":      {"[x](../etc)", 1},
		"another site":            {"[x](https://example.com/absent.md), [y](mailto:a@example.com)", 0},
		"a heading":               {"[x](docs/other.md#one-run-two-2)", 0},
		"the second of two":       {"[x](docs/other.md#twice-1)", 0},
		"a third of two":          {"[x](docs/other.md#twice-2)", 1},
		"no heading, but code":    {"[x](docs/other.md#no-heading)", 1},
		"a heading of this page":  {"## Here\n\n[x](#here)", 0},
		"no heading of this page": {"[x](#here)", 1},
		"code":                    {"`[x](absent)`\n\n    [x](absent)\n\n```\n[x](absent)\n```\n", 0},
		"after code":              {"```\ncode\n```\n\n[x](absent)", 1},
		"a reference":             {"[x][y]\n\n[y]: absent.md\n", 1},
		"a picture":               {`![x](absent.png) <img src="absent.png">`, 2},
		"two on a line":           {"[x](absent) and [y](docs/absent)", 2},
	} {
		write("page.md", test.text)
		if faults, _ := brokenLinks(root, "page.md"); len(faults) != test.faults {
			t.Errorf("%s: %q", name, faults)
		}
	}
}

// brokenLinks says which links of a page lead nowhere, and how many it has that stay in the project.
func brokenLinks(root, page string) (faults []string, links int) {
	raw, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return []string{err.Error()}, 0
	}
	prose := strings.Join(withoutCode(string(raw)), "\n")
	for _, m := range append(link.FindAllStringSubmatch(code.ReplaceAllString(prose, ""), -1),
		attr.FindAllStringSubmatch(prose, -1)...) {
		target := strings.Join(m[1:], "")
		if scheme.MatchString(target) {
			continue
		}
		links++
		path, anchor, _ := strings.Cut(target, "#")
		path, err := url.PathUnescape(path)
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s: %v", page, target, err))
			continue
		}
		file := page
		if path != "" {
			file = filepath.Join(filepath.Dir(page), path)
		}
		if _, err := os.Stat(filepath.Join(root, file)); err != nil || !filepath.IsLocal(file) {
			faults = append(faults, fmt.Sprintf("%s: the link to %s leads nowhere", page, target))
			continue
		}
		if anchor == "" || filepath.Ext(file) != ".md" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || !slices.Contains(anchors(string(text)), anchor) {
			faults = append(faults, fmt.Sprintf("%s: %s has no heading #%s", page, file, anchor))
		}
	}
	return faults, links
}

// withoutCode are the lines of a page without its blocks of code.
func withoutCode(text string) (lines []string) {
	fenced, indented, blank := false, false, true
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimLeft(line, " "), "```") {
			fenced = !fenced
			continue
		}
		deep := strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t")
		indented = deep && (blank || indented)
		blank = strings.TrimSpace(line) == ""
		if !fenced && !indented {
			lines = append(lines, line)
		}
	}
	return lines
}

// anchors are the names that GitHub gives to the headings of a page.
func anchors(text string) (all []string) {
	seen := map[string]int{}
	for _, line := range withoutCode(text) {
		m := heading.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		title := regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(m[1], "$1")
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
				return unicode.ToLower(r)
			}
			return -1
		}, title)
		if n := seen[name]; n > 0 {
			all = append(all, fmt.Sprintf("%s-%d", name, n))
		} else {
			all = append(all, name)
		}
		seen[name]++
	}
	return all
}
