package faults

import (
	"flag"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/sampletest"
)

var (
	only   = flag.String("only", "", "take the cells whose names match this `expression`")
	chance = flag.Uint64("chance", 1, "decides at which moments faults strike")
	docs   = flag.String("docs", "", "write reliability.md and .json in this `folder`")
)

// A cell is a step and a fault, and how the step may end. Succeeded stands for a fault that is outlasted.
type cell struct {
	step    *step
	name    string
	make    func() fault
	want    []outcome.Reason
	quick   bool // it is among those of each test
	changed bool // what is right afterwards is something else, which own tells
	own     func(*trouble, ending) error
}

func (c cell) String() string { return c.step.name + "/" + c.name }

// found is what was seen of a cell.
type found struct {
	Step, Fault string
	Reason      outcome.Reason
	Seconds     float64
	Retry       outcome.Reason
	Message     string
}

// TestMatrix runs the cells: those of each test, or with -exhaustive all.
func TestMatrix(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the steps' programs beside servers")
	}
	if os.Geteuid() != 0 {
		t.Skip("mounts file systems, and listens where servers do")
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	shared.learn(t)
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("moments by -chance %d", *chance)
	var mu sync.Mutex
	var all []found
	t.Run("cells", func(t *testing.T) {
		for _, c := range cells() {
			if !pattern.MatchString(c.String()) || !sampletest.Exhaustive() && *only == "" && !c.quick {
				continue
			}
			t.Run(c.String(), func(t *testing.T) {
				t.Parallel()
				f := c.run(t)
				mu.Lock()
				defer mu.Unlock()
				all = append(all, f)
			})
		}
	})
	if *docs != "" && !t.Failed() {
		if err := update(*docs, all); err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a cell. Where a signal comes too late to meet the step, it comes earlier in another scene.
func (c cell) run(t *testing.T) found {
	hash := fnv.New64a()
	hash.Write([]byte(c.String()))
	random := rand.New(rand.NewPCG(*chance, hash.Sum64()))
	part := 0.05 + 0.9*random.Float64()
	for tries := 1; ; tries++ {
		in := &trouble{scene: newScene(t, shared, c.step, newSite(t, shared)), part: part}
		f := c.once(in)
		if f.Reason != outcome.Succeeded || slices.Contains(c.want, outcome.Succeeded) || tries == 5 || t.Failed() {
			if !slices.Contains(c.want, f.Reason) {
				t.Errorf("it ended with %s, not with one of %s: %s", f.Reason, c.want, f.Message)
			}
			return f
		}
		part *= 0.6
	}
}

// once runs the step in trouble, and then again without.
func (c cell) once(in *trouble) found {
	t, f := in.t, c.make()
	if f.before != nil {
		f.before(in)
	}
	first := in.run(func(a *attempt) {
		if f.during != nil {
			f.during(in, a)
		}
	})
	took := first.took.Round(time.Millisecond)
	t.Logf("at %.2f it ended after %s with %s: %s", in.part, took, first.reason, first.message)
	c.judge(in, first)
	if f.mend != nil {
		f.mend(in)
	}
	in.renew()
	again := in.run(nil)
	if again.reason != outcome.Succeeded {
		t.Errorf("tried again, it ends with %s: %s\n%s", again.reason, again.message, again.out)
	} else if err := c.right(in, again); err != nil {
		t.Errorf("tried again: %v", err)
	}
	if left := append(in.litter("vol", "tmp"), again.word.Left...); len(left) > 0 {
		t.Errorf("tried again, it left %q", left)
	}
	if c.step == workload {
		in.newest()
	}
	if t.Failed() || !slices.Contains(c.want, first.reason) {
		t.Logf("what the step said in trouble:\n%s", first.out)
	}
	return found{
		Step: c.step.name, Fault: c.name, Reason: first.reason, Seconds: first.took.Seconds(), Retry: again.reason,
		Message: first.message,
	}
}

func (c cell) right(in *trouble, e ending) error {
	if c.own != nil {
		return c.own(in, e)
	}
	return c.step.whole(in.scene, e)
}

// judge looks at how the step ended in trouble.
func (c cell) judge(in *trouble, e ending) {
	in.t.Helper()
	dirs := []string{"vol", "tmp"}
	if e.word.Signal != 0 {
		dirs = nil // the next attempt removes what is in the workspace, and all else ends with the pod
	}
	if left := append(in.litter(dirs...), e.word.Left...); len(left) > 0 {
		in.t.Errorf("it left %q", left)
	}
	if e.reason == outcome.Succeeded {
		if err := c.right(in, e); err != nil {
			in.t.Error(err)
		}
		return
	}
	if err := c.step.harmless(in.scene); err != nil && !c.changed {
		in.t.Error(err)
	}
	for _, name := range []string{"source-digest", "image-digest", "image", "workload"} {
		if value := e.results[name]; value != "" && e.word.Signal != 0 {
			in.t.Errorf("a step that was killed has the result %s: %q", name, value)
		}
	}
}

// newest has a newer run register its image, and the older one after it once more, which must not win.
func (in *trouble) newest() {
	in.t.Helper()
	in.flags = newer
	late := in.run(nil)
	in.flags = nil
	older := in.run(nil)
	if late.reason != outcome.Succeeded || older.reason != outcome.Succeeded {
		in.t.Errorf("the newer run ended with %s: %s, the older with %s: %s",
			late.reason, late.message, older.reason, older.message)
	}
	if err := in.workloadIs(newerRun); err != nil {
		in.t.Errorf("the newest run does not win: %v", err)
	}
}
