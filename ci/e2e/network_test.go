//go:build e2e

package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
)

// metadata is the address by which clouds tell a machine who it is.
const metadata = "169.254.169.254"

// testNetwork lets a RUN knock at what is in a cluster. A pod that no policy is for reaches all of it.
func testNetwork(t *testing.T) {
	if out, err := exec.Command("ip", "address", "add", metadata+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "address", "del", metadata+"/32", "dev", "lo").Run() })
	listener := must(net.Listen("tcp", metadata+":80"))(t)
	t.Cleanup(func() { listener.Close() })
	neighbour := startShell(t, "neighbour", "httpd -f -p 8080")
	var address string
	eventually(t, 2*time.Minute, "the neighbour", func(ctx context.Context) (bool, error) {
		pod, err := k8s.core.CoreV1().Pods(neighbour.Namespace).Get(ctx, neighbour.Name, metav1.GetOptions{})
		if err == nil {
			address = pod.Status.PodIP
		}
		return err == nil && pod.Status.Phase == corev1.PodRunning, err
	})

	const host = clusternode.Address
	open := []string{host + ":5000", must(apiServer(t.Context()))(t) + ":6443"}
	shut := []string{
		host + ":10250", host + ":7480", host + ":8090", host + ":8091", address + ":8080", metadata + ":80",
	}
	every := slices.Sorted(slices.Values(slices.Concat(open, shut)))
	slices.Sort(open)
	// Only a connection that is not made ends with 1.
	const knock = "for to in %s; do timeout 5 nc -w 2 ${to%%:*} ${to##*:} </dev/null >/dev/null 2>&1; " +
		"[ $? -eq 1 ] || echo reached $to; done; echo knocked everywhere"
	script := fmt.Sprintf(knock, strings.Join(every, " "))
	reached := func(log string) []string {
		var all []string
		for line := range strings.Lines(log) {
			if _, to, ok := strings.Cut(line, "reached "); ok && !strings.Contains(line, "echo reached") {
				all = append(all, strings.TrimSpace(to))
			}
		}
		slices.Sort(all)
		return slices.Compact(all)
	}

	free := startShell(t, "free", script)
	var said string
	eventually(t, 2*time.Minute, "a pod without a policy", func(ctx context.Context) (bool, error) {
		raw, err := k8s.core.CoreV1().Pods(free.Namespace).GetLogs(free.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		said = string(raw)
		return strings.Contains(said, "knocked everywhere"), err
	})
	if got := reached(said); !slices.Equal(got, every) {
		t.Fatalf("a pod without a policy reaches %v, and should %v", got, every)
	}

	serving.repository(t, "network.git", with(map[string]string{"Dockerfile": "FROM busybox:1\nRUN " + script + "\n"}))
	b := build{name: "network", url: "https://" + publicGit + "/network.git"}
	b.succeed(t, 4*time.Minute)
	said = logs(t, b.runName())
	if got := reached(said); !strings.Contains(said, "knocked everywhere") || !slices.Equal(got, open) {
		t.Errorf("a RUN reaches %v, and should %v:\n%s", got, open, said)
	}
}

// startShell starts a pod that runs a script, until the test ends.
func startShell(t *testing.T, name, script string) *corev1.Pod {
	t.Helper()
	api := k8s.core.CoreV1().Pods(planeNamespace)
	pod := must(api.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			AutomountServiceAccountToken:  ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.stepwright.test:5000/library/busybox:1",
				Command: []string{"sh", "-c", script},
			}},
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return pod
}
