//go:build e2e

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/procfs"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
)

// TestFaults breaks what only a cluster has, while a step runs: docs/reference/reliability.md names its cells.
func TestFaults(t *testing.T) {
	atNight(t)
	const slow = "FROM busybox:1\nRUN echo it runs; sleep 20; echo built > /built\nCMD [\"cat\", \"/built\"]\n"
	serving.repository(t, "faults.git", with(map[string]string{"Dockerfile": slow}))
	t.Run("a pod that is evicted", testEviction)
	t.Run("a node that is gone and does not come back", testLostNode)
	for _, test := range []struct {
		name, component string
		ofNode          bool // what is broken is a process of the node
		do              func(*testing.T)
	}{
		{"Argo's controller restarted", "faults-argo", false, restartArgo},
		{"OpenChoreo's controller restarted", "faults-openchoreo", false, func(t *testing.T) {
			control(t, "restart", "manager")
		}},
		{"the kubelet restarted", "faults-kubelet", true, func(t *testing.T) { control(t, "restart", "kubelet") }},
		{"the API server's store gone for a while", "faults-etcd", true, stopStore},
		{"a slow store of the API server", "faults-slow", true, slowStore},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.ofNode && os.Getenv(clusternode.StateVariable) == "" {
				t.Skip("it is inside the node of kind")
			}
			b := building(t, test.component)
			test.do(t)
			run := b.finish(t, 4*time.Minute)
			if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
				t.Fatalf("it did not succeed: %s\n%s", summary(run), logs(t, b.runName()))
			}
			if workload(t, b.name) == nil {
				t.Error("there is no Workload")
			}
			releasesWorkspace(t, b.runName())
		})
	}
}

// building starts a build of a component, and returns while its RUN runs.
func building(t *testing.T, component string) build {
	t.Helper()
	b := build{name: component, url: "https://" + publicGit + "/faults.git"}
	b.start(t)
	eventually(t, 4*time.Minute, "RUN of "+component, func(context.Context) (bool, error) {
		said := logs(t, b.runName())
		return strings.Contains(said, " it runs\n"), fmt.Errorf("%s", said)
	})
	return b
}

// testEviction evicts a step's pod as a drain does.
func testEviction(t *testing.T) {
	b := building(t, "faults-evicted")
	evicted := 0
	for _, pod := range pods(t, b.runName()) {
		if pod.Status.Phase != corev1.PodRunning {
			continue
		}
		evicted++
		if err := k8s.core.CoreV1().Pods(pod.Namespace).EvictV1(t.Context(), &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
		}); err != nil {
			t.Fatal(err)
		}
	}
	if evicted != 1 {
		t.Fatalf("%d pods were evicted", evicted)
	}
	succeedsOrTells(t, b, "containerfile-build:Failed", "Cancelled: ")
}

// succeedsOrTells waits for the end of a run that has lost a step's pod. Where Argo has started the pod anew, the run
// succeeds. Else its status has words that tell why it has failed, it leaves no Workload, and another one succeeds.
func succeedsOrTells(t *testing.T, b build, words ...string) {
	t.Helper()
	told := summary(b.finish(t, 5*time.Minute))
	t.Log(told)
	releasesWorkspace(t, b.runName())
	made := workload(t, b.name) != nil
	if strings.Contains(told, "WorkflowSucceeded=True") {
		if !made {
			t.Error("there is no Workload")
		}
		return
	}
	for _, word := range words {
		if !strings.Contains(told, word) {
			t.Errorf("the status does not tell %q", word)
		}
	}
	if made {
		t.Error("there is a Workload of a run that did not succeed")
	}
	b.run = b.name + "-2"
	b.succeed(t, 4*time.Minute)
	if workload(t, b.name) == nil {
		t.Error("there is no Workload of the second run")
	}
}

// testLostNode ends all that runs on the node, as with a machine that is gone, and takes its Node away, as a cloud
// does. The next node has the first one's name, for the cluster has one only.
func testLostNode(t *testing.T) {
	if os.Getenv(clusternode.StateVariable) == "" {
		t.Skip("it is inside the node of kind")
	}
	b := building(t, "faults-lost")
	loseNode(t, b.runName())
	succeedsOrTells(t, b, "containerfile-build:Error", "pod deleted")
}

// loseNode returns when Kubernetes has given up the pods of a run, and another node has come.
func loseNode(t *testing.T, run string) {
	t.Helper()
	control(t, "stop", "kubelet")
	defer control(t, "start", "kubelet")
	containers, err := exec.CommandContext(t.Context(), "ctr", "-n", "k8s.io", "tasks", "list", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range strings.Fields(string(containers)) {
		// What has ended meanwhile is not there any more.
		said, err := exec.CommandContext(
			t.Context(), "ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGKILL", "--all", id,
		).CombinedOutput()
		if err != nil && !strings.Contains(string(said), "not found") {
			t.Fatalf("%s: %v\n%s", id, err, said)
		}
	}
	if err := k8s.core.CoreV1().Nodes().Delete(t.Context(), clusternode.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 4*time.Minute, "the end of the pods of "+run, func(context.Context) (bool, error) {
		n := len(pods(t, run))
		return n == 0, fmt.Errorf("%d are there", n)
	})
}

// restartArgo has another pod of Argo's controller take over.
func restartArgo(t *testing.T) {
	must(k8s.kubectl(t.Context(), "", "-n", "argo", "delete", "pod", "-l", "app=workflow-controller"))(t)
}

// stopStore stops etcd until the API server has failed by it, and starts it again.
func stopStore(t *testing.T) {
	control(t, "stop", "etcd")
	defer control(t, "start", "etcd")
	eventually(t, time.Minute, "an API server without its store", func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err := k8s.core.CoreV1().ConfigMaps(planeNamespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "faults-"},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, nil
	})
}

// slowStore has etcd answer only in a fifth of each second, for as long as the RUN takes and longer.
func slowStore(t *testing.T) {
	etcd := processOf(t, "etcd")
	signal := func(s os.Signal) {
		if err := etcd.Signal(s); err != nil {
			t.Error(err)
		}
	}
	defer signal(syscall.SIGCONT)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := range 5 * 45 {
		switch i % 5 {
		case 0:
			signal(syscall.SIGSTOP)
		case 4:
			signal(syscall.SIGCONT)
		}
		select {
		case <-t.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// processOf finds the process of a program of the node.
func processOf(t *testing.T, program string) *os.Process {
	t.Helper()
	processes, err := procfs.AllProcs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		// One that has ended meanwhile has none.
		if args, err := p.CmdLine(); err == nil && len(args) > 0 && filepath.Base(args[0]) == program {
			found, err := os.FindProcess(p.PID)
			if err != nil {
				t.Fatal(err)
			}
			return found
		}
	}
	t.Fatalf("%s does not run", program)
	return nil
}
