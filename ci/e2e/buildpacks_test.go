//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
	"github.com/stepwright/stepwright/templates"
)

// TestBuildpacks builds examples without a Dockerfile, by each of the builders, in a namespace that lets in no pod but
// restricted ones.
func TestBuildpacks(t *testing.T) {
	images := must(imageStore())(t)
	builders := testbuilders.Store{Dir: images.Dir, Source: *repository, Log: images.Log}
	if err := builders.Push(t.Context(), "127.0.0.1:5000"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := enforce(context.Background(), "privileged"); err != nil {
			t.Error(err)
		}
	})
	if err := enforce(t.Context(), "restricted"); err != nil {
		t.Fatal(err)
	}
	for _, e := range []example{
		{name: "reading-list-service", keeps: true, get: "/reading-list/books", want: "[]"},
		{name: "unit-converter", keeps: true, get: "/convert?value=26.2&from=mi&to=km", want: "42.16"},
		{name: "link-shortener", get: "/nobody", want: "no such name"},
		{name: "factor-service", keeps: true, get: "/factors/360", want: `"factors":[2,2,2,3,3,5]`},
		{name: "patient-management-service", keeps: true, get: "/mediflow/health", want: `{"status":"ok"}`},
	} {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			e.test(t)
		})
	}
	t.Run("an application that nothing detects", func(t *testing.T) {
		t.Parallel()
		serving.repository(t, "cobol.git", map[string]string{"main.cob": "       IDENTIFICATION DIVISION.\n"})
		workflow := templates.Builders()[0].Workflow
		b := build{name: "cobol", workflow: workflow, url: "https://" + publicGit + "/cobol.git",
			more: object{"bindings": object{"secretRef": "packages"}}}
		failure{
			task: task(t, workflow), reason: "NoBuildpackDetected",
			says: []string{"the builder's buildpacks cannot build .", "golang", "java", "nodejs", "python"},
		}.check(t, b)
		// It gets as far as its bindings, which come from the secret store.
		if said := logs(t, b.runName()); !strings.Contains(said, "bindings=npm") {
			t.Errorf("the build does not tell of its bindings:\n%s", said)
		}
	})
}

// example is one of examples/ whose WorkflowRun names a buildpack builder.
type example struct {
	name      string
	task      string // that builds; set by the workflow of the WorkflowRun
	keeps     bool   // whether its build leaves layers for the next one
	get, want string // what its image, once it runs, is asked, and a part of the answer
}

func (e example) test(t *testing.T) {
	folder := filepath.Join(*repository, "examples", e.name)
	commit := serving.publish(t, e.name+".git", folder)
	b := e.build(t, folder)
	e.task = task(t, b.workflow)
	run := b.succeed(t, 6*time.Minute)
	var names []string
	for _, task := range run.Status.Tasks {
		names = append(names, task.Name)
	}
	if want := []string{
		"checkout-source", e.task, "publish-image", "generate-workload-cr",
	}; !slices.Equal(names, want) {
		t.Errorf("tasks are %q, want %q", names, want)
	}
	reportSecurity(t, b.runName(), "default, "+b.workflow, map[string]string{
		"checkout-source": "restricted", e.task: "restricted", "publish-image": "restricted",
		"generate-workload-cr": "restricted",
	})
	e.checkCredentials(t, b.runName())

	made := workload(t, e.name)
	repository := registryHost + "/builds/acme_online-store_" + e.name
	if prefix := repository + ":v1-" + commit[:8] + "@sha256:"; !strings.HasPrefix(made.Spec.Container.Image, prefix) {
		t.Errorf("the Workload's image is %s, want %s…", made.Spec.Container.Image, prefix)
	}
	if len(made.Spec.Endpoints) != 1 {
		t.Errorf("the Workload's endpoints are %+v", made.Spec.Endpoints)
	}
	image := serving.image(t, made.Spec.Container.Image)
	if got := must(image.ConfigFile())(t).Config.Labels["org.opencontainers.image.revision"]; got != commit {
		t.Errorf("the image is of revision %q, want %s", got, commit)
	}
	if e.keeps {
		serving.image(t, repository+":cache")
	}
	checkCanaries(t, b.runName())
	e.checkAnswer(t, image, made)

	if e.name == "reading-list-service" {
		e.checkAgain(t, b, made.Spec.Container.Image)
	}
	checkLaptop(t, b, made.Spec.Container.Image)
}

// task is the task that builds in a workflow of buildpacks.
func task(t *testing.T, workflow string) string {
	t.Helper()
	for _, b := range templates.Builders() {
		if b.Workflow == workflow {
			return b.Template
		}
	}
	t.Fatalf("%s is the workflow of no builder", workflow)
	return ""
}

// build is the example's own WorkflowRun, but for where the repository is.
func (e example) build(t *testing.T, folder string) build {
	t.Helper()
	var run v1alpha1.WorkflowRun
	read(t, filepath.Join(folder, "workflowrun.yaml"), &run)
	var parameters object
	if err := json.Unmarshal(run.Spec.Workflow.Parameters.Raw, &parameters); err != nil {
		t.Fatal(err)
	}
	delete(parameters, "repository")
	return build{name: e.name, workflow: run.Spec.Workflow.Name, url: "https://" + publicGit + "/" + e.name + ".git",
		more: parameters}
}

// checkCredentials wants none where buildpacks run, which is code that others wrote, and none where their image is
// sealed. Of the workspace, buildpacks have the source alone, and can write nothing there.
func (e example) checkCredentials(t *testing.T, run string) {
	t.Helper()
	for _, pod := range pods(t, run) {
		if step(pod) != e.task {
			continue
		}
		secret := map[string]bool{}
		for _, v := range pod.Spec.Volumes {
			secret[v.Name] = v.Secret != nil || v.Projected != nil
		}
		built := false
		for _, c := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
			for _, m := range c.VolumeMounts {
				// Argo's own containers need the service account's token, fetch pulls, and a build has its bindings.
				if c.Name == "build" && (secret[m.Name] && m.Name != "bindings" ||
					strings.HasPrefix(m.MountPath, "/mnt/vol") && !m.ReadOnly) || c.Name == "main" && secret[m.Name] {
					t.Errorf("container %s has %s at %s", c.Name, m.Name, m.MountPath)
				}
			}
			built = built || c.Name == "build"
		}
		if !built {
			t.Error("no container build runs the buildpacks")
		}
		return
	}
	t.Errorf("%s has no pod of %s", run, e.task)
}

// checkAnswer starts the image as its Workload says, in a restricted pod, and asks it.
func (e example) checkAnswer(t *testing.T, image v1.Image, made *v1alpha1.Workload) {
	t.Helper()
	// The node pulls from the cluster's registry.
	tag := must(name.NewTag("127.0.0.1:5000/builds/"+e.name+":latest", name.Insecure))(t)
	if err := remote.Write(tag, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	container := corev1.Container{Name: "main", Image: "registry.stepwright.test:5000/builds/" + e.name + ":latest",
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false), RunAsNonRoot: ptr.To(true),
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		}}
	for _, variable := range made.Spec.Container.Env {
		container.Env = append(container.Env, corev1.EnvVar{Name: variable.Key, Value: variable.Value})
	}
	api := k8s.core.CoreV1().Pods(planeNamespace)
	pod := must(api.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: e.name + "-answers"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{container}, AutomountServiceAccountToken: ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(1))},
	}, metav1.CreateOptions{}))(t)
	defer func() {
		if err := api.Delete(context.WithoutCancel(t.Context()), pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}()
	var port int32
	for _, endpoint := range made.Spec.Endpoints {
		port = endpoint.Port
	}
	eventually(t, 2*time.Minute, "an answer of "+e.name, func(ctx context.Context) (bool, error) {
		pod, err := api.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil || pod.Status.PodIP == "" {
			return false, err
		}
		request, err := http.NewRequestWithContext(
			ctx, http.MethodGet, "http://"+net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(port)))+e.get, nil,
		)
		if err != nil {
			return false, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false, fmt.Errorf("%w: %+v", err, pod.Status.ContainerStatuses)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && !strings.Contains(string(body), e.want) {
			t.Fatalf("GET %s answers %s %q, want %q", e.get, response.Status, body, e.want)
		}
		return err == nil, err
	})
}

// checkAgain builds the same commit a second time, and wants the same image, by means of what the first build kept.
func (e example) checkAgain(t *testing.T, b build, image string) {
	t.Helper()
	b.run = b.name + "-again"
	b.succeed(t, 4*time.Minute)
	if again := workload(t, b.name).Spec.Container.Image; again != image {
		t.Errorf("the second build of one commit is %s, the first was %s", again, image)
	}
	for _, pod := range pods(t, b.run) {
		if step(pod) != e.task {
			continue
		}
		said := func(container string) string {
			raw := must(k8s.core.CoreV1().Pods(planeNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{
				Container: container,
			}).DoRaw(t.Context()))(t)
			return string(raw)
		}
		for container, want := range map[string]string{
			"fetch": "Took the cache of the last build",
			"build": "Restoring data for",
			"main":  replay.Mark(replay.Build, "| Restoring data for"), // for those who are shown main alone
		} {
			if log := said(container); !strings.Contains(log, want) {
				t.Errorf("container %s of the second build does not say %q:\n%s", container, want, log)
			}
		}
		return
	}
	t.Errorf("%s has no pod of %s", b.run, e.task)
}
