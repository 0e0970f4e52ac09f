package bench

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// docs is the folder whose page is brought up to date with what was measured. Tables of benchmarks that did not run
// stay as they are.
var docs = flag.String("docs", "", "write performance.md, .svg and .json in this `folder`")

// A table is what one contest found.
type table struct {
	Name    string
	About   string // commit, day and machine
	Rounds  int
	Results []result
}

type result struct {
	Name      string
	Wall, CPU spread   // seconds
	Peak      spread   // MiB
	Network   *network `json:",omitempty"` // nil where nobody counted
	Workspace *float64 `json:",omitempty"` // MB; nil where nobody measured
}

// update puts a table on the page in a folder, in the place of the one of that name.
func update(dir string, fresh table) error {
	kept := filepath.Join(dir, "performance.json")
	var all []table
	raw, err := os.ReadFile(kept)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all = append(slices.DeleteFunc(all, func(old table) bool { return old.Name == fresh.Name }), fresh)
	slices.SortFunc(all, func(a, b table) int { return strings.Compare(a.Name, b.Name) })
	if raw, err = json.MarshalIndent(all, "", " "); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(kept, append(raw, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "performance.md"), []byte(page(all)), 0o644),
		os.WriteFile(filepath.Join(dir, "performance.svg"), []byte(plot(all)), 0o644),
	)
}

const head = `# Performance

<!-- Written by make bench: do not edit. -->

` + "`make bench`" + ` measures the steps beside the tools that they replace, and writes this page;
` + "`make bench BENCH=Publish`" + ` measures a part of it, and ` + "`ROUNDS=1`" + ` is quicker.
The contenders of a table run by turns, each as often as the table says. A figure is the median, with the least and the
most in brackets. CPU is user and system time of the contender's processes, daemons that work for it alone included,
without that of registries. Peak is the memory of its largest process, which may be a compiler. Sent, received and
requests are what registries counted. The registry that is pushed to asks for TLS and a password, and runs on the same
machine, as all else does, so that a busy machine shows in the wall time of all alike; CPU is the steadier figure. The
folders that a contender writes are new each time, and on an ext4 of their own.

The variable ` + "`STEPWRIGHT_BENCH_BEFORE`" + ` lists folders with older binaries, as ` + "`PATH`" + ` does; they take
part as *before*.

![Wall time of each contender, by the first of its table](performance.svg)
`

// page writes the tables for people. Those of one benchmark stand together, as their names are sorted.
func page(all []table) string {
	var b strings.Builder
	b.WriteString(head)
	b.WriteString(goalTable(all))
	last := ""
	for _, t := range all {
		benchmark, part, _ := strings.Cut(t.Name, "/")
		if benchmark != last {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", benchmark, explained[benchmark])
			if benchmark == changeBenchmark {
				b.WriteString(changeTables(all))
			}
			last = benchmark
		}
		if benchmark == changeBenchmark {
			continue
		}
		if part != "" {
			fmt.Fprintf(&b, "\n### %s\n", part)
		}
		first := t.Results[0]
		var rows []row
		for i, r := range t.Results {
			ratio := ""
			if i > 0 {
				ratio = r.times(first)
			}
			rows = append(rows, row{r.Name, r, []string{ratio}})
		}
		fmt.Fprintf(&b, "\n%s\n%s", grid([]string{"×"}, rows), t.footer())
	}
	return b.String()
}

func (t table) footer() string { return fmt.Sprintf("%d rounds, %s.\n", t.Rounds, t.About) }

// times is a result's wall time as a multiple of another's.
func (r result) times(other result) string {
	return fmt.Sprintf("%.2f", r.Wall.Median/other.Wall.Median)
}

// A row is a line of a grid: what was measured, and its ratios to others.
type row struct {
	label string
	result
	ratios []string
}

// grid writes rows, with a heading for each ratio.
func grid(ratios []string, rows []row) string {
	counted := slices.ContainsFunc(rows, func(r row) bool { return r.Network != nil })
	left := slices.ContainsFunc(rows, func(r row) bool { return r.Workspace != nil })
	headings := slices.Concat([]string{"", "wall, s"}, ratios, []string{"CPU, s", "peak, MiB"})
	if counted {
		headings = append(headings, "sent, MB", "received, MB", "requests")
	}
	if left {
		headings = append(headings, "workspace, MB")
	}
	text := "| " + strings.Join(headings, " | ") + " |\n" + strings.Repeat("|---", len(headings)) + "|\n"
	for _, r := range rows {
		cells := slices.Concat([]string{r.label, r.Wall.String()}, r.ratios, []string{
			r.CPU.String(), fmt.Sprintf("%.0f", r.Peak.Median),
		})
		if n := r.Network; n != nil {
			cells = append(cells, fmt.Sprintf("%.1f", n.Sent), fmt.Sprintf("%.1f", n.Received),
				fmt.Sprintf("%.0f", n.Requests))
		} else if counted {
			cells = append(cells, "", "", "")
		}
		if r.Workspace != nil {
			cells = append(cells, fmt.Sprintf("%.1f", *r.Workspace))
		} else if left {
			cells = append(cells, "")
		}
		text += "| " + strings.Join(cells, " | ") + " |\n"
	}
	return text
}

func (s spread) String() string { return fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max) }

// plot draws the wall time of each contender as a multiple of the first in its table, on a logarithmic scale.
func plot(all []table) string {
	const left, width, row = 330, 480, 16
	var rows strings.Builder
	y := 30
	at := func(ratio float64) float64 { // from 1/16 to 16
		return left + width*(min(max(math.Log2(ratio), -4), 4)+4)/8
	}
	for _, t := range all {
		y += row
		fmt.Fprintf(&rows, `<text x="8" y="%d" font-weight="bold">%s</text>`+"\n", y, html.EscapeString(t.Name))
		for i, r := range t.Results {
			y += row
			first := t.Results[0].Wall
			ratio, colour := r.Wall.Median/first.Median, "#2e7d32"
			switch {
			case i == 0:
				colour = "#888888"
			case ratio > 1:
				colour = "#c0392b"
			}
			fmt.Fprintf(
				&rows, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-8, y, html.EscapeString(r.Name),
			)
			fmt.Fprintf(&rows, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>`+"\n",
				at(r.Wall.Min/first.Median), at(r.Wall.Max/first.Median), y-4, y-4, colour)
			fmt.Fprintf(&rows, `<circle cx="%.1f" cy="%d" r="4" fill="%s"/>`+"\n", at(ratio), y-4, colour)
			fmt.Fprintf(&rows, `<text x="%d" y="%d">%.2f</text>`+"\n", left+width+8, y, ratio)
		}
	}
	var b strings.Builder
	fmt.Fprintf(
		&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" `+
			`font-family="sans-serif" font-size="12">`+"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n",
		left+width+60, y+20,
	)
	for exponent := -4; exponent <= 4; exponent++ {
		x := at(math.Pow(2, float64(exponent)))
		label := fmt.Sprintf("%d×", 1<<max(exponent, 0))
		if exponent < 0 {
			label = fmt.Sprintf("1/%d", 1<<-exponent)
		}
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="24" y2="%d" stroke="#dddddd"/>`+"\n", x, x, y+8)
		fmt.Fprintf(&b, `<text x="%.1f" y="16" text-anchor="middle">%s</text>`+"\n", x, label)
	}
	b.WriteString(rows.String())
	b.WriteString("</svg>\n")
	return b.String()
}

// explained says what a benchmark measures, for the page.
var explained = map[string]string{
	"Checkout": "A repository is checked out at the tip of a branch, without its history, by HTTP from this machine, " +
		"onto a new file system (ext4), and into memory (tmpfs). It has 10,600 or 20,000 files of up to 12 KB, " +
		"100,000 small ones 8 folders deep, or three files of 150 MB that differ in a few bytes.",
	"Publish": "An image of 20 layers, 475 MB together, is pushed to an empty registry, from an OCI image layout or " +
		"from a docker-archive, or to a registry that has it (unchanged). publish-image reads what a build left, and " +
		"verifies each digest; crane and skopeo believe the layout.",
	changeBenchmark: `A change of a source is built, and its image pushed to a registry. Each round builds a revision
that was never built before, but for *unchanged*. Before a round the revision before it was built and pushed in the same
way; before a *cold* one nothing was. Of that only the registry is left, which each contender has one of, and the state
of the contender's daemon: all else is new, as in a pod, podman's caches of mounts included. The source is not in the
page cache, for none of them. The checkout is not measured.

- The Go service has two modules and a third, which is the dependency that changes, and the compiler's cache and that of
  modules in cache mounts. The Node service has 120 packages, one of which changes, and npm's cache in a cache mount.
  The image of 150 MB has a file of that size, which is its dependency, and its source line comes in a layer after it.
  Modules, packages and base images are served on this machine. The Dockerfiles have no ARG, ENV and WORKDIR, after
  which podman 4.3 takes nothing from a cache in a registry.
- *ours* runs containerfile-build and publish-image with the parameters that the templates give them: the cache is in
  the registry, also where a daemon builds.
- *podman: build, save, load, push* is what OpenChoreo's own templates run, in two pods. *podman, cache in the registry*
  adds ` + "`--layers --cache-from --cache-to`" + `, as OpenChoreo's cache add-on does, and pushes from the pod that has
  built, which is less work than the add-on's save and load. Both use the kernel's overlay file system, as OpenChoreo's
  templates do on the volume that they mount for it; fuse-overlayfs, which others of them set, is slower. The runtime is
  runc.
- *buildctl* builds and pushes at one go, by a daemon that has built the revision before, and keeps no cache elsewhere.
  It is the best that can be had.

Workspace is what one pod leaves to the next: the image, and the cache.`,
}

// The page has a row for each contender, keeps tables of other benchmarks, and replaces those that were measured anew.
func TestUpdate(t *testing.T) {
	dir := t.TempDir()
	of := func(name, about string, walls ...float64) table {
		measured := table{Name: name, About: about, Rounds: 3}
		for i, wall := range walls {
			measured.Results = append(measured.Results, result{
				Name: fmt.Sprintf("%s %d", about, i), Wall: spread{wall, wall / 2, wall * 2},
			})
		}
		return measured
	}
	for _, fresh := range []table{of("B/x", "stale", 1, 3), of("A", "other", 2), of("B/x", "new <&>", 4, 2)} {
		if err := update(dir, fresh); err != nil {
			t.Fatal(err)
		}
	}
	for name, wants := range map[string][]string{
		"performance.md": {
			"## A\n", "## B\n", "### x\n", "| new <&> 1 | 2.00 (1.00–4.00) | 0.50 |", "3 rounds, other.",
		},
		"performance.svg": {">A<", "new &lt;&amp;&gt; 1", ">0.50<"},
	} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(raw), want) {
				t.Errorf("%s lacks %q: %s", name, want, raw)
			}
		}
		if strings.Contains(string(raw), "stale") {
			t.Errorf("%s has the old table: %s", name, raw)
		}
	}
}
