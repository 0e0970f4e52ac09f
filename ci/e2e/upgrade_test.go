//go:build e2e

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestUpgrade changes from the bundle of an earlier commit to today's, and back, as CHANGELOG.md says: one plane after
// the other. A run builds all the while, and another begins between the planes.
func TestUpgrade(t *testing.T) {
	if *beforeBundle == "" {
		t.Skip("there is no earlier bundle")
	}
	serving.repository(t, "upgrade.git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN echo it runs; sleep 15; echo built > /built\n",
	}))
	const workflowPlane, controlPlane = "workflow-plane.yaml", "control-plane.yaml"
	apply := func(t *testing.T, bundle, plane string) {
		manifests := must(os.ReadFile(filepath.Join(bundle, plane)))(t)
		if err := applyAddressed(t.Context(), string(manifests)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := install(context.Background(), "default"); err != nil {
			t.Error(err)
		}
	})
	for _, plane := range []string{controlPlane, workflowPlane} {
		apply(t, *beforeBundle, plane)
	}
	for _, change := range []struct {
		name, to       string
		planes         []string
		builds, begins string // versions of the steps in the two runs
	}{
		{"upgrade", *bundle, []string{workflowPlane, controlPlane}, "before", "e2e"},
		{"downgrade", *beforeBundle, []string{controlPlane, workflowPlane}, "e2e", "e2e"},
	} {
		t.Run(change.name, func(t *testing.T) {
			builds := build{name: change.name + "-builds", url: "https://" + publicGit + "/upgrade.git"}
			builds.start(t)
			eventually(t, 2*time.Minute, "RUN of "+builds.name, func(context.Context) (bool, error) {
				said := logs(t, builds.name)
				return strings.Contains(said, " it runs\n"), fmt.Errorf("%s", said)
			})
			apply(t, change.to, change.planes[0])
			begins := build{name: change.name + "-begins", url: builds.url}
			begins.start(t)
			eventually(t, time.Minute, "the Argo Workflow of "+begins.name, func(ctx context.Context) (bool, error) {
				w, err := k8s.workflow(ctx, begins.name)
				return w != nil, err
			})
			apply(t, change.to, change.planes[1])
			for _, b := range []build{builds, begins} {
				run := b.finish(t, 3*time.Minute)
				if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
					t.Errorf("did not succeed: %s\n%s", summary(run), logs(t, b.name))
					continue
				}
				serving.image(t, workload(t, b.name).Spec.Container.Image)
				checkCanaries(t, b.name)
			}
			// Argo stores the templates in a run when it starts.
			for run, want := range map[string]string{builds.name: change.builds, begins.name: change.begins} {
				for step, image := range imagesOf(t, run) {
					if !strings.HasSuffix(image, ":"+want) {
						t.Errorf("%s of %s had the image %s, want one of version %s", step, run, image, want)
					}
				}
			}
		})
	}
}

// imagesOf are the images of a run's steps.
func imagesOf(t *testing.T, run string) map[string]string {
	t.Helper()
	images := map[string]string{}
	for _, pod := range pods(t, run) {
		for _, c := range pod.Spec.Containers {
			if c.Name == "main" {
				images[step(pod)] = c.Image
			}
		}
	}
	return images
}
