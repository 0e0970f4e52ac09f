//go:build e2e

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testConcurrentRuns lets a hundred runs of one component publish at the same time, each as a process of its own, to
// OpenChoreo's API: the newest one wins. The runs name a workflow that nobody has, so nothing builds them.
func testConcurrentRuns(t *testing.T) {
	t.Parallel()
	const n = 100
	b := build{name: "hundred", workflow: "nobody-has-it"}
	name := func(i int) string { return fmt.Sprintf("hundred-%03d", i) }
	image := func(i int) string { return fmt.Sprintf("registry.example.com/hundred:%d", i) }
	objects := []any{b.component()}
	for i := range n {
		b.run = name(i)
		objects = append(objects, b.workflowRun())
	}
	if err := k8s.apply(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(*steps, "generate-workload-cr_linux_"+runtime.GOARCH)
	var wg sync.WaitGroup
	for _, i := range rand.Perm(n) {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), program)
			for name, value := range map[string]string{
				"NAMESPACE_NAME": namespace, "PROJECT_NAME": project, "COMPONENT_NAME": b.name,
				"RUN_NAME": name(i), "IMAGE": image(i), "RESULTS_DIR": t.TempDir(), "WORKSPACE": t.TempDir(),
				"API_SERVER_URL":  "http://api.stepwright.test:8090",
				"OAUTH_TOKEN_URL": "http://idp.stepwright.test:8091/oauth2/token",
				"OAUTH_CLIENT_ID": "openchoreo-workload-publisher-client", "INSECURE_PLAIN_HTTP": "true",
				"OAUTH_CLIENT_SECRET": "openchoreo-workload-publisher-secret",
			} {
				cmd.Env = append(cmd.Env, name+"="+value)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", name(i), err, out)
			}
		})
	}
	wg.Wait()
	made := workload(t, b.name)
	if made == nil {
		t.Fatal("there is no Workload")
	}
	if got := made.Spec.Container.Image; got != image(n-1) {
		t.Errorf("the Workload's image is %s, want %s", got, image(n-1))
	}
	// Each run says of itself what it would have published.
	list := must(k8s.dynamic.Resource(workflowRuns).Namespace(namespace).List(t.Context(), metav1.ListOptions{
		LabelSelector: "openchoreo.dev/component=" + b.name,
	}))(t)
	if len(list.Items) != n {
		t.Fatalf("there are %d runs", len(list.Items))
	}
	for _, run := range list.Items {
		var of int
		if _, err := fmt.Sscanf(run.GetName(), "hundred-%d", &of); err != nil {
			t.Fatal(err)
		}
		payload := run.GetAnnotations()["openchoreo.dev/workload"]
		if !json.Valid([]byte(payload)) || !strings.Contains(payload, fmt.Sprintf("%q", image(of))) {
			t.Errorf("%s has the annotations %s: %s", run.GetName(),
				slices.Sorted(maps.Keys(run.GetAnnotations())), payload)
		}
	}
}
