package workload

import (
	"context"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
)

// lookAgain is how long to wait before the API is asked again what it shows.
const lookAgain = 500 * time.Millisecond

// wait returns when the API shows the Workload with the image, or as that of a newer run: what it shows is a cache,
// which may lag behind what it has accepted.
func (p *publication) wait(ctx context.Context, retry outcome.Retry) error {
	started := time.Now()
	patience := time.Duration(p.WaitTimeout) * time.Second
	late := outcome.Errorf(
		outcome.Timeout, "published Workload %s, but the API does not show it with image %s after %s", p.name,
		p.Image, patience,
	).
		WithHint("See whether somebody else changes the Workload; if the API is only slow, give wait-timeout more " +
			"seconds.")
	ctx, cancel := context.WithTimeoutCause(ctx, patience, late)
	defer cancel()
	for {
		shown := false
		err := retry.Do(ctx, func(ctx context.Context) error {
			w, err := p.api.Get(ctx, p.Namespace, openchoreo.Workloads, p.name)
			if openchoreo.IsNotFound(err) {
				return nil
			}
			shown = err == nil &&
				(p.overtaken(w) || p.winner != nil || w.Text("spec", "container", "image") == p.Image)
			return err
		})
		if err != nil {
			return err
		}
		if shown {
			p.log.Info("The API shows the Workload", "workload", p.name, "took", time.Since(started))
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookAgain):
		}
	}
}
