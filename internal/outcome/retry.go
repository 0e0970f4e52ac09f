package outcome

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// Retry says how often, and after how long, what failed for a transient reason is tried again.
type Retry struct {
	Attempts int           // in all; 0 counts as 1
	Base     time.Duration // the first wait, doubled each time; 0 counts as 1 s
	Max      time.Duration // the longest wait, also for a server's Retry-After; 0 counts as 30 s
	Log      *slog.Logger  // hears of each new try; may be nil
	Again    func()        // is called for each new try; may be nil
}

// Do calls try until it succeeds, fails for a reason that is not transient, or attempts or context end.
// The error of the last try is returned as it is.
func (r Retry) Do(ctx context.Context, try func(context.Context) error) error {
	wait := orDefault(r.Base, time.Second)
	longest := orDefault(r.Max, 30*time.Second)
	for attempt := 1; ; attempt++ {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failure := Of(err)
		if failure.Reason.Class() != Transient || attempt >= r.Attempts {
			return err
		}
		// A quarter of the wait is random, so that steps that failed together do not come back together, and no more,
		// so that the seven attempts of the default outlast a restart of 30 s.
		pause := wait - rand.N(wait/4+1)
		if failure.RetryAfter > 0 {
			pause = failure.RetryAfter
		}
		pause = min(pause, longest)
		if r.Log != nil {
			r.Log.Warn("Trying again", "attempt", attempt+
				1, "of", r.Attempts, "in", pause.Round(time.Millisecond), "because", failure.Message)
		}
		if r.Again != nil {
			r.Again()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		wait = min(wait*2, longest)
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// RetryAfter reads the HTTP header of that name: seconds, or a time (RFC 9110 section 10.2.3). It is 0 when the header
// says nothing.
func RetryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil {
		return time.Duration(min(max(seconds, 0), 1<<20)) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
