// Package transcript keeps the end of what programs write, and cuts it to what fits into a message.
package transcript

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/stepwright/stepwright/internal/quote"
)

// Tail keeps the last bytes that are written to it. It is safe for concurrent use, holds at most twice its limit, and
// takes time in proportion to the bytes, also when they come one by one.
type Tail struct {
	Limit int // how many bytes it keeps

	mu   sync.Mutex
	kept []byte
}

// Write implements io.Writer. It never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := p[max(0, len(p)-t.Limit):]
	if len(t.kept)+len(last) > 2*t.Limit {
		// No more often than after Limit bytes, so that it moves each byte once.
		rest := t.kept[len(t.kept)-(t.Limit-len(last)):]
		t.kept = append(t.kept[:0], rest...)
	}
	t.kept = append(t.kept, last...)
	return len(p), nil
}

// String returns the kept text, without a rune that is kept in part.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := t.kept[max(0, len(t.kept)-t.Limit):]
	for i := 1; i < utf8.UTFMax && len(kept) > 0 && !utf8.RuneStart(kept[0]); i++ {
		kept = kept[1:]
	}
	return string(kept)
}

// lineLimit is how much of a line is shown, in bytes.
const lineLimit = 500

// LastLines returns the last lines of a text that are not empty, at most that many, as a terminal would show them:
// where a line goes back to its beginning, the overwritten text is left out. Colours are left out, too, what else a
// terminal would obey is quoted, and long lines are cut.
func LastLines(text string, most int) string {
	var lines []string
	for line := range strings.Lines(quote.Uncoloured(text)) {
		line = strings.TrimRight(line, " \t\r\n")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line != "" {
			lines = append(lines, quote.Text(line, lineLimit))
		}
	}
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// End cuts a text that is longer than limit bytes to its end, and shows by an ellipsis that there was more.
func End(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return "…" + strings.ToValidUTF8(text[len(text)-limit:], "")
}
