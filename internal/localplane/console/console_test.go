package console

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

var steps = []string{"checkout-source", "build", "publish"}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(&out, steps)
	p.Line("checkout-source", "Clo\x1b[2Jned")
	p.Ended("checkout-source", outcome.Report{
		Reason:          outcome.Succeeded,
		PeakMemoryBytes: 30 << 20,
	}, 1500*time.Millisecond)
	p.Ended("build", outcome.Report{Reason: outcome.BuildFailed}, 2*time.Second)
	for _, want := range []string{"checkout-source │ Clo\\x1b[2Jned\n", "checkout-source │ ✓ 1.50s, 30 MiB\n",
		"build           │ ✗ BuildFailed 2.00s, 0 MiB\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

// screen is what a terminal shows after these bytes: the few sequences that Live may use, and nothing else.
func screen(t *testing.T, output string) []string {
	t.Helper()
	lines, row, column := []string{""}, 0, 0
	for len(output) > 0 {
		if output[0] == '\x1b' {
			end := strings.IndexAny(output, "AKJm")
			code, n := output[end], 0
			fmt.Sscanf(output[2:end], "%d", &n)
			switch code {
			case 'A':
				row -= n
			case 'K':
				lines[row] = ""
			case 'J':
				lines[row] = lines[row][:min(column, len(lines[row]))]
				lines = lines[:row+1]
			}
			output = output[end+1:]
			continue
		}
		if output[0] == '\n' {
			row, column = row+1, 0
			if row == len(lines) {
				lines = append(lines, "")
			}
		} else {
			lines[row] += output[:1]
			column++
		}
		output = output[1:]
	}
	return lines
}

func TestLive(t *testing.T) {
	var out bytes.Buffer
	l := NewLive(&out, steps, func() int { return 40 }, true)
	l.Started("build")
	for i := range 20 {
		l.Line("build", fmt.Sprintf("line %d\x1b[2A %s", i, strings.Repeat("wide ", 40)))
	}
	l.mu.Lock()
	l.draw()
	l.draw()
	lines := screen(t, out.String())
	l.mu.Unlock()
	if len(lines) != len(steps)+shown+1 {
		t.Fatalf("%d lines:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for i, want := range []string{"· checkout-source", "", "    line 14\\x1b[2A wide", "    line 15"} {
		if !strings.HasPrefix(lines[i], want) || len([]rune(lines[i])) >= 40 {
			t.Errorf("line %d is %q, want %q…", i, lines[i], want)
		}
	}
	l.Ended("build", outcome.Report{Reason: outcome.BuildFailed}, 2*time.Second)
	l.Close()
	end := strings.Join(screen(t, out.String()), "\n")
	for _, want := range []string{
		"✗ build                  2.00s, 0 MiB  BuildFailed\n· publish\n\nbuild wrote:\n", "  line 0", "  line 19",
	} {
		if !strings.Contains(end, want) {
			t.Errorf("%q is missing in\n%s", want, end)
		}
	}
}
