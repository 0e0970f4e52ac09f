package workload

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/sampletest"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
)

// The model is a world of one component and several runs of the step. Each call of the API is one step of the world,
// and the scheduler decides whose is next. A world is made anew for each sequence of decisions, and a sequence is left
// when it comes to where another has been: the same objects, and runs that know and do the same.

// end is what a call of the API comes to.
type end string

const (
	served  end = "served"
	lost    end = "done, but the answer is lost"
	failed  end = "not done: 500, as for an update beside another"
	crashed end = "the run is killed before it"
)

// decision is whose call is next, and what it comes to.
type decision struct {
	run int
	end end
}

// scenario is what the runs find, and what may go wrong.
type scenario struct {
	runs       []bool         // by age, the oldest first: whether it has a descriptor
	existing   bool           // whether there is a Workload
	faults     map[end]int    // how often each may happen
	refused    string         // image that the API refuses; empty for none
	ends       map[string]int // images that there were at the end, and how often
	executions int
}

type call struct {
	about   string
	object  openchoreo.Object // to be written, if any
	shared  bool              // whether it matters when it is done
	do      func() (any, error)
	answers chan answer
}

type answer struct {
	value any
	err   error
}

// world is one execution.
type world struct {
	scenario *scenario
	workload openchoreo.Object // nil when there is none
	writer   int               // run that wrote it
	runs     []openchoreo.Object
	actors   []*actor
}

// actor is one run of the step.
type actor struct {
	*publication
	world   *world
	index   int
	calls   chan *call
	done    chan error
	pending *call
	ended   bool
	crashed bool
	err     error
	found   bool // whether it has looked for the Workload once
	listed  any  // claims that it has seen last
}

var errKilled = errors.New("killed")

func runName(i int) string  { return fmt.Sprintf("run-%d", i) }
func runImage(i int) string { return fmt.Sprintf("registry.example.com/cart:%d", i) }

func newWorld(s *scenario) *world {
	w := &world{scenario: s}
	if s.existing {
		w.workload = openchoreo.Object{
			"metadata": map[string]any{"name": "my-service", "annotations": map[string]any{"other": "kept"}},
			"spec": map[string]any{
				"owner":     map[string]any{"projectName": "store", "componentName": "cart"},
				"container": map[string]any{"image": "initial"},
			},
		}
	}
	for i, fromSource := range s.runs {
		w.runs = append(w.runs, openchoreo.Object{"metadata": map[string]any{
			"name": runName(i), "creationTimestamp": time.Unix(int64(1_800_000_000+i), 0).UTC().Format(time.RFC3339),
		}})
		in := Parameters{Namespace: "acme", Project: "store", Component: "cart", Image: runImage(i), Run: runName(i)}
		m := &Manifest{Workload: bare(Target{
			Namespace: in.Namespace, Project: in.Project, Component: in.Component, Image: in.Image,
		}), FromSource: fromSource}
		a := &actor{world: w, index: i, calls: make(chan *call), done: make(chan error, 1)}
		a.publication = &publication{Parameters: in, api: a, log: slog.New(slog.DiscardHandler), manifest: m}
		w.actors = append(w.actors, a)
	}
	return w
}

func (a *actor) start() {
	go func() {
		err := a.rename(a.manifest.Workload.Name)
		if err == nil {
			err = a.register(context.Background(), outcome.Retry{Attempts: 5, Base: 1, Max: 1})
		}
		a.done <- err
	}()
	a.settle()
}

// settle waits until the run calls the API for something that others can see, or has ended.
func (a *actor) settle() {
	for {
		select {
		case a.pending = <-a.calls:
			if a.pending.shared {
				return
			}
			a.answer(served)
		case a.err = <-a.done:
			a.ended, a.pending = true, nil
			return
		}
	}
}

// answer lets the pending call come to its end.
func (a *actor) answer(e end) {
	c := a.pending
	var given answer
	switch e {
	case served:
		given.value, given.err = c.do()
	case lost:
		c.do()
		given.err = outcome.Errorf(outcome.ApiUnavailable, "connection reset")
	case failed:
		given.err = outcome.Errorf(outcome.ApiUnavailable, "%w", &openchoreo.StatusError{Status: 500})
	case crashed:
		a.crashed, given.err = true, errKilled
	}
	if c.about == listClaims {
		a.listed = given.value
	}
	c.answers <- given
}

const listClaims = "list workflowruns"

// state is all that what the run does next depends on. Of the answers that it has had, the claims that it has seen last
// are a local variable; the last Workload it has seen is in the object that it is about to write.
func (a *actor) state() any {
	if a.ended {
		return []any{a.crashed, fmt.Sprint(a.err), fmt.Sprint(a.winner)}
	}
	p := a.publication
	return []any{a.pending.about, a.pending.object, a.listed, p.name, p.claimed, p.written, p.last, p.refused}
}

func (a *actor) ask(about string, object openchoreo.Object, shared bool, do func() (any, error)) (any, error) {
	if a.crashed {
		return nil, errKilled
	}
	c := &call{about, object, shared, do, make(chan answer)}
	a.calls <- c
	got := <-c.answers
	return got.value, got.err
}

func refusal(reason outcome.Reason, status int) error {
	return outcome.Errorf(reason, "%w", &openchoreo.StatusError{Status: status, Code: "CODE"})
}

func (a *actor) Get(
	_ context.Context, _ string, kind openchoreo.Resource, name string,
) (openchoreo.Object, error) {
	if kind == openchoreo.WorkflowRuns { // nobody else changes a run
		value, err := a.ask("get run", nil, false, func() (any, error) { return a.world.runs[a.index], nil })
		object, _ := value.(openchoreo.Object)
		return object, err
	}
	value, err := a.ask("get workload", nil, true, func() (any, error) {
		if a.world.workload.Name() != name {
			return nil, refusal(outcome.NotFound, http.StatusNotFound)
		}
		return a.world.workload, nil
	})
	object, _ := value.(openchoreo.Object)
	return object, err
}

func (a *actor) List(
	_ context.Context, _ string, kind openchoreo.Resource, _ url.Values,
) ([]openchoreo.Object, error) {
	// The first look at the Workload is for its name alone, which is the same at all times.
	shared := kind == openchoreo.WorkflowRuns || a.found
	a.found = true
	value, err := a.ask("list "+string(kind), nil, shared, func() (any, error) {
		switch {
		case kind == openchoreo.WorkflowRuns:
			return slices.Clone(a.world.runs), nil
		case a.world.workload == nil:
			return []openchoreo.Object{}, nil
		}
		return []openchoreo.Object{a.world.workload}, nil
	})
	objects, _ := value.([]openchoreo.Object)
	return objects, err
}

func (a *actor) Create(_ context.Context, _ string, _ openchoreo.Resource, object openchoreo.Object) error {
	_, err := a.ask("create workload", object, true, func() (any, error) {
		switch {
		case a.world.workload != nil:
			return nil, refusal(outcome.WorkloadRejected, http.StatusConflict)
		case a.world.refuses(object):
			return nil, refusal(outcome.WorkloadRejected, http.StatusUnprocessableEntity)
		}
		a.world.workload, a.world.writer = object, a.index
		return nil, nil
	})
	return err
}

func (a *actor) Update(
	_ context.Context, _ string, kind openchoreo.Resource, _ string, object openchoreo.Object,
) error {
	_, err := a.ask("update "+string(kind), object, true, func() (any, error) {
		switch {
		case kind == openchoreo.WorkflowRuns:
			a.world.runs[a.index] = object
		case a.world.refuses(object):
			return nil, refusal(outcome.WorkloadRejected, http.StatusUnprocessableEntity)
		default:
			a.world.workload, a.world.writer = object, a.index
		}
		return nil, nil
	})
	return err
}

func (w *world) refuses(object openchoreo.Object) bool {
	return w.scenario.refused != "" && object.Text("spec", "container", "image") == w.scenario.refused
}

// state identifies a world: equal ones have equal futures.
func (w *world) state(left map[end]int) string {
	parts := []any{w.workload, w.writer, w.runs, left}
	for _, a := range w.actors {
		parts = append(parts, a.state())
	}
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err)
	}
	digest := sha256.Sum256(text)
	return string(digest[:])
}

// execute runs a world by the decisions of a prefix, and then by the first that can be taken, until all runs have ended
// or it comes to a state that is known. It returns the prefixes of what else could have been decided on the way.
func (s *scenario) execute(t *testing.T, prefix []decision, known map[string]bool) (others [][]decision) {
	s.executions++
	w := newWorld(s)
	left := maps.Clone(s.faults)
	for _, a := range w.actors {
		a.start()
	}
	abandon := func() {
		for _, a := range w.actors {
			for !a.ended {
				a.answer(crashed)
				a.settle()
			}
		}
	}
	for at := 0; ; at++ {
		if at >= len(prefix) {
			state := w.state(left)
			if known[state] {
				abandon()
				return others
			}
			known[state] = true
			var can []decision
			for _, a := range w.actors {
				if a.ended {
					continue
				}
				can = append(can, decision{a.index, served})
				for _, e := range []end{lost, failed, crashed} {
					if left[e] > 0 && (e == crashed || a.pending.object != nil) {
						can = append(can, decision{a.index, e})
					}
				}
			}
			if len(can) == 0 {
				s.check(t, w, prefix)
				return others
			}
			for _, d := range can[1:] {
				others = append(others, append(slices.Clone(prefix), d))
			}
			prefix = append(slices.Clone(prefix), can[0])
		}
		d := prefix[at]
		if d.end != served {
			left[d.end]--
		}
		w.actors[d.run].answer(d.end)
		w.actors[d.run].settle()
	}
}

// check is what must be true when all runs have ended: the Workload is of the newest run that has ended well, or of a
// newer one that was killed when it had claimed. Only a run that is killed between its write and its look at the claims
// may leave what it wrote.
func (s *scenario) check(t *testing.T, w *world, decisions []decision) {
	image := w.workload.Text("spec", "container", "image")
	s.ends[image]++
	newest := -1
	for i, a := range w.actors {
		switch {
		case a.err == nil:
			newest = i
		case !a.crashed && runImage(i) != s.refused:
			t.Errorf("run %d failed: %v, by %v", i, a.err, decisions)
		}
	}
	allowed := map[string]bool{}
	if newest >= 0 {
		allowed[runImage(newest)] = true
	} else {
		allowed[""], allowed["initial"] = true, true
	}
	for i, a := range w.actors {
		switch {
		case a.crashed && i > newest:
			allowed[runImage(i)] = true
		case a.crashed && i == w.writer:
			allowed[image] = true
		}
	}
	if !allowed[image] {
		t.Fatalf("the Workload has image %q, wanted %v, by %v", image, slices.Collect(maps.Keys(allowed)), decisions)
	}
	if s.existing && w.workload.Text("metadata", "annotations", "other") != "kept" {
		t.Fatalf("lost annotations of others, by %v", decisions)
	}
	for i, a := range w.actors {
		claim := w.runs[i].Text("metadata", "annotations", payloadAnnotation)
		left := runImage(i) == s.refused && !a.crashed && claim != ""
		if a.err == nil && !strings.Contains(claim, runImage(i)) || left {
			t.Fatalf("run %d ended with %v and claims %q, by %v", i, a.err, claim, decisions)
		}
		// Who lost must say so, unless it had ended before the winner began.
		if a.winner != nil && a.err == nil && !slices.ContainsFunc(w.actors[i+1:], func(b *actor) bool {
			return b.Run == a.winner.run
		}) {
			t.Fatalf("run %d says that %s wins, by %v", i, a.winner, decisions)
		}
	}
}

// enough is how many orders of a scenario are tried, unless all are.
const enough = 1500

// TestEveryInterleaving tries orders in which the calls of two and three runs can reach the API: all of them, or many
// by chance.
func TestEveryInterleaving(t *testing.T) {
	t.Parallel()
	image, source := false, true
	for name, s := range map[string]*scenario{
		"two":                            {runs: []bool{image, image}},
		"two with descriptors":           {runs: []bool{source, source}},
		"two and a Workload":             {runs: []bool{source, image}, existing: true},
		"the newer one has a descriptor": {runs: []bool{image, source}, existing: true},
		"three":                          {runs: []bool{image, image, image}},
		"three and a Workload":           {runs: []bool{source, image, source}, existing: true},
		"two, a lost answer":             {runs: []bool{source, source}, faults: map[end]int{lost: 1}},
		"two, a lost answer and a 500": {
			runs: []bool{source, image}, existing: true, faults: map[end]int{lost: 1, failed: 1},
		},
		"two, of which some are killed": {runs: []bool{source, source}, faults: map[end]int{crashed: 2}},
		"three, of which one is killed": {
			runs: []bool{source, source, source}, existing: true, faults: map[end]int{crashed: 1},
		},
		"the newest of three is refused": {runs: []bool{source, source, source}, existing: true, refused: runImage(2)},
		"the newer of two is refused, and a kill": {
			runs: []bool{source, source}, faults: map[end]int{crashed: 1}, refused: runImage(1),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && len(s.runs) > 2 {
				t.Skip("takes seconds")
			}
			s.ends = map[string]int{}
			known := map[string]bool{}
			random := sampletest.Random(t)
			for open := [][]decision{nil}; len(open) > 0; {
				next := len(open) - 1
				if !sampletest.Exhaustive() {
					if s.executions == enough {
						break
					}
					if random.IntN(4) == 0 {
						next = random.IntN(len(open))
					}
				}
				last := open[next]
				open = append(slices.Delete(open, next, next+1), s.execute(t, last, known)...)
			}
			t.Logf("%d states, %d executions, ends %v", len(known), s.executions, s.ends)
			if len(known) < 50 {
				t.Error("that cannot be all")
			}
		})
	}
}
