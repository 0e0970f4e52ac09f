//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLimits has a run wait for another one by run-semaphores, with run-priorities and pod-gc.
func TestLimits(t *testing.T) {
	atNight(t)
	const shared = "builds" // the namespace of the platform's own limit
	configMap := func(namespace, key, value string) object {
		return object{"apiVersion": "v1", "kind": "ConfigMap",
			"metadata": object{"name": "limits", "namespace": namespace}, "data": object{key: value}}
	}
	if err := errors.Join(
		k8s.apply(t.Context(), object{
			"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": shared},
		}),
		k8s.apply(t.Context(), configMap(shared, "platform", "2"), configMap(planeNamespace, "own", "1")),
		install(t.Context(), "limits"),
	); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := k8s.kubectl(context.Background(), "", "delete", "namespace", shared, "--wait=false")
		_, own := k8s.kubectl(context.Background(), "", "-n", planeNamespace, "delete", "configmap", "limits")
		if err := errors.Join(err, own, install(context.Background(), "default")); err != nil {
			t.Error(err)
		}
	})
	serving.repository(t, "limits.git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN echo it runs; sleep 15\nCMD [\"true\"]\n",
	}))
	const url = "https://" + publicGit + "/limits.git"
	first, second := build{name: "limits-first", url: url}, build{name: "limits-second", url: url}
	first.start(t)
	eventually(t, 2*time.Minute, "the first run's turn", func(ctx context.Context) (bool, error) {
		w, err := get[argo.Workflow](ctx, k8s, workflows, planeNamespace, first.runName())
		if err != nil || w == nil {
			return false, err
		}
		if w.Spec.Priority == nil || *w.Spec.Priority != 10 {
			t.Fatalf("priority %v", w.Spec.Priority)
		}
		return w.Status.Phase == argo.WorkflowRunning, errors.New(string(w.Status.Phase))
	})
	second.start(t)
	eventually(t, time.Minute, "the second run to wait", func(ctx context.Context) (bool, error) {
		w, err := get[argo.Workflow](ctx, k8s, workflows, planeNamespace, second.runName())
		if err != nil || w == nil {
			return false, err
		}
		if w.Status.Phase == argo.WorkflowRunning {
			t.Fatal("the second run does not wait")
		}
		return strings.Contains(w.Status.Message, "limits"), fmt.Errorf("%s %s", w.Status.Phase, w.Status.Message)
	})
	if n := len(pods(t, second.runName())); n > 0 {
		t.Errorf("a run that waits has %d pods", n)
	}
	ends := map[string]argo.WorkflowStatus{}
	for _, b := range []build{first, second} {
		run := b.finish(t, 3*time.Minute)
		if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
			t.Fatalf("it did not succeed: %s\n%s", summary(run), logs(t, b.runName()))
		}
		w, err := get[argo.Workflow](t.Context(), k8s, workflows, planeNamespace, b.runName())
		if err != nil || w == nil {
			t.Fatal(w, err)
		}
		ends[b.name] = w.Status
		eventually(t, time.Minute, "no pods of "+b.name, func(context.Context) (bool, error) {
			n := len(pods(t, b.runName()))
			return n == 0, fmt.Errorf("there are %d", n)
		})
	}
	began, ended := ends[second.name].Nodes[second.runName()].StartedAt, ends[first.name].FinishedAt
	if began.Before(&ended) {
		t.Errorf("the second run began at %s, and the first ended at %s", began, ended)
	}
}
