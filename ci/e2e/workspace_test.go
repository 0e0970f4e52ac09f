//go:build e2e

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
)

// TestWorkspaceOfNode is an experiment: what a run would gain without a claim, with a folder of one node in its place.
// docs/platform/operations.md has what came of it.
func TestWorkspaceOfNode(t *testing.T) {
	atNight(t)
	if os.Getenv(clusternode.StateVariable) == "" {
		t.Skip("it is inside the node of kind")
	}
	const folders = "/var/lib/stepwright-workspaces"
	serving.repository(t, "workspace.git", small)
	t.Cleanup(func() {
		if err := errors.Join(install(context.Background(), "default"), os.RemoveAll(folders)); err != nil {
			t.Error(err)
		}
	})
	taken := map[string][]time.Duration{}
	for round := range 4 { // in turn, since the machine has other work, too
		for _, overlay := range []string{"default", "workspace-of-node"} {
			if err := install(t.Context(), overlay); err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				b := build{name: "workspace", run: fmt.Sprintf("%s-%d-%d", overlay, round, i),
					url: "https://" + publicGit + "/workspace.git"}
				folder := filepath.Join(folders, b.runName())
				// As something on each node would have to make it: the steps are no root.
				if err := errors.Join(os.MkdirAll(folder, 0o755), os.Chown(folder, 1000, 1000)); err != nil {
					t.Fatal(err)
				}
				b.succeed(t, 4*time.Minute)
				w, err := get[argo.Workflow](t.Context(), k8s, workflows, planeNamespace, b.runName())
				if err != nil || w == nil {
					t.Fatal(w, err)
				}
				taken[overlay] = append(taken[overlay], w.Status.FinishedAt.Sub(w.Status.StartedAt.Time))
				if overlay == "default" {
					continue
				}
				for _, pod := range pods(t, b.runName()) {
					if pinned := pod.Spec.Affinity != nil; pinned == (step(pod) == "checkout-source") {
						t.Errorf("%s is pinned to a node: %t", step(pod), pinned)
					}
				}
				if left, err := os.ReadDir(folder); err != nil || len(left) == 0 {
					t.Errorf("nothing is left of the workspace, so that something cleans up: %v", err)
				}
			}
		}
	}
	for overlay, of := range taken {
		slices.Sort(of)
		reportf("\nfrom start to end, %s: %s, median %s\n", overlay, of, (of[len(of)/2-1]+of[len(of)/2])/2)
	}
}
