package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
)

// newLogs returns the two ways into a step's log, whose lines never mix: the logger, and the writer for the raw output
// of what the step runs. Both mask secrets and quote what strangers say.
//
// As text, each line of ours begins with the time, and everything else with a bar: what strangers print can neither
// look like a line of ours nor begin with a command that a CI obeys. As JSON, each line is an object; those of raw
// output have "output": true. Colours of raw output stay only on a terminal.
func newLogs(w io.Writer, format string, secrets *redact.Secrets, terminal bool) (*slog.Logger, io.WriteCloser) {
	to := &sink{w: w}
	if format == "json" {
		logger := func(limit int) *slog.Logger {
			return slog.New(slog.NewJSONHandler(to, &slog.HandlerOptions{
				ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { return shownAttr(a, secrets, limit) },
			}))
		}
		output := logger(0)
		return logger(shownLimit), newRaw(secrets, func(line string) error {
			output.Info(quote.Output(line, false), "output", true)
			return nil
		})
	}
	return slog.New(&textHandler{w: to, secrets: secrets}), newRaw(secrets, func(line string) error {
		_, err := io.WriteString(to, bar+secrets.String(quote.Output(line, terminal))+"\n")
		return err
	})
}

// raw is what masks raw output and divides it into lines.
type raw struct{ mask, lines io.WriteCloser }

func newRaw(secrets *redact.Secrets, each func(line string) error) raw {
	lines := quote.Lines(each)
	return raw{secrets.Writer(lines), lines}
}

func (r raw) Write(p []byte) (int, error) { return r.mask.Write(p) }

// Close passes on what is not yet a whole line.
func (r raw) Close() error { return errors.Join(r.mask.Close(), r.lines.Close()) }

// bar begins what is no line of our own.
const bar = "| "

// sink takes whole lines, each by one call.
type sink struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sink) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(line)
}

// shownLimit is how much of a text of an event is logged, in bytes. Raw output is logged whole.
const shownLimit = 16 << 10

// shownAttr makes the value of an attribute fit to be logged as JSON.
func shownAttr(a slog.Attr, secrets *redact.Secrets, limit int) slog.Attr {
	show := func(text string) string { return quote.Text(secrets.String(text), limit) }
	switch value := a.Value.Resolve(); value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(show(value.String()))
	case slog.KindAny:
		switch v := value.Any().(type) {
		case *slog.Source, slog.Level: // the handler's own
		case error:
			a.Value = slog.StringValue(show(v.Error()))
		default:
			a.Value = slog.AnyValue(shownValue(v, show))
		}
	}
	return a
}

// shownValue makes all texts inside a value fit to be logged.
func shownValue(value any, show func(string) string) any {
	raw, err := json.Marshal(value)
	if err != nil {
		return show(fmt.Sprint(value))
	}
	var plain any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&plain); err != nil {
		return show(string(raw))
	}
	return walk(plain, show)
}

func walk(value any, show func(string) string) any {
	switch v := value.(type) {
	case string:
		return show(v)
	case []any:
		for i := range v {
			v[i] = walk(v[i], show)
		}
	case map[string]any:
		shown := make(map[string]any, len(v))
		for k, inner := range v {
			shown[show(k)] = walk(inner, show)
		}
		return shown
	}
	return value
}

// textHandler writes `15:04:05 Message  name=value`, the level only when it is not Info.
type textHandler struct {
	w       io.Writer
	secrets *redact.Secrets
	attrs   []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{w: h.w, secrets: h.secrets, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
}

func (h *textHandler) WithGroup(string) slog.Handler { return h }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Time.Format(time.TimeOnly))
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString(" ERROR")
	case r.Level >= slog.LevelWarn:
		b.WriteString(" WARNING")
	}
	message := strings.TrimRight(quote.Text(h.secrets.String(r.Message), shownLimit), "\n")
	b.WriteString(" " + strings.ReplaceAll(message, "\n", "\n"+bar))
	write := func(a slog.Attr) bool {
		fmt.Fprintf(&b, "  %s=%s", a.Key, h.value(a.Value.Resolve()))
		return true
	}
	for _, a := range h.attrs {
		write(a)
	}
	r.Attrs(write)
	b.WriteByte('\n')
	_, err := io.WriteString(h.w, b.String())
	return err
}

// value shows the value of an attribute, in quotes where it would not be one word.
func (h *textHandler) value(v slog.Value) string {
	if d, ok := v.Any().(time.Duration); ok {
		return d.Round(time.Millisecond).String()
	}
	text := h.secrets.String(v.String())
	if len(text) > shownLimit {
		text = text[:shownLimit] + "…"
	}
	shown := quote.Line(text, 0)
	if text != "" && shown == text && !strings.ContainsFunc(text, unicode.IsSpace) {
		return text
	}
	return quote.Line(strconv.Quote(text), 0)
}
