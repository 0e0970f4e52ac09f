package step

import (
	"context"
	"errors"
	"io"
	"log/slog"
)

// Tee returns the same environment with a second place for what is logged and for what the step runs prints, as text
// and masked as the first. A failure to write there is no failure of the step. flush writes the rest of an unfinished
// line there.
func (e Environment) Tee(to io.Writer) (both Environment, flush func()) {
	log, raw := newLogs(quiet{to}, "text", e.Secrets, false)
	e.Log = slog.New(fanout{e.Log.Handler(), log.Handler()})
	e.Stderr = io.MultiWriter(e.Stderr, raw)
	return e, func() { _ = raw.Close() }
}

// quiet is a writer that never fails.
type quiet struct{ io.Writer }

func (q quiet) Write(p []byte) (int, error) {
	_, _ = q.Writer.Write(p)
	return len(p), nil
}

// fanout logs to several handlers.
type fanout []slog.Handler

func (f fanout) Enabled(ctx context.Context, level slog.Level) bool { return f[0].Enabled(ctx, level) }

func (f fanout) Handle(ctx context.Context, r slog.Record) error {
	var errs []error
	for _, h := range f {
		errs = append(errs, h.Handle(ctx, r.Clone()))
	}
	return errors.Join(errs...)
}

func (f fanout) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := make(fanout, len(f))
	for i, h := range f {
		with[i] = h.WithAttrs(attrs)
	}
	return with
}

func (f fanout) WithGroup(name string) slog.Handler {
	with := make(fanout, len(f))
	for i, h := range f {
		with[i] = h.WithGroup(name)
	}
	return with
}
