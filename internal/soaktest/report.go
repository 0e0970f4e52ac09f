package soaktest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// files are what Write writes.
const (
	dataFile    = "soak.json"
	pageFile    = "soak.md"
	pictureFile = "soak.svg"
)

// Write writes all samples as JSON into a folder, and the page and the picture that are made of them.
func (s *Soak) Write(dir string) error {
	raw, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(dir, dataFile), append(raw, '\n'), 0o644)}
	for name, text := range s.pages() {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}

func (s *Soak) pages() map[string]string {
	verdicts, _ := s.Judge()
	return map[string]string{pageFile: s.Page(verdicts), pictureFile: s.picture(verdicts)}
}

// Check compares the page and the picture in a folder with the samples there.
func Check(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, dataFile))
	if err != nil {
		return err
	}
	var s Soak
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("%s: %w", dataFile, err)
	}
	for name, want := range s.pages() {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if string(got) != want {
			return fmt.Errorf("%s is not what %s says", name, dataFile)
		}
	}
	return nil
}

const head = `# Soak

<!-- Written by make soak RECORD=1: do not edit. -->

` + "`make soak DURATION=2h`" + ` builds in a loop on a cluster of its own ([TestSoak](../../ci/e2e/README.md)).
After each turn, when nothing is built and nothing of a run is left, it takes a sample. A slope is the median of the
slopes between each two of the last two thirds of the samples, by Theil and Sen. It is a fault where a slope is more
than the quantity may grow by, and all of the growth more than is spared. The peak is the most at any moment, also while
builds ran, of what is looked at then: processes. A soak of minutes
says nothing of what grows slowly.

`

// Page writes what was sampled as a page for people.
func (s *Soak) Page(verdicts []Verdict) string {
	var b strings.Builder
	last := s.Samples[len(s.Samples)-1]
	fmt.Fprintf(
		&b, "%s\n\n%d builds in %v, with %d samples. How they ended: ", s.About, last.Builds,
		last.After.Round(time.Second), len(s.Samples),
	)
	var ends []string
	for _, how := range slices.Sorted(maps.Keys(s.Outcomes)) {
		ends = append(ends, fmt.Sprintf("%d %s", s.Outcomes[how], how))
	}
	fmt.Fprintf(&b, "%s.\n\n![A line for each quantity](%s)\n\n", strings.Join(ends, ", "), pictureFile)
	b.WriteString("| quantity | first | last | least | most | peak | slope | may grow by | |\n")
	b.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---|\n")
	for _, v := range verdicts {
		fmt.Fprintf(
			&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", strings.Join(words(v.Name, v.Unit), ", "),
			figure(v.First), figure(v.Last), figure(v.Least), figure(v.Most), figure(s.Peaks[v.Name]), v.slope(),
			v.bound(), v.grows(),
		)
	}
	return head + b.String()
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
	return fmt.Sprintf("%g/%s, %g spared", bound, v.per(), v.Spare)
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

// picture is an SVG with a line for each quantity: from the least to the most that it was, over time.
func (s *Soak) picture(verdicts []Verdict) string {
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
