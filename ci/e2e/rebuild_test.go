//go:build e2e

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
)

// testRebuild builds a component once more after one line has changed, in a new pod: what has not changed comes from
// the component's cache of layers, cache mounts hold what they held, and another component has no part of either.
func testRebuild(t *testing.T) {
	t.Parallel()
	const repo, ran = "rebuild.git", "ran 42" // what the RUN prints
	publish := func(page string) {
		serving.repository(t, repo, with(map[string]string{
			"Dockerfile": "FROM busybox:1\nRUN sleep 8 && echo ran $((6*7)) | tee /made\nCOPY page /page\n" +
				"RUN --mount=type=cache,target=/kept echo kept $(cat /kept/page); " +
				"cat /page | tee /kept/page > /shown\n",
			"page": page,
		}))
	}
	publish("one\n")
	b := build{name: "rebuild", run: "rebuild-1", url: "https://" + publicGit + "/" + repo}
	first := b.succeed(t, 4*time.Minute)
	before := layersOf(t, b.name)

	publish("two\n")
	b.run = "rebuild-2"
	second := b.succeed(t, 4*time.Minute)
	after := layersOf(t, b.name)
	reportf("\nSeconds of each step, first and after one line has changed:\n%s\n%s\n", seconds(first), seconds(second))
	said := logs(t, b.run)
	if !strings.Contains(said, "Took the cache of the last build") || strings.Contains(said, ran) {
		t.Errorf("the second build used no cache:\n%s", said)
	}
	if !strings.Contains(said, "kept one") {
		t.Errorf("the cache mount was empty in the second build:\n%s", said)
	}
	if n := len(before); n != len(after) || !slices.Equal(before[:n-2], after[:n-2]) || before[n-1] == after[n-1] {
		t.Errorf("layers were %s, and are %s", before, after)
	}

	// The same source, and the same layers, made anew.
	other := build{name: "rebuild-other", url: b.url}
	other.succeed(t, 4*time.Minute)
	said = logs(t, other.runName())
	if !strings.Contains(said, ran) || !strings.Contains(said, "There is no cache yet") ||
		strings.Contains(said, "kept one") || strings.Contains(said, "kept two") {
		t.Errorf("another component took a cache:\n%s", said)
	}
	if got := layersOf(t, other.name); !slices.Equal(got, after) {
		t.Errorf("with a cache the layers are %s, without %s", after, got)
	}
	b.robbed(t, "rebuild-robber")

	// Kept layers and mounts are images in the registry, which to a builder have no files.
	image := registryHost + "/builds/" + namespace + "_" + project + "_" + b.name
	serving.repository(t, "rebuild-thief.git", with(map[string]string{"Dockerfile": "" +
		"FROM " + image + ":cache AS cache\n" +
		"FROM busybox:1\nCOPY --from=cache / /cache/\nCOPY --from=" + image + ":cache-mounts / /mounts/\n" +
		"RUN --mount=type=cache,target=/kept,from=" + image + ":cache-mounts " +
		"found=$(find /cache /mounts /kept -type f) && test -z \"$found\" && echo took nothing > /took\n"}))
	build{name: "rebuild-thief", url: "https://" + publicGit + "/rebuild-thief.git"}.succeed(t, 4*time.Minute)
}

// robbed has builds of other components, and of one of the same name in another OpenChoreo namespace, try to see the
// files in the component's cache mount /kept, and to take the result of its first RUN. It returns the names of their
// runs.
func (b build) robbed(t *testing.T, robbers ...string) (runs []string) {
	t.Helper()
	const rival, ran = "rival", "ran 42"
	if err := k8s.apply(t.Context(),
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": rival}},
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "workflows-" + rival}},
		configMap("workflows-"+rival, "stepwright-ca-bundle", map[string]string{"ca.crt": string(serving.ca)}),
		projectIn(rival),
	); err != nil {
		t.Fatal(err)
	}
	owner := namespace + "/" + project + "/" + b.name
	dockerfile := "FROM busybox:1\nRUN sleep 8 && echo ran $((6*7)) | tee /made\nARG BUILDKIT_CACHE_MOUNT_NS=" + owner +
		"\n"
	for i, id := range []string{
		"", "/kept", owner + "/kept", owner + "//kept", "/" + owner + "//kept", "../" + b.name + "//kept",
		"../../../" + owner + "//kept", "../../../../" + owner + "//kept",
	} {
		if id != "" {
			id = ",id=" + id
		}
		target := []string{"/kept", fmt.Sprintf("/other%d", i)}[min(i, 1)]
		dockerfile += "RUN --mount=type=cache,target=" + target + id + " test ! -e " + target + "/page\n"
	}
	repo := b.name + "-robbed.git"
	serving.repository(t, repo, with(map[string]string{"Dockerfile": dockerfile}))
	url := "https://" + publicGit + "/" + repo
	all := []build{{name: b.name, run: b.name + "-" + rival, in: rival, url: url}}
	for _, robber := range robbers {
		all = append(all, build{name: robber, url: url})
	}
	for _, by := range all {
		by.succeed(t, 4*time.Minute)
		if said := logs(t, by.runName()); !strings.Contains(said, ran) {
			t.Errorf("%s took a result:\n%s", by.runName(), said)
		}
		runs = append(runs, by.runName())
	}
	return runs
}

// layersOf are the layers of the image that a component's Workload has.
func layersOf(t *testing.T, component string) []v1.Hash {
	t.Helper()
	var digests []v1.Hash
	image := serving.image(t, workload(t, component).Spec.Container.Image)
	for _, layer := range must(image.Manifest())(t).Layers {
		digests = append(digests, layer.Digest)
	}
	return digests
}

func seconds(run *v1alpha1.WorkflowRun) string {
	var line strings.Builder
	for _, task := range run.Status.Tasks {
		fmt.Fprintf(&line, "  %s %.0f", task.Name, task.CompletedAt.Sub(task.StartedAt.Time).Seconds())
	}
	return line.String()
}
