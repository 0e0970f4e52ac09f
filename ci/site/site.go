package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/text"
)

// guide is the first page. Its sections and their lists are the navigation.
const guide = "docs/README.md"

// project is where files are read that are no pages.
const project = "https://github.com/stepwright/stepwright/"

//go:embed assets
var assets embed.FS

// site is the guide: the page docs/README.md, and the pages that its lists link to.
type site struct {
	root  string // the checkout's folder
	pages []*page
	nav   []part

	diagrams map[string]bool // texts of diagrams
}

// part is a section of the navigation.
type part struct {
	Title string
	Pages []*page
}

// page is one page of Markdown.
type page struct {
	file     string // from the root of the checkout, with slashes
	URL      string // from the root of the site
	Title    string
	About    string // what the guide says of it
	HTML     template.HTML
	Headings []head
	sections []section
	pictures []string
}

// head is a heading of a page.
type head struct {
	Level  int
	Text   string
	Anchor string
}

// section is what the search finds: a heading and the text below it.
type section struct {
	anchor, title, text string
}

// load reads and renders the guide of the checkout in root.
func load(root string) (*site, error) {
	s := &site{root: root, diagrams: map[string]bool{}}
	first := &page{file: guide, URL: "index.html"}
	s.pages = append(s.pages, first)
	raw, err := os.ReadFile(filepath.Join(root, guide))
	if err != nil {
		return nil, err
	}
	if err := s.navigation(raw); err != nil {
		return nil, err
	}
	var faults []error
	for _, p := range s.pages {
		if err := s.render(p); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", p.file, err))
		}
	}
	return s, errors.Join(faults...)
}

// navigation reads the sections of the guide's first page: in each, the first link of each item of a list is a page.
func (s *site) navigation(raw []byte) error {
	known := map[string]bool{guide: true}
	var faults []error
	walk := func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			if n.Level == 2 {
				s.nav = append(s.nav, part{Title: plain(n, raw)})
			}
		case *ast.ListItem:
			link := firstLink(n)
			if link == nil || len(s.nav) == 0 {
				faults = append(faults, fmt.Errorf("%s: %q links to no page", guide, plain(n, raw)))
				return ast.WalkSkipChildren, nil
			}
			file := path.Join(path.Dir(guide), string(link.Destination))
			if known[file] {
				faults = append(faults, fmt.Errorf("%s: %s is there twice", guide, file))
			}
			known[file] = true
			_, about, _ := strings.Cut(plain(n, raw), ": ")
			p := &page{file: file, URL: address(file), Title: plain(link, raw), About: about}
			s.pages = append(s.pages, p)
			last := &s.nav[len(s.nav)-1]
			last.Pages = append(last.Pages, p)
			return ast.WalkSkipChildren, nil
		}
		return ast.WalkContinue, nil
	}
	err := ast.Walk(markdown.Parser().Parse(text.NewReader(raw)), walk)
	return errors.Join(append(faults, err)...)
}

// address is where a page of Markdown is in the site.
func address(file string) string {
	if file == "README.md" {
		return "project.html"
	}
	name := strings.TrimPrefix(strings.TrimSuffix(file, ".md"), "docs/")
	dir, base := path.Split(name)
	if base == "README" {
		return dir + "index.html"
	}
	return dir + strings.ToLower(base) + ".html"
}

// find returns the page of a file; nil when it is none.
func (s *site) find(file string) *page {
	for _, p := range s.pages {
		if p.file == file {
			return p
		}
	}
	return nil
}

// layout is one page around its text.
var layout = template.Must(template.New("page.html").ParseFS(assets, "assets/page.html"))

// view is what the layout shows.
type view struct {
	*page
	Nav            []part
	Part           string
	Root           string // the way from the page's folder to the site's root, with a slash behind it, or empty
	Source         string
	Previous, Next *page
}

// write writes the site into a folder, which it empties first.
func (s *site) write(out string) error {
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	for i, p := range s.pages {
		v := view{
			page: p, Nav: s.nav, Root: strings.Repeat("../", strings.Count(p.URL, "/")),
			Source: project + "blob/main/" + p.file,
		}
		for _, part := range s.nav {
			for _, other := range part.Pages {
				if other == p {
					v.Part = part.Title
				}
			}
		}
		if i > 0 {
			v.Previous = s.pages[i-1]
		}
		if i+1 < len(s.pages) {
			v.Next = s.pages[i+1]
		}
		var b bytes.Buffer
		if err := layout.Execute(&b, v); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(out, filepath.FromSlash(p.URL)), b.Bytes()); err != nil {
			return err
		}
		if err := s.pictures(p, out); err != nil {
			return err
		}
	}
	index, err := s.index()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(out, "search.js"), index); err != nil {
		return err
	}
	return fs.WalkDir(assets, "assets", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path.Base(name) == "page.html" || path.Ext(name) == ".svg" {
			return err // pictures of diagrams are in the pages
		}
		raw, err := assets.ReadFile(name)
		if err != nil {
			return err
		}
		return writeFile(filepath.Join(out, path.Base(name)), raw)
	})
}

func writeFile(name string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, raw, 0o644)
}

// index is the search's: JSON in a script, since a page that is opened from a folder may fetch nothing.
func (s *site) index() ([]byte, error) {
	type entry struct {
		URL   string `json:"u"`
		Page  string `json:"p"`
		Title string `json:"t"`
		Text  string `json:"x"`
	}
	var all []entry
	for _, p := range s.pages {
		for _, section := range p.sections {
			url := p.URL
			if section.anchor != "" {
				url += "#" + section.anchor
			}
			all = append(all, entry{url, p.Title, section.title, section.text})
		}
	}
	raw, err := json.Marshal(all)
	return append(append([]byte("window.searchIndex="), raw...), ";\n"...), err
}
