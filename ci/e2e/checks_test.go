//go:build e2e

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/stepwright/stepwright/schemas"
)

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

// releasesWorkspace wants that the claim of a run goes, now that the run has ended.
func releasesWorkspace(t *testing.T, run string) {
	t.Helper()
	eventually(t, time.Minute, "the workspace's end", func(ctx context.Context) (bool, error) {
		claims, err := k8s.core.CoreV1().PersistentVolumeClaims(planeNamespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(claims.Items, func(c corev1.PersistentVolumeClaim) bool {
			return strings.HasPrefix(c.Name, run+"-")
		}), nil
	})
}

func hintOf(t *testing.T, reason string) string {
	t.Helper()
	r, ok := schemas.ReasonNamed(reason)
	if !ok {
		t.Fatalf("%s is in no schema", reason)
	}
	return r.Hint
}

// control stops or starts a part of OpenChoreo's control plane.
func control(t *testing.T, verb, part string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cluster", verb, part).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", verb, part, err, out)
	}
}

// checkCanaries looks for secrets wherever a run leaves something for people to read.
func checkCanaries(t *testing.T, run string) {
	t.Helper()
	places := map[string]string{"logs": logs(t, run)}
	if w, err := k8s.dynamic.Resource(workflows).Namespace(planeNamespace).Get(
		t.Context(), run, metav1.GetOptions{},
	); err == nil {
		places["the Argo Workflow"] = canonical(t, w)
	}
	if r, err := k8s.dynamic.Resource(workflowRuns).Namespace(namespace).Get(
		t.Context(), run, metav1.GetOptions{},
	); err == nil {
		places["the WorkflowRun"] = canonical(t, r)
	}
	places["the pods"] = canonical(t, pods(t, run))
	for place, text := range places {
		for _, secret := range []string{
			gitPassword, pushPassword, pullPassword, "openchoreo-workload-publisher-secret", "canary-oauth-77d0",
			statusToken, traceToken, "OPENSSH PRIVATE KEY",
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s of %s show a secret: %s…", place, run, secret[:8])
			}
		}
	}
}

// levels are the Pod Security Standards, the strictest first. A namespace enforces each.
var levels = []string{"restricted", "baseline", "privileged"}

// admitted returns the strictest Pod Security level at which the API server lets a pod in, as it is or was.
func admitted(t *testing.T, pod corev1.Pod) (level, refusal string) {
	t.Helper()
	for _, level := range levels {
		ns := "pod-security-" + level
		err := k8s.apply(t.Context(),
			object{"apiVersion": "v1", "kind": "Namespace",
				"metadata": object{"name": ns, "labels": object{"pod-security.kubernetes.io/enforce": level}}},
			object{"apiVersion": "v1", "kind": "ServiceAccount",
				"metadata": object{"name": pod.Spec.ServiceAccountName, "namespace": ns}})
		if err != nil {
			t.Fatal(err)
		}
		again := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: ns}, Spec: *pod.Spec.DeepCopy()}
		again.Spec.NodeName = ""
		_, err = k8s.core.CoreV1().Pods(ns).Create(t.Context(), &again, metav1.CreateOptions{
			DryRun: []string{metav1.DryRunAll},
		})
		if err == nil {
			return level, refusal
		}
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
			t.Fatalf("%s: %v", pod.Name, err)
		}
		refusal = err.Error()
	}
	t.Fatalf("%s is admitted nowhere: %s", pod.Name, refusal)
	return "", ""
}

var written struct {
	sync.Mutex
	strings.Builder
}

func reportf(format string, args ...any) {
	written.Lock()
	defer written.Unlock()
	fmt.Fprintf(&written, format, args...)
}

func writeReport(file string) error {
	written.Lock()
	defer written.Unlock()
	fmt.Print(written.String())
	if file == "" {
		return nil
	}
	return os.WriteFile(file, []byte(written.String()), 0o644)
}

// step is the task that a pod of Argo's belongs to.
func step(pod corev1.Pod) string {
	name := pod.Annotations["workflows.argoproj.io/node-name"] // <workflow>[0].<step>
	return name[strings.LastIndex(name, ".")+1:]
}

func byAge(pods []corev1.Pod) []corev1.Pod {
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), startOf(a).Compare(startOf(b)))
	})
	return pods
}

func startOf(pod corev1.Pod) time.Time {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == "main" && s.State.Terminated != nil {
			return s.State.Terminated.StartedAt.Time
		}
	}
	return time.Time{}
}

// reportSecurity holds the pods of a run to the levels that the templates promise, and reports them.
func reportSecurity(t *testing.T, run, overlay string, promised map[string]string) {
	t.Helper()
	reportf("\nPod Security as admitted, %s:\n", overlay)
	for _, pod := range byAge(pods(t, run)) {
		level, refusal := admitted(t, pod)
		reportf("  %-21s %s\n", step(pod), level)
		if want := promised[step(pod)]; level != want {
			t.Errorf("the pod of %s is %s, want %s: %s", step(pod), level, want, refusal)
		}
	}
}

// reportTimes tells where the time of a run went. Kubernetes' times are whole seconds.
func reportTimes(t *testing.T, run string, began time.Time, toWorkload, toEnd time.Duration) {
	t.Helper()
	reportf(
		"\n%s: %.1f s from kubectl apply to the Workload, %.1f s to the WorkflowRun's end\n", run,
		toWorkload.Seconds(), toEnd.Seconds(),
	)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "  step\tbefore\tscheduling\tinit\tstarting\tstep\tafter\tpulling of images")
	previous := began
	var longest time.Duration
	var where string
	for _, pod := range byAge(pods(t, run)) {
		var scheduled, initialised, started, finished time.Time
		for _, c := range pod.Status.Conditions {
			switch c.Type {
			case corev1.PodScheduled:
				scheduled = c.LastTransitionTime.Time
			case corev1.PodInitialized:
				initialised = c.LastTransitionTime.Time
			}
		}
		for _, s := range pod.Status.InitContainerStatuses {
			if s.State.Terminated != nil && s.State.Terminated.FinishedAt.After(initialised) {
				initialised = s.State.Terminated.FinishedAt.Time
			}
		}
		var end time.Time // of the pod: Argo's own container reports after the step
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Terminated == nil {
				continue
			}
			if s.Name == "main" {
				started, finished = s.State.Terminated.StartedAt.Time, s.State.Terminated.FinishedAt.Time
			}
			if s.State.Terminated.FinishedAt.After(end) {
				end = s.State.Terminated.FinishedAt.Time
			}
		}
		gap := pod.CreationTimestamp.Sub(previous.Truncate(time.Second))
		if gap > longest {
			longest, where = gap, "before "+step(pod)
		}
		fmt.Fprintf(w, "  %s\t%v\t%v\t%v\t%v\t%v\t%v\t%s\n", step(pod), gap, scheduled.Sub(
			pod.CreationTimestamp.Time,
		), initialised.Sub(scheduled),
			started.Sub(initialised), finished.Sub(started), end.Sub(finished), pulls(t, pod))
		previous = end
	}
	w.Flush()
	reportf("%s  longest gap: %v %s\n", table.String(), longest, where)
}

// pulls are the kubelet's own words on how long it pulled images for.
func pulls(t *testing.T, pod corev1.Pod) string {
	events, err := k8s.core.CoreV1().Events(pod.Namespace).List(context.WithoutCancel(t.Context()), metav1.ListOptions{
		FieldSelector: "reason=Pulled,involvedObject.name=" + pod.Name,
	})
	if err != nil {
		return err.Error()
	}
	var took []string
	for _, e := range events.Items {
		if _, rest, ok := strings.Cut(e.Message, "Successfully pulled image "); ok {
			image, rest, _ := strings.Cut(rest, " in ")
			duration, _, _ := strings.Cut(rest, " ")
			took = append(took, image[strings.LastIndex(image, "/")+1:len(image)-1]+" "+duration)
		}
	}
	return strings.Join(took, ", ")
}
