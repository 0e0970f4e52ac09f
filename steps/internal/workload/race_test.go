package workload

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

var pairs = flag.Int("pairs", 200, "how many pairs of runs TestConcurrentPairs lets race")

// createdAt is a WorkflowRun of the component cart that was created then.
func createdAt(namespace, run, created string) string {
	return strings.Replace(
		openchoreotest.WorkflowRun(namespace, "store", "cart", run), "metadata:\n",
		fmt.Sprintf("metadata:\n  creationTimestamp: %q\n", created), 1,
	)
}

// TestNewestRunWins: the late build of an old commit does not replace a newer one.
func TestNewestRunWins(t *testing.T) {
	t.Parallel()
	const old, newer = "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"
	setup := func(t *testing.T, files map[string]string) (b *bench, publish func(run string) string) {
		b = newBench(t, files)
		b.Apply(t, createdAt("acme", "old", old)+createdAt("acme", "new", newer))
		return b, func(run string) string {
			b.in.Run, b.in.Image = run, "registry.example.com/cart:"+cmp.Or(run, "none")
			b.note = ""
			b.mustRun()
			return b.note
		}
	}
	const wins = "WorkflowRun new, created " + newer +
		", is newer than old and wins: Workload cart-workload is that run's"
	runs := func(b *bench, tag string) {
		b.t.Helper()
		if image := b.workload().Spec.Container.Image; image != "registry.example.com/cart:"+tag {
			b.t.Errorf("runs %s, want %s", image, tag)
		}
	}

	t.Run("the older ends later", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		if note := publish("new"); note != "" {
			t.Errorf("says %q", note)
		}
		if note := publish("old"); note != wins {
			t.Errorf("says %q", note)
		}
		runs(b, "new")
		if !strings.Contains(b.workflowRun("old").Annotations[payloadAnnotation], "cart:old") {
			t.Error("the old run does not tell what it made")
		}
		publish("new")
		runs(b, "new")
	})
	t.Run("the newer run has been deleted", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		publish("new")
		if err := b.Delete("acme", "workflowruns", "new"); err != nil {
			t.Fatal(err)
		}
		if note := publish("old"); note != wins {
			t.Errorf("says %q", note)
		}
		runs(b, "new")
	})
	t.Run("the newer run has claimed and published nothing yet", func(t *testing.T) {
		t.Parallel()
		for _, files := range []map[string]string{nil, {"workload.yaml": webDescriptor}} {
			b, publish := setup(t, files)
			publish("new")
			claimed := b.workflowRun("new").Annotations
			if err := b.Delete("acme", "workloads", "cart-workload"); err != nil {
				t.Fatal(err)
			}
			if claimed[payloadAnnotation] == "" {
				t.Fatal("no claim")
			}
			if note := publish("old"); note != wins {
				t.Errorf("says %q", note)
			}
			runs(b, "new")
			if w := b.workload(); w.Annotations[runAnnotation] != "new" || (w.Spec.Endpoints != nil) != (files != nil) {
				t.Errorf("%v, %+v", w.Annotations, w.Spec)
			}
		}
	})
	t.Run("what was edited after the newer run stays", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, map[string]string{"workload.yaml": webDescriptor})
		publish("new")
		w := b.workload()
		b.Apply(t, strings.Replace(existing("cart-workload"), "example.com/note: by hand", fmt.Sprintf(
			"%s: new, %s: %q", runAnnotation, createdAnnotation, w.Annotations[createdAnnotation],
		), 1))
		publish("old")
		if w := b.workload(); len(w.Spec.Container.Env) != 1 {
			t.Errorf("%+v", w.Spec)
		}
	})
	t.Run("a claim of another component, or one that is none", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		for _, claim := range []string{
			"not JSON", "[]", "{}", `{"spec":{"owner":{"projectName":"store","componentName":"cart"}}}`,
			`{"spec":{"container":{"image":"x"},"owner":{"projectName":"other","componentName":"cart"}}}`,
		} {
			b.Apply(t, strings.Replace(
				createdAt("acme", "new", newer), "{example.com/kept", fmt.Sprintf("{%s: %q, example.com/kept",
					payloadAnnotation, claim), 1,
			))
			if note := publish("old"); note != "" {
				t.Errorf("%s: says %q", claim, note)
			}
			runs(b, "old")
		}
	})
	t.Run("a claim that the API does not take", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		b.Apply(t, strings.Replace(createdAt("acme", "new", newer), "{example.com/kept", fmt.Sprintf(
			"{%s: \"true\", %s: %q, example.com/kept", fromSourceAnnotation, payloadAnnotation,
			`{"spec":{"container":{"image":"x"},"endpoints":{"web":{"port":0,"type":"no"}},`+
				`"owner":{"projectName":"store","componentName":"cart"}}}`,
		), 1))
		if note := publish("old"); note != "" {
			t.Errorf("says %q", note)
		}
		runs(b, "old")
	})
	t.Run("of one second", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		b.Apply(t, createdAt("acme", "cart-9", newer)+createdAt("acme", "cart-10", newer))
		publish("cart-10")
		publish("cart-9")
		runs(b, "cart-10")
	})
	t.Run("no run takes the Workload over", func(t *testing.T) {
		t.Parallel()
		b, publish := setup(t, nil)
		publish("new")
		b.in.Workspace, b.in.Descriptor = "/nonexistent", ""
		publish("")
		runs(b, "none")
		if a := b.workload().Annotations; a[runAnnotation] != "" || a[createdAnnotation] != "" {
			t.Errorf("annotations %v", a)
		}
	})
}

// TestStoppedWhileWriting: a step that is told to stop at its write still sees to it that a newer run's is not lost.
func TestStoppedWhileWriting(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Apply(t, existing("cart-workload")+createdAt("acme", "old", "2026-01-01T10:00:00Z")+
		createdAt("acme", "new", "2026-01-01T11:00:00Z"))
	ctx, cancel := context.WithCancelCause(t.Context())
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "PUT" && strings.Contains(r.URL.Path, "/workloads/") {
			once.Do(func() { // while this write is on its way, the newer run goes from its beginning to its end
				newer := b.in
				newer.Run, newer.Image = "new", "registry.example.com/cart:new"
				newer.APIServerURL, newer.TokenURL = b.PlainURL, b.PlainURL+"/oauth2/token"
				if _, err := Run(t.Context(), newer, quietly()); err != nil {
					t.Error(err)
				}
				cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
			})
		}
		return nil
	})
	b.in.Run, b.in.Image = "old", "registry.example.com/cart:old"
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.runContext(ctx) // either end is right
	if image := b.workload().Spec.Container.Image; image != "registry.example.com/cart:new" {
		t.Errorf("runs %s", image)
	}
}

// TestRetracts: a run that is stopped after its claim and before its write leaves no claim.
func TestRetracts(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/workflowruns") {
			cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	if _, err := b.runContext(ctx); outcome.Of(err).Reason != outcome.Cancelled {
		t.Errorf("%v", err)
	}
	b.wantWrites(putRun, putRun)
	if a := b.workflowRun("cart-1").Annotations; len(a) != 1 || a["example.com/kept"] != "yes" {
		t.Errorf("annotations %v", a)
	}
}

// TestRetractsAClaimThatMayHaveArrived: its answer was lost, and then the run is stopped.
func TestRetractsAClaimThatMayHaveArrived(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.in.Image += "@" + someDigest // which is a fact of the run, too
	ctx, cancel := context.WithCancelCause(t.Context())
	var arrived atomic.Bool
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		switch {
		case r.Method == "PUT" && !arrived.Swap(true):
			return &faulttest.Fault{CutBody: 1}
		case r.Method == "GET" && arrived.Load():
			cancel(outcome.Errorf(outcome.Cancelled, "stopped by terminated"))
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	if _, err := b.runContext(ctx); outcome.Of(err).Reason != outcome.Cancelled {
		t.Errorf("%v", err)
	}
	b.wantWrites(putRun, putRun)
	if a := b.workflowRun("cart-1").Annotations; len(a) != 1 {
		t.Errorf("annotations %v", a)
	}
}

// TestDeletedMeanwhile: somebody deletes the Workload between the look at it and the write.
func TestDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Apply(t, existing("cart-workload"))
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "PUT" && strings.Contains(r.URL.Path, "/workloads/") {
			once.Do(func() {
				if err := b.Delete("acme", "workloads", "cart-workload"); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.mustRun()
	b.wantWrites(putRun, putWorkload, postWorkload)
}

// TestOvertakenWhileWaiting: a newer run publishes after this one has, and before the API shows this one's image.
func TestOvertakenWhileWaiting(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.Apply(t, createdAt("acme", "old", "2026-01-01T10:00:00Z")+createdAt("acme", "new", "2026-01-01T11:00:00Z"))
	var once sync.Once
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if r.Method == "GET" && strings.Contains(r.URL.Path, "/workloads/") {
			once.Do(func() {
				newer := b.in
				newer.Run, newer.Image, newer.Wait = "new", "registry.example.com/cart:new", false
				newer.APIServerURL, newer.TokenURL = b.PlainURL, b.PlainURL+"/oauth2/token"
				if _, err := Run(t.Context(), newer, quietly()); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	b.in.Run, b.in.Image, b.in.Wait, b.in.WaitTimeout = "old", "registry.example.com/cart:old", true, 10
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, proxy.URL+"/oauth2/token"
	b.mustRun()
	if !strings.Contains(b.note, "WorkflowRun new") {
		t.Errorf("says %q", b.note)
	}
}

func quietly() step.Environment {
	return step.Environment{
		Log: slog.New(slog.DiscardHandler), Secrets: &redact.Secrets{},
		Retry: outcome.Retry{Attempts: 30, Base: time.Millisecond, Max: 50 * time.Millisecond},
	}
}

// TestConcurrentRuns: of many runs of one component at once the newest wins, and there is one Workload.
func TestConcurrentRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	const n = 24
	name := func(i int) string { return fmt.Sprintf("run-%02d", i) }
	for i := range n {
		b.Apply(t, createdAt("acme", name(i), time.Unix(int64(1_800_000_000+i/2), 0).UTC().Format(time.RFC3339)))
	}
	var wg sync.WaitGroup
	for _, i := range rand.Perm(n) {
		wg.Go(func() {
			in := b.in
			in.Run, in.Image = name(i), fmt.Sprintf("registry.example.com/cart:%d", i)
			if _, err := Run(t.Context(), in, quietly()); err != nil {
				t.Errorf("run %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if got := b.workflowRun(name(i)).Annotations[payloadAnnotation]; !strings.Contains(
			got, fmt.Sprintf("cart:%d\"", i),
		) {
			t.Errorf("run %d is annotated with %s", i, got)
		}
	}
	if image := b.workload().Spec.Container.Image; image != fmt.Sprintf("registry.example.com/cart:%d", n-1) {
		t.Errorf("runs %s", image)
	}
}

// gate opens when so many requests have passed, or by hand.
type gate struct {
	left atomic.Int64
	once sync.Once
	open chan struct{}
}

func newGate(requests int) *gate {
	g := &gate{open: make(chan struct{})}
	g.left.Store(int64(requests))
	g.passed(0)
	return g
}

func (g *gate) passed(requests int64) {
	if g.left.Add(-requests) <= 0 {
		g.once.Do(func() { close(g.open) })
	}
}

// TestConcurrentPairs lets the two runs of many components race, with and without a Workload and descriptors: one of
// the two begins when the other is anywhere between its beginning and its end.
func TestConcurrentPairs(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"workload.yaml": webDescriptor})
	empty := repository(t, nil)
	var gates sync.Map // by namespace
	proxy := faulttest.Before(t, b.PlainURL, func(r *http.Request) *faulttest.Fault {
		if parts := strings.Split(r.URL.Path, "/"); len(parts) > 4 {
			if g, ok := gates.Load(parts[4]); ok {
				g.(*gate).passed(1)
			}
		}
		return nil
	})
	b.in.APIServerURL, b.in.TokenURL = proxy.URL, b.PlainURL+"/oauth2/token"
	race := func(i int) {
		namespace := fmt.Sprintf("acme-%d", i)
		objects := openchoreotest.Component(namespace, "store", "cart") +
			createdAt(namespace, "old", "2026-01-01T10:00:00Z") + createdAt(namespace, "new", "2026-01-01T10:00:01Z")
		if i%2 == 0 {
			objects += "---" + strings.Replace(existing("cart-workload"), "namespace: acme", "namespace: "+namespace, 1)
		}
		b.Apply(t, objects)
		begin := newGate(rand.N(9))
		gates.Store(namespace, begin)
		runs := []string{"old", "new"}
		if i>>1%2 == 0 {
			slices.Reverse(runs)
		}
		var wg sync.WaitGroup
		for at, run := range runs {
			in := b.in
			in.Namespace, in.Run, in.Image = namespace, run, "registry.example.com/cart:"+run
			if i>>(at+2)%2 == 0 {
				in.Workspace = empty
			}
			wg.Go(func() {
				if at == 1 {
					<-begin.open
				}
				if _, err := Run(t.Context(), in, quietly()); err != nil {
					t.Errorf("pair %d, %s: %v", i, run, err)
				}
				begin.passed(1 << 20)
			})
		}
		wg.Wait()
		all, err := b.WorkloadsOf(namespace, "cart")
		if err != nil || len(all) != 1 || all[0].Spec.Container.Image != "registry.example.com/cart:new" {
			t.Errorf("pair %d: %v, %+v", i, err, all)
		}
	}
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				race(i)
			}
		})
	}
	n := *pairs
	if testing.Short() {
		n = min(n, 20)
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}
