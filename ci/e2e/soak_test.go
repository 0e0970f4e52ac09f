//go:build e2e

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/soaktest"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
)

var (
	soaking   = flag.Duration("soak", 0, "how long TestSoak builds (default not at all)")
	soakFiles = flag.String("soak-report", "", "`folder` for soak.json, soak.md and soak.svg")
)

// TestSoak builds for as long as it is told: all builders, by a BuildKit in the build's pod and by daemons that collect
// garbage, with failures and runs that are deleted in the middle. Each run is deleted at its end, as it would be after
// ttlAfterCompletion. Whenever nothing is built, it takes a sample, and nothing may grow.
func TestSoak(t *testing.T) {
	if *soaking == 0 {
		t.Skip("runs for minutes or hours: make soak")
	}
	if os.Getenv(clusternode.StateVariable) == "" {
		t.Skip("looks at the node's own processes, which kind has in another container")
	}
	s := newSoak(t)
	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(ctx) })
	defer watching.Wait()
	defer stop()
	s.warm(t)
	for s.began = time.Now(); time.Since(s.began) < *soaking && s.unexpected < 10; {
		s.turns++
		s.turn(t)
		s.rest(t)
	}
	if s.unexpected > 0 {
		t.Errorf("%d builds did not end as they should", s.unexpected)
	}
	verdicts, enough := s.Judge()
	if !enough {
		t.Fatalf("%d samples are too few: let it run for longer", len(s.Samples))
	}
	t.Logf("\n%s", s.Page(verdicts))
	if *soakFiles != "" {
		if err := s.Write(*soakFiles); err != nil {
			t.Error(err)
		}
	}
	for _, v := range verdicts {
		if v.Grows {
			t.Errorf("%s grows: from %.1f to %.1f", v.Name, v.First, v.Last)
		}
	}
}

// soak is a soak of the cluster.
type soak struct {
	mu sync.Mutex
	soaktest.Soak
	machine    soaktest.Machine
	began      time.Time
	turns      int
	builds     int
	unexpected int
	examples   []example // one for each builder by buildpacks
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{}
	s.About = fmt.Sprintf("On %s, on %d processors.", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU())
	s.Outcomes = map[string]int{}
	store := must(imageStore())(t)
	if err := (testbuilders.Store{Dir: store.Dir, Source: *repository, Log: store.Log}).Push(
		t.Context(), "127.0.0.1:5000",
	); err != nil {
		t.Fatal(err)
	}
	buildkitCertificates(t)
	t.Cleanup(func() {
		if err := install(context.Background(), "default"); err != nil {
			t.Error(err)
		}
	})
	// 16 MiB that no build had before: what keeps all of it grows.
	made := "FROM busybox:1\nARG TURN\nRUN echo $TURN && dd if=/dev/urandom of=/made bs=1M count=16\n" +
		"RUN --mount=type=cache,target=/kept date >> /kept/dates\nCMD [\"true\"]\n"
	for name, dockerfile := range map[string]string{
		"soak-one": made, "soak-two": made, "denied": small["Dockerfile"], "soak-absent": small["Dockerfile"],
		"soak-failing": "FROM busybox:1\nRUN echo no such luck >&2; exit 7\n",
		"soak-deleted": "FROM busybox:1\nRUN echo it runs; sleep 600\n",
	} {
		serving.repository(t, name+".git", with(map[string]string{"Dockerfile": dockerfile}))
	}
	for _, name := range []string{"unit-converter", "link-shortener", "patient-management-service"} {
		serving.publish(t, name+".git", filepath.Join(*repository, "examples", name))
		s.examples = append(s.examples, example{name: name})
	}
	return s
}

// warm has the node pull all images, and each builder build, before anything is measured.
func (s *soak) warm(t *testing.T) {
	if err := install(t.Context(), "soak"); err != nil {
		t.Fatal(err)
	}
	rollout("stepwright-buildkit", "statefulset/buildkitd")(t)
	if err := install(t.Context(), "default"); err != nil {
		t.Fatal(err)
	}
	t.Run("all builders", func(t *testing.T) {
		s.build(t, build{name: "soak-one"}, "Succeeded")
		for _, e := range s.examples {
			s.build(t, e.build(t, filepath.Join(*repository, "examples", e.name)), "Succeeded")
		}
	})
	s.rest(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Samples, s.Peaks, s.builds = nil, nil, 0
	clear(s.Outcomes)
}

// turn runs some builds at the same time.
func (s *soak) turn(t *testing.T) {
	overlay := []string{"default", "soak"}[s.turns%2]
	t.Run(fmt.Sprintf("turn %d, %s", s.turns, overlay), func(t *testing.T) {
		if err := install(t.Context(), overlay); err != nil {
			t.Fatal(err)
		}
		if overlay == "soak" {
			rollout("stepwright-buildkit", "statefulset/buildkitd")(t)
		}
		turn := object{"buildArgs": []any{object{"name": "TURN", "value": fmt.Sprint(s.turns)}}}
		s.build(t, build{name: "soak-one", more: turn}, "Succeeded")
		switch (s.turns + 1) / 2 % 2 { // twice each, by each kind of BuildKit
		case 0:
			s.build(t, build{name: "soak-failing"}, "BuildFailed")
			s.build(t, build{name: "soak-absent", branch: "nowhere"}, "RevisionNotFound")
			s.build(t, build{name: "denied"}, "PushDenied")
		case 1:
			s.build(t, build{name: "soak-two", more: turn}, "Succeeded")
			e := s.examples[s.turns/4%len(s.examples)]
			s.build(t, e.build(t, filepath.Join(*repository, "examples", e.name)), "Succeeded")
			s.build(t, build{name: "soak-deleted"}, deleted)
		}
	})
}

// deleted is how a run ends that is deleted in the middle.
const deleted = "deleted"

// build runs a build in parallel with the others of its turn, wants it to end in a way, and deletes it.
func (s *soak) build(t *testing.T, b build, want string) {
	b.run = fmt.Sprintf("%s-%d", b.name, s.turns)
	if b.url == "" {
		b.url = "https://" + publicGit + "/" + b.name + ".git"
	}
	t.Run(b.run, func(t *testing.T) {
		t.Parallel()
		t.Cleanup(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.builds++
			if t.Failed() {
				s.unexpected++
				s.Outcomes["otherwise"]++
			} else {
				s.Outcomes[want]++
			}
		})
		b.start(t)
		if want == deleted {
			eventually(t, 4*time.Minute, "the build", func(context.Context) (bool, error) {
				said := logs(t, b.run)
				return strings.Contains(said, " it runs\n"), errors.New(said)
			})
		} else if run := b.finish(t, 5*time.Minute); ended(run) != want {
			t.Errorf("it did not end with %s: %s\n%s", want, summary(run), logs(t, b.run))
		}
		must(k8s.kubectl(t.Context(), "", "-n", namespace, "delete", "workflowrun", b.run, "--timeout=60s"))(t)
	})
}

// ended is how a run ended: Succeeded, or the reason of its last task.
func ended(run *v1alpha1.WorkflowRun) string {
	if c := condition(run, "WorkflowSucceeded"); c != nil && c.Status == metav1.ConditionTrue {
		return "Succeeded"
	}
	if len(run.Status.Tasks) == 0 {
		return ""
	}
	if told := reasonTold.FindStringSubmatch(run.Status.Tasks[len(run.Status.Tasks)-1].Message); told != nil {
		return told[1]
	}
	return ""
}

// reasonTold is how Argo's message of a step begins: main: Error (exit code 22): BuildFailed: …
var reasonTold = regexp.MustCompile(`^main: Error \(exit code \d+\): (\w+): `)

// rest waits until nothing of a run is left, and takes a sample. What is left for longer than a minute is in it.
func (s *soak) rest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var left string
	for tick := time.NewTicker(500 * time.Millisecond); ctx.Err() == nil; {
		var err error
		if left, err = s.left(ctx); err == nil && left == "" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	if left != "" {
		t.Logf("after turn %d there is left: %s", s.turns, left)
	}
	values, err := s.values(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Add(soaktest.Sample{After: time.Since(s.began), Builds: s.builds, Values: values}, bounds)
	t.Logf("after turn %d, %d builds: %v", s.turns, s.builds, values)
}

// gone is what a run has, and nobody else in the namespace of runs.
var gone = []schema.GroupVersionResource{
	workflows, externalSecrets, core("pods"), core("persistentvolumeclaims"),
}

// left tells what there still is of runs, or "" where nothing is: objects, and processes of their pods.
func (s *soak) left(ctx context.Context) (string, error) {
	for _, resource := range gone {
		n, err := s.objects(ctx, resource, planeNamespace)
		if n > 0 || err != nil {
			return fmt.Sprintf("%d %s", n, resource.Resource), err
		}
	}
	pods, err := s.objects(ctx, core("pods"), metav1.NamespaceAll)
	if err != nil {
		return "", err
	}
	processes, err := s.machine.Processes()
	shims := 0
	for _, p := range processes {
		if p.Name == shim {
			shims++
		}
	}
	if shims > pods {
		return fmt.Sprintf("%d processes %s of %d pods", shims, shim, pods), err
	}
	return "", err
}

// objects is how many there are of a resource.
func (s *soak) objects(ctx context.Context, resource schema.GroupVersionResource, namespace string) (int, error) {
	list, err := k8s.dynamic.Resource(resource).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(list.Items), nil
}

// shim is containerd's process of a pod.
const shim = "containerd-shim-runc-v2"

// ours are the processes whose memory and descriptors are looked at: those of OpenChoreo, Argo and the node that handle
// builds, and BuildKit's daemons.
var ours = []string{
	"workflow-controller", "manager", "openchoreo-api", "cluster-gateway", "cluster-agent", "external-secrets",
	"kubelet", "containerd", "networkpolicies", "buildkitd",
}

// shown are processes that keep a history on purpose.
var shown = []string{"etcd", "kube-apiserver"}

// values takes a sample of the machine, the node's disk and the API server.
func (s *soak) values(ctx context.Context) (map[string]float64, error) {
	values, err := s.processes()
	if err != nil {
		return nil, err
	}
	// What else the machine did.
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		var load float64
		if _, err := fmt.Sscan(string(text), &load); err == nil {
			values["load"] = load
		}
	}
	mounts, err := s.machine.Mounts()
	if err != nil {
		return nil, err
	}
	values["mounts"], values["loop devices"] = float64(mounts), float64(s.machine.LoopDevices())
	values["network links"] = float64(s.machine.Links())
	state := clusternode.State{Dir: os.Getenv(clusternode.StateVariable)}
	for _, hierarchy := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/memory"} { // of version 2, and of version 1
		values["control groups of pods"] += float64(soaktest.Groups(filepath.Join(hierarchy, state.Cgroup())))
	}
	for what, folder := range map[string]string{
		"disk of containerd": state.Path("containerd"), "disk of the kubelet": state.Path("kubelet"),
		"disk of volumes": state.Path("volumes"), "disk of etcd": state.Path("etcd"),
	} {
		mebi, _, err := soaktest.Usage(folder)
		if err != nil {
			return nil, err
		}
		values[what] = mebi
	}
	for _, resource := range append(slices.Clone(gone), core("secrets"), core("configmaps"), core("events")) {
		n, err := s.objects(ctx, resource, planeNamespace)
		if err != nil {
			return nil, err
		}
		values[resource.Resource+" of runs"] = float64(n)
	}
	for _, resource := range []schema.GroupVersionResource{workflowRuns, workloads} {
		n, err := s.objects(ctx, resource, namespace)
		if err != nil {
			return nil, err
		}
		values[resource.Resource] = float64(n)
	}
	n, err := s.objects(ctx, core("persistentvolumes"), "")
	values["persistentvolumes"] = float64(n)
	return values, err
}

// processes are the values that processes have.
func (s *soak) processes() (map[string]float64, error) {
	all, err := s.machine.Processes()
	values := map[string]float64{"processes": 0, "processes that have ended": 0}
	for _, p := range all {
		values["processes"]++
		if p.Ended {
			values["processes that have ended"]++
		}
		if slices.Contains(ours, p.Name) || slices.Contains(shown, p.Name) {
			values["memory of "+p.Name] += p.Resident
			values["descriptors of "+p.Name] += float64(p.Descriptors)
		}
	}
	return values, err
}

// bounds is what a value may grow by.
func bounds(name string) soaktest.Quantity {
	q := soaktest.Quantity{Name: name}
	kind, of, _ := strings.Cut(name, " of ")
	switch kind {
	case "memory":
		q.Unit, q.Hour, q.Spare = "MiB", 24, 24
	case "disk":
		q.Unit, q.Hour, q.Spare = "MiB", 64, 64
	case "descriptors":
		q.PerBuild, q.Build, q.Spare = true, 0.05, 12 // connections come and go
	default:
		q.PerBuild, q.Build, q.Spare = true, 0.02, 0.9
	}
	// etcd and the API server keep a history of five minutes and their files, and events are kept for an hour.
	q.Free = slices.Contains(shown, of) || kind == "events" || name == "load"
	return q
}

// watch keeps the most that processes take, also while builds run.
func (s *soak) watch(ctx context.Context) {
	for tick := time.NewTicker(2 * time.Second); ; {
		if values, err := s.processes(); err == nil {
			s.mu.Lock()
			s.Peak(values)
			s.mu.Unlock()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
