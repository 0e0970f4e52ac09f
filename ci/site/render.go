package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	extast "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

var markdown = goldmark.New(
	goldmark.WithExtensions(extension.Table, extension.Strikethrough, extension.Linkify),
	goldmark.WithRendererOptions(
		renderer.WithNodeRenderers(util.Prioritized(blocks{html.Config{Writer: html.DefaultWriter}}, 100)),
	),
)

// render fills in what a page shows, and says which of its links lead nowhere.
func (s *site) render(p *page) error {
	raw, err := os.ReadFile(filepath.Join(s.root, filepath.FromSlash(p.file)))
	if err != nil {
		return err
	}
	context := parser.NewContext(parser.WithIDs(&names{seen: map[string]int{}}))
	doc := markdown.Parser().Parse(text.NewReader(raw), parser.WithContext(context))
	var faults []string
	title := ""
	current, inHeading := section{}, false
	finish := func() {
		current.text = strings.Join(strings.Fields(current.text), " ")
		p.sections = append(p.sections, current)
	}
	err = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			inHeading = inHeading && n.Kind() != ast.KindHeading
			return ast.WalkContinue, nil
		}
		switch n := n.(type) {
		case *ast.Heading:
			inHeading = true
			words := plain(n, raw)
			anchor := string(context.IDs().Generate([]byte(words), n.Kind()))
			n.SetAttributeString("id", []byte(anchor))
			if n.Level == 1 && title == "" {
				title = words
				current.title = words
				return ast.WalkContinue, nil
			}
			p.Headings = append(p.Headings, head{n.Level, words, anchor})
			finish()
			current = section{anchor: anchor, title: words}
			return ast.WalkContinue, nil
		case *ast.Link:
			target, err := s.target(p, string(n.Destination))
			if err != nil {
				faults = append(faults, err.Error())
			}
			n.Destination = []byte(target)
		case *ast.Image:
			if target, err := s.picture(p, string(n.Destination)); err != nil {
				faults = append(faults, err.Error())
			} else {
				n.Destination = []byte(target)
			}
		case *ast.HTMLBlock:
			if block := string(n.Lines().Value(raw)); strings.HasPrefix(block, "<picture>") {
				block = source.ReplaceAllStringFunc(block, func(attribute string) string {
					m := source.FindStringSubmatch(attribute)
					target, err := s.picture(p, m[2])
					if err != nil {
						faults = append(faults, err.Error())
					}
					return m[1] + `="` + target + `"`
				})
				n.SetAttributeString("picture", []byte(block))
			}
		case *ast.Text:
			_, first := n.PreviousSibling().(*ast.Link)
			if first && p.file == guide && bytes.HasPrefix(n.Value(raw), []byte(": ")) { // a card needs none
				n.Segment = n.Segment.WithStart(n.Segment.Start + len(": "))
			}
			if !inHeading {
				current.text += string(n.Value(raw)) + separator(n)
			}
		case *ast.AutoLink:
			if !inHeading {
				current.text += string(n.Label(raw))
			}
		case *ast.FencedCodeBlock:
			if lines := string(n.Lines().Value(raw)); string(n.Language(raw)) == "mermaid" {
				s.diagrams[lines] = true
			} else {
				current.text += " " + lines + " "
			}
		case *ast.CodeBlock:
			current.text += " " + string(n.Lines().Value(raw)) + " "
		case *extast.TableCell, *ast.Paragraph, *ast.ListItem, *ast.TextBlock:
			current.text += " "
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return err
	}
	finish()
	if title == "" {
		faults = append(faults, "it has no heading of level 1")
	}
	if p.Title == "" {
		p.Title = title
	}
	var b bytes.Buffer
	if err := markdown.Renderer().Render(&b, raw, doc); err != nil {
		return err
	}
	// A table without a header has one of empty cells in Markdown.
	p.HTML = template.HTML(strings.ReplaceAll(b.String(), "<th></th>", "<td></td>"))
	if len(faults) > 0 {
		return fmt.Errorf("%s", strings.Join(faults, "; "))
	}
	return nil
}

// source is where a picture comes from, in HTML.
var source = regexp.MustCompile(`\b(src|srcset)="([^"]+)"`)

func separator(n *ast.Text) string {
	if n.SoftLineBreak() || n.HardLineBreak() {
		return " "
	}
	return ""
}

// target is where a link of a page leads in the site: to another page, or for any other file of the project to where
// the project is read.
func (s *site) target(p *page, link string) (string, error) {
	u, err := url.Parse(link)
	if err != nil || u.IsAbs() || u.Path == "" {
		return link, err
	}
	file := path.Join(path.Dir(p.file), u.Path)
	info, err := os.Stat(filepath.Join(s.root, filepath.FromSlash(file)))
	if err != nil || !filepath.IsLocal(file) {
		return "", fmt.Errorf("the link to %s leads nowhere", link)
	}
	other := s.find(file)
	if info.IsDir() {
		other = s.find(path.Join(file, "README.md"))
	}
	fragment := ""
	if u.Fragment != "" {
		fragment = "#" + u.Fragment
	}
	switch {
	case other != nil:
		return relative(p.URL, other.URL) + fragment, nil
	case info.IsDir():
		return project + "tree/main/" + file, nil
	}
	return project + "blob/main/" + file + fragment, nil
}

// relative is the way from one page of the site to another.
func relative(from, to string) string {
	way, err := filepath.Rel(filepath.FromSlash(path.Dir(from)), filepath.FromSlash(to))
	if err != nil {
		return to // both are below the site's root
	}
	return filepath.ToSlash(way)
}

// picture is where a picture of a page is in the site: beside the pages, in the folders of the checkout.
func (s *site) picture(p *page, link string) (string, error) {
	file := path.Join(path.Dir(p.file), link)
	if _, err := os.Stat(filepath.Join(s.root, filepath.FromSlash(file))); err != nil || !filepath.IsLocal(file) {
		return "", fmt.Errorf("there is no picture %s", link)
	}
	p.pictures = append(p.pictures, file)
	return relative(p.URL, "files/"+file), nil
}

// pictures copies the pictures of a page.
func (s *site) pictures(p *page, out string) error {
	for _, file := range p.pictures {
		raw, err := os.ReadFile(filepath.Join(s.root, filepath.FromSlash(file)))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(out, "files", filepath.FromSlash(file)), raw); err != nil {
			return err
		}
	}
	return nil
}

// names gives headings the anchors that GitHub gives them.
type names struct {
	seen map[string]int
}

// Generate returns the anchor of a heading's text.
func (n *names) Generate(value []byte, _ ast.NodeKind) []byte {
	name := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
			return unicode.ToLower(r)
		}
		return -1
	}, string(value))
	times := n.seen[name]
	n.seen[name]++
	if times > 0 {
		name = fmt.Sprintf("%s-%d", name, times)
	}
	return []byte(name)
}

// Put is of an interface; nothing calls it.
func (n *names) Put(value []byte) { n.seen[string(value)]++ }

// plain is the text of a node.
func plain(n ast.Node, raw []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // which never fails
		if t, ok := n.(*ast.Text); ok && entering {
			b.Write(t.Value(raw))
			b.WriteString(separator(t))
		}
		if t, ok := n.(*ast.String); ok && entering {
			b.Write(t.Value)
		}
		if t, ok := n.(*ast.AutoLink); ok && entering {
			b.Write(t.Label(raw))
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

func firstLink(n ast.Node) (link *ast.Link) {
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) { // which never fails
		if l, ok := n.(*ast.Link); ok && entering {
			link = l
			return ast.WalkStop, nil
		}
		return ast.WalkContinue, nil
	})
	return link
}

// blocks renders what is not as goldmark does it: code, tables, headings, pictures, and raw HTML, of which only
// pictures are let through.
type blocks struct {
	html.Config
}

// RegisterFuncs is of renderer.NodeRenderer.
func (b blocks) RegisterFuncs(to renderer.NodeRendererFuncRegisterer) {
	to.Register(ast.KindCodeBlock, b.code)
	to.Register(ast.KindFencedCodeBlock, b.code)
	to.Register(ast.KindHeading, b.heading)
	to.Register(ast.KindHTMLBlock, b.picture)
	to.Register(ast.KindRawHTML, b.nothing)
	to.Register(extast.KindTable, b.table)
}

func (b blocks) nothing(util.BufWriter, []byte, ast.Node, bool) (ast.WalkStatus, error) {
	return ast.WalkSkipChildren, nil
}

func (b blocks) picture(w util.BufWriter, _ []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	if picture, has := n.AttributeString("picture"); has && entering {
		text, _ := picture.([]byte)
		_, _ = w.Write(text)
	}
	return ast.WalkSkipChildren, nil
}

func (b blocks) heading(w util.BufWriter, _ []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	h := n.(*ast.Heading)
	id, _ := h.AttributeString("id")
	name, _ := id.([]byte)
	if entering {
		fmt.Fprintf(w, "<h%d id=\"%s\">", h.Level, util.EscapeHTML(name))
		return ast.WalkContinue, nil
	}
	if h.Level > 1 {
		fmt.Fprintf(w, ` <a class="anchor" href="#%s" aria-label="Link to this section">#</a>`, util.EscapeHTML(name))
	}
	fmt.Fprintf(w, "</h%d>\n", h.Level)
	return ast.WalkContinue, nil
}

func (b blocks) table(w util.BufWriter, _ []byte, _ ast.Node, entering bool) (ast.WalkStatus, error) {
	if entering {
		_, _ = w.WriteString("<div class=\"table\" tabindex=\"0\" role=\"group\" aria-label=\"Table\"><table>\n")
	} else {
		_, _ = w.WriteString("</table></div>\n")
	}
	return ast.WalkContinue, nil
}

// comment is the end of a line of a shell that nothing runs.
var comment = regexp.MustCompile(`(?m)(^|\s)(#(?: .*|$))`)

func (b blocks) code(w util.BufWriter, raw []byte, n ast.Node, entering bool) (ast.WalkStatus, error) {
	if !entering {
		return ast.WalkContinue, nil
	}
	lines := string(n.Lines().Value(raw))
	language := ""
	if fenced, ok := n.(*ast.FencedCodeBlock); ok {
		language = string(fenced.Language(raw))
	}
	if language == "mermaid" {
		if drawn, err := assets.ReadFile("assets/" + diagramName(lines)); err == nil {
			fmt.Fprintf(w, "<figure class=\"diagram\">%s</figure>\n", drawn)
			return ast.WalkContinue, nil
		}
	}
	escaped := string(util.EscapeHTML([]byte(strings.TrimRight(lines, "\n"))))
	if language != "mermaid" {
		escaped = comment.ReplaceAllString(escaped, `$1<span class="comment">$2</span>`)
	}
	fmt.Fprintf(w, "<pre tabindex=\"0\"><code>%s</code></pre>\n", escaped)
	return ast.WalkContinue, nil
}

// diagramName is the file in assets that holds a diagram's picture, by the diagram's text.
func diagramName(text string) string {
	sum := sha256.Sum256([]byte(strings.TrimSpace(text)))
	return "diagram-" + hex.EncodeToString(sum[:6]) + ".svg"
}
