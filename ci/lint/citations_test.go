package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const contractPath = "docs/contract.md"

var (
	address = regexp.MustCompile(`\w+://\S+`)

	// citation is a page, or a file of a folder of ours.
	citation = regexp.MustCompile(
		`[\w./-]*\w\.md\b|\b(?:ci|cmd|docs|examples|images|internal|schemas|steps|templates)/[\w./-]*\w\.[a-z]+\b`)
	aSection   = regexp.MustCompile(`(?:[\w./-]*\bcontract(?:\.md)?(?:'s)?) sections? (\d+)(?:(?:,| and) (\d+))*`)
	number     = regexp.MustCompile(`\d+`)
	numbered   = regexp.MustCompile(`(?m)^## (\d+)\. `)
	unreadable = regexp.MustCompile(`(?i)\b(?:design|house)(?:\.md|'s)? section`)
)

// TestCitations: a reader can look up what a comment refers to.
func TestCitations(t *testing.T) {
	sections := sectionsOf(t, contractPath)
	cited := 0
	for _, path := range tracked(t, "*.go") {
		for line, text := range comments(t, path) {
			text = address.ReplaceAllString(text, "")
			for _, fault := range miscited(path, text, sections) {
				t.Errorf("%s:%d: %s", path, line, fault)
			}
			cited += len(aSection.FindAllString(text, -1))
		}
	}
	if cited == 0 {
		t.Errorf("no comment cites %s", contractPath)
	}
}

func TestMiscited(t *testing.T) {
	const path = "ci/lint/citations_test.go"
	for name, test := range map[string]struct {
		comment string
		faults  int
	}{
		"a section":               {"as docs/contract.md section 2 says", 0},
		"two sections":            {"docs/contract.md sections 1 and 2", 0},
		"no such section":         {"docs/contract.md section 3", 1},
		"one of them is not":      {"docs/contract.md sections 2 and 7", 1},
		"a section of no page":    {"as the contract section 2 says", 1},
		"a page that nobody has":  {"as the design's section 2 says", 1},
		"a section of a standard": {"RFC 9110 section 10.2.3", 0},
		"a page":                  {"see docs/contract.md", 0},
		"no such page":            {"see docs/absent.md", 1},
		"a page beside the file":  {"see README.md", 0},
		"a file":                  {"see schemas/outcome.schema.json, schemas/reasons.go", 0},
		"no such file":            {"see schemas/outcomes.schema.json", 1},
	} {
		faults := miscited(path, test.comment, []string{"1", "2"})
		if len(faults) != test.faults {
			t.Errorf("%s: %q", name, faults)
		}
	}
}

// miscited returns the citations in a file's comments that lead nowhere. The sections are the ones of docs/contract.md.
func miscited(path, comment string, sections []string) (faults []string) {
	for _, m := range aSection.FindAllString(comment, -1) {
		if !strings.HasPrefix(m, contractPath+" ") {
			faults = append(faults, fmt.Sprintf("%q: cite %s", m, contractPath))
			continue
		}
		for _, n := range number.FindAllString(m, -1) {
			if !slices.Contains(sections, n) {
				faults = append(faults, fmt.Sprintf("%q: there is no section %s", m, n))
			}
		}
	}
	if m := unreadable.FindString(comment); m != "" {
		faults = append(faults, fmt.Sprintf("%q is of a page that is not here", m))
	}
	for _, m := range citation.FindAllString(comment, -1) {
		if !there(path, m) {
			faults = append(faults, m+" is not there")
		}
	}
	return faults
}

// there tells whether a file that is cited in another one exists: from the root, or from the folder of that file or one
// above it.
func there(path, cited string) bool {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join("../..", dir, cited)); err == nil {
			return true
		}
		if dir == "." {
			return false
		}
	}
}

func sectionsOf(t *testing.T, page string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range numbered.FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	return all
}

// comments are the comments of a Go file, each as one line, by the number of its first line.
func comments(t *testing.T, path string) map[int]string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, filepath.Join("../..", path), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]string{}
	for _, group := range file.Comments {
		all[set.Position(group.Pos()).Line] = strings.Join(strings.Fields(text(group)), " ")
	}
	return all
}

// text is what a group of comments says. CommentGroup.Text would leave out what looks like a directive.
func text(group *ast.CommentGroup) string {
	var b strings.Builder
	for _, comment := range group.List {
		b.WriteString(strings.TrimLeft(comment.Text, "/* ") + "\n")
	}
	return b.String()
}
