package dockerfile

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// pooled is a BuildKit daemon of a pool.
type pooled struct {
	*daemon
	address string
}

// newPool starts daemons with the settings of templates/buildkit-daemon, each with a state of its own.
func newPool(t *testing.T, r *registrytest.Registry, n int) []*pooled {
	t.Helper()
	settings := string(must(os.ReadFile("../../../templates/buildkit-daemon/buildkitd.toml")))
	var all []*pooled
	for range n {
		address := fmt.Sprintf("tcp://127.0.0.1:%d", freePort(t))
		all = append(all, &pooled{newDaemon(t, r, settings, "--addr", address), address})
	}
	for _, d := range all {
		d.await(t)
	}
	return all
}

// await waits until the daemon has a worker.
func (d *pooled) await(t testing.TB) {
	t.Helper()
	ctx := context.Background() // at the end of a test, too
	c := must(client.New(ctx, d.address))
	defer c.Close()
	await(t, func() bool {
		workers, err := c.ListWorkers(ctx)
		return err == nil && len(workers) > 0
	})
}

func (d *pooled) kill() {
	d.process.Process.Kill()
	d.process.Wait()
}

// restore starts daemons again that are no more.
func restore(t *testing.T, all []*pooled) {
	t.Helper()
	for _, d := range all {
		if d.process.ProcessState != nil {
			d.start(t)
		}
	}
	for _, d := range all {
		d.await(t)
	}
}

// addressesOf is buildkit-address for daemons.
func addressesOf(all []*pooled) string {
	var addresses []string
	for _, d := range all {
		addresses = append(addresses, d.address)
	}
	return strings.Join(addresses, ",")
}

var readyAt = regexp.MustCompile(`msg="Builder is ready" address=(\S+)`)

// A component's builds go to one daemon of several, as long as it answers.
func TestPool(t *testing.T) {
	r := newRegistry(t)
	all := newPool(t, r, 3)
	by := func(t testing.TB, owner step.Owner, dockerfile string) Parameters {
		in := parameters(project(t, map[string]string{"Dockerfile": dockerfile}), r)
		in.RegistryMirrors, in.CABundle = nil, ""
		in.BuildKitAddress, in.Owner = addressesOf(all), owner
		return in
	}
	build := func(t testing.TB, in Parameters) (*pooled, ending) {
		t.Helper()
		end := run(t, t.Context(), in)
		if end.err != nil {
			t.Fatalf("%v\n%s", end.err, end.output)
		}
		at := readyAt.FindStringSubmatch(end.output)
		for _, d := range all {
			if at != nil && d.address == at[1] {
				return d, end
			}
		}
		t.Fatalf("none of the daemons has built:\n%s", end.output)
		return nil, end
	}
	cart := step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}
	// slow is a Dockerfile whose RUN sleeps, and how many seconds, which no other one sleeps.
	slow := func() (dockerfile, seconds string) {
		seconds = fmt.Sprintf("3.%09d", time.Now().UnixNano()%1e9)
		return "FROM busybox:1\nRUN sleep " + seconds + "; echo done\n", seconds
	}
	// during calls do when the RUN runs, and waits for it at the end of the test.
	during := func(t *testing.T, marker string, do func()) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for len(running(marker)) == 0 && t.Context().Err() == nil {
				time.Sleep(5 * time.Millisecond)
			}
			if t.Context().Err() == nil {
				do()
			}
		}()
		t.Cleanup(func() {
			<-ended
			restore(t, all)
			await(t, func() bool { return len(running(marker)) == 0 })
		})
	}
	const again = "ended in the middle of the build"

	t.Run("its cache again", func(t *testing.T) {
		const dockerfile = "FROM busybox:1\nRUN echo once > /once\n"
		used := map[string]bool{}
		for i := range 12 {
			owner := step.Owner{Namespace: "acme", Project: "shop", Component: fmt.Sprintf("c%d", i)}
			before, _ := build(t, by(t, owner, dockerfile))
			after, end := build(t, by(t, owner, dockerfile))
			if before != after || !strings.Contains(end.output, "CACHED") {
				t.Errorf("built at %s, then at %s:\n%s", before.address, after.address, end.output)
			}
			used[after.address] = true
		}
		// Addresses differ from run to run: that one of three is left out happens once in forty.
		if len(used) < 2 {
			t.Errorf("12 components use %v only", used)
		}
	})
	t.Run("cache mounts of two namespaces", func(t *testing.T) {
		in := func(namespace, run string) Parameters {
			in := by(t, step.Owner{Namespace: namespace, Project: "shop", Component: "cart"},
				"FROM busybox:1\nRUN --mount=type=cache,id=m,target=/m "+run+"\n")
			in.BuildKitAddress = all[0].address
			return in
		}
		succeed(t, in("acme", "echo acme > /m/x"))
		succeed(t, in("acme", "test -e /m/x"))
		succeed(t, in("other", "test ! -e /m/x"))
	})
	t.Run("one is dead", func(t *testing.T) {
		const dockerfile = "FROM busybox:1\nRUN echo once > /once\n"
		gone, _ := build(t, by(t, cart, dockerfile))
		owners := map[step.Owner]*pooled{}
		for i := range 6 {
			owner := step.Owner{Namespace: "acme", Project: "shop", Component: fmt.Sprintf("c%d", i)}
			owners[owner], _ = build(t, by(t, owner, dockerfile))
		}
		gone.kill()
		defer restore(t, all)
		owners[cart] = gone
		for owner, before := range owners {
			started := time.Now()
			after, end := build(t, by(t, owner, dockerfile))
			if after == gone || before != gone && (after != before || !strings.Contains(end.output, "CACHED")) {
				t.Errorf("%s: built at %s, then at %s", owner.Component, before.address, after.address)
			}
			if took := time.Since(started); took > 20*time.Second {
				t.Errorf("%s: the dead daemon cost %v", owner.Component, took)
			}
		}
	})
	t.Run("killed in the middle", func(t *testing.T) {
		at, _ := build(t, by(t, cart, "FROM busybox:1\nRUN true\n"))
		dockerfile, marker := slow()
		during(t, marker, at.kill)
		_, end := build(t, by(t, cart, dockerfile))
		if strings.Count(end.output, again) != 1 || !strings.Contains(end.output, "lost="+at.address) ||
			strings.Count(end.output, "msg=Building") != 2 {
			t.Error(end.output)
		}
	})
	t.Run("the only one, killed and started again", func(t *testing.T) {
		dockerfile, marker := slow()
		in := by(t, cart, dockerfile)
		in.BuildKitAddress = all[0].address
		during(t, marker, func() {
			all[0].kill()
			all[0].start(t)
		})
		if _, end := build(t, in); strings.Count(end.output, again) != 1 {
			t.Error(end.output)
		}
	})
	t.Run("all killed in the middle", func(t *testing.T) {
		at, _ := build(t, by(t, cart, "FROM busybox:1\nRUN true\n"))
		shortWait(t)
		dockerfile, marker := slow()
		during(t, marker, func() {
			for _, d := range all { // the one that builds is the last
				if d != at {
					d.kill()
				}
			}
			at.kill()
		})
		fail(t, by(t, cart, dockerfile), outcome.BuilderUnavailable, again, "none of the 3 BuildKit daemons",
			"within 500ms", all[0].address, all[1].address, all[2].address)
	})
	t.Run("ended in the middle, as Kubernetes does", func(t *testing.T) {
		at, _ := build(t, by(t, cart, "FROM busybox:1\nRUN true\n"))
		dockerfile, marker := slow()
		during(t, marker, func() {
			at.process.Process.Signal(syscall.SIGTERM)
			at.process.Wait()
		})
		if _, end := build(t, by(t, cart, dockerfile)); strings.Contains(end.output, again) {
			t.Errorf("the build was not let end:\n%s", end.output)
		}
	})
	t.Run("a failing build", func(t *testing.T) {
		end := fail(t, by(t, cart, "FROM busybox:1\nRUN exit 3\n"), outcome.BuildFailed, "exit code 3")
		if n := strings.Count(end.output, "msg=Building"); n != 1 {
			t.Errorf("it was built %d times", n)
		}
	})
	t.Run("a failing build of a daemon that ends", func(t *testing.T) {
		at, _ := build(t, by(t, cart, "FROM busybox:1\nRUN true\n"))
		dockerfile, marker := slow()
		during(t, marker, func() {
			at.process.Process.Signal(syscall.SIGTERM)
			at.process.Wait()
		})
		end := fail(t, by(t, cart, strings.Replace(dockerfile, "echo done", "exit 3", 1)), outcome.BuildFailed)
		if n := strings.Count(end.output, "msg=Building"); n != 1 {
			t.Errorf("it was built %d times", n)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		dockerfile, marker := slow()
		ctx, cancel := context.WithCancel(t.Context())
		during(t, marker, cancel)
		end := run(t, ctx, by(t, cart, dockerfile))
		if outcome.Of(end.err).Reason != outcome.Cancelled || strings.Count(end.output, "msg=Building") != 1 {
			t.Errorf("%v\n%s", end.err, end.output)
		}
	})
	t.Run("all dead", func(t *testing.T) {
		shortWait(t)
		for _, d := range all {
			d.kill()
		}
		defer restore(t, all)
		fail(t, by(t, cart, "FROM busybox:1\n"), outcome.BuilderUnavailable, "none of the 3 BuildKit daemons",
			"within 500ms", all[0].address, "connection refused")
	})
}
