package soaktest

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Write writes what was sampled as a table for people.
func (s *Soak) Write(w io.Writer, verdicts []Verdict) error {
	last := s.Samples[len(s.Samples)-1]
	fmt.Fprintf(
		w, "%d builds in %v, with %d samples between them, when nothing was built.\n", last.Builds,
		last.After.Round(time.Second), len(s.Samples),
	)
	var ends []string
	for _, how := range slices.Sorted(maps.Keys(s.Outcomes)) {
		ends = append(ends, fmt.Sprintf("%d %s", s.Outcomes[how], how))
	}
	fmt.Fprintf(w, "How they ended: %s.\n\n", strings.Join(ends, ", "))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tfirst\tlast\tleast\tmost\tpeak\tslope\tmay grow by\t")
	for _, v := range verdicts {
		fmt.Fprintf(
			table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", strings.Join(words(v.Name, v.Unit), ", "), figure(v.First),
			figure(v.Last), figure(v.Least), figure(v.Most), figure(s.Peaks[v.Name]), v.slope(), v.bound(), v.grows(),
		)
	}
	return table.Flush()
}

// words are those that are not empty.
func words(all ...string) []string {
	return slices.DeleteFunc(all, func(word string) bool { return word == "" })
}

func figure(v float64) string {
	if v == math.Trunc(v) || math.Abs(v) >= 100 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func (v Verdict) per() string {
	if v.PerBuild {
		return "build"
	}
	return "hour"
}

func (v Verdict) slope() string { return fmt.Sprintf("%+.2f/%s", v.Slope, v.per()) }

func (v Verdict) bound() string {
	if v.Free {
		return "any"
	}
	bound := v.Hour
	if v.PerBuild {
		bound = v.Build
	}
	return fmt.Sprintf("%g/%s, %g in all", bound, v.per(), v.Spare)
}

func (v Verdict) grows() string {
	if v.Grows {
		return "GROWS"
	}
	return ""
}

// The picture has a small plot for each quantity, in columns.
const (
	columns            = 3
	plotWide, plotHigh = 300, 90
	lineWide, lineHigh = 270, 44
	colourSteady       = "#2e7d32"
	colourGrows        = "#c0392b"
	colourFree         = "#5f6b7a"
)

// Picture is an SVG with a line for each quantity: from the least to the most that it was, over time.
func (s *Soak) Picture(verdicts []Verdict) string {
	var b strings.Builder
	rows := (len(verdicts) + columns - 1) / columns
	fmt.Fprintf(
		&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n"+
			`<rect width="100%%" height="100%%" fill="#fff"/>`+"\n", columns*plotWide, rows*plotHigh,
	)
	for i, v := range verdicts {
		fmt.Fprintf(
			&b, `<g transform="translate(%d %d)"><text x="15" y="18" fill="#222">%s</text>`+
				`<text x="15" y="%d" font-size="10" fill="#555">%s to %s, %s</text>`,
			i%columns*plotWide, i/columns*plotHigh, html.EscapeString(strings.Join(words(v.Name, v.Unit), ", ")),
			plotHigh-8, figure(v.Least), figure(v.Most), v.slope(),
		)
		fmt.Fprintf(
			&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/></g>`+"\n", v.colour(), s.points(v),
		)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (v Verdict) colour() string {
	switch {
	case v.Grows:
		return colourGrows
	case v.Free:
		return colourFree
	default:
		return colourSteady
	}
}

func (s *Soak) points(v Verdict) string {
	whole := cmp.Or(s.Samples[len(s.Samples)-1].After.Seconds(), 1)
	var points []string
	for _, sample := range s.Samples {
		up := 0.5
		if v.Most > v.Least {
			up = (sample.Values[v.Name] - v.Least) / (v.Most - v.Least)
		}
		points = append(points, fmt.Sprintf(
			"%.1f,%.1f", 15+lineWide*sample.After.Seconds()/whole, 26+lineHigh*(1-up),
		))
	}
	return strings.Join(points, " ")
}
