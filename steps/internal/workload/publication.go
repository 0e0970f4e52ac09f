package workload

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2/maybe"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// api is what a publication asks of the OpenChoreo API.
type api interface {
	Get(ctx context.Context, namespace string, kind openchoreo.Resource, name string) (openchoreo.Object, error)
	List(
		ctx context.Context, namespace string, kind openchoreo.Resource, query url.Values,
	) ([]openchoreo.Object, error)
	Create(ctx context.Context, namespace string, kind openchoreo.Resource, object openchoreo.Object) error
	Update(ctx context.Context, namespace string, kind openchoreo.Resource, name string, object openchoreo.Object) error
}

// publication is one Workload on its way into OpenChoreo.
//
// The API has no conditional update: the last write wins. So that the newest run of a component wins all the same,
// each run first leaves its claim in its WorkflowRun, then looks at the claims of all, and writes the newest of them
// into the Workload, its own or not. After each write it looks again, and writes again if there is a newer one. So the
// last write of all is followed by a look that shows nothing newer than what was written; and a run whose claim came
// after that look would have written after it. Only a run that is killed between a write and the look after it can
// leave an older one.
type publication struct {
	Parameters
	api      api
	log      *slog.Logger
	manifest *Manifest
	name     string            // of the component's Workload, which is a new one's until there is another
	wanted   openchoreo.Object // the Workload of this run
	payload  []byte            // the same, encoded
	turn     turn              // of this run, if there is one
	facts    map[string]string // annotations of the WorkflowRun besides the Workload

	claimed     bool            // whether this run's claim may be in its WorkflowRun
	annotations map[string]any  // of the WorkflowRun before that
	written     bool            // whether a write to the Workload may have happened
	last        string          // run whose claim was written last
	refused     map[string]bool // runs whose claims the API did not take
	winner      *turn           // newer run that the Workload is of; nil when it is this one's
}

// rename has the Workload named so, wherever it is shown.
func (p *publication) rename(name string) error {
	p.name, p.manifest.Workload.Name = name, name
	var err error
	if p.wanted, err = p.manifest.Object(); err != nil {
		return err
	}
	if p.payload, err = p.wanted.Encode(); err != nil {
		return err
	}
	if len(p.payload) > bodyLimit {
		return tooLarge("the Workload", len(p.payload), bodyLimit)
	}
	return nil
}

// overtaken tells whether a Workload is of a newer run than this one, and remembers that run.
func (p *publication) overtaken(workload openchoreo.Object) bool {
	shown, known := turnIn(workload)
	if p.Run == "" || !known || shown.compare(p.turn) <= 0 {
		return false
	}
	p.winner = &shown
	return true
}

func (p *publication) results() step.Results {
	return step.Results{"workload": p.name, "workload-from-source": strconv.FormatBool(p.manifest.FromSource)}
}

// published are the results of a step that failed: those of a Workload that was written.
func (p *publication) published() step.Results {
	if !p.written {
		return nil
	}
	return p.results()
}

// writeOutput writes the Workload as YAML for people, if that is asked for.
func (p *publication) writeOutput() error {
	if p.Output == "" {
		return nil
	}
	raw, err := p.manifest.YAML()
	if err != nil {
		return err
	}
	write := maybe.WriteFile
	if info, err := os.Stat(p.Output); err == nil && !info.Mode().IsRegular() {
		// A device, such as /dev/stdout, is written to and not replaced.
		write = os.WriteFile
	}
	if err := write(p.Output, raw, 0o644); err != nil {
		return outcome.Errorf(outcome.InvalidParameters, "output: %w", err).WithHint(
			"Name a file in a directory that is there and may be written to.",
		)
	}
	return nil
}

// register publishes the Workload and leaves it in the annotations of the WorkflowRun. What can be known to fail must
// fail before the first write, and each part is tried again alone: all of them may be repeated.
func (p *publication) register(ctx context.Context, retry outcome.Retry) error {
	if err := retry.Do(ctx, p.prepare); err != nil {
		return err
	}
	if err := p.writeOutput(); err != nil {
		return err
	}
	if p.Run != "" {
		if err := retry.Do(ctx, p.claim); err != nil {
			if p.claimed && !isRefusal(err) {
				p.retract(ctx) // it may have arrived
			}
			return fmt.Errorf("WorkflowRun %s could not be annotated; no Workload was changed: %w", p.Run, err)
		}
	}
	// A write that was begun is looked after to its end, for as long as the step may take once it is told to stop.
	settling, stop := outlive(ctx, settlingTime)
	defer stop()
	err := retry.Do(ctx, func(ctx context.Context) error { return p.publish(ctx, settling) })
	if err != nil && ctx.Err() != nil && p.written {
		err = retry.Do(settling, func(settling context.Context) error { return p.publish(settling, settling) })
	}
	if err != nil && p.claimed && !p.written {
		p.retract(ctx)
	}
	return err
}

// settlingTime is less than what a step is given to end.
const settlingTime = 4 * time.Second

// outlive returns a context that ends some time after ctx.
func outlive(ctx context.Context, by time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() {
		time.AfterFunc(by, func() { cancel(context.Cause(ctx)) })
	})
	return longer, func() {
		unwatch()
		cancel(nil)
	}
}

// prepare finds the component's Workload, whose name is then the one to use everywhere, and fails if the Workload or
// the WorkflowRun would not take what is to be written.
func (p *publication) prepare(ctx context.Context) error {
	var run openchoreo.Object
	var err error
	if p.Run != "" {
		if run, err = p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run); err != nil {
			return err
		}
		p.turn = turn{p.Run, turnOf(run).created}
	}
	existing, err := p.find(ctx)
	if err != nil {
		return err
	}
	if existing != nil {
		if err := p.rename(existing.Name()); err != nil {
			return err
		}
		if _, err := p.updated(existing, p.own()); err != nil {
			return err
		}
	}
	if p.Run == "" {
		return nil
	}
	_, err = p.annotated(run)
	return err
}

// own is the claim of this run.
func (p *publication) own() claim { return claim{p.turn, p.wanted, p.manifest.FromSource} }

// find returns the component's Workload, whatever its name; nil when there is none. OpenChoreo expects exactly one. Of
// several, nobody can tell which one counts, and nothing is changed; only a WorkflowRun still updates the one that is
// named as this step names them, as OpenChoreo's own workflows do.
func (p *publication) find(ctx context.Context) (openchoreo.Object, error) {
	all, err := p.api.List(ctx, p.Namespace, openchoreo.Workloads, url.Values{"component": {p.Component}})
	switch {
	case err != nil || len(all) == 0:
		return nil, err
	case len(all) == 1:
		return all[0], nil
	}
	var names []string
	for _, w := range all {
		names = append(names, w.Name())
	}
	list := strings.Join(names, ", ")
	const hint = "OpenChoreo expects exactly one Workload per component: delete the others."
	if i := slices.Index(names, p.name); i >= 0 && p.Run != "" {
		p.log.Warn("The component has several Workloads. "+
			hint, "component", p.Component, "workloads", list, "updating", names[i])
		return all[i], nil
	}
	return nil, outcome.Errorf(
		outcome.WorkloadRejected, "component %s has %d Workloads: %s", p.Component, len(all), list,
	).WithHint(hint)
}

// claim leaves the Workload in the annotations of the WorkflowRun, where other runs find it.
func (p *publication) claim(ctx context.Context) error {
	run, err := p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run)
	if err != nil {
		return err
	}
	annotated, err := p.annotated(run)
	if err != nil || reflect.DeepEqual(annotated, run) {
		return err
	}
	if !p.claimed {
		p.claimed, p.annotations = true, run.At("metadata", "annotations")
	}
	if err := p.api.Update(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run, annotated); err != nil {
		return err
	}
	p.log.Info("Annotated the WorkflowRun", "run", p.Run)
	return nil
}

// retract takes the claim of a run back that has published nothing. If that fails, too, other runs may still publish
// what was claimed.
func (p *publication) retract(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settlingTime)
	defer cancel()
	run, err := p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run)
	if err == nil {
		annotations := maps.Clone(run.At("metadata", "annotations"))
		ours := slices.Collect(maps.Keys(p.facts))
		for _, key := range append(ours, payloadAnnotation, fromSourceAnnotation) {
			if before, there := p.annotations[key]; there {
				annotations[key] = before
			} else {
				delete(annotations, key)
			}
		}
		restored := run.With(annotations, "metadata", "annotations")
		err = p.api.Update(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run, restored)
	}
	if err != nil {
		p.log.Warn("The WorkflowRun keeps the annotations of a Workload that was not published", "run", p.Run,
			"because", err)
	}
}

// publish has the component's Workload be what its newest run claims. Once it may have written, only the end of
// settling ends it.
func (p *publication) publish(ctx, settling context.Context) error {
	for {
		if p.written {
			ctx = settling
		}
		newest, err := p.newest(ctx)
		if err != nil {
			return err
		}
		p.winner = nil
		if newest.run != p.Run {
			p.winner = &newest.turn
		}
		if p.last != "" && p.last == newest.run {
			return nil // nothing newer was claimed before the last write
		}
		started := time.Now()
		current, err := p.find(ctx)
		if err != nil {
			return err
		}
		if current != nil && current.Name() != p.name { // somebody else made it meanwhile
			if err := p.renamed(ctx, current.Name()); err != nil {
				return err
			}
			continue
		}
		if shown, known := turnIn(current); known && p.Run != "" {
			order := shown.compare(newest.turn)
			if order > 0 { // its run is there no longer
				p.winner = &shown
			}
			if order > 0 || order == 0 && p.winner != nil {
				p.log.Warn("A newer run has published its Workload already, which is left as it is", "workload",
					p.name, "run", shown.run)
				return nil
			}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		wrote, err := p.write(settling, newest, current, started)
		switch {
		case p.winner != nil && isRefusal(err):
			// That run will fail by the same words, and is out of the race.
			p.log.Warn("The API does not take the Workload of a newer run", "run", newest.run, "because", err)
			if p.refused == nil {
				p.refused = map[string]bool{}
			}
			p.refused[newest.run] = true
			continue
		case err != nil || !wrote || p.Run == "":
			return err
		}
		p.last = newest.run
	}
}

// renamed claims again, under the name that the Workload has.
func (p *publication) renamed(ctx context.Context, name string) error {
	if err := p.rename(name); err != nil {
		return err
	}
	if err := p.writeOutput(); err != nil {
		return err
	}
	if p.Run == "" {
		return nil
	}
	return p.claim(ctx)
}

// newest is the newest claim of the component's runs, among which this one is.
func (p *publication) newest(ctx context.Context) (claim, error) {
	newest := p.own()
	if p.Run == "" {
		return newest, nil
	}
	selector := fmt.Sprintf("openchoreo.dev/project=%s,openchoreo.dev/component=%s", p.Project, p.Component)
	runs, err := p.api.List(ctx, p.Namespace, openchoreo.WorkflowRuns, url.Values{"labelSelector": {selector}})
	if err != nil {
		return claim{}, err
	}
	for _, run := range runs {
		c, claimed := claimOf(run, p.Project, p.Component)
		if claimed && !p.refused[c.run] && c.run != p.Run && c.compare(newest.turn) > 0 {
			newest = c
		}
	}
	return newest, nil
}

// write creates the Workload that a run claims, or updates the one there is. It tells whether anything was written: not
// when nothing would change.
func (p *publication) write(
	ctx context.Context, c claim, current openchoreo.Object, started time.Time,
) (wrote bool, err error) {
	log := p.log.With("workload", p.name, "from-source", c.fromSource)
	if p.winner != nil {
		log = log.With("of-newer-run", c.run)
	}
	if current == nil {
		created := c.workload.With(p.name, "metadata", "name")
		if p.Run != "" {
			created = c.of(created)
		}
		err := p.api.Create(ctx, p.Namespace, openchoreo.Workloads, created)
		p.tried(err)
		switch {
		case err == nil:
			log.Info("Created the Workload", "took", time.Since(started))
			return true, nil
		case openchoreo.IsBadRequest(err):
			return false, outcome.Errorf(
				outcome.NotFound, "component %s in namespace %s: %w", p.Component, p.Namespace, err,
			)
		case !openchoreo.IsConflict(err):
			return false, err
		}
		// Another run was faster, or an earlier try was answered by a broken connection only.
		if current, err = p.api.Get(ctx, p.Namespace, openchoreo.Workloads, p.name); err != nil {
			return false, p.gone(err)
		}
		if shown, known := turnIn(current); known && p.Run != "" && shown.compare(c.turn) > 0 {
			return true, nil // not by this run; the claims have to be looked at again
		}
	}
	updated, err := p.updated(current, c)
	if err != nil {
		return false, err
	}
	if reflect.DeepEqual(updated, current) {
		log.Info("The Workload is up to date", "took", time.Since(started))
		return false, nil
	}
	err = p.api.Update(ctx, p.Namespace, openchoreo.Workloads, p.name, updated)
	p.tried(err)
	if err != nil {
		return false, p.gone(err)
	}
	log.Info("Updated the Workload", "took", time.Since(started))
	return true, nil
}

// gone is the error for a Workload that was there a moment ago: another try makes a new one.
func (p *publication) gone(err error) error {
	if openchoreo.IsNotFound(err) {
		return outcome.Errorf(outcome.ApiUnavailable, "Workload %s was deleted meanwhile: %w", p.name, err)
	}
	return err
}

// tried notes that a write may have happened: after a broken connection or a server's fault nobody can tell.
func (p *publication) tried(err error) { p.written = p.written || !isRefusal(err) }

// isRefusal tells that nothing was written, nor would be by another try.
func isRefusal(err error) bool {
	if err == nil {
		return false
	}
	class := outcome.Of(err).Reason.Class()
	return class == outcome.User || class == outcome.Credentials
}

// updated is an existing Workload with the spec that a run claims, or without a descriptor with the image only, since
// its other fields may have been edited in the portal. All else, such as labels and annotations of others, is sent back
// as it came, since a PUT replaces it.
func (p *publication) updated(existing openchoreo.Object, c claim) (openchoreo.Object, error) {
	// The API would not let the owner be changed, and says less about it.
	project, component := existing.Text("spec", "owner", "projectName"), existing.Text("spec", "owner", "componentName")
	if project != p.Project || component != p.Component {
		return nil, outcome.Errorf(
			outcome.WorkloadRejected,
			"Workload %s belongs to component %q of project %q, not to component %q of project %q", p.name, component,
			project, p.Component, p.Project,
		).
			WithHint("Check project and component names. A Workload's owner cannot be changed, only the Workload " +
				"deleted.")
	}
	updated := existing.With(c.workload.Text("spec", "container", "image"), "spec", "container", "image")
	if c.fromSource {
		updated = existing.With(c.workload["spec"], "spec")
	}
	if p.Run != "" {
		updated = c.of(updated)
	} else {
		updated = ofNobody(updated)
	}
	return updated, fits("the Workload", updated)
}

// ofNobody returns a Workload without the annotations that say which run it is of.
func ofNobody(workload openchoreo.Object) openchoreo.Object {
	if _, known := workload.At("metadata", "annotations")[runAnnotation]; !known {
		return workload
	}
	annotations := maps.Clone(workload.At("metadata", "annotations"))
	delete(annotations, runAnnotation)
	delete(annotations, createdAnnotation)
	return workload.With(annotations, "metadata", "annotations")
}

// annotated returns the WorkflowRun with the annotations, if the API would take it.
func (p *publication) annotated(run openchoreo.Object) (openchoreo.Object, error) {
	annotations := maps.Clone(withFacts(run, p.facts).At("metadata", "annotations"))
	annotations[payloadAnnotation] = string(p.payload)
	annotations[fromSourceAnnotation] = strconv.FormatBool(p.manifest.FromSource)
	size := 0
	for key, value := range annotations {
		text, _ := value.(string)
		size += len(key) + len(text)
	}
	what := "WorkflowRun " + p.Run
	if size > annotationsLimit {
		return nil, tooLarge(
			fmt.Sprintf("%s: its annotations, of which the Workload is %d bytes,", what, len(p.payload)), size,
			annotationsLimit,
		)
	}
	annotated := run.With(annotations, "metadata", "annotations")
	return annotated, fits(what, annotated)
}
