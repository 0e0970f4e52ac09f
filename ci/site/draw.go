package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Diagrams are drawn by mermaid in Chromium once, and kept as pictures: mermaid is larger than all pages together.

// drawPage has mermaid draw one diagram, with text as text, since pictures are looked at without a browser, too.
const drawPage = `<!DOCTYPE html><html lang="en"><title>diagram</title><body><div id="out"></div>
<script src="%s"></script><script type="module">
mermaid.initialize({startOnLoad: false, theme: "neutral", htmlLabels: false, flowchart: {htmlLabels: false}});
const {svg} = await mermaid.render(%q, %q);
document.getElementById("out").innerHTML = svg;
</script></body></html>`

var drawn = regexp.MustCompile(`(?s)<div id="out">(<svg.*</svg>)</div>`)

// draw writes the pictures of all diagrams into a folder, by a mermaid.min.js, and removes those of others.
func draw(ctx context.Context, s *site, mermaid, folder string) (err error) {
	mermaid, err = filepath.Abs(mermaid)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "diagrams-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	old, err := filepath.Glob(filepath.Join(folder, "diagram-*.svg"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	for text := range s.diagrams {
		picture, err := drawOne(ctx, scratch, mermaid, text)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(folder, diagramName(text)), []byte(picture+"\n")); err != nil {
			return err
		}
	}
	return nil
}

func drawOne(ctx context.Context, scratch, mermaid, text string) (string, error) {
	page := filepath.Join(scratch, "page.html")
	id := strings.TrimSuffix(diagramName(text), ".svg")
	content := fmt.Sprintf(drawPage, html.EscapeString(mermaid), id, text)
	if err := os.WriteFile(page, []byte(content), 0o600); err != nil {
		return "", err
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	out, err := exec.CommandContext(
		ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
		"--allow-file-access-from-files", "--user-data-dir="+filepath.Join(scratch, "profile"),
		"--virtual-time-budget=10000", "--dump-dom", "file://"+page,
	).Output()
	if err != nil {
		return "", fmt.Errorf("chromium: %w", err)
	}
	m := drawn.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("mermaid drew nothing of %.80q", text)
	}
	return string(m[1]), nil
}
