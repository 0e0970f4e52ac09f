package faults

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

const outlasted = outcome.Succeeded

// cells is the matrix.
func cells() (all []cell) {
	for _, s := range steps {
		add := func(name string, make func() fault, want ...outcome.Reason) {
			all = append(all, cell{step: s, name: name, make: make, want: want})
		}
		ofProcess(s, add)
		ofDisks(s, add)
		ofNetwork(s, add)
		ofAnswers(s, add)
	}
	all = append(all, special()...)
	for i := range all {
		all[i].quick = slices.Contains(quick, all[i].String())
	}
	return all
}

// quick are the cells that each test takes: the faults that found something.
var quick = []string{
	"checkout-source/kill -9, moment 1", "checkout-source/branch forced in the middle",
	"containerfile-build/kill -9, moment 1", "containerfile-build/HTML from the middle on",
	"buildpacks-build/workspace full",
	"publish-image/SIGTERM, moment 2", "publish-image/server's clock 1 h behind",
	"publish-image/HTML from the middle on",
	"generate-workload-cr/HTML in place of answer 7", "generate-workload-cr/server's clock 1 h behind",
	"generate-workload-cr//tmp full", "generate-workload-cr/a newer run registers at the same time",
}

type adder func(name string, make func() fault, want ...outcome.Reason)

// once makes one fault.
func once(f fault) func() fault { return func() fault { return f } }

// ofProcess are the cells of what happens to the step's own processes.
func ofProcess(s *step, add adder) {
	for i := range 4 {
		add(fmt.Sprintf("kill -9, moment %d", i+1), once(signal(syscall.SIGKILL)), outcome.Killed)
		add(fmt.Sprintf("SIGTERM, moment %d", i+1), once(signal(syscall.SIGTERM)), outcome.Cancelled)
	}
	add("memory of 6 MiB", once(outOfMemory(6<<20)), outcome.Killed, outcome.BuildFailed, outcome.BuilderUnavailable)
}

// ofDisks are the cells of file systems.
func ofDisks(s *step, add adder) {
	full := []outcome.Reason{outcome.OutOfSpace}
	switch s {
	case checkout:
		add("workspace full", func() fault { return fullDisk("vol", 200<<10) }, full...)
		add("workspace quite full", func() fault { return fullDisk("vol", 0) }, full...)
		add("workspace read-only", once(readOnly("/mnt/vol")), outcome.Failed)
	case containerfile:
		add("workspace full", func() fault { return fullDisk("vol", 300<<10) }, full...)
		add("workspace quite full", func() fault { return fullDisk("vol", 0) }, full...)
		add("build state full", func() fault { return fullDisk("state", 3<<20) }, full...)
		add("build state quite full", func() fault { return fullDisk("state", 64<<10) }, full...)
		add("workspace read-only", once(readOnly("/mnt/vol")), outcome.Failed)
		add("build state read-only", once(readOnly("/mnt/state")), outcome.BuilderUnavailable, outcome.Failed)
	case buildpacks:
		add("workspace full", func() fault { return fullDisk("vol", 200<<10) }, full...)
		add("volume of layers full", func() fault { return fullDisk("product", 600<<10) }, full...)
		add("volume of layers quite full", func() fault { return fullDisk("product", 0) }, full...)
		add("volume of layers read-only", func() fault { return readOnly("/layers") }, outcome.Failed)
		add("workspace read-only", once(readOnly("/mnt/vol")), outcome.Failed)
	case publish, workload:
		add("workspace read-only", once(readOnly("/mnt/vol")), outlasted)
		add("workspace quite full", func() fault { return fullDisk("vol", 0) }, outlasted)
	}
	add("/tmp full", func() fault { return fullDisk("tmp", 0) }, outcome.OutOfSpace)
	add("/tmp read-only", once(readOnly("/tmp")), outcome.Failed)
}

// ofNetwork are the cells of what is between a step and its servers.
func ofNetwork(s *step, add adder) {
	add("DNS gone", once(dns(silent)), s.away)
	add("DNS knows no names", once(dns(forgets)), s.absent)
	add("DNS fails", once(dns(failing)), s.away)
	add("DNS loses every second packet", once(dns(losing)), outlasted, s.away)
	add("server's clock 1 h ahead", once(clock(s.peer, time.Hour, 25*time.Hour)), s.away)
	add("server's clock 1 h behind", once(clock(s.peer, -24*time.Hour, -time.Hour)), s.away)
	add("TLS expired in the middle", once(expires(s.peer)), s.away, outlasted)
	add("connection refused", once(refuses(s.peer)), s.away)
	add("network cut for 3 s", once(cut(s.peer, 3*time.Second)), outlasted)
	add("network cut", once(cut(s.peer, 0)), s.away)
	add("1 Mbit/s, 500 ms", once(on(s.peer, weather{rate: 125_000, delay: 500 * time.Millisecond})), outlasted)
	add("one reset in the middle", once(resets(s.peer, 1)), outlasted)
	add("every connection reset", once(resets(s.peer, -1)), s.away, outlasted)
	add("server restarted, 1 s", func() fault { return restarts(s.peer, time.Second) }, outlasted)
	add("server gone in the middle", func() fault { return restarts(s.peer, 0) }, s.away)
}

// ofAnswers are the cells of what a server says.
func ofAnswers(s *step, add adder) {
	for _, status := range []int{429, 500, 503} {
		add(fmt.Sprintf("one %d", status), once(says(s.peer, status, "not now", 1)), outlasted)
		add(fmt.Sprintf("%d from the middle on", status), once(says(s.peer, status, "not now", -1)), s.away)
	}
	add("HTML for all answers", once(always(s.peer, 200, signIn)), s.strange, s.away)
	add("HTML in place of one answer", once(says(s.peer, 200, signIn, 1)), outlasted, s.strange, s.away)
	add("HTML from the middle on", once(says(s.peer, 200, signIn, -1)), s.strange, s.away)
	add("noise from the middle on", once(says(s.peer, 200, noise, -1)), s.strange, s.away)
	add("Secret rotated in the middle", func() fault { return rotated(s.peer, 500*time.Millisecond) },
		outlasted, s.refused)
}

// special are the cells of one step only.
func special() (all []cell) {
	add := func(s *step, name string, make func() fault, want ...outcome.Reason) *cell {
		all = append(all, cell{step: s, name: name, make: make, want: want})
		return &all[len(all)-1]
	}
	forced := add(checkout, "branch forced in the middle", once(forced), outlasted)
	forced.own, forced.changed = afterForce, true
	add(checkout, "another checkout at the same time", once(beside(func(*trouble, *scene) {})), outlasted)
	shares := func(c *trouble, other *scene) {
		other.lent = append(other.lent, mount{From: filepath.Join(c.folder, "state"), To: "/mnt/state"})
	}
	add(containerfile, "another build with the same build state", once(beside(shares)), outlasted)
	add(containerfile, "another build with the same build state, killed", once(besideKilled(shares)), outlasted)
	add(buildpacks, "another build at the same time", once(beside(func(*trouble, *scene) {})), outlasted)
	tagged := add(publish, "another run publishes at the same time", once(beside(func(_ *trouble, other *scene) {
		other.flags = []string{"--image-tag=v2"}
	})), outlasted)
	tagged.own = bothTags
	newest := add(workload, "a newer run registers at the same time", once(beside(func(_ *trouble, other *scene) {
		other.flags = newer
	})), outlasted)
	newest.own = func(c *trouble, _ ending) error { return c.workloadIs(newerRun) }
	for k := range 8 {
		add(workload, fmt.Sprintf("HTML in place of answer %d", k+1), once(nth(api, k+1, 200, signIn)),
			outlasted, outcome.NotFound)
		add(workload, fmt.Sprintf("answer %d lost", k+1), once(lost(api, k+1)), outlasted)
	}
	add(workload, "IdP refuses connections", once(refuses(idp)), outcome.ApiUnavailable)
	add(workload, "IdP restarted, 1 s", func() fault { return restarts(idp, time.Second) }, outlasted)
	add(workload, "IdP says 503", once(always(idp, 503, "not now")), outcome.ApiUnavailable)
	add(workload, "IdP says HTML", once(always(idp, 200, signIn)), outcome.NotFound)
	add(workload, "IdP's clock 1 h behind, certificate", once(clock(idp, -24*time.Hour, -time.Hour)),
		outcome.ApiUnavailable)
	add(workload, "IdP's clock 1 h behind, tokens", once(endedTokens), outcome.Unauthorized)
	return all
}

func idp(s *site) *server { return s.idp }

func api(s *site) *server { return s.api }

// newer are the flags of a newer run.
var newer = []string{"--image=" + imageOf(newerRun), "--run-name=" + newerRun}

// bothTags is nil where the tags of both runs are of the image.
func bothTags(c *trouble, _ ending) error {
	tags, err := c.tags("acme/shop")
	if err != nil {
		return err
	}
	want := c.works.truth["containerfile-build"].results["image-digest"]
	revision := c.works.truth["checkout-source"].results["git-revision"]
	for _, tag := range []string{"v1-", "v2-"} {
		if tags[tag+revision[:8]] != want {
			return fmt.Errorf("tags are %v", tags)
		}
	}
	return nil
}

// afterForce is nil where the step checked out the commit that was forced on the branch.
func afterForce(c *trouble, e ending) error {
	if now := e.results["git-revision"]; now == "" || now == c.truth().results["git-revision"] {
		return fmt.Errorf("git-revision is %q", now)
	}
	return nil
}
