//go:build e2e

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// small is a build that takes no longer than its steps' pods.
var small = map[string]string{
	"Dockerfile": "FROM busybox:1\nRUN echo built > /built\nCMD [\"cat\", \"/built\"]\n",
	"workload.yaml": "apiVersion: openchoreo.dev/v1alpha1\nmetadata:\n  name: small\nendpoints:\n  - name: web\n" +
		"    type: HTTP\n    port: 8080\n",
}

// with is small with some files changed.
func with(changed map[string]string) map[string]string {
	files := map[string]string{}
	for name, content := range small {
		files[name] = content
	}
	for name, content := range changed {
		files[name] = content
	}
	return files
}

// TestTemplates are runs of the templates as they are, without a component.
func TestTemplates(t *testing.T) {
	for _, b := range []build{withoutSecret, withoutKey} {
		serving.repository(t, b.name+".git", small)
		b.url = "https://" + publicGit + "/" + b.name + ".git"
		b.start(t) // testFailures looks at what has become of it
	}
	var image string
	t.Run("from kubectl apply to a Workload", func(t *testing.T) { image = testGoldenPath(t) })
	t.Run("the same image by stepwright run", func(t *testing.T) {
		t.Parallel()
		checkLaptop(t, greetingService(), image)
	})
	t.Run("private repositories", func(t *testing.T) {
		t.Parallel()
		t.Run("basic auth", private("private-basic", "https://"+privateGit+"/private-basic.git", "git-basic"))
		t.Run("SSH", private("private-ssh", "ssh://"+serving.sshUser+"@"+sshGit+
			filepath.Join(serving.gitRoot, "private-ssh.git"), "git-ssh"))
		t.Run("a Secret that comes 15 s late", testLateSecret)
	})
	t.Run("what a developer sets", testParameters)
	t.Run("failures", testFailures)
	t.Run("a registry that answers 503 for 20 s", testBusyRegistry)
	t.Run("an API server that restarts in the last step", testAPIRestart)
	t.Run("the newest run wins", testNewestWins)
	t.Run("a hundred runs at once", testConcurrentRuns)
	t.Run("one line has changed", testRebuild)
	t.Run("several platforms", testPlatforms)
	t.Run("a run that is deleted", testCancel)
	t.Run("parity with stepwright render", testParity)
	t.Run("what a build reaches", testNetwork)
}

// Runs that wait for a Secret in vain, while others run.
var (
	withoutSecret = build{name: "no-secret", secret: "git-never"}
	withoutKey    = build{name: "no-key", secret: "git-keyless"}
)

// greetingService is the run of the golden path.
func greetingService() build {
	return build{name: "greeting-service", url: "https://" + publicGit + "/greeting-service.git",
		more: object{"buildArgs": []any{object{"name": "VERSION", "value": "1.0.0"}}}}
}

// testGoldenPath returns the image that it has made.
func testGoldenPath(t *testing.T) string {
	b := greetingService()
	commit := serving.publish(t, "greeting-service.git", filepath.Join(*repository, "examples/greeting-service"))
	began := time.Now()
	b.start(t)
	var made *v1alpha1.Workload
	eventually(t, 5*time.Minute, "a Workload", func(ctx context.Context) (bool, error) {
		made = workload(t, b.name)
		if made == nil {
			return false, fmt.Errorf("%s", logs(t, b.runName()))
		}
		return true, nil
	})
	toWorkload := time.Since(began)
	// Not made to look: OpenChoreo's own 20 s are part of what users see.
	var run *v1alpha1.WorkflowRun
	eventually(t, time.Minute, "the run's end", func(ctx context.Context) (done bool, err error) {
		run, err = k8s.run(ctx, b.runName())
		if err != nil {
			return false, err
		}
		c := condition(run, "WorkflowCompleted")
		return c != nil && c.Status == metav1.ConditionTrue, fmt.Errorf("%s", summary(run))
	})
	reportTimes(t, b.runName(), began, toWorkload, time.Since(began))
	reportSecurity(t, b.runName(), "default", map[string]string{
		"checkout-source": "restricted", "containerfile-build": "privileged", "publish-image": "restricted",
		"generate-workload-cr": "restricted",
	})

	var names []string
	for _, task := range run.Status.Tasks {
		names = append(names, task.Name+" "+task.Phase)
	}
	if want := []string{"checkout-source Succeeded", "containerfile-build Succeeded", "publish-image Succeeded",
		"generate-workload-cr Succeeded"}; !slices.Equal(names, want) {
		t.Errorf("tasks are %q, want %q", names, want)
	}
	for kind, want := range map[string]string{
		"WorkflowCompleted": "True/WorkflowSucceeded", "WorkflowRunning": "False/WorkflowRunning",
		"WorkflowSucceeded": "True/WorkflowSucceeded",
	} {
		c := condition(run, kind)
		if c == nil {
			t.Errorf("no condition %s: %s", kind, summary(run))
		} else if got := string(c.Status) + "/" + c.Reason; got != want {
			t.Errorf("condition %s is %s, want %s", kind, got, want)
		}
	}

	image := made.Spec.Container.Image
	prefix := registryHost + "/builds/acme_online-store_greeting-service:v1-" + commit[:8] + "@sha256:"
	if !strings.HasPrefix(image, prefix) {
		t.Errorf("the Workload's image is %s, want %s…", image, prefix)
	}
	config := must(serving.image(t, image).ConfigFile())(t)
	if got := config.Config.Labels["org.opencontainers.image.revision"]; got != commit {
		t.Errorf("the image is of revision %q, want %s", got, commit)
	}
	if made.Name != "greeting-service-workload" {
		t.Errorf("the Workload is called %s", made.Name)
	}
	if e, ok := made.Spec.Endpoints["greeter-api"]; !ok || e.Port != 8080 || e.Schema == nil ||
		!strings.Contains(e.Schema.Content, "openapi:") {
		t.Errorf("the Workload's endpoints are %+v", made.Spec.Endpoints)
	}
	if got := run.Annotations["openchoreo.dev/workload-from-source"]; got != "true" {
		t.Errorf("workload-from-source is %q, want true", got)
	}
	_, digest, _ := strings.Cut(image, "@")
	for key, want := range map[string]string{
		"stepwright.dev/commit": commit, "stepwright.dev/branch": "main", "stepwright.dev/image-digest": digest,
	} {
		if got := run.Annotations[key]; got != want {
			t.Errorf("the annotation %s is %q, want %q", key, got, want)
		}
	}
	var payload v1alpha1.Workload
	if err := json.Unmarshal([]byte(run.Annotations["openchoreo.dev/workload"]), &payload); err != nil {
		t.Errorf("annotation workload: %v", err)
	}
	if got, want := canonical(t, payload.Spec), canonical(t, made.Spec); got != want {
		t.Errorf("the annotation has the spec\n%s\nthe Workload\n%s", got, want)
	}
	releasesWorkspace(t, b.runName())
	checkCanaries(t, b.runName())
	lookAt(t, b.runName())
	return image
}

// lookAt holds the commands for looking at runs to a run that has succeeded.
func lookAt(t *testing.T, run string) {
	stepwright := func(args ...string) string {
		t.Helper()
		args = append(args, "--kubeconfig", k8s.kubeconfig, "-n", namespace)
		out, err := exec.CommandContext(t.Context(), *cli, args...).CombinedOutput()
		if err != nil {
			t.Errorf("stepwright %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	for output, words := range map[string][]string{
		stepwright("list"): {run, "Succeeded"},
		stepwright("get", run): {
			"checkout-source", "containerfile-build", "publish-image", "generate-workload-cr", "Succeeded",
		},
		stepwright("logs", run):              {"Cloning", "Published", "Workload"},
		stepwright("get", run, "-o", "yaml"): {"kind: WorkflowRun", "type: WorkflowSucceeded"},
		stepwright("report", run, "-o", "-"): {
			"Succeeded", "linux/" + runtime.GOARCH, "exporting to oci image format", "Sent to the registry",
		},
	} {
		for _, word := range words {
			if !strings.Contains(output, word) {
				t.Errorf("stepwright does not say %q:\n%s", word, output)
			}
		}
	}
}

// private is a build of a private repository by an entry of the secret store.
func private(name, url, secret string) func(*testing.T) {
	return func(t *testing.T) {
		t.Parallel()
		commit := serving.repository(t, name+".git", small)
		b := build{name: name, url: url, secret: secret}
		b.succeed(t, 4*time.Minute)
		if got := workload(t, name).Spec.Container.Image; !strings.Contains(got, ":v1-"+commit[:8]+"@") {
			t.Errorf("the Workload's image is %s, want one of %s", got, commit[:8])
		}
		checkCanaries(t, name)
	}
}

// testLateSecret puts the credentials into the secret store 15 s after the run has asked for them.
func testLateSecret(t *testing.T) {
	t.Parallel()
	const name, secret = "private-late", "git-late"
	commit := serving.repository(t, name+".git", small)
	b := build{name: name, url: "https://" + privateGit + "/" + name + ".git", secret: secret}
	b.start(t)
	began := time.Now()
	eventually(t, time.Minute, "15 s without a Secret", func(ctx context.Context) (bool, error) {
		failing, err := notSynced(ctx, name+"-git-secret")
		return failing && time.Since(began) > 15*time.Second, err
	})
	late := stored(secret, map[string]string{"username": gitUser, "password": gitPassword})
	if err := k8s.apply(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	run := b.finish(t, 4*time.Minute)
	if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
		t.Fatalf("did not succeed: %s\n%s", summary(run), logs(t, b.runName()))
	}
	if got := workload(t, name).Spec.Container.Image; !strings.Contains(got, ":v1-"+commit[:8]+"@") {
		t.Errorf("the Workload's image is %s, want one of %s", got, commit[:8])
	}
	checkCanaries(t, name)
}

// notSynced tells whether External Secrets says of an ExternalSecret that it cannot make its Secret.
func notSynced(ctx context.Context, name string) (bool, error) {
	es, err := k8s.dynamic.Resource(externalSecrets).Namespace(planeNamespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, err
	}
	conditions, _, err := unstructured.NestedSlice(es.Object, "status", "conditions")
	return slices.ContainsFunc(conditions, func(condition any) bool {
		c, _ := condition.(object)
		return c["type"] == "Ready" && c["status"] == "False" && c["reason"] == "SecretSyncedError"
	}), err
}

func testFailures(t *testing.T) {
	t.Parallel()
	// Builders whose Secrets are made of other keys, one that is there and two that never come.
	builder := must(get[object](t.Context(), k8s, clusterWorkflows, "", "dockerfile-builder"))(t)
	meta := (*builder)["metadata"].(object)
	for name, key := range map[string][2]string{
		"wrong-client": {`"workload-publisher-client-secret"`, `"wrong-client-secret"`},
		"no-client":    {`"workload-publisher-client-secret"`, `"no-client-secret"`},
		"no-pull":      {`\"registry-pull-secret\" +`, `\"no-pull-secret\" +`},
	} {
		(*builder)["metadata"] = object{"name": "dockerfile-builder-" + name, "labels": meta["labels"]}
		was := canonical(t, builder)
		raw := strings.ReplaceAll(was, key[0], key[1])
		if raw == was {
			t.Fatalf("the builder names no key %s", key[0])
		}
		must(k8s.kubectl(t.Context(), raw, "apply", "-f", "-"))(t)
	}

	tests := []struct {
		name   string
		build  build
		files  map[string]string
		task   string // that fails
		reason string
		says   []string // in the message
		hint   string   // empty: the reason's
	}{
		{"a Dockerfile that fails", build{name: "broken"},
			with(map[string]string{"Dockerfile": "FROM busybox:1\nRUN echo no such luck >&2; exit 7\n"}),
			"containerfile-build", "BuildFailed", []string{"no such luck", "exit code 7"}, ""},
		{"a push that is denied", build{name: "denied"}, small, "publish-image", "PushDenied",
			[]string{"denied", registryHost}, ""},
		{"a wrong OAuth secret", build{name: "wrong-client", workflow: "dockerfile-builder-wrong-client"}, small,
			"generate-workload-cr", "Unauthorized", []string{"invalid_client"}, "Check the client ID and secret: "},
		{"a branch that is not there", build{name: "no-branch", branch: "nowhere"}, small, "checkout-source",
			"RevisionNotFound", []string{"nowhere", "main"}, ""},
		{"a Secret that never comes", withoutSecret, small, "checkout-source",
			"AuthenticationFailed", []string{"git-secret"},
			"Check that repository.secretRef names a SecretReference whose secret exists."},
		{"a Secret without its key", withoutKey, small, "checkout-source",
			"AuthenticationFailed", []string{"git-secret"},
			"Check that repository.secretRef names a SecretReference whose secret exists."},
		{"a pull secret that the store lacks", build{name: "no-pull", workflow: "dockerfile-builder-no-pull"}, small,
			"containerfile-build", "AuthenticationFailed",
			[]string{"Secret registry-pull-secret (key no-pull-secret of the secret store)", "within 100 s"},
			"Put the key into the WorkflowPlane's secret store."},
		{"a client's secret that the store lacks", build{name: "no-client", workflow: "dockerfile-builder-no-client"},
			small, "generate-workload-cr", "Unauthorized",
			[]string{"Secret oauth-client-secret (key no-client-secret of the secret store)", "within 100 s"},
			"Put the key into the WorkflowPlane's secret store."},
		{"a Secret for another host",
			build{name: "foreign", secret: "git-elsewhere", url: "https://" + privateGit + "/foreign.git"}, small,
			"checkout-source", "AuthenticationFailed", []string{"not sent to " + privateGit},
			"If the secret is meant for it, name " + privateGit + " in the annotation stepwright.dev/git-hosts"},
		{"parameters that nobody validated",
			build{name: "odd", more: object{"buildEnv": "A=b", "docker": object{"filePath": "../../etc/passwd"}}},
			small,
			"containerfile-build", "InvalidParameters", []string{"build-env"}, ""},
		{"a RUN that needs emulation",
			build{name: "emulation", more: object{"docker": object{"platforms": []any{"linux/arm64"}}}},
			with(map[string]string{"Dockerfile": "FROM scratch\nCOPY workload.yaml /sh\nRUN [\"/sh\"]\n"}),
			"containerfile-build", "EmulationUnavailable", []string{"line 3: RUN", "needs linux/arm64"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := test.build
			serving.repository(t, b.name+".git", test.files)
			if b.url == "" {
				b.url = "https://" + publicGit + "/" + b.name + ".git"
			}
			failure{test.task, test.reason, test.hint, test.says}.check(t, b)
			if test.reason == "BuildFailed" {
				// Argo keeps what a step has left also where it has failed.
				out, err := exec.CommandContext(
					t.Context(), *cli, "report", b.runName(), "-o", "-", "--kubeconfig", k8s.kubeconfig,
					"-n", namespace,
				).Output()
				const failed = `<td class="number state">failed</td>`
				if page := string(out); err != nil || !strings.Contains(page, failed) ||
					!strings.Contains(page, "RUN echo no such luck") {
					t.Errorf("%v: the picture of the run does not show the RUN that failed", err)
				}
			}
			if b.name == withoutSecret.name || b.name == withoutKey.name {
				if failing, err := notSynced(t.Context(), b.name+"-git-secret"); !failing {
					t.Errorf("External Secrets does not say that it lacks the secret: %v", err)
				}
			}
		})
	}
}

// failure is how a run is to fail.
type failure struct {
	task   string
	reason string
	hint   string   // empty: the reason's
	says   []string // in the message, besides reason and hint
}

// check runs a build and wants it to fail like that: in the WorkflowRun's conditions and tasks, and in Argo's node.
func (f failure) check(t *testing.T, b build) {
	t.Helper()
	b.start(t)
	run := b.finish(t, 6*time.Minute)
	for kind, want := range map[string]string{
		"WorkflowCompleted": "True/WorkflowFailed",
		"WorkflowFailed":    "True/WorkflowFailed",
	} {
		if c := condition(run, kind); c == nil || string(c.Status)+"/"+c.Reason != want {
			t.Errorf("condition %s is %+v, want %s", kind, c, want)
		}
	}
	messages := map[string]string{}
	if last := run.Status.Tasks[len(run.Status.Tasks)-1]; last.Name != f.task || last.Phase != "Failed" {
		t.Errorf("the last task is %+v, want %s to fail", last, f.task)
	} else {
		messages["WorkflowRun's task"] = last.Message
	}
	for _, node := range must(k8s.workflow(t.Context(), b.runName()))(t).Status.Nodes {
		if node.Type == "Pod" && node.DisplayName == f.task {
			messages["Argo node"] = node.Message
		}
	}
	hint := cmp.Or(f.hint, hintOf(t, f.reason))
	for where, message := range messages {
		for _, want := range append([]string{f.reason + ": ", hint}, f.says...) {
			if !strings.Contains(message, want) {
				t.Errorf("the %s's message lacks %q:\n%s", where, want, message)
			}
		}
	}
	if len(messages) != 2 {
		t.Errorf("messages: %q", messages)
	}
	if w := workload(t, b.name); w != nil {
		t.Errorf("a Workload was made: %s", w.Name)
	}
	checkCanaries(t, b.runName())
}

func testBusyRegistry(t *testing.T) {
	t.Parallel()
	serving.repository(t, "shop-busy.git", small)
	b := build{name: "shop-busy", url: "https://" + publicGit + "/shop-busy.git"}
	b.succeed(t, 4*time.Minute)
	serving.image(t, workload(t, b.name).Spec.Container.Image)
	if said := logs(t, b.runName()); !strings.Contains(said, "503") {
		t.Errorf("no step tells of a 503:\n%s", said)
	}
}

func testAPIRestart(t *testing.T) {
	serving.repository(t, "restart.git", small)
	b := build{name: "restart", url: "https://" + publicGit + "/restart.git"}
	b.start(t)
	eventually(t, 3*time.Minute, "the image", func(ctx context.Context) (bool, error) {
		w, err := k8s.workflow(ctx, b.runName())
		if err != nil || w == nil {
			return false, err
		}
		for _, n := range w.Status.Nodes {
			if n.DisplayName == "publish-image" && (n.Phase == "Running" || n.Phase == "Succeeded") {
				return true, nil
			}
		}
		return false, nil
	})
	control(t, "stop", "openchoreo-api")
	stopped := true
	defer func() {
		if stopped { // other tests need it
			control(t, "start", "openchoreo-api")
		}
	}()
	eventually(t, time.Minute, "a try that fails", func(context.Context) (bool, error) {
		said := logs(t, b.runName())
		return strings.Contains(said, "connection refused"), fmt.Errorf("%s", said)
	})
	control(t, "start", "openchoreo-api")
	stopped = false
	run := b.finish(t, 2*time.Minute)
	if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
		t.Fatalf("did not succeed: %s\n%s", summary(run), logs(t, b.runName()))
	}
	if run.Annotations["openchoreo.dev/workload"] == "" || workload(t, b.name) == nil {
		t.Errorf("no Workload, or no annotation: %v", run.Annotations)
	}
}

func testNewestWins(t *testing.T) {
	t.Parallel()
	const repo = "newest.git"
	serving.repository(t, repo, with(map[string]string{"Dockerfile": "FROM busybox:1\nRUN sleep 45\n"}))
	must(
		devgit.Git(
			t.Context(), filepath.Join(serving.gitRoot, repo), nil, nil, "update-ref", "refs/heads/slow", "main",
		),
	)(
		t,
	)
	commit := serving.repository(t, repo, small)
	older := build{name: "newest", run: "newest-1", url: "https://" + publicGit + "/" + repo, branch: "slow"}
	newer := build{name: "newest", run: "newest-2", url: older.url}
	older.start(t)
	eventually(t, time.Minute, "the older build", func(ctx context.Context) (bool, error) {
		w, err := k8s.workflow(ctx, older.run)
		return err == nil && w != nil && time.Since(w.CreationTimestamp.Time) > time.Second, err
	})
	newer.start(t)
	last := newer.finish(t, 4*time.Minute)
	first := older.finish(t, 4*time.Minute)
	for _, run := range []*v1alpha1.WorkflowRun{first, last} {
		if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
			t.Errorf("did not succeed: %s\n%s", summary(run), logs(t, run.Name))
		}
	}
	if t.Failed() {
		return
	}
	ended := func(run *v1alpha1.WorkflowRun) time.Time { return run.Status.Tasks[3].CompletedAt.Time }
	if !ended(first).After(ended(last)) {
		t.Fatalf(
			"the older run ended at %v, before the newer one at %v: the case did not arise", ended(first),
			ended(last),
		)
	}
	if got := workload(t, "newest").Spec.Container.Image; !strings.Contains(got, ":v1-"+commit[:8]+"@") {
		t.Errorf("the Workload's image is %s, want the newer one, of %s", got, commit[:8])
	}
	if said := logs(t, older.run); !strings.Contains(said, newer.run) {
		t.Errorf("the older run does not say that %s is newer:\n%s", newer.run, said)
	}
}

func testCancel(t *testing.T) {
	t.Parallel()
	serving.repository(t, "cancel.git", with(map[string]string{"Dockerfile": "FROM busybox:1\nRUN sleep 600\n"}))
	b := build{name: "cancel", url: "https://" + privateGit + "/cancel.git", secret: "git-basic"}
	b.start(t)
	eventually(t, 3*time.Minute, "the build", func(ctx context.Context) (bool, error) {
		said := logs(t, b.runName())
		return strings.Contains(said, "RUN sleep 600"), fmt.Errorf("%s", said)
	})
	must(k8s.kubectl(t.Context(), "", "-n", namespace, "delete", "workflowrun", b.runName(), "--timeout=60s"))(t)
	eventually(t, time.Minute, "an end without remains", func(ctx context.Context) (bool, error) {
		var left []string
		for _, resource := range []schema.GroupVersionResource{
			workflows, externalSecrets, core("pods"), core("secrets"), core("persistentvolumeclaims"),
		} {
			list, err := k8s.dynamic.Resource(resource).Namespace(planeNamespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, err
			}
			for _, item := range list.Items {
				if n := item.GetName(); n == b.runName() || strings.HasPrefix(n, b.runName()+"-") {
					left = append(left, resource.Resource+"/"+n)
				}
			}
		}
		volumes, err := k8s.core.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		for _, v := range volumes.Items {
			if v.Spec.ClaimRef != nil && strings.HasPrefix(v.Spec.ClaimRef.Name, b.runName()+"-") {
				left = append(left, "persistentvolumes/"+v.Name)
			}
		}
		if run, err := k8s.run(ctx, b.runName()); err != nil && !apierrors.IsNotFound(err) || run != nil {
			left = append(left, "workflowruns/"+b.runName())
		}
		return len(left) == 0, fmt.Errorf("left: %s", strings.Join(left, ", "))
	})
}
