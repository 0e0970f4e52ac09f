package main

import (
	"fmt"
	"html"
	"strings"
)

// line is one figure over time.
type line struct {
	name, colour string
	of           func(sample) float64
}

// panel is lines that share an axis.
type panel struct {
	title string
	lines []line
	limit float64 // drawn as a dashed line; 0: none
}

const (
	blue, red, green = "#1f5fa8", "#c0392b", "#2e7d32"
	panelWidth       = 640
	panelHeight      = 150
	panelLeft        = 64
	panelTop         = 40
)

var panels = []panel{
	{title: "runs", lines: []line{
		{"at work", blue, func(s sample) float64 { return float64(s.Running) }},
		{"ended", green, func(s sample) float64 { return float64(s.Ended) }},
	}},
	{title: "waiting to be looked at", lines: []line{
		{"Workflows, by Argo", blue, func(s sample) float64 { return s.ArgoQueue }},
		{"WorkflowRuns, by OpenChoreo", red, func(s sample) float64 { return s.RunsQueue }},
	}},
	{title: "memory, MiB", limit: argoLimit, lines: []line{
		{"Argo's controller", blue, func(s sample) float64 { return s.ArgoMiB }},
		{"OpenChoreo's manager", red, func(s sample) float64 { return s.ManagerMiB }},
	}},
	{title: "processors", lines: []line{
		{"Argo's controller", blue, func(s sample) float64 { return s.ArgoCPU }},
		{"OpenChoreo's manager", red, func(s sample) float64 { return s.ManagerCPU }},
		{"all that is measured", green, func(s sample) float64 { return s.Cores }},
	}},
	{title: "requests each second", lines: []line{
		{"Argo's controller", blue, func(s sample) float64 { return s.ArgoRate }},
		{"OpenChoreo's manager", red, func(s sample) float64 { return s.RunsRate }},
	}},
}

// plot draws an experiment's samples, a panel below the other.
func plot(r result) string {
	var b strings.Builder
	height := panelTop + len(panels)*(panelHeight+panelTop)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d"
  font-family="sans-serif" font-size="12">
<rect width="100%%" height="100%%" fill="white"/>
<text x="%d" y="20" font-weight="bold">%s</text>
`, panelLeft+panelWidth+24, height, panelLeft, html.EscapeString(r.title()))
	for i, p := range panels {
		b.WriteString(p.draw(r, panelTop+24+i*(panelHeight+panelTop)))
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// draw draws a panel whose upper edge is at y.
func (p panel) draw(r result, y int) string {
	var b strings.Builder
	end, most := 1.0, p.limit
	for _, s := range r.Samples {
		end = max(end, s.At)
		for _, l := range p.lines {
			most = max(most, l.of(s))
		}
	}
	most = max(most, 1)
	x := func(at float64) float64 { return panelLeft + at/end*panelWidth }
	height := func(value float64) float64 { return float64(y) + panelHeight - value/most*panelHeight }
	fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", panelLeft, y-8, html.EscapeString(p.title))
	for _, share := range []float64{0, 0.5, 1} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", panelLeft,
			panelLeft+panelWidth, height(share*most), height(share*most))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", panelLeft-6,
			height(share*most)+4, number(share*most))
	}
	if p.limit > 0 {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="4 4"/>`+"\n",
			panelLeft, panelLeft+panelWidth, height(p.limit), height(p.limit), blue)
	}
	if r.Restart != nil {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#888888" stroke-dasharray="2 3"/>`+"\n",
			x(r.Restart.At), x(r.Restart.At), y, y+panelHeight)
	}
	for i, l := range p.lines {
		var points []string
		for _, s := range r.Samples {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(s.At), height(l.of(s))))
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`+"\n", l.colour,
			strings.Join(points, " "))
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", panelLeft+170+i*170, y-8, l.colour,
			html.EscapeString(l.name))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s s</text>`+"\n", panelLeft+panelWidth, y+panelHeight+14,
		number(end))
	return b.String()
}
