//go:build e2e

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/internal/sampletest"
	"github.com/stepwright/stepwright/templates"
)

// The pages whose lines TestGuide runs, but for those of examples.
const (
	firstBuildPage    = "docs/start/first-build-in-a-cluster.md"
	clusterPage       = "ci/cluster/README.md"
	buildsPage        = "docs/developers/builds.md"
	runsPage          = "docs/developers/looking-at-runs.md"
	localPage         = "docs/developers/running-locally.md"
	installPage       = "README.md"
	templatesPage     = "templates/README.md"
	workflowPlanePage = "templates/workflow-plane/README.md"
	controlPlanePage  = "templates/control-plane/README.md"
	operationsPage    = "docs/platform/operations.md"
	tracesPage        = "docs/platform/observability.md"
	dashboardPage     = "examples/observability/README.md"
	portalPage        = "examples/backstage/README.md"
)

// TestGuide runs lines of the guide that take a cluster, as they stand: those of a first build each time, all of them
// with -exhaustive.
func TestGuide(t *testing.T) {
	if must(apiServer(t.Context()))(t) != clusternode.Address {
		t.Skip("examples/first-cluster has addresses of the cluster that is made of processes")
	}
	leaveNothing(t)
	t.Run("a cluster of one's own", testFirstBuild)
	if sampletest.Exhaustive() {
		t.Run("builds", testBuildsOfTheGuide)
		t.Run("examples", testExamplesInCluster)
		t.Run("platform", testPlatformOfTheGuide)
		t.Run("portal", testPortalOfTheGuide)
	}
}

// testFirstBuild installs what the guide installs, and builds what it builds. The cluster and the images are there.
func testFirstBuild(t *testing.T) {
	for _, step := range []string{
		"checkout-source", "containerfile-build", "buildpacks-build", "publish-image", "generate-workload-cr",
	} {
		loaded := must(name.NewTag("127.0.0.1:5000/stepwright/"+step+":"+version, name.Insecure))(t)
		index := must(remote.Index(loaded, remote.WithContext(t.Context())))(t)
		if err := remote.Tag(loaded.Tag(templates.Version()), index, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	componentType := must(k8s.kubectl(t.Context(), "", "get", "clustercomponenttype", "service", "-o", "json"))(t)
	t.Cleanup(func() {
		ctx := context.Background()
		if err := install(ctx, "default"); err != nil {
			t.Error(err)
		}
		must(k8s.kubectl(ctx, bare(t, componentType), "replace", "--force", "-f", "-"))(t)
	})
	// `go run` would compile the program that has started this cluster once more.
	lines := guideLines(t, firstBuildPage, 2)
	if sampletest.Exhaustive() {
		lines = append(lines, guideLines(t, clusterPage, 1)...)
	}
	for i, text := range lines {
		lines[i] = strings.ReplaceAll(text, "go run ./ci/cluster ", "bin/cluster ")
	}
	out := runLines(t, *repository, lines...)
	for _, want := range []string{"name: greeting-service-workload\n", "image: registry.stepwright.test:5000/builds/"} {
		if !strings.Contains(out, want) {
			t.Errorf("the lines show no %s:\n%s", want, out)
		}
	}
}

// testBuildsOfTheGuide runs what the page on builds has of a component cart.
func testBuildsOfTheGuide(t *testing.T) {
	serving.repository(t, "guide.git", small)
	b := build{name: "cart", run: "cart-build-01", url: "https://" + publicGit + "/guide.git"}
	if err := k8s.apply(t.Context(), b.component()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, content := range map[string]any{
		"workflowrun.yaml": b.workflowRun(), "app/component.yaml": b.component(),
	} {
		write(t, filepath.Join(dir, file), canonical(t, content))
	}
	link(t, k8s.kubeconfig, filepath.Join(dir, "kubeconfig.yaml"))
	link(t, *cli, filepath.Join(dir, "stepwright"))
	link(t, *cli, filepath.Join(dir, "bin", "stepwright"))
	lines, runs := guideLines(t, buildsPage, 3), guideLines(t, runsPage, 2)
	out := runLines(
		t, dir, lines[0], lines[1], runs[0], runs[1], guideLines(t, tracesPage, 2)[1], guideLines(t, localPage, 1)[0],
		lines[2],
	)
	if !strings.Contains(out, "WorkflowSucceeded") || !strings.Contains(out, "sha256:") {
		t.Errorf("the lines show no build that succeeded:\n%s", out)
	}
	page := string(must(os.ReadFile(filepath.Join(dir, "cart.html")))(t))
	if !strings.Contains(page, "cart-build-") {
		t.Errorf("the report is of no run of the component: %.200s", page)
	}
}

// testExamplesInCluster applies the examples as their pages say. Nobody has their repositories, so that their runs are
// ended.
func testExamplesInCluster(t *testing.T) {
	for _, page := range []string{
		"examples/greeting-service/README.md", "examples/reading-list-service/README.md",
		"examples/link-shortener/README.md", "examples/unit-converter/README.md", "examples/factor-service/README.md",
		"examples/patient-management-service/README.md",
	} {
		dir := filepath.Join(*repository, filepath.Dir(page))
		remove := func() {
			must(k8s.kubectl(
				t.Context(), "", "-n", namespace, "delete", "--ignore-not-found", "-f",
				filepath.Join(dir, "workflowrun.yaml"),
			))(t)
		}
		remove() // that of the first build
		runLines(t, dir, guideLines(t, page, 1)[0])
		remove()
	}
}

// testPlatformOfTheGuide runs what the pages for platform engineers have: an installation by kustomize, and what is
// looked at and set afterwards. The overlay of one's own, my-overlay, is the one of the tests.
func testPlatformOfTheGuide(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"templates", "examples", "ci/e2e/overlays/default"} {
		if err := os.CopyFS(filepath.Join(dir, folder), os.DirFS(filepath.Join(*repository, folder))); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "templates/overlays/my-overlay/kustomization.yaml"),
		"resources: [../../../ci/e2e/overlays/default]\n")
	link(t, *cli, filepath.Join(dir, "stepwright"))
	remove := func(ctx context.Context) { // what the lines create
		for _, thing := range [][]string{
			{"-n", planeNamespace, "secret/stepwright-otlp-headers"}, {"namespace/monitoring"},
			{"-n", portalNamespace, "secret/git-webhook-secrets"}, {"-n", namespace, "secretreference/shop-git"},
		} {
			must(k8s.kubectl(ctx, "", append([]string{"delete", "--ignore-not-found"}, thing...)...))(t)
		}
	}
	remove(t.Context())
	t.Cleanup(func() {
		ctx := context.Background()
		if err := install(ctx, "default"); err != nil {
			t.Error(err)
		}
		remove(ctx)
	})
	if err := k8s.apply(
		t.Context(), namespaced("monitoring"), namespaced(portalNamespace),
		object{"apiVersion": openchoreo.String(), "kind": "SecretReference",
			"metadata": object{"name": "shop-git", "namespace": namespace},
			"spec": object{
				"template": object{"type": "kubernetes.io/basic-auth"},
				"data": []any{object{"secretKey": "password",
					"remoteRef": object{"key": "shop-git", "property": "value"}}},
			}},
	); err != nil {
		t.Fatal(err)
	}
	planes, dashboard := guideLines(t, templatesPage, 4), guideLines(t, dashboardPage, 2)
	out := runLines(
		t, dir, planes[0], guideLines(t, workflowPlanePage, 1)[0], guideLines(t, controlPlanePage, 1)[0],
		guideLines(t, installPage, 1)[0], planes[1], planes[2], planes[3],
		strings.Join(guideLines(t, operationsPage, 2), "\n"), guideLines(t, tracesPage, 2)[0], dashboard[0],
		dashboard[1],
	)
	hosts := must(k8s.kubectl(t.Context(), "", "-n", namespace, "get", "secretreference", "shop-git", "-o",
		`jsonpath={.spec.template.metadata.annotations.stepwright\.dev/git-hosts}`))(t)
	if hosts != "git.example.com" {
		t.Errorf("the SecretReference is for %q:\n%s", hosts, out)
	}
}

// portalNamespace is where OpenChoreo's control plane, and its portal, are.
const portalNamespace = "openchoreo-control-plane"

// testPortalOfTheGuide has the portal's Secret fetched anew, and a Deployment of its label restarted: the portal itself
// is not there.
func testPortalOfTheGuide(t *testing.T) {
	labels := object{"app.kubernetes.io/component": "backstage"}
	objects := []any{
		namespaced(portalNamespace),
		object{"apiVersion": "apps/v1", "kind": "Deployment",
			"metadata": object{"name": "backstage", "namespace": portalNamespace, "labels": labels},
			"spec": object{"replicas": 0, "selector": object{"matchLabels": labels},
				"template": object{"metadata": object{"labels": labels}, "spec": object{"containers": []any{
					object{"name": "backstage", "image": registryHost + "/none:1"}}}}}},
	}
	for _, key := range []string{
		"backend-secret", "client-secret", "jenkins-api-key", "github-actions-token", "github-oauth-client-secret",
	} {
		objects = append(objects, object{"apiVersion": "v1", "kind": "Secret",
			"metadata":   object{"name": "backstage-" + key, "namespace": storeNamespace},
			"stringData": object{"value": "a"}})
	}
	if err := k8s.apply(t.Context(), objects...); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(*repository, filepath.Dir(portalPage))
	must(k8s.kubectl(t.Context(), "", "apply", "-f", filepath.Join(dir, "externalsecret.yaml")))(t)
	t.Cleanup(func() {
		must(k8s.kubectl(context.Background(), "", "-n", portalNamespace, "delete", "--ignore-not-found",
			"externalsecret/backstage-secrets", "deployment/backstage"))(t)
	})
	lines := guideLines(t, portalPage, 2)
	out := runLines(t, dir, lines[0], lines[1])
	if !strings.Contains(out, "condition met") || !strings.Contains(out, "restarted") {
		t.Errorf("the lines show no Secret and no restart:\n%s", out)
	}
}

func namespaced(name string) object {
	return object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name}}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err := errors.Join(err, os.WriteFile(file, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, from, to string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(to), 0o755)
	if err := errors.Join(err, os.Symlink(must(filepath.Abs(from))(t), to)); err != nil {
		t.Fatal(err)
	}
}

// guideLines are the blocks of a page that a comment promises to be run here.
func guideLines(t *testing.T, page string, want int) []string {
	t.Helper()
	blocks := guidetest.Blocks(
		t, filepath.Join(*repository, page), "These lines are run by make e2e, TestGuide.",
	)
	if len(blocks) != want {
		t.Fatalf("%s has %d blocks to run, and not %d", page, len(blocks), want)
	}
	return blocks
}

// runLines has a shell run blocks in a folder, one after another, and returns what they print.
func runLines(t *testing.T, dir string, blocks ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-exc", strings.Join(blocks, "\n"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k8s.kubeconfig, "PATH="+dir+":"+os.Getenv("PATH"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	return out.String()
}
