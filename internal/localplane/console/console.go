// Package console shows a pipeline to a person: as a live list of tasks on a terminal, as plain lines elsewhere.
package console

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// New returns the view that suits out: live when it is a terminal that can move its cursor. Close it when the pipeline
// has ended.
func New(out *os.File, steps []string) View {
	if term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == "" {
		width := func() int {
			if w, _, err := term.GetSize(int(out.Fd())); err == nil {
				return w
			}
			return 80
		}
		return NewLive(out, steps, width, os.Getenv("NO_COLOR") == "")
	}
	return NewPlain(out, steps)
}

// View is an Observer that ends.
type View interface {
	pipeline.Observer
	io.Closer
}

// Plain writes every line of every step, after the step's name.
type Plain struct {
	out   io.Writer
	width int
}

// NewPlain returns a Plain.
func NewPlain(out io.Writer, steps []string) *Plain {
	p := &Plain{out: out}
	for _, s := range steps {
		p.width = max(p.width, len(s))
	}
	return p
}

// Started implements pipeline.Observer.
func (p *Plain) Started(string) {}

// Line implements pipeline.Observer.
func (p *Plain) Line(step, text string) {
	fmt.Fprintf(p.out, "%-*s │ %s\n", p.width, step, quote.Output(text, false))
}

// Ended implements pipeline.Observer.
func (p *Plain) Ended(step string, how outcome.Report, took time.Duration) {
	fmt.Fprintf(p.out, "%-*s │ %s %s\n", p.width, step, mark(how), cost(how, took))
}

// Close implements io.Closer.
func (p *Plain) Close() error { return nil }

func mark(how outcome.Report) string {
	if how.Failed() {
		return "✗ " + string(how.Reason)
	}
	return "✓"
}

func cost(how outcome.Report, took time.Duration) string {
	return fmt.Sprintf("%.2fs, %d MiB", took.Seconds(), how.PeakMemoryBytes>>20)
}

const (
	shown     = 6    // lines of the running step
	kept      = 400  // lines that are printed when it fails
	keptBytes = 4096 // of each
	frameTime = 100 * time.Millisecond
)

var spinner = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

// Live redraws a list of tasks: the finished, the running one with its last lines, the coming.
type Live struct {
	out    io.Writer
	width  func() int
	colour bool

	mu      sync.Mutex
	tasks   []*task
	drawn   int // lines of the last frame
	frame   int
	stop    chan struct{}
	stopped sync.WaitGroup
}

type task struct {
	name    string
	started time.Time
	ended   *outcome.Report
	took    time.Duration
	lines   []string
}

// NewLive returns a Live that already draws.
func NewLive(out io.Writer, steps []string, width func() int, colour bool) *Live {
	l := &Live{out: out, width: width, colour: colour, stop: make(chan struct{})}
	for _, s := range steps {
		l.tasks = append(l.tasks, &task{name: s})
	}
	l.stopped.Go(func() {
		tick := time.NewTicker(frameTime)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				l.mu.Lock()
				l.frame++
				l.draw()
				l.mu.Unlock()
			}
		}
	})
	return l
}

func (l *Live) change(step string, how func(*task)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.tasks {
		if t.name == step {
			how(t)
		}
	}
}

// Started implements pipeline.Observer.
func (l *Live) Started(step string) { l.change(step, func(t *task) { t.started = time.Now() }) }

// Line implements pipeline.Observer.
func (l *Live) Line(step, text string) {
	l.change(step, func(t *task) {
		t.lines = append(t.lines, quote.Line(quote.Uncoloured(strings.ReplaceAll(text, "\t", " ")), keptBytes))
		if len(t.lines) > 2*kept {
			t.lines = append([]string(nil), t.lines[len(t.lines)-kept:]...)
		}
	})
}

// Ended implements pipeline.Observer.
func (l *Live) Ended(step string, how outcome.Report, took time.Duration) {
	l.change(step, func(t *task) { t.ended, t.took = &how, took })
}

// Close draws the last frame and, when a step failed, prints what it wrote.
func (l *Live) Close() error {
	close(l.stop)
	l.stopped.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draw()
	for _, t := range l.tasks {
		if t.ended != nil && t.ended.Failed() {
			fmt.Fprintf(l.out, "\n%s wrote:\n", t.name)
			for _, line := range t.lines[max(0, len(t.lines)-kept):] {
				fmt.Fprintf(l.out, "  %s\n", line)
			}
		}
	}
	return nil
}

func (l *Live) draw() {
	var frame []string
	for _, t := range l.tasks {
		switch {
		case t.ended != nil && t.ended.Failed():
			frame = append(
				frame, l.paint("31", fmt.Sprintf("✗ %-22s %s  %s", t.name, cost(*t.ended, t.took), t.ended.Reason)),
			)
		case t.ended != nil:
			frame = append(frame, l.paint("32", "✓")+fmt.Sprintf(" %-22s %s", t.name, cost(*t.ended, t.took)))
		case t.started.IsZero():
			frame = append(frame, l.paint("2", "· "+t.name))
		default:
			frame = append(frame, l.paint("36", spinner[l.frame%len(spinner)])+
				fmt.Sprintf(" %-22s %.1fs", t.name, time.Since(t.started).Seconds()))
			for _, line := range t.lines[max(0, len(t.lines)-shown):] {
				frame = append(frame, l.paint("2", cut("    "+line, l.width())))
			}
		}
	}
	var b strings.Builder
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", l.drawn)
	}
	for _, line := range frame {
		b.WriteString("\x1b[2K" + line + "\n")
	}
	b.WriteString("\x1b[J") // what an earlier, longer frame left below
	io.WriteString(l.out, b.String())
	l.drawn = len(frame)
}

func (l *Live) paint(code, text string) string {
	if !l.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// cut shortens a line to the terminal's width: a wrapped line would spoil the redraw.
func cut(line string, width int) string {
	runes := []rune(line)
	return string(runes[:min(len(runes), max(0, width-1))])
}
