//go:build e2e

// The tests run inside the cluster's namespaces, where names and addresses of pods and services lead somewhere: `make
// e2e` puts them there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clusternode "github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/templates"
)

var (
	repository = flag.String("repository", "../..", "the project's checkout")
	kubeconfig = flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "of an administrator of the cluster")
	cli        = flag.String("stepwright", "stepwright", "the program stepwright")
	pipelines  = flag.String("pipelines", "externalci.test", "the compiled tests of ci/externalci")
	steps      = flag.String(
		"pipelines-steps", "dist/bin",
		"the steps' binaries that pipelines of external CI fetch, with their SHA256SUMS",
	)
	collecting   = flag.String("collector", "bin/collector", "the program of ci/collector")
	bundle       = flag.String("bundle", "", "folder with the bundle of overlays/default, as make bundle writes it")
	beforeBundle = flag.String("before", "", "folder with that of an earlier commit (default none: no TestUpgrade)")
	report       = flag.String("report", "", "file to write times and admitted Pod Security levels to")
)

const (
	namespace      = "acme" // of the control plane
	planeNamespace = "workflows-" + namespace
	project        = "online-store"
	storeNamespace = "secret-store" // whose Secrets are the secret store
)

// What all tests share. TestMain makes it.
var (
	k8s     *cluster
	serving *services
)

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, stop := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "e2e-")
	if err == nil {
		err = setUp(ctx, dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
	} else {
		code = m.Run()
		if err := writeReport(*report); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			code = 1
		}
	}
	stop()
	if serving != nil && serving.sshEnded != nil {
		<-serving.sshEnded
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func setUp(ctx context.Context, dir string) (err error) {
	if k8s, err = connect(*kubeconfig); err != nil {
		return err
	}
	if serving, err = startServices(ctx, dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	images, err := imageStore()
	if err != nil {
		return err
	}
	if err := images.Push(ctx, "127.0.0.1:5000", baseimages.Busybox, baseimages.Golang, baseimages.Static); err != nil {
		return err
	}
	if err := loadComponentImages(ctx, images); err != nil {
		return err
	}
	for _, ns := range []string{namespace, planeNamespace} {
		if err := k8s.apply(ctx, object{
			"apiVersion": "v1",
			"kind":       "Namespace",
			"metadata":   object{"name": ns},
		}); err != nil {
			return err
		}
	}
	var allowed []any
	others := []string{"wrong-client", "no-client", "no-pull"}
	for i := range others {
		others[i] = templates.DockerfileBuilder + "-" + others[i]
	}
	for _, name := range append(others, templates.Workflows()...) {
		allowed = append(allowed, object{"kind": "ClusterWorkflow", "name": name})
	}
	err = k8s.apply(ctx,
		configMap(planeNamespace, "stepwright-ca-bundle", map[string]string{"ca.crt": string(serving.ca)}),
		stored("registry-push-secret", map[string]string{"value": dockerConfig(pushUser, pushPassword)}),
		stored("registry-pull-secret", map[string]string{"value": dockerConfig(pullUser, pullPassword)}),
		stored("workload-publisher-client-secret", map[string]string{
			"value": "openchoreo-workload-publisher-secret",
		}),
		stored("wrong-client-secret", map[string]string{"value": "canary-oauth-77d0"}),
		stored("git-basic", map[string]string{"username": gitUser, "password": gitPassword}),
		stored("git-keyless", map[string]string{"username": gitUser}),
		stored("git-ssh", map[string]string{
			"ssh-privatekey": string(serving.sshKey),
			"known_hosts":    serving.knownHosts,
		}),
		secretReference("git-basic", privateGit, "kubernetes.io/basic-auth", "username", "password"),
		// Without a word on its hosts: the setting git-secret-hosts has this one.
		secretReference("git-late", "", "kubernetes.io/basic-auth", "username", "password"),
		secretReference(
			"git-ssh", "git.example.com, "+sshGit, "kubernetes.io/ssh-auth", "ssh-privatekey", "known_hosts",
		),
		secretReference("git-never", "", "kubernetes.io/basic-auth", "username", "password"),
		secretReference("git-keyless", "", "kubernetes.io/basic-auth", "username", "password"),
		stored("packages", map[string]string{
			"npm.type": "npmrc", "npm..npmrc": "//npm.example.com/:_authToken=" + pullPassword,
		}),
		bindingsReference("packages", "npm.type", "npm..npmrc"),
		stored("git-elsewhere", map[string]string{"username": gitUser, "password": gitPassword}),
		secretReference("git-elsewhere", "git.example.com", "kubernetes.io/basic-auth", "username", "password"),
		object{"apiVersion": openchoreo.String(), "kind": "ClusterProjectType", "metadata": object{"name": "default"},
			"spec": object{"resources": []any{object{
				"id": "cell-namespace",
				"template": object{
					"apiVersion": "v1",
					"kind":       "Namespace",
					"metadata":   object{"name": "${metadata.namespace}"},
				}}}}},
		projectIn(namespace),
		object{"apiVersion": openchoreo.String(), "kind": "ClusterComponentType", "metadata": object{"name": "service"},
			"spec": object{
				"workloadType":     "deployment",
				"allowedWorkflows": allowed,
				"resources": []any{object{"id": "deployment",
					"template": object{"apiVersion": "apps/v1", "kind": "Deployment",
						"metadata": object{"name": "${metadata.name}", "namespace": "${metadata.namespace}"}}}},
			}},
	)
	if err != nil {
		return err
	}
	return install(ctx, "default")
}

// imageStore has what the program that started the tests has made.
func imageStore() (baseimages.Store, error) {
	dir, err := baseimages.DefaultDir()
	return baseimages.Store{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}, err
}

// install applies one of the overlays in this folder.
func install(ctx context.Context, overlay string) error {
	manifests, err := k8s.kubectl(ctx, "", "kustomize", filepath.Join(*repository, "ci/e2e/overlays", overlay))
	if err != nil {
		return err
	}
	return applyAddressed(ctx, manifests)
}

// applyAddressed applies manifests made from one of the overlays.
func applyAddressed(ctx context.Context, manifests string) error {
	manifests, err := addressed(ctx, manifests)
	if err != nil {
		return err
	}
	_, err = k8s.kubectl(ctx, manifests, "apply", "-f", "-")
	return err
}

// addressed is the text of an overlay with the address of this cluster's API server, and the digest of the scanner's
// image. The overlays know the address by the node's; on kind the engine for containers has given it another one.
func addressed(ctx context.Context, text string) (string, error) {
	server, err := apiServer(ctx)
	text = strings.ReplaceAll(text, noDigest, scannerDigest)
	return strings.ReplaceAll(text, clusternode.Address+"/32:6443", server+"/32:6443"), err
}

// apiServer is the address behind the Service kubernetes.
func apiServer(ctx context.Context) (string, error) {
	return k8s.kubectl(
		ctx, "", "--namespace", "default", "get", "endpointslice", "kubernetes", "--output",
		"jsonpath={.endpoints[0].addresses[0]}",
	)
}

type object = map[string]any

// projectIn is the project of an OpenChoreo namespace.
func projectIn(ns string) object {
	return object{"apiVersion": openchoreo.String(), "kind": "Project",
		"metadata": object{"name": project, "namespace": ns},
		"spec": object{
			"deploymentPipelineRef": object{"name": "default"},
			"type":                  object{"kind": "ClusterProjectType", "name": "default"}}}
}

func configMap(ns, name string, data map[string]string) object {
	return object{
		"apiVersion": "v1",
		"kind":       "ConfigMap",
		"metadata":   object{"name": name, "namespace": ns},
		"data":       data,
	}
}

// stored is an entry of the secret store.
func stored(key string, properties map[string]string) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: key, Namespace: storeNamespace},
		StringData: properties,
	}
}

// secretReference names an entry of the secret store of the same name. It is for hosts; empty: it names none.
func secretReference(name, hosts, kind string, keys ...string) object {
	template := object{"type": kind}
	if hosts != "" {
		template["metadata"] = object{"annotations": object{"stepwright.dev/git-hosts": hosts}}
	}
	return referenceTo(name, template, keys)
}

// bindingsReference names an entry of the secret store of the same name, which is for builds.
func bindingsReference(name string, keys ...string) object {
	return referenceTo(name, object{
		"metadata": object{"annotations": object{"stepwright.dev/bindings": "true"}},
	}, keys)
}

func referenceTo(name string, template object, keys []string) object {
	var data []any
	for _, key := range keys {
		data = append(data, object{"secretKey": key, "remoteRef": object{"key": name, "property": key}})
	}
	return object{"apiVersion": openchoreo.String(), "kind": "SecretReference",
		"metadata": object{"name": name, "namespace": namespace},
		"spec":     object{"template": template, "data": data}}
}

// build is a component and one or more WorkflowRuns of it.
type build struct {
	name     string // of the component
	run      string // of the WorkflowRun; empty: the component's
	workflow string // ClusterWorkflow; empty: dockerfile-builder
	url      string
	branch   string // empty: main
	secret   string // SecretReference
	more     object // parameters besides the repository
	in       string // OpenChoreo namespace; empty: the one of all tests
}

func (b build) namespace() string {
	if b.in == "" {
		return namespace
	}
	return b.in
}

func (b build) runName() string {
	if b.run == "" {
		return b.name
	}
	return b.run
}

func (b build) reference() object {
	workflow, branch := b.workflow, b.branch
	if workflow == "" {
		workflow = "dockerfile-builder"
	}
	if branch == "" {
		branch = "main"
	}
	parameters := object{
		"repository": object{"url": b.url, "secretRef": b.secret, "revision": object{"branch": branch}},
	}
	maps.Copy(parameters, b.more)
	return object{"kind": "ClusterWorkflow", "name": workflow, "parameters": parameters}
}

func (b build) component() object {
	return object{"apiVersion": openchoreo.String(), "kind": "Component",
		"metadata": object{"name": b.name, "namespace": b.namespace()},
		"spec": object{
			"owner":         object{"projectName": project},
			"componentType": object{"kind": "ClusterComponentType", "name": "deployment/service"},
			"workflow":      b.reference(),
		}}
}

func (b build) workflowRun() object {
	return object{"apiVersion": openchoreo.String(), "kind": "WorkflowRun",
		"metadata": object{"name": b.runName(), "namespace": b.namespace(),
			"labels": object{"openchoreo.dev/project": project, "openchoreo.dev/component": b.name}},
		"spec": object{"workflow": b.reference()}}
}

// start applies the component and the run.
func (b build) start(t *testing.T) {
	t.Helper()
	if err := k8s.apply(t.Context(), b.component(), b.workflowRun()); err != nil {
		t.Fatal(err)
	}
}

// finish waits for the run to end and returns it. OpenChoreo is made to look often.
func (b build) finish(t *testing.T, limit time.Duration) *v1alpha1.WorkflowRun {
	t.Helper()
	var run *v1alpha1.WorkflowRun
	poked := time.Now()
	eventually(t, limit, "end of "+b.runName(), func(ctx context.Context) (bool, error) {
		var err error
		run, err = get[v1alpha1.WorkflowRun](ctx, k8s, workflowRuns, b.namespace(), b.runName())
		if err != nil || run == nil {
			return false, err
		}
		if c := condition(run, "WorkflowCompleted"); c != nil && c.Status == metav1.ConditionTrue {
			return true, nil
		}
		// Before OpenChoreo has stored the reference, a write makes it replace the Argo Workflow, status and all.
		if run.Status.RunReference != nil && time.Since(poked) > 2*time.Second {
			poked = time.Now()
			if err := k8s.poke(ctx, b.namespace(), b.runName()); err != nil {
				return false, err
			}
		}
		return false, errors.New(summary(run))
	})
	return run
}

func condition(run *v1alpha1.WorkflowRun, kind string) *metav1.Condition {
	for i := range run.Status.Conditions {
		if run.Status.Conditions[i].Type == kind {
			return &run.Status.Conditions[i]
		}
	}
	return nil
}

// summary says in one line how a run stands.
func summary(run *v1alpha1.WorkflowRun) string {
	var words []string
	for _, c := range run.Status.Conditions {
		words = append(words, fmt.Sprintf("%s=%s(%s)", c.Type, c.Status, c.Reason))
	}
	for _, task := range run.Status.Tasks {
		words = append(words, task.Name+":"+task.Phase)
		if task.Message != "" {
			words = append(words, fmt.Sprintf("%q", task.Message))
		}
	}
	return run.Name + ": " + strings.Join(words, " ")
}

// succeed runs a build and wants it to succeed.
func (b build) succeed(t *testing.T, limit time.Duration) *v1alpha1.WorkflowRun {
	t.Helper()
	b.start(t)
	run := b.finish(t, limit)
	if c := condition(run, "WorkflowSucceeded"); c == nil || c.Status != metav1.ConditionTrue {
		t.Fatalf("did not succeed: %s\n%s", summary(run), logs(t, b.runName()))
	}
	return run
}

// workload returns the one Workload of a component.
func workload(t *testing.T, component string) *v1alpha1.Workload {
	t.Helper()
	list := must(k8s.dynamic.Resource(workloads).Namespace(namespace).List(t.Context(), metav1.ListOptions{}))(t)
	var found *v1alpha1.Workload
	for i := range list.Items {
		w := must(decode[v1alpha1.Workload](&list.Items[i]))(t)
		if w.Spec.Owner.ComponentName != component {
			continue
		}
		if found != nil {
			t.Fatalf("component %s has two Workloads, %s and %s", component, found.Name, w.Name)
		}
		found = w
	}
	return found
}

// pods returns the pods of a run, in the order of their creation.
func pods(t *testing.T, run string) []corev1.Pod {
	t.Helper()
	list := must(k8s.core.CoreV1().Pods(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{
		LabelSelector: "workflows.argoproj.io/workflow=" + run,
	}))(t)
	return list.Items
}

// logs are what the steps of a run said.
func logs(t *testing.T, run string) string {
	t.Helper()
	var all strings.Builder
	for _, pod := range pods(t, run) {
		raw, err := k8s.core.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
			Container: "main",
		}).DoRaw(t.Context())
		fmt.Fprintf(&all, "== %s (%s) %s\n%s\n", pod.Name, pod.Status.Phase, pod.Status.Message, raw)
		if err != nil {
			fmt.Fprintln(&all, err)
		}
	}
	return all.String()
}

// credentials are the name and the password of the registry's one user.
type credentials struct{}

func (credentials) Authorization() (*authn.AuthConfig, error) {
	return &authn.AuthConfig{Username: pushUser, Password: pushPassword}, nil
}
