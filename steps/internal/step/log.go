package step

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// newLogger logs one line per event: for people, or as JSON with the time first.
func newLogger(w io.Writer, format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(&textHandler{w: w})
}

// textHandler writes `15:04:05 Message  name=value`, the level only when it is not Info.
type textHandler struct {
	w     io.Writer
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &textHandler{w: h.w, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)}
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
	b.WriteString(" " + r.Message)
	write := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		if d, ok := a.Value.Resolve().Any().(time.Duration); ok {
			value = d.Round(time.Millisecond).String()
		}
		if value == "" || strings.ContainsFunc(value, func(r rune) bool {
			return unicode.IsSpace(r) || unicode.IsControl(r)
		}) {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&b, "  %s=%s", a.Key, value)
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
